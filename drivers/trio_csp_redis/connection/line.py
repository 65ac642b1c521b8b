"""One connection after another: what serves it is called with each."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal, NamedTuple, final

import trio

import csp
from csp.errors import ConnectionFailedError, Error, shown
from trio_csp_redis.connection.backoff import Backoff
from trio_csp_redis.connection.link import Link, connected
from trio_csp_redis.connection.permission import check_connect
from trio_csp_redis.protocol import failures

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_csp_redis.connection.counts import Counts
    from trio_csp_redis.connection.settings import Settings

_logger = logging.getLogger("csp.redis")


class Outage(NamedTuple):
    """What was between two connections."""

    error: ConnectionFailedError
    """What ended the first."""
    seconds: float
    attempts: int
    """How many the second one took."""


@final
class Line:
    """One connection after another.

    Args:
        settings: of the bus.
        counts: of the bus.
        purpose: what logs call it.
        tell: called with each new state.
    """

    def __init__(
        self,
        settings: Settings,
        counts: Counts,
        purpose: str,
        tell: Callable[[csp.ConnectionState], object] = lambda _state: None,
    ) -> None:
        self._settings = settings
        self._counts = counts
        self._purpose = purpose
        self._tell = tell
        self._backoff = Backoff(settings.min_delay_seconds, settings.max_delay_seconds)
        # How the connection before was lost, and when; None before the first.
        self._lost: tuple[Error, float] | None = None
        self._attempts = 0
        self.outage: Outage | None = None
        """What was between the connection before and this one; None for the first."""

    async def run(self, serve: Callable[[Link], Awaitable[None]]) -> Error:
        """Connect again and again; return the error with which no attempt follows.

        Args:
            serve: called with each connection, and cancelled when that is lost. A `csp.errors.Error` that it raises
                ends the connection; if it is not retryable, it comes out.
        """
        while True:
            self._attempts += 1
            self._counts.attempts += 1
            self._told("connecting")
            bound_seconds = self._backoff.bound_seconds
            opened_at = None
            try:
                check_connect(self._settings.target.url)
                async with connected(self._settings) as link:
                    opened_at = trio.current_time()
                    self._opened(opened_at)
                    error = await self._served(link, serve)
            except _ServingFailed as failure:
                raise failure.error from failure.error.__cause__
            except Error as failure:
                error = failure
            now = trio.current_time()
            if opened_at is not None:
                self._lost = error, now
            if opened_at is not None and now - opened_at > bound_seconds:
                self._backoff.succeed()
            else:
                self._backoff.fail()
            if not error.retryable or self._backoff.failures == self._settings.max_attempts:
                return error
            seconds = self._backoff.seconds()
            self._told("waiting", error, seconds)
            await trio.sleep(seconds)

    def _opened(self, now: float) -> None:
        if self._lost is not None:
            error, since = self._lost
            if not isinstance(error, ConnectionFailedError):
                error = failures.unavailable(error.message)
            self.outage = Outage(error, now - since, self._attempts)
        self._attempts = 0
        self._counts.connections += 1
        self._told("open")

    async def _served(self, link: Link, serve: Callable[[Link], Awaitable[None]]) -> Error:
        """Serve a connection until it is lost; return how."""
        self._counts.open_connections += 1
        try:
            async with csp.BackgroundNursery() as nursery:
                nursery.start_soon(serve, link)
                await link.lost.wait()
        except Error as error:
            if not error.retryable:
                raise _ServingFailed(error) from None
            return error
        finally:
            self._counts.open_connections -= 1
        return link.why_lost()

    def _told(
        self, name: Literal["connecting", "open", "waiting"], error: Error | None = None, seconds: float = 0.0
    ) -> None:
        state = csp.ConnectionState(name, self._backoff.failures + 1, error, seconds)
        level = logging.DEBUG if name == "connecting" else logging.INFO
        if name == "waiting" and self._backoff.failures == 1:
            level = logging.WARNING  # once in an outage: whoever logs nothing else learns what is waited for
        _logger.log(level, "%s: %s: %s", self._settings.target.url, self._purpose, shown(str(state), None))
        self._tell(state)


class _ServingFailed(Exception):  # noqa: N818  # it never comes out
    """Carries what the function raised past what connecting raises."""

    def __init__(self, error: Error) -> None:
        super().__init__()
        self.error = error
