"""`connect`: dial, shake hands, and keep everything that belongs to the connection inside one block."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack, final

import trio
from trio.lowlevel import enable_ki_protection

from csp import BackgroundNursery, security
from csp.errors import (
    ConnectionFailedError,
    ConnectionTimeoutError,
    InvalidError,
    InvalidTypeError,
    Kind,
    NoContextError,
    PermissionDeniedError,
    shown,
    wrap,
)
from trio_csp_websocket.client.client import Client
from trio_csp_websocket.client.options import ConnectOptions, Options, parse_options
from trio_csp_websocket.client.redirects import Way
from trio_csp_websocket.connection.report import tell_end_of
from trio_csp_websocket.events import Events, fields_of, inside, text_of
from trio_csp_websocket.network.dial import dial, with_proxy
from trio_csp_websocket.network.progress import Progress
from trio_csp_websocket.protocol.refusal import RedirectError
from trio_csp_websocket.protocol.url import Target, parse_url
from trio_csp_websocket.transport.base import shown_address

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable
    from types import TracebackType

    from trio_csp_websocket.client.handshakes import Handshakes
    from trio_csp_websocket.connection.connection import Connection
    from trio_csp_websocket.network.route import Route
    from trio_csp_websocket.transport.base import Transport


_events = Events("csp.websocket.client")

Reach: TypeAlias = "Callable[[Target, Route, Progress], Awaitable[Transport]]"
"""Opens the byte stream to a target, and tells what it waits for."""


def connect(url: str, *, nursery: trio.Nursery | None = None, **options: Unpack[ConnectOptions]) -> Connecting:
    """Open a WebSocket connection and close it at the end of the block.

    Leaving the block closes the connection with code 1000. After an exception it does so with 1011, and the exception
    comes out unchanged. If cancelled, it closes the connection at once. Nothing of the connection outlives the block,
    and leaving never raises how the connection ended: see `Client.error`.

    With ``client = await connect(url, nursery=nursery)`` the connection runs in a task of that nursery instead, until
    it is closed. It never cancels the nursery.

    Args:
        url: ``ws://`` or ``wss://``; credentials in it are sent as Basic authorization.
        nursery: where the connection's task runs, for ``await connect(...)``.
        options: all optional. Timeouts are a Go duration such as ``"10s"`` or a timedelta, and None for no limit; the
            first three also milliseconds as an int. See also `ConnectOptions`.

            - headers: a mapping or pairs. None.
            - protocols: subprotocols to offer. None.
            - require_subprotocol: fail if the server chooses none of them. False.
            - dial_timeout: for name resolution, TCP, proxy, TLS, handshake and redirects together. 30 s.
            - read_timeout: for the wait for a whole message. None.
            - write_timeout: for a send or ping. None.
            - compression: a `COMPRESSION`. DISABLED.
            - compression_threshold: bytes from which messages go out compressed. 128, or 512 for NO_CONTEXT.
            - read_limit: the largest message in bytes, inflated; and about how much may wait to be received. 16 MiB.
            - channel_capacity: messages buffered before reading stops. 16.
            - ssl_context: for ``wss:``. Verifies against the system's authorities.
            - server_hostname: the name in the server's certificate. The URL's host.
            - host_header: the Host header. The URL's host and port.
            - proxy: the URL of a proxy, True for the one that the environment names, None for none. True.
            - proxy_ssl_context: for ``https`` proxies. Verifies against the system's authorities.
            - unix_socket: the path of a Unix socket to connect to. None.
            - dial: an async function of host and port that returns a stream to the server. None.
            - max_redirects: how many redirects are followed; 0 for none. 10.
            - origin: the Origin header. None.
            - user_agent: the User-Agent header. ``trio-csp/`` and the version.
            - keepalive: the silence after which a ping is sent, and then until the connection is failed. None.
            - close_timeout: for `Client.close`, and for the peer to end the connection. 10 s.

    Raises:
        InvalidError: the URL or an option is out of range or malformed. Raised by the call, before any I/O.
        InvalidTypeError: the same for a wrong type or an unknown option.
        PermissionDeniedError: on entering or awaiting; `csp.security` does not allow ``websocket.connect``, or
            ``websocket.connect.url`` for this URL in its normal form or one that it is redirected to, or denies
            ``websocket.connect.address`` for each address of its host, or ``websocket.connect.proxy`` for the proxy.
        NoContextError: on entering or awaiting outside a Trio run, or for a second time; on awaiting without a
            nursery.
        ConnectionFailedError: on entering or awaiting; no connection could be made. Kind INTERNAL, or INVALID for a
            setting of the environment that is malformed; retryable except where a retry will not change it: after most
            refusals, by the server or a proxy, after a redirect that is not followed, and where ``ssl_context`` made
            the server choose HTTP/2.
            `ConnectionTimeoutError` if it took longer than ``dial_timeout``; the text says what was waited for.
    """
    if nursery is not None and not isinstance(nursery, trio.Nursery):
        raise InvalidTypeError(f"nursery must be a trio.Nursery, not {nursery!r}")
    return Connecting(*check(url, options, others=("nursery",)), nursery)


def check(url: str, options: ConnectOptions, *, others: Iterable[str] = ()) -> tuple[Target, Options]:
    """Check a URL and the options of a connection; raise `InvalidError` for what is malformed or out of range.

    For ``others``, see `parse_options`.
    """
    target = parse_url(url)
    checked = parse_options(options, others=others)
    for name in ("ssl_context", "server_hostname"):
        if options.get(name) is not None and not target.secure:
            raise InvalidError(f"{name} must not be given for a ws: URL; write wss:")
    return target, checked


@final
class Connecting:
    """What `connect` returns: enter it with ``async with``, or await it if it was given a nursery; only once."""

    def __init__(
        self,
        target: Target,
        options: Options,
        nursery: trio.Nursery | None = None,
        *,
        reach: Reach | None = None,
        parent: object = None,
    ) -> None:
        self._target = target
        self._options = options
        self._caller_nursery = nursery
        self._reach = reach or dial
        # What it is done for, as a feed, for those who are told of it.
        self._parent = parent
        self._used = False
        self._way = Way(target, options)
        # When opening it has taken too long; None before the timeout has begun.
        self._deadline: float | None = None
        self._handshakes: Handshakes | None = None
        self._connection: Connection
        self._client: Client

    def __repr__(self) -> str:
        return f"<csp.websocket.connect({self._target.shown!r})>"

    def __await__(self) -> Generator[Any, Any, Client]:
        return self._start().__await__()

    async def _start(self) -> Client:
        _check_context()
        if self._caller_nursery is None:
            raise NoContextError(
                "connect was awaited without a nursery: write `async with websocket.connect(url) as client`, or "
                "`client = await websocket.connect(url, nursery=nursery)`"
            )
        client: Client = await self._caller_nursery.start(self._run)
        return client

    async def _run(self, *, task_status: trio.TaskStatus[Client]) -> None:
        async with self as client:
            task_status.started(client)
            await self._connection.delivery.finished.wait()
            await self._connection.finished.wait()

    @enable_ki_protection
    async def __aenter__(self) -> Client:
        _check_context()
        if self._used:
            raise NoContextError("this connect(...) was used before; call connect again for another connection")
        self._used = True
        # Imported here, because trio-websocket, wsproto and h11 come with it and take longer to load than all the rest:
        # they are loaded with the first connection, and before the timeout begins, which they must not use up.
        from trio_csp_websocket.client.handshakes import Handshakes  # noqa: PLC0415

        try:
            while True:
                try:
                    return await self._attempt(Handshakes)
                except RedirectError as redirect:
                    self._follow(redirect)
        except ConnectionFailedError:
            raise  # told before
        except BaseException as error:
            name = self._way.target.shown
            text = "gave up connecting to %s: %s"
            _events.tell(
                "client.abandoned", logging.DEBUG, text, name, text_of(error), about=self, url=name, **fields_of(error)
            )
            raise

    async def _attempt(self, handshakes_class: type[Handshakes]) -> Client:
        """Connect to where the way leads."""
        self._check_allowed()
        self._handshakes = None
        progress = Progress()
        name = self._way.target.shown
        _events.tell(
            "client.connecting", logging.DEBUG, "connecting to %s", name, about=self, subject=self._parent, url=name
        )
        try:
            route = self._way.options.route
            if self._reach is dial:
                route = with_proxy(route, self._way.target)
        except ConnectionFailedError as error:
            raise self._described(error, progress) from None
        if self._deadline is None:
            self._deadline = trio.current_time() + self._options.dial_timeout_seconds
        # A background nursery: its tasks raise nothing that a user should see.
        self._background = BackgroundNursery()
        self._nursery = await self._background.__aenter__()
        try:
            with trio.fail_at(self._deadline):
                return await self._open(handshakes_class, route, progress)
        except trio.TooSlowError:
            await self._end_background()
            raise self._timed_out(progress) from None
        except RedirectError:
            await self._end_background()
            raise
        except PermissionDeniedError as error:
            await self._end_background()
            raise self._way.denied(error) from None
        except ConnectionFailedError as error:
            await self._end_background()
            raise self._described(error, progress) from error.__cause__
        except BaseException as error:
            failure = await self._end_background()
            if failure is not None and isinstance(error, trio.Cancelled):
                # trio-websocket's reader task has failed, which cancelled this one.
                raise self._described(_broken(failure), progress) from failure
            raise

    async def _end_background(self) -> Exception | None:
        """End the tasks of a connection that was not opened; return the exception of one that has failed."""
        try:
            await self._background.__aexit__(None, None, None)
        except Exception as failure:  # noqa: BLE001  # trio-websocket, wsproto and h11 may raise anything
            return failure
        return None

    def _timed_out(self, progress: Progress) -> ConnectionFailedError:
        if self._handshakes is not None and self._handshakes.refusal is not None:
            return self._described(self._handshakes.refusal, progress)
        seconds, missing = self._options.dial_timeout_seconds, progress.waits_for()
        error = ConnectionTimeoutError(
            f"no connection to {self._shown(missing, progress)} within {seconds:g} s: {missing}",
            kind=Kind.INTERNAL,
            retryable=True,
            details=self._details(progress),
        )
        self._tell_failure(error, progress)
        return error

    def _described(self, error: ConnectionFailedError, progress: Progress) -> ConnectionFailedError:
        """Return an error of dialling or of the handshake, with the way to it added to its text and details."""
        described = wrap(error, f"cannot connect to {self._shown(error.message, progress)}")
        described.details = {**self._details(progress), **error.details}
        self._tell_failure(described, progress)
        return described

    def _tell_failure(self, error: ConnectionFailedError, progress: Progress) -> None:
        proxy = None if progress.proxy is None else progress.proxy.shown
        fields = fields_of(error)
        name = self._way.target.shown
        _events.tell("client.failed", logging.INFO, "%s", error, about=self, url=name, proxy=proxy, **fields)

    def _shown(self, text: str, progress: Progress) -> str:
        """Return the way as a text has it; the proxy with it, unless the rest of the text speaks of that."""
        proxy = progress.proxy
        return self._way.shown + (f" through {proxy.shown}" if proxy is not None and proxy.shown not in text else "")

    def _details(self, progress: Progress) -> dict[str, object]:
        return self._way.details | ({} if progress.proxy is None else {"proxy": progress.proxy.url})

    def _follow(self, redirect: RedirectError) -> None:
        try:
            self._way.follow(redirect)
        except ConnectionFailedError as error:
            raise self._described(error, Progress()) from None
        name = self._way.target.shown
        _events.tell("client.redirected", logging.INFO, "redirected to %s", self._way.shown, about=self, url=name)

    def _check_allowed(self) -> None:
        """Check the security policies: for each connection, before any I/O."""
        if not security.can("websocket.connect"):
            raise PermissionDeniedError("connections are not allowed: websocket.connect is denied")
        if not security.can("websocket.connect.url", self._way.target.url):
            raise PermissionDeniedError(f"connections to {self._way.shown} are not allowed", details=self._way.details)

    async def _open(self, handshakes_class: type[Handshakes], route: Route, progress: Progress) -> Client:
        """Connect and shake hands."""
        target, options = self._way.target, self._way.options
        with inside(self):  # it may call a function of the user's
            transport = await self._reach(target, route, progress)
        handshakes = self._handshakes = handshakes_class(transport, options, self._nursery)
        progress.waits_for = handshakes.waits_for
        headers = list(options.headers)
        credentials = target.authorization
        if credentials is not None and not any(name.lower() == b"authorization" for name, _ in headers):
            headers.append((b"Authorization", credentials.encode("ascii")))
        try:
            self._connection, subprotocol, head = await handshakes.open(target, headers, self._way.secrets)
        except BaseException as error:
            await handshakes.abort()
            if isinstance(error, Exception) and not isinstance(error, ConnectionFailedError):
                raise _broken(error) from error
            raise
        self._handshakes = None
        self._client = Client(self._connection, target.url, subprotocol, head)
        if _events.wanted(logging.INFO):
            self._tell_open(target.shown)
        # The connection may stay open for days, and servers choose how much of this there is.
        del self._way
        return self._client

    def _tell_open(self, name: str) -> None:
        client, connection = self._client, self._connection
        proxy, remote = client.proxy, None if client.remote is None else shown_address(client.remote)
        through = "" if proxy is None else f" through the proxy {proxy}"
        _events.tell(
            "client.connected",
            logging.INFO,
            "connected to %s%s%s",
            name,
            through,
            "" if remote is None else f" ({remote})",
            about=self,
            subject=connection,
            url=name,
            proxy=proxy,
            remote=remote,
            compressed=connection.decoder.inflater is not None,
        )
        text = "the connection to %s has ended: %s"
        tell_end_of(connection, _events, "client.ended", logging.INFO, text, name, url=name, proxy=proxy, remote=remote)

    @enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._client.__aexit__(exc_type, exc, traceback)
        finally:
            await self._background.__aexit__(None, None, None)


def _check_context() -> None:
    if not trio.lowlevel.in_trio_task():
        raise NoContextError("connect works inside trio.run only")


def _broken(failure: Exception) -> ConnectionFailedError:
    """Return the error for what trio-websocket, wsproto or h11 raise in a handshake.

    They raise in two places: in the task that connects while they make the request, and in trio-websocket's reader
    task, which sends it and reads the answer. None of it is expected: they are given only what was checked.
    """
    return ConnectionFailedError(
        f"the opening handshake failed: {shown(repr(failure))}", kind=Kind.INTERNAL, retryable=True
    )
