"""What all tests share."""

from __future__ import annotations

import functools
import os
import signal
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from tests.redis._binaries import binaries

if TYPE_CHECKING:
    import pytest

# Where the tests run in the background of a shell, they inherit a Ctrl-C that is ignored; some are about Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Who is behind a proxy can run the tests: no server of theirs is. What they start as a process inherits this.
for variable in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[variable]
# Where the system has settings of its own (Windows, macOS), these do not count either.
urllib.request.getproxies = urllib.request.getproxies_environment

# Tests that repeat one thing very often. Measuring their coverage would double the time they take, and what they reach
# is reached by others: the lines and branches are covered to 100 % without them.
NOT_MEASURED = [
    "conformance",
    "core/whole/test_composed.py",
    "core/whole/test_model.py",
    "fuzz",
    "hostile",
    "redis/queue/test_cancellation.py",
    "redis/queue/test_random_work.py",
    "websocket/protocol/test_round_trips.py",
    "websocket/server/test_random_programs.py",
    "websocket/whole/test_cancellation.py",
    "websocket/whole/test_hub_members.py",
    "websocket/whole/test_memory.py",
    "websocket/whole/test_server_cancellation.py",
]

# Of these, only one test of so many is run where all tests are, or none for 0, so that this takes a few minutes; all of
# them where a path is given: `pytest tests/hostile`. CI does so. Likewise, tests with a Redis or Valkey server are run
# with one of those that are here, and with each where a path is given.
LONG = {
    "across": 4,
    "conformance": 0,
    "core/whole/test_composed.py": 3,
    "core/whole/test_model.py": 3,
    "fuzz": 0,
    "hostile": 20,
    "hostile/test_hub_crowd.py": 0,
    "peers/test_browser.py": 0,
    "peers/test_own_protocols.py": 0,
    "peers/test_real_clients.py": 0,
    "peers/test_real_fronts.py": 0,
    "peers/test_real_peers.py": 6,
    "test_benchmarks_across.py": 3,
    "test_benchmarks_of_servers.py": 3,
    "test_examples.py": 8,
    "websocket/client/test_reconnecting_model.py": 4,
    "websocket/client/test_reconnecting_random.py": 4,
    "websocket/command_line/test_as_a_process.py": 2,
    "websocket/command_line/test_listen_as_a_process.py": 3,
    "websocket/command_line/test_reconnect_as_a_process.py": 2,
    "websocket/protocol/test_round_trips.py": 4,
    "websocket/server/test_random_programs.py": 4,
    "websocket/server/test_rolling_restart.py": 2,
    "websocket/whole/test_cancellation.py": 10,
    "websocket/whole/test_hub_members.py": 20,
    "websocket/whole/test_memory.py": 6,
    "websocket/whole/test_mixed_programs.py": 10,
    "websocket/whole/test_server_cancellation.py": 8,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ordinary", action="store_true", help="run as few of the long tests as where all tests are run")
    parser.addoption("--one-of", type=int, default=1, metavar="N", help="run one of N of the tests that are left")
    parser.addoption("--second-server", action="store_true", help="run what an ordinary run leaves out for its server")


def pytest_configure(config: pytest.Config) -> None:
    # It is of pytest-cov, without which the tests run too.
    config.addinivalue_line("markers", "no_cover: do not measure the coverage of this test")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if any(_is_below(item.path, name) for name in NOT_MEASURED):
            item.add_marker("no_cover")
    chosen = items
    if config.getoption("--ordinary") or list(config.args) == list(config.getini("testpaths")):
        chosen = [item for item in items if not _has_second_server(item)]
        left_out = {id(item) for name, stride in LONG.items() for item in _all_but_one_of(stride, name, chosen)}
        chosen = [item for item in chosen if id(item) not in left_out]
    if config.getoption("--second-server"):
        chosen = [item for item in chosen if _has_second_server(item)]
    chosen = chosen[:: config.getoption("--one-of")]
    kept = set(map(id, chosen))
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in kept])
    items[:] = chosen


@functools.cache  # there are twenty thousand tests, in a few hundred files
def _is_below(path: Path, name: str) -> bool:
    """Tell whether a file is one below ``tests/``, or in a folder there."""
    return path.is_relative_to(Path(__file__).parent / name)


def _has_second_server(item: pytest.Item) -> bool:
    """Tell whether a test of the Redis driver is run with another server than the first that is here."""
    callspec = getattr(item, "callspec", None)
    return callspec is not None and any(path in callspec.params.values() for path in list(binaries().values())[1:])


def _all_but_one_of(stride: int, name: str, items: list[pytest.Item]) -> list[pytest.Item]:
    members = [item for item in items if _is_below(item.path, name)]
    return [item for number, item in enumerate(members) if not stride or number % stride]
