"""Graceful shutdown: on Ctrl-C no new job is begun, and those in work are finished; on a second Ctrl-C they are not."""

from __future__ import annotations

import os
import random
import signal
import sys

signal.signal(signal.SIGINT, lambda _signal, _frame: os._exit(130))  # Ctrl-C while this loads

import trio

import csp


async def work(job: int) -> int:
    """Do a job."""
    await trio.sleep(random.expovariate(2))
    return job


async def main() -> None:
    """Give jobs to four workers until a signal comes: closing the jobs closes the results behind the last one."""
    jobs = csp.Channel[int]()
    begun = finished = status = 0
    async with (
        csp.from_signals(signal.SIGINT, signal.SIGTERM) as stop,
        csp.pipeline(jobs, work, workers=4, ordered=False) as results,
    ):
        print("working; Ctrl-C to stop", flush=True)
        while True:
            r = await csp.select(
                stop.case_receive(),
                None if jobs.closed else jobs.case_send(begun),
                results.case_receive(),
                priority=True,
            )
            if jobs.took(r):
                begun += 1
            elif results.gave(r):
                finished += 1
            elif stop.gave(r) and not jobs.closed:
                status = 128 + r.value
                print(f"\n{signal.Signals(r.value).name}: finishing what was begun", flush=True)
                jobs.close()
            else:  # a second signal, or the end of the results
                break
    print(f"{finished} jobs finished, {begun - finished} abandoned")
    sys.exit(status)


if __name__ == "__main__":
    trio.run(main)
