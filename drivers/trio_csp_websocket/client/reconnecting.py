"""`reconnecting`: makes a feed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from csp.errors import InvalidError, InvalidTypeError
from trio_csp_websocket.client.backoff import Backoff, default_retry
from trio_csp_websocket.client.destination import Destination
from trio_csp_websocket.client.feed import Feed
from trio_csp_websocket.client.keeper import Keeper
from trio_csp_websocket.client.user_functions import check_retry, check_subscribe
from trio_csp_websocket.connection.settings import parse_timeout, parse_whole_number

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import csp
    from trio_csp_websocket.client.destination import FeedOptions
    from trio_csp_websocket.client.user_functions import Retry, Subscribe

_MAX_ATTEMPTS = 1_000_000_000
_DEFAULT_MAX_SECONDS = 30.0
_DEFAULT_MAX_ASKED_SECONDS = 600.0


def reconnecting(
    url: str | Callable[[], str | Awaitable[str]],
    *,
    subscribe: Subscribe | None = None,
    retry: Retry | None = None,
    min_delay: csp.Duration = "500ms",
    max_delay: csp.Duration | None = None,
    max_attempts: int | None = None,
    **options: Unpack[FeedOptions],
) -> Feed:
    """Keep a WebSocket connection open: connect again whenever it is lost; all messages come on one channel.

        async def subscribe(client):
            await client.send('{"subscribe": "prices"}')

        async with websocket.reconnecting("wss://example.com/feed", subscribe=subscribe, read_timeout="30s") as feed:
            async for message in feed:
                if isinstance(message, websocket.Gap):
                    await reload()
                else:
                    print(message.data)

    Entering the block does not wait for the first connection: the server may be down. Leaving it closes the feed with
    code 1000. After an exception it does so with 1011, and the exception comes out unchanged. If cancelled, it closes
    the feed at once. Nothing of the feed outlives the block, and leaving never raises how the feed ended: that is the
    ``cause`` of `Feed.channel`.

    The feed connects again after a ``retryable`` error, and after the server closes with 1001 or without a code, or as
    ``retry`` says. Otherwise it ends. The channel's ``cause`` is then

    - None, if the server closed with 1000, 1001 or without a code, or the user closed the client;
    - the error with which it does not come back: a refusal such as 401, a denial by `csp.security`, a violation of the
      protocol;
    - the last error, after ``max_attempts``;
    - the exception of ``url``, ``headers`` or ``subscribe``, if it raised any other, or of ``retry``.

    Before each new attempt the feed waits a random time, evenly distributed from ``min_delay`` to a bound. The bound
    starts at twice ``min_delay``, and doubles with each failed attempt, up to ``max_delay``. But it is at most the time
    since the outage began, or twice ``min_delay`` if that is longer. So the feed is back at the latest about when the
    outage has lasted twice as long, unless the server asks for more. An outage begins when a connection that lasted
    has ended, or with the feed's first attempt.

    A connection has lasted if it was open for longer than the bound of the wait before it (the first of a feed: than
    the bound that its waits start with). Then attempts and the bound start again. If not, it counts as a failed
    attempt, and the outage goes on.

    If a refusal has a Retry-After, the feed waits that, and then the random time. Of a Retry-After it waits at most
    ``max_delay``, if that is given; else at most 10 minutes. ``asked_seconds`` of `Feed.state` is what the server asked
    for.

    `Feed.reconnect` drops the connection for another one, when a token is about to expire. The logger
    ``csp.websocket.feed`` tells each change of state at level INFO, and details at DEBUG.

    Without a ``read_timeout`` or ``keepalive``, it may take hours to notice that a server has vanished without closing
    the connection.

    Args:
        url: as in `connect`; or a function without arguments that returns it, plain or async, which is asked at the
            beginning of each attempt. The attempt has failed if it raises a `csp.errors.Error` that is ``retryable``,
            or `trio.TooSlowError`. Any other exception ends the feed, as does the `InvalidError` for a URL that is
            malformed. Nothing limits how long it may take.
        subscribe: awaited with the `Client` of each new connection, before messages are passed on. It may send and
            receive on that client; the feed does not see what it receives. The attempt has failed if it raises because
            the connection has ended, as ``send`` and ``await anext(client)`` do, or if it raises another
            `csp.errors.Error` that is ``retryable``. Any other exception ends the feed, as does the `InvalidTypeError`
            for a function that returns nothing to await. Only ``read_timeout`` and ``keepalive`` limit how long it may
            take.
        retry: says whether to come back, instead of `default_retry`: a plain function of one `csp.errors.Error`, which
            is asked once after each connection that has ended, and after each attempt that has failed. If it returns
            false, the feed ends with that error. A close by the server with 1000, 1001 or without a code is such an
            error too, of kind UNAVAILABLE; if it returns false for it, the feed ends without a cause. ``details`` has
            ``code`` and ``reason`` of a close, or ``status`` of a refusal, and neither after some failures: ask for
            them by ``details.get``. It is not asked where the feed ends anyway: when the user closes it, its client or
            its channel, after a `PermissionDeniedError`, after ``max_attempts``, and after an exception of another
            function that ends the feed. What it raises ends the feed, as does the `InvalidTypeError` for an async
            function.
        min_delay: the shortest wait: a Go duration or a timedelta. 500 ms.
        max_delay: the largest bound of the random waits, and of a Retry-After, given like ``min_delay``. None for 30 s,
            and 10 minutes of a Retry-After. If equal to ``min_delay``, that is every random wait.
        max_attempts: the number of failed attempts in a row after which the feed ends; None for no limit.
        options: the options of each connection: see `ConnectOptions`. ``headers`` may be a function as ``url`` may,
            asked after that one. ``channel_capacity`` is also that of the feed's channel; about twice as many more may
            be on their way from the connection to it.

    Raises:
        InvalidError: the URL or an option is out of range or malformed. Raised by the call, before any I/O.
        InvalidTypeError: the same for a wrong type or an unknown option.
        NoContextError: on entering outside a Trio run, or for a second time.
    """
    if "nursery" in options:
        raise InvalidTypeError(
            "nursery is no option here: a feed is a block, `async with websocket.reconnecting(url) as feed`, "
            "and its connections end with it"
        )
    destination = Destination(url, options, others=("subscribe", "retry", "min_delay", "max_delay", "max_attempts"))
    if subscribe is not None:
        check_subscribe(subscribe)
    if retry is not None:
        check_retry(retry)
    least = parse_timeout("min_delay", min_delay, optional=False)
    if max_delay is None:
        most, most_asked = _DEFAULT_MAX_SECONDS, _DEFAULT_MAX_ASKED_SECONDS
    else:
        most = most_asked = parse_timeout("max_delay", max_delay, optional=False)
    if least > most:
        raise InvalidError(f"max_delay must be at least min_delay, which is {least:g} s, not {most:g} s")
    if max_attempts is not None:
        parse_whole_number("max_attempts", max_attempts, 1, _MAX_ATTEMPTS)
    backoff = Backoff(least, most, max_asked_seconds=most_asked, max_attempts=max_attempts)
    # The rule of a feed without one is the same, and then not asked: it has nothing to say of the last of max_attempts.
    rule = None if retry is default_retry else retry
    return Feed(Keeper(destination, backoff, subscribe, rule))
