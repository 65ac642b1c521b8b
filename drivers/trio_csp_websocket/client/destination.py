"""Where the connections of a feed go: the URL, and the headers to send there; either may be a function to ask."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias, TypedDict, cast

from trio_csp_websocket.client.connect import check
from trio_csp_websocket.client.options import ConnectOptions, parse_options
from trio_csp_websocket.client.user_functions import function_of
from trio_csp_websocket.events import Events

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    import csp
    from trio_csp_websocket.client.options import Options
    from trio_csp_websocket.client.user_functions import UserFunctions
    from trio_csp_websocket.connection.settings import Timeout
    from trio_csp_websocket.network.route import Dial
    from trio_csp_websocket.protocol.constants import Compression
    from trio_csp_websocket.protocol.url import Target

_events = Events("csp.websocket.feed")

HeaderFields: TypeAlias = "Mapping[str, str] | Iterable[tuple[str, str]] | None"


class FeedOptions(TypedDict, total=False):
    """The options of each connection of a feed: those of `ConnectOptions`, which describes them.

    Only ``headers`` may be more here: also a function without arguments, or an async one, that returns them.
    """

    headers: HeaderFields | Callable[[], HeaderFields | Awaitable[HeaderFields]]
    protocols: Iterable[str] | None
    require_subprotocol: bool
    dial_timeout: Timeout
    read_timeout: Timeout
    write_timeout: Timeout
    compression: Compression | int
    compression_threshold: int
    read_limit: int
    channel_capacity: int
    ssl_context: ssl.SSLContext | None
    server_hostname: str | None
    host_header: str | None
    proxy: str | bool | None
    proxy_ssl_context: ssl.SSLContext | None
    unix_socket: str | os.PathLike[str] | None
    dial: Dial | None
    max_redirects: int
    origin: str | None
    user_agent: str | None
    keepalive: csp.Duration | None
    close_timeout: csp.Duration | None


class Destination:
    """The URL and the options of each connection.

    Args:
        url: a URL, or a function that returns one.
        given: the options as the user gave them.
        others: as in `parse_options`.

    Raises:
        InvalidError: the URL or an option is out of range or malformed, as far as it is known without a function.
        InvalidTypeError: the same for a wrong type or an unknown option.
    """

    def __init__(self, url: object, given: FeedOptions, *, others: Iterable[str] = ()) -> None:
        self._ask_url = function_of("url", url)
        self._ask_headers = function_of("headers", given.get("headers"))
        fixed = {**given}
        if self._ask_headers is not None:
            del fixed["headers"]
        self.options: Options
        """Those of each connection, with the headers that are fixed."""
        self._target: Target | None = None
        # All is checked only once, here, but for what functions return: headers and protocols may be iterators.
        if self._ask_url is None:
            self._target, self.options = check(cast("str", url), cast("ConnectOptions", fixed), others=others)
        else:
            self.options = parse_options(fixed, others=others)
        # What is checked again together with that.
        self._again = {name: value for name, value in fixed.items() if name not in ("headers", "protocols")}

    @property
    def shown(self) -> str:
        """The URL that was asked for last, as texts show it: without its query."""
        return "a URL not asked for yet" if self._target is None else self._target.shown

    async def ask(self, functions: UserFunctions) -> tuple[Target, Options]:
        """Return where to connect now, and with which options; ask the functions for that, first the one for the URL.

        Raises:
            InvalidError: what one returned is malformed or of a wrong type.
            TookTooLongError: one has taken too long, and says so.
        """
        if self._ask_url is not None:
            url = await functions.call("url", self._ask_url)
            self._target, _ = check(cast("str", url), cast("ConnectOptions", self._again))
            name = self.shown
            _events.tell("feed.url_asked", logging.DEBUG, "%s: that is what url gave", name, url=name)
        assert self._target is not None
        if self._ask_headers is None:
            return self._target, self.options
        headers = await functions.call("headers", self._ask_headers)
        name = self.shown
        _events.tell("feed.headers_asked", logging.DEBUG, "%s: headers was asked", name, url=name)
        return self._target, replace(self.options, headers=parse_options({**self._again, "headers": headers}).headers)
