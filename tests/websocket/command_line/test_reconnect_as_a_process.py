"""The command line client with ``--reconnect`` as a process: servers that go and come back, and signals."""

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.websocket._peers import close_frame
from tests.websocket.command_line._process import start
from tests.websocket.command_line._site import Site

if TYPE_CHECKING:
    import subprocess

TRYING = "; trying again in "
HINT = "; is the server running, and on this port?"


def type_line(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def test_the_input_goes_to_whatever_connection_there_is() -> None:
    site = Site()
    with start("--reconnect", "--wait", "forever", site.url) as process:
        assert process.stderr is not None
        type_line(process, "before there is a server")
        refused = process.stderr.readline()
        with site.connection() as connection:
            assert connection.receive() == "before there is a server"
            connection.send("one")
        said = refused + process.stderr.readline()
        while TRYING not in said.splitlines()[-1] or "connected" not in said:
            said += process.stderr.readline()
        type_line(process, "while there is none")
        with site.connection() as connection:
            assert connection.receive() == "while there is none"
            connection.send("two")
            connection.close(1000)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "one\ntwo\n")
    first, *rest = (said + err).splitlines()
    assert first.startswith(f"cannot connect to {site.url}: Connection refused{TRYING}")
    assert first.endswith(f" (attempt 2){HINT}")
    assert [line.endswith(HINT) for line in rest].count(True) == 0
    told = [line.partition(TRYING)[0] for line in rest if "Connection refused" not in line]
    assert told[:3] == [
        f"connected to {site.url}",
        "the connection was lost: the peer closed it without a close frame",
        f"connected again to {site.url}",
    ]
    assert told[3].startswith("there was no connection for ")
    assert told[4:] == ["closed by the server with code 1000 (NORMAL)"]


def test_a_line_that_comes_while_the_server_closes_goes_to_the_next_connection() -> None:
    site = Site()
    with start("--reconnect", site.url) as process:
        with site.connection() as connection:
            type_line(process, "before")
            assert connection.receive() == "before"
            connection.stream.sendall(close_frame(1012))
            assert connection.receive() == ""  # answered: nothing more can be sent here
            type_line(process, "while it closes")
        with site.connection() as connection:
            assert connection.receive() == "while it closes"
            connection.close(1000)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "may be lost" not in err


def test_as_json_what_happens_to_the_connection_is_on_standard_output_too() -> None:
    site = Site()
    with start("--reconnect", "--json", "--count", "2", site.url) as process:
        for text in ("one", "two"):
            with site.connection() as connection:
                connection.send(text)
                if text == "two":
                    connection.answer_close()
        out, _ = process.communicate(timeout=30)
    told = [json.loads(line) for line in out.splitlines()]
    types = [value["type"] for value in told if value["type"] != "waiting"]
    assert (process.returncode, types) == (0, ["open", "text", "open", "gap", "text", "close"])
    assert {value["type"] for value in told} >= {"waiting"}


@pytest.mark.skipif(sys.platform == "win32", reason="a process can only be killed here")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("before", [False, True], ids=["never connected", "lost"])
def test_a_signal_ends_the_wait_for_a_connection(number: signal.Signals, before: bool) -> None:
    site = Site()
    with start("--reconnect", site.url) as process:
        assert process.stderr is not None
        if before:
            with site.connection():
                pass
        while TRYING not in (line := process.stderr.readline()) or (before and line.startswith("cannot")):
            assert line
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert err.splitlines()[-1] == "ended; there was no connection"
