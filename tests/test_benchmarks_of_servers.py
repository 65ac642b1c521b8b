"""What measures servers in `benchmarks`: they run in processes of their own, and the load checks what they send."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("benchmarks", reason="the benchmarks are in the checkout only")

from benchmarks.__main__ import TOPICS
from benchmarks.design import BOUNDS, format_design
from benchmarks.meters.instructions import format_instructions
from benchmarks.meters.measure import Result, Workload
from benchmarks.meters.served import POSSIBLE, Served, ServerMemory, ServerTime
from benchmarks.peers import websocket_load
from benchmarks.topics import websocket_served

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.meters.served import Load

CHECKOUT = Path(__file__).parent.parent
SERVERS = "benchmarks.peers.websocket_servers"

pytestmark = pytest.mark.skipif(not POSSIBLE, reason="this system does not tell the CPU time of another process")


def csp_server(work: str, *, send_buffer_bytes: int | None = None) -> Callable[[], Served]:
    return partial(Served, ["-m", SERVERS, "csp", work], send_buffer_bytes=send_buffer_bytes)


def a_program(program: str) -> Served:
    return Served(["-c", program])


# The load -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "load", "done"),
    [
        ("echo", partial(websocket_load.echo, 32, 32), 64),
        ("echo", partial(websocket_load.echo, 16 * 1024, 1), 33),
        ("echo", websocket_load.visit, 33),
        ("echo", websocket_load.stay, 33),
        ("broadcast", partial(websocket_load.broadcast, 20), 40),
        ("loop", partial(websocket_load.broadcast, 20), 40),
    ],
    ids=["blocks", "large", "visits", "idle", "broadcast", "one by one"],
)
def test_a_load_has_a_server_do_its_work_as_often_as_is_asked_or_a_little_more(
    work: str, load: Load, done: int
) -> None:
    with csp_server(work)() as server:
        assert load(server.port, 33, nullcontext()) == done


def test_those_that_do_not_read_hold_up_no_other() -> None:
    # More than the system holds of what is sent to one of them.
    load = partial(websocket_load.broadcast, 20, one_in_ten_stalls=True)
    with csp_server("broadcast", send_buffer_bytes=websocket_load.STALLED_BUFFER_BYTES)() as server:
        assert load(server.port, 18 * 200, nullcontext()) == 18 * 200


ANSWERING_NONSENSE = """
import socket, sys
listener = socket.socket(fileno=int(sys.argv[1]))
while True:
    stream, _ = listener.accept()
    stream.recv(4096)
    stream.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\n\\r\\n")
    stream.recv(4096)
    stream.sendall(bytes(4096))
    stream.close()
"""


@pytest.mark.parametrize(
    ("load", "complaint"),
    [
        (partial(websocket_load.echo, 32, 1), "something else than the echo"),
        (partial(websocket_load.broadcast, 1), "something else than the message"),
        (websocket_load.visit, "did not answer the close"),
    ],
    ids=["echo", "broadcast", "visit"],
)
def test_what_is_not_what_a_server_has_to_send_is_no_measurement(load: Load, complaint: str) -> None:
    with pytest.raises(RuntimeError, match=complaint), a_program(ANSWERING_NONSENSE) as server:
        load(server.port, 1, nullcontext())


def test_a_server_that_fails_shows_why(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((RuntimeError, OSError)), a_program("raise SystemExit('cannot serve')") as server:
        websocket_load.visit(server.port, 1, nullcontext())
    assert "cannot serve" in capfd.readouterr().err


def test_what_a_server_logs_otherwise_is_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with csp_server("echo")() as server:
        websocket_load.echo(32, 1, server.port, 1, nullcontext())
    assert capfd.readouterr() == ("", "")


# What is measured -----------------------------------------------------------------------------------------------------


def test_the_cpu_time_is_that_of_the_server() -> None:
    with a_program("while True: pass") as busy, a_program("import time; time.sleep(60)") as idle:
        while busy.cpu_seconds() < 0.2:
            pass
        assert idle.cpu_seconds() < busy.cpu_seconds()


def test_the_memory_is_that_of_the_server() -> None:
    with a_program("import time; kept = b'a' * (64 << 20); time.sleep(60)") as server:
        while server.private_bytes() < 64 << 20:
            pass


def test_a_measure_is_of_one_operation_in_a_new_server() -> None:
    ports: list[int] = []

    def load(port: int, count: int, meter: object) -> int:  # the server only waits
        ports.append(port)
        with meter:  # type: ignore[attr-defined]
            return 2 * count

    time = ServerTime(partial(a_program, "import time; time.sleep(60)"), load)
    assert time(1000) < 1000  # the server is idle: next to nothing, an operation
    assert ServerMemory(partial(a_program, "import time; time.sleep(60)"), load)(1 << 30) < 1
    assert len(time.busy) == 1
    assert len(set(ports)) == 2


# The command line -----------------------------------------------------------------------------------------------------


def run(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60).stdout


def test_a_quick_run_has_every_server_that_is_installed() -> None:
    row = "WebSocket server, echo 32 B, 32 in flight"
    (workload,) = (workload for workload in websocket_served.WORKLOADS if workload.name == row)
    printed = run("--quick", "--only", row)
    lines = [line.split("|")[1:3] for line in printed.splitlines() if line.startswith(f"| {row}")]
    assert [peer.strip() for _, peer in lines if peer.strip() in workload.peers] == list(workload.peers)


def test_a_row_of_thousands_of_connections_is_run_only_if_its_name_is_given() -> None:
    row = "WebSocket server, one message to 5,000 connections"
    assert row in run("--list").splitlines()
    assert row not in run("--list", "--only", "WebSocket server").splitlines()
    assert run("--list", "--only", row).splitlines() == [row]


def test_rows_can_be_left_out() -> None:
    left = set(run("--list").splitlines()) - set(run("--list", "--without", "server").splitlines())
    assert left == {workload.name for workload in websocket_served.WORKLOADS}


def test_instructions_are_not_counted_in_other_processes() -> None:
    rows = [workload for workload in websocket_served.WORKLOADS if workload.unit == "us"]
    assert format_instructions(rows, elsewhere=()).count("\n") == 1  # a table without rows


# The design -----------------------------------------------------------------------------------------------------------


def test_each_bound_is_of_rows_that_there_are_and_of_their_targets() -> None:
    rows = {workload.name: workload for topic in TOPICS for workload in topic.WORKLOADS}
    for bound in BOUNDS:
        for workload in (rows[name] for name in bound.workloads):
            if not bound.peer:
                assert workload.cost_target == bound.limit
            elif "server" in workload.name and bound.peer in workload.peers:
                assert workload.ratio_targets[bound.peer] == bound.limit


def test_bounds_on_what_was_not_run_are_left_out() -> None:
    name = "Selector, 2 busy"
    result = Result(Workload(name, lambda _: 1.0), [1.0])
    (line,) = format_design([result]).splitlines()[2:]
    assert "Selector, N busy" in line
    assert "only in part" in line
    assert format_design([]).count("\n") == 1
