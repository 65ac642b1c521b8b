"""Servers of other libraries for the tests of the specification; what has servers of its own overrides them."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.websocket._peers import AiohttpServer, LibraryServer, WebsocketsServer
from tests.websocket.whole._specification import server_context

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def running_websockets() -> Iterator[LibraryServer]:
    with WebsocketsServer().running() as running:
        yield running


@pytest.fixture(scope="module")
def running_aiohttp() -> Iterator[LibraryServer]:
    with AiohttpServer().running() as running:
        yield running


@pytest.fixture
def server(running_websockets: LibraryServer) -> Iterator[LibraryServer]:
    yield running_websockets
    running_websockets.release()
    assert running_websockets.unread_reports() == []


@pytest.fixture
def aiohttp_server(running_aiohttp: LibraryServer) -> Iterator[LibraryServer]:
    yield running_aiohttp
    assert running_aiohttp.unread_reports() == []


@pytest.fixture(params=["server", "aiohttp_server"], ids=["websockets", "aiohttp"])
def either(request: pytest.FixtureRequest) -> LibraryServer:
    chosen: LibraryServer = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts the authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL's
    return context


@pytest.fixture(scope="module")
def tls_server(authority: trustme.CA) -> Iterator[LibraryServer]:
    with WebsocketsServer(server_context(authority, "127.0.0.1")).running() as running:
        yield running
