"""The message that an application takes piece by piece, and the wait for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_csp_websocket.protocol.streamed import Streamed

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_csp_websocket.protocol.constants import MessageType

MAX_WAITING_BYTES = 256 * 1024
"""Nothing more is read while pieces of this size, in memory, wait to be taken."""


class Incoming(Streamed):
    """What has arrived of a message, and was not taken yet; a task can wait for more."""

    __slots__ = ("_begins", "_changed", "cut")

    def __init__(self) -> None:
        super().__init__()
        self.cut: bool = False
        """Whether the rest of the message will not come."""
        # Set when something has changed; None while no task waits for that.
        self._changed: trio.Event | None = None
        # The task that waits for the message to begin, while one does.
        self._begins: trio.lowlevel.Task | None = None

    @property
    def full(self) -> bool:
        """Whether so much waits that nothing more is to be read."""
        return self.waiting_bytes >= MAX_WAITING_BYTES and not self.unwanted

    async def wait(self) -> None:
        """Wait until `wake` is called."""
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()

    async def wait_to_begin(self, call_off: Callable[[], None]) -> None:
        """Wait as `wait` does, for the message to begin.

        Args:
            call_off: has no message go here any more. Called if this is cancelled: at once, not only when this task
                runs again, because a message that came in between would be lost.
        """

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._begins = None
            call_off()
            return trio.lowlevel.Abort.SUCCEEDED

        self._begins = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    def begin(self, type: MessageType) -> None:  # noqa: A002  # as in `Message`
        super().begin(type)
        self.wake()

    def add(self, piece: str | bytes) -> None:
        super().add(piece)
        self.wake()

    def end(self) -> None:
        super().end()
        self.wake()

    def wake(self) -> None:
        """Wake the tasks in `wait`: something may have changed."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None
        if self._begins is not None:
            trio.lowlevel.reschedule(self._begins)
            self._begins = None

    def cut_off(self) -> None:
        """Take note that nothing more comes, or nothing that is wanted; what waits can still be taken."""
        self.unwanted = True
        self.cut = not self.complete
        self.wake()
