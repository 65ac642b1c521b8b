"""A worker that may be killed: ``python -m tests.across.worker URL QUEUE CONSUMER LEASE FILE [--poison TEXT]``.

What it does with each value is appended to the file, a line at a time: "begin", or "end" once the work is done and just
ahead of the ack, with the value, the attempt, and the moment on the machine's clock, which all processes share. A value
says for how many milliseconds it is worked on: ``number:milliseconds``.
"""

from __future__ import annotations

import argparse
import os
import time

import trio

from csp import redis


async def work(options: argparse.Namespace) -> None:
    file = os.open(options.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(what: str, delivery: redis.Delivery[bytes]) -> None:
        line = f"{what} {delivery.data.decode()} {delivery.attempt} {time.monotonic():.6f} {os.getpid()}\n"
        os.write(file, line.encode())

    bus = redis.Bus(options.url, min_delay="20ms", max_delay="200ms", timeout="3s")
    async with bus, bus.queue(options.queue).work(consumer=options.consumer, lease=options.lease) as deliveries:
        async for delivery in deliveries:
            note("begin", delivery)
            number, _, milliseconds = delivery.data.decode().partition(":")
            if number == options.poison:
                os._exit(9)
            with delivery:
                await trio.sleep(int(milliseconds) / 1000)
                lost = delivery.lost
                note("lost" if lost else "end", delivery)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("url", "queue", "consumer", "lease", "file"):
        parser.add_argument(name)
    parser.add_argument("--poison")
    trio.run(work, parser.parse_args())


if __name__ == "__main__":
    main()
