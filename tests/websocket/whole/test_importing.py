"""What importing the client loads: not what only some programs need, or need later."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

WITH_THE_FIRST_CONNECTION = ("trio_websocket", "wsproto", "h11", "websockets", "importlib.metadata")
FOR_SOME_SERVERS = ("email.utils",)
"""For a Retry-After that is a date."""
WITH_THE_COMMAND_LINE = ("argparse", "prompt_toolkit", "asyncio")
FOR_TESTS = ("trio_csp_websocket.testing",)


def loaded_by(program: str) -> set[str]:
    """Return the modules that a program has loaded at its end, in a process of its own, but those that Trio loads."""
    code = f"import sys, trio; before = set(sys.modules); {program}; print(*(set(sys.modules) - before))"
    # Where nothing is installed, the checkout must be found by the child as it was by this process.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    child = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=30
    )
    return set(child.stdout.split())


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    return loaded_by("import csp.websocket")


@pytest.mark.parametrize("name", [*WITH_THE_FIRST_CONNECTION, *FOR_SOME_SERVERS, *WITH_THE_COMMAND_LINE, *FOR_TESTS])
def test_importing_the_client_does_not_load(loaded: set[str], name: str) -> None:
    assert "csp.websocket" in loaded
    assert find_spec(name) is not None
    assert name not in loaded
