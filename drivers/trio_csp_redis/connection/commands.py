"""The connection for commands, and the life of a bus.

Everything that is written at once goes over one connection: sends, acks, renewals. What waits for values has others.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, final

import trio

import csp
from csp.errors import ConnectionFailedError, Error, Kind, NoContextError, shown
from trio_csp_redis.connection.counts import Counts
from trio_csp_redis.connection.line import Line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_csp_redis.connection.link import Link
    from trio_csp_redis.connection.settings import Settings
    from trio_csp_redis.protocol.script import Script

_logger = logging.getLogger("csp.redis")

_STATES_KEPT = 16


@final
class Commands:
    """The connection for commands, and the life of a bus.

    Args:
        settings: of the bus.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.counts: Counts = Counts()
        self.state: csp.ConnectionState = csp.ConnectionState("connecting", 1)
        self.states: csp.Channel[csp.ConnectionState] = csp.Channel[csp.ConnectionState](
            _STATES_KEPT, overflow="drop_oldest"
        )
        """Each new `state`; never closed, so that a select does not take its end ahead of values."""
        self.entered: bool = False
        self.ended: trio.Event = trio.Event()
        """Set when the bus has ended, for good."""
        self.cause: Error | None = None
        """What ended it; None if its block was left."""
        self._link: Link | None = None
        # Set, and replaced by a new event, when there is a connection; set for good at the end.
        self._changed = trio.Event()

    async def run(self) -> None:
        """Keep the connection until the bus ends."""
        line = Line(self.settings, self.counts, "commands", self._set_state)
        async with csp.BackgroundNursery() as nursery:
            nursery.start_soon(self._keep, line)
            await self.ended.wait()

    async def _keep(self, line: Line) -> None:
        self.end(await line.run(self._serve))

    async def _serve(self, link: Link) -> None:
        self._link = link
        self._announce()
        try:
            await trio.sleep_forever()
        finally:
            self._link = None

    def end(self, cause: Error | None) -> None:
        """End the bus, unless it has ended: what waits for it fails."""
        if self.ended.is_set():
            return
        self.cause = cause
        self._set_state(csp.ConnectionState("closed", self.state.attempt, cause))
        why = "" if cause is None else f": {shown(str(cause), None)}"
        _logger.log(logging.WARNING if why else logging.INFO, "%s: ended%s", self.settings.target.url, why)
        self.ended.set()
        self._announce()

    def why_ended(self) -> Error:
        """Return a new error for what is used after the end; from the cause of that."""
        if self.cause is not None and self.cause.kind in (Kind.PERMISSION_DENIED, Kind.INVALID):
            error = csp.errors.wrap(self.cause, "the bus has ended")
        else:
            why = "" if self.cause is None else f": {self.cause.message}"
            error = ConnectionFailedError(f"the bus has ended{why}", kind=Kind.INTERNAL, retryable=False)
        error.__cause__ = self.cause
        return error

    def check_entered(self) -> None:
        """Raise `NoContextError` before the block of the bus."""
        if not self.entered:
            raise NoContextError("a bus is a block: write `async with redis.Bus(url) as bus`")

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._link is not None and self._link.usable

    async def link(self) -> Link:
        """Wait for a connection.

        Raises:
            ConnectionFailedError: the bus has ended, ``from`` its cause. Kind INTERNAL, not retryable.
            PermissionDeniedError: it has ended with that.
            InvalidError: likewise.
        """
        while True:
            if self.ended.is_set():
                await trio.lowlevel.checkpoint()  # a loop that ignores the error must not starve the others
                raise self.why_ended()
            if self._link is not None:
                self._link.give_up_if_late()
                if self._link.usable:
                    return self._link
            await self._changed.wait()

    async def run_script(
        self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | int], doing: str
    ) -> object:
        """Wait for a connection, and have its server run a script once; see `Link.run`."""
        link = await self.link()
        return await link.run(script, keys, arguments, doing)

    async def call(self, command: bytes, *arguments: bytes | str | int, doing: str) -> object:
        """Wait for a connection, and write a request once; see `Link.call`."""
        link = await self.link()
        return await link.call(command, *arguments, doing=doing)

    def _set_state(self, state: csp.ConnectionState) -> None:
        if not self.ended.is_set():
            self.state = state
            self.states.send_nowait(state)

    def _announce(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        if self.ended.is_set():
            self._changed.set()
        changed.set()
