"""A blocking library in a thread: its readings in one select with timers. Closing the channel ends the thread."""

from __future__ import annotations

import os
import random
import signal
import time

signal.signal(signal.SIGINT, lambda _signal, _frame: os._exit(130))  # Ctrl-C ends it at once, also while this loads

import trio

import csp


def read_temperature() -> float:
    """Block until there is a temperature: a vendor's library."""
    time.sleep(random.uniform(0.01, 0.1))
    return random.gauss(21, 0.5)


def read_sensor(readings: csp.Channel[float]) -> int:
    """Send readings, waiting while the channel is full, until it is closed; return how many were sent."""
    sent = 0
    try:
        while True:
            readings.send_from_thread(read_temperature())
            sent += 1
    except csp.ChannelClosedError:
        return sent


async def main() -> None:
    """Print the mean of what was read every half second, and stop after two."""

    async def run_thread() -> None:
        sent = await trio.to_thread.run_sync(read_sensor, readings)
        print(f"the thread has ended after {sent} readings")

    async with trio.open_nursery() as nursery:
        with csp.Channel[float](3) as readings:
            nursery.start_soon(run_thread)
            report, end = csp.tick("500ms"), csp.after("2s")
            latest: list[float] = []
            cases = end.case_receive(), report.case_receive(), readings.case_receive()
            while not end.gave(r := await csp.select(*cases, priority=True)):
                if readings.gave(r):
                    latest.append(r.value)
                elif latest:
                    print(f"{sum(latest) / len(latest):.2f} degrees, mean of {len(latest)}")
                    latest.clear()


if __name__ == "__main__":
    trio.run(main)
