"""The tests themselves where there is less than on Linux: a system that lacks something skips the tests that need it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent

# Runs pytest without what Windows does not have. It is hidden once other libraries have been loaded: they look at the
# system for themselves.
ELSEWHERE = """
import importlib, os, select, signal, socket, sys, time
import pytest

MODULES = "fcntl grp pty pwd readline resource syslog termios tty"
NAMES = {
    os: "fork forkpty geteuid getpgid getuid killpg mkfifo openpty sched_getaffinity sched_setaffinity setsid uname",
    select: "poll epoll",
    signal: "SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGUSR1 SIGUSR2 alarm pthread_kill setitimer sigwait",
    socket: "AF_UNIX MSG_DONTWAIT SO_REUSEPORT TCP_NOTSENT_LOWAT",
    time: "tzset",
}
LIBRARIES = "aiohttp multiprocessing.pool prompt_toolkit.input.vt100 prompt_toolkit.shortcuts trio trustme websockets"

class Hiding:
    @pytest.hookimpl(trylast=True)
    def pytest_configure(self):
        for name in LIBRARIES.split():
            importlib.import_module(name)
        sys.modules.update(dict.fromkeys(MODULES.split()))
        for module, names in NAMES.items():
            for name in names.split():
                vars(module).pop(name, None)

sys.exit(pytest.main(sys.argv[1:], plugins=[Hiding()]))
"""


def elsewhere(*arguments: str) -> list[str]:
    """Run pytest where Unix's own modules and names are hidden; return the lines it prints."""
    # Where nothing is installed, the checkout must be found by the child as it was by this process.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    result = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments],
        cwd=TESTS.parent,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    return result.stdout.splitlines()


def test_all_tests_can_be_collected() -> None:
    collected = elsewhere("--collect-only")
    files = {line.partition("::")[0] for line in collected if "::" in line}
    assert len(files) > 100, files


def test_what_needs_a_terminal_is_skipped_and_what_does_not_is_run() -> None:
    room = TESTS / "websocket" / "command_line"
    *_, last = elsewhere(str(room / "test_streams.py"), str(room / "test_in_a_terminal.py"), "-k", "not process")
    counts = dict(re.findall(r"(\d+) (\w+)", last))
    assert set(counts.values()) == {"passed", "skipped"}
