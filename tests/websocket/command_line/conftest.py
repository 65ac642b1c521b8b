"""What the tests of the command line share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from csp import testing
from tests.websocket._peers import LibraryServer, WebsocketsServer
from tests.websocket.command_line._session import echo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture
async def echoing() -> AsyncIterator[None]:
    async with testing.websocket_server(echo, "ws://server.test/"):
        yield


@pytest.fixture(scope="module")
def library() -> Iterator[LibraryServer]:
    with WebsocketsServer().running() as running:
        yield running


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Keep the history of these tests out of the user's."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("PROMPT_TOOLKIT_NO_CPR", "1")  # nobody here answers where the cursor is
    return tmp_path / "trio-csp" / "websocket_history"
