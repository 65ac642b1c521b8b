"""The tests themselves where a system has less than Linux: what needs something that is not there is skipped."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Hides what Windows does not have, once other libraries are loaded: these look at the system for themselves. They need
# some of the names when they run.
HIDING = """
import importlib, os, select, signal, socket, sys, time
from pathlib import Path
import pytest

LIBRARIES = (
    "aiohttp asyncio multiprocessing.pool prompt_toolkit.input.vt100 prompt_toolkit.shortcuts trio trustme websockets"
)
MODULES = "fcntl grp pty pwd readline resource syslog termios tty"
NAMES = {
    os: "fork forkpty geteuid getpgid getuid killpg mkfifo openpty sched_getaffinity sched_setaffinity setsid uname",
    select: "poll epoll",
    signal: "SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGUSR1 SIGUSR2 alarm pthread_kill setitimer sigwait",
    socket: "AF_UNIX MSG_DONTWAIT SO_REUSEPORT TCP_NOTSENT_LOWAT",
    time: "tzset",
}

def hide_modules():
    for name in LIBRARIES.split():
        importlib.import_module(name)
    sys.modules.update(dict.fromkeys(MODULES.split()))

def hide_names():
    for module, names in NAMES.items():
        for name in names.split():
            vars(module).pop(name, None)
"""

IMPORTING = """
hide_modules()
hide_names()
for folder in sys.argv[1:]:
    for path in sorted(Path(folder).rglob("*.py")):
        try:
            importlib.import_module(".".join(path.with_suffix("").parts))
        except pytest.skip.Exception as skipped:
            print(path, "is skipped:", skipped.msg)
        except ModuleNotFoundError as error:
            if error.name in MODULES.split():
                raise
            print(path, "is skipped:", error.name, "is not installed")
        else:
            print(path)
"""

RUNNING = """
class Hiding:
    @pytest.hookimpl(trylast=True)
    def pytest_configure(self):  # the other plugins are loaded
        hide_modules()

sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]], plugins=[Hiding()]))
"""


def elsewhere(code: str, *arguments: str) -> list[str]:
    """Run code where Unix's own modules and names can be hidden; return the lines it prints."""
    # Where nothing is installed, the checkout must be found by the child as it was by this process.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    result = subprocess.run(
        [sys.executable, "-c", HIDING + code, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, ""), f"{result.stdout}\n{result.stderr}"
    return result.stdout.splitlines()


def test_every_file_can_be_imported_where_there_is_less_than_on_unix() -> None:
    found = elsewhere(IMPORTING, "tests", "benchmarks", "examples")
    assert len(found) > 150
    skipped = [line for line in found if "is skipped" in line]
    assert all("checkout only" in line or "is not installed" in line for line in skipped), skipped


def test_what_needs_a_terminal_is_skipped_there_and_all_else_is_run() -> None:
    room = Path("tests", "websocket", "command_line")
    *_, last = elsewhere(RUNNING, str(room / "test_streams.py"), str(room / "test_in_a_terminal.py"))
    assert re.search(r"^\d+ passed, \d+ skipped in ", last), last
