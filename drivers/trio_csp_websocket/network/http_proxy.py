"""Asking an HTTP proxy for a connection to a target: CONNECT (RFC 9110, section 9.3.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11
import trio

from csp.errors import ConnectionFailedError, Kind, shown
from trio_csp_websocket.network.failures import not_connected
from trio_csp_websocket.protocol.headers import Headers, joined
from trio_csp_websocket.protocol.heads import Heads, NoAnswerError, said
from trio_csp_websocket.protocol.refusal import may_pass
from trio_csp_websocket.protocol.secrets import Secrets

if TYPE_CHECKING:
    from trio_csp_websocket.network.progress import Progress
    from trio_csp_websocket.network.proxy import Proxy
    from trio_csp_websocket.transport.base import Transport

_MAX_HEAD_BYTES = 16 * 1024
_READ_BYTES = 16 * 1024
_MAX_REASON_CHARACTERS = 100
_CREDENTIALS_WANTED = 407


async def ask_http_proxy(transport: Transport, proxy: Proxy, host: str, port: int, progress: Progress) -> None:
    """Have a proxy connect to a target; what it sends behind its answer stays to be received.

    Raises:
        ConnectionFailedError: it did not.
    """
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    heads = Heads(_MAX_HEAD_BYTES, "the proxy", "an https: proxy")
    http = h11.Connection(h11.CLIENT)
    # Nothing of the request to the target: neither its headers nor its path.
    headers = [(b"Host", place.encode("ascii"))]
    if proxy.authorization is not None:
        headers.append((b"Proxy-Authorization", proxy.authorization))
    request = h11.Request(method=b"CONNECT", target=place.encode("ascii"), headers=headers)
    progress.waits_for = lambda: f"{proxy.shown} did not answer"
    try:
        await transport.send_all((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
        response = await _response(transport, heads, http, proxy)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise not_connected(f"the connection to {proxy.shown} broke: {shown(str(error))}") from error
    except h11.RemoteProtocolError as error:
        why = shown(_hidden(proxy, said(error)) or "it repeats a part of the request")
        raise not_connected(f"{proxy.shown} did not answer in HTTP: {why}") from None
    except NoAnswerError as error:
        why = str(error)
        began = error.shows.decode("latin-1")
        if _hidden(proxy, began, cut=True) != began:
            why = "the proxy did not answer in HTTP: it repeats a part of the request"
        # Mostly they say what the proxy did not do.
        told = why.removeprefix("the proxy") if why.startswith("the proxy ") else f": {why}"
        raise not_connected(f"{proxy.shown}{shown(told)}") from None
    if not 200 <= response.status_code <= 299:
        raise _refusal(response, proxy, place)
    if rest := heads.rest():
        transport.unread(rest)


async def _response(transport: Transport, heads: Heads, http: h11.Connection, proxy: Proxy) -> h11.Response:
    """Read the head of the answer; what is before it, such as 100, does not count."""
    begun = False
    while True:
        while (head := heads.next()) is None:
            data = await transport.receive_some(_READ_BYTES)
            if not data:
                when = "in the middle of its answer" if begun else "without an answer"
                raise not_connected(f"{proxy.shown} closed the connection {when}")
            begun = True
            heads.feed(data)
        http.receive_data(head)
        event = http.next_event()
        if isinstance(event, h11.Response):
            return event
        assert isinstance(event, h11.InformationalResponse)


def _refusal(response: h11.Response, proxy: Proxy, place: str) -> ConnectionFailedError:
    status = response.status_code
    fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw_items()]
    # Details too: its credentials are for the proxy only.
    headers = Headers((name, _hidden(proxy, value)) for name, value in fields)
    reason = shown(_hidden(proxy, bytes(response.reason).decode("latin-1").strip()), _MAX_REASON_CHARACTERS)
    told = f"{status} {reason}".rstrip()
    if status == _CREDENTIALS_WANTED:
        asked = shown(", ".join(headers.get_all("proxy-authenticate")), _MAX_REASON_CHARACTERS)
        wants = (
            "wants credentials: write http://user:password@... in its URL"
            if proxy.authorization is None
            else "does not accept the credentials in its URL"
        )
        text = f"{proxy.shown} {wants} (status {told}{f'; Proxy-Authenticate: {asked}' if asked else ''})"
    else:
        text = f"{proxy.shown} did not connect to {place}: status {told}"
    return ConnectionFailedError(
        text,
        kind=Kind.INTERNAL,
        retryable=may_pass(status),
        details={
            "status": status,
            "headers": joined(headers),
            "response_headers": headers,
            "body": b"",
        },
    )


def _hidden(proxy: Proxy, said: str, *, cut: bool = False) -> str:
    """Return what the proxy says without the credentials that it was given; see `Secrets.hidden`."""
    given = proxy.authorization
    fields = [] if given is None else [("proxy-authorization", given.decode("ascii"))]
    return Secrets("", fields).hidden(said, cut=cut)
