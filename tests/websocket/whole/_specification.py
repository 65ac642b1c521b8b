"""The specification, row by row, against servers of other libraries.

Specified is the WebSocket client of the wippy runtime, a module for Lua. These tests follow its page: the options in
the order of their table, constants, methods, errors, and at the end each example as a small program of its own. What
goes beyond the page (``close_timeout``, ``keepalive`` and so on) stands behind what is on it. Where the page says

    local client, err = websocket.connect(url, {read_timeout = "30s"})       if err then ... end
    client:send(data, websocket.BINARY)                                      client:ping()
    local msg, ok = client:channel():receive()                               client:close(code, reason)
    channel.select { ch:case_receive(), timeout:case_receive() }             time.after("30s")
    errors.is(err, errors.PERMISSION_DENIED)                                 err:retryable()

it is here

    async with websocket.connect(url, read_timeout="30s") as client          except csp.errors.Error as error
    await client.send(data, websocket.BINARY)                                await client.ping()
    message, ok = await client.channel().receive()                           await client.close(code, reason)
    await csp.select(ch.case_receive(), timeout.case_receive())              csp.after("30s")
    errors.is_kind(error, errors.PERMISSION_DENIED)                          error.retryable

The server is that of `websockets`, in a thread; where the test has an ``either``, also that of `aiohttp`. What an
option or a call does is seen from there wherever it can be: servers report what reached them.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trio

import csp
from csp import errors, websocket
from tests.websocket._peers import LIMIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable

    import trustme

    from csp.errors import Kind

MIB = 1 << 20


def server_context(authority: trustme.CA, identity: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(identity).configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL's
    return context


async def headers_seen(client: websocket.Client) -> dict[str, str]:
    """Return the headers of the handshake as a server's ``/headers`` tells them."""
    return {name.lower(): value for name, value in (await client.receive()).value.json()}


async def raises(kind: Kind, retryable: bool, builtin: type[Exception], call: Awaitable[object]) -> errors.Error:
    """Await a call that fails as a row of the error tables says."""
    with pytest.raises(errors.Error) as caught:
        await call
    return told(caught.value, kind, retryable, builtin)


def told(error: errors.Error | None, kind: Kind, retryable: bool, builtin: type[Exception]) -> errors.Error:
    """Check an error against a row of the error tables."""
    assert error is not None
    assert errors.is_kind(error, kind)
    assert (error.kind, error.retryable) == (kind, retryable)
    assert isinstance(error, builtin)
    assert str(error) == error.message
    return error


async def is_over(source: websocket.Client | csp.Channel[Any]) -> bool:
    """Tell whether there is nothing more to receive."""
    received: object = await source.receive()
    return received == (None, False)


async def enter(connecting: websocket.Connecting) -> None:
    """Connect where that fails."""
    with trio.fail_after(LIMIT_SECONDS):
        async with connecting:
            pytest.fail("connected")
