"""The examples in real life: each in a process of its own."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
EXAMPLE_PATHS = sorted(EXAMPLES.glob("*.py"))

sends_signals = pytest.mark.skipif(sys.platform == "win32", reason="a process can only be killed here")


def start(*command: str) -> subprocess.Popen[str]:
    """Start Python with a script, or code, and arguments."""
    # Where nothing is installed, the checkout must be found by the child as it was by this process.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-u", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def run(example: str, *arguments: str) -> list[str]:
    """Run an example that ends by itself; return the lines it printed."""
    with start(str(EXAMPLES / example), *arguments) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    return out.splitlines()


def wait_for(process: subprocess.Popen[str], beginning: str) -> list[str]:
    """Return the lines printed up to the first that begins so."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(beginning):
            return lines
    raise AssertionError(lines)


def end(process: subprocess.Popen[str], number: signal.Signals = signal.SIGINT) -> list[str]:
    """Return the lines still printed by a process that a signal ends, and that has to do so without complaints."""
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + number, "")
    return out.splitlines()


@pytest.mark.parametrize("path", EXAMPLE_PATHS, ids=lambda path: path.name)
def test_an_example_has_less_than_sixty_lines_and_stands_in_the_documentation(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
    page = EXAMPLES.parent / "docs" / "examples.md"
    assert f"../examples/{path.name}\n" in page.read_text(encoding="utf-8")


def test_chat_both_read_the_same_lines_in_the_same_order() -> None:
    *lines, last = run("chat.py")
    read = {name: [line.partition(": ")[2] for line in lines if line.startswith(name)] for name in ("alice", "bob")}
    assert len(read["alice"]) == 4
    assert read["alice"] == read["bob"]
    assert "<alice> hello, bob" in read["bob"]
    assert last == "all lines were read by both"


@sends_signals
def test_price_stream_comes_back_after_a_restart_and_ends_on_ctrl_c() -> None:
    with start(str(EXAMPLES / "price_stream.py")) as process:
        lines = wait_for(process, "gap of ")
        assert lines[:2] == ["connecting\n", "open\n"]
        assert any(re.match(r"(\w{3}-EUR|EUR-USD) \d", line) for line in lines)
        waiting = next(line for line in lines if line.startswith("waiting"))
        assert re.fullmatch(r"waiting [\d.]+ s: the peer closed the connection with code 1012 .*\n", waiting)
        process.send_signal(signal.SIGINT)
        end(process)


# In the place of Trio: the moment at which an example begins to load it.
INTERRUPTED_LOADING = "import signal; signal.raise_signal(signal.SIGINT); raise SystemExit('not ended')"

# Runs an example, and interrupts it after so many steps of its tasks.
INTERRUPTED_RUN = """
import runpy, signal, sys, trio

class Interrupt(trio.abc.Instrument):
    steps_left = int(sys.argv.pop(1))

    def after_task_step(self, task):
        self.steps_left -= 1
        if self.steps_left == 0:
            signal.raise_signal(signal.SIGINT)

run = trio.run
trio.run = lambda *arguments: run(*arguments, instruments=[Interrupt()])
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("path", EXAMPLE_PATHS, ids=lambda path: path.name)
def test_ctrl_c_while_an_example_loads_is_status_130(tmp_path: Path, path: Path) -> None:
    (tmp_path / "trio.py").write_text(INTERRUPTED_LOADING, encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    result = subprocess.run(
        # Not from its own folder, which would be looked at first and in which bytecode would be left.
        [sys.executable, "-c", f"import runpy; runpy.run_path({str(path)!r}, run_name='__main__')"],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (130, b"")


@pytest.mark.parametrize("steps", [1, 5, 20, 60])
@pytest.mark.parametrize("path", EXAMPLE_PATHS, ids=lambda path: path.name)
def test_ctrl_c_at_any_moment_is_status_130(tmp_path: Path, path: Path, steps: int) -> None:
    for number in range(100):
        (tmp_path / str(number)).touch()
    arguments = [str(tmp_path)] * (path.stem == "worker_pool")
    with start("-c", INTERRUPTED_RUN, str(steps), str(path), *arguments) as process:
        end(process)


@pytest.mark.parametrize(
    ("example", "argument", "said"),
    [
        ("price_stream.py", "http://127.0.0.1/", 'url must start with "ws://" or "wss://", not "http:"'),
        ("fan_in.py", "nonsense", 'fan_in: url must start with "ws://" or "wss://"'),
        ("worker_pool.py", "/nowhere", "worker_pool: /nowhere is no folder"),
    ],
)
def test_an_argument_that_is_wrong_is_told(example: str, argument: str, said: str) -> None:
    with start(str(EXAMPLES / example), argument) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said in err.splitlines()[-1]


def test_worker_pool_hashes_the_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    expected: list[str] = []
    for number in range(20):
        path = tmp_path / ("below" if number >= 10 else "") / f"{number:02}"
        path.write_bytes(bytes(1000 * (20 - number)))
        expected.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}")
    assert run("worker_pool.py", str(tmp_path)) == expected


def test_fan_in_gets_every_message_of_a_thousand_connections() -> None:
    opened, result = run("fan_in.py")
    assert (opened, result) == ("1000 connections are open", "10000 messages received, 0 connections lost")


@sends_signals
@pytest.mark.parametrize(("signals", "abandoned"), [([signal.SIGTERM], 0), ([signal.SIGINT, signal.SIGTERM], 4)])
def test_graceful_shutdown_finishes_what_was_begun(signals: list[signal.Signals], abandoned: int) -> None:
    with start(str(EXAMPLES / "graceful_shutdown.py")) as process:
        wait_for(process, "working")
        for number in signals:
            process.send_signal(number)
        *_, said, last = end(process, signals[0])
    assert said.endswith(": finishing what was begun")
    found = re.fullmatch(r"(\d+) jobs finished, (\d) abandoned", last)
    assert found is not None
    assert int(found[2]) <= abandoned


def test_bridge_thread_reports_and_ends_the_thread() -> None:
    *means, last = run("bridge_thread.py")
    assert 1 <= len(means) <= 3  # on a busy machine, ticks fall together
    assert all(re.fullmatch(r"\d\d\.\d\d degrees, mean of \d+", mean) for mean in means)
    assert re.fullmatch(r"the thread has ended after \d+ readings", last)
