"""What can be sent to: `Sink` is to send cases what `Source` is to receive cases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from csp._core.waiters import Waiter
    from csp.errors import ChannelClosedError

T_contra = TypeVar("T_contra", contravariant=True)


class Sink(Protocol[T_contra]):
    """Something that takes values, one at a time; `Channel` is one."""

    async def send(self, value: T_contra) -> None:
        """Send a value, waiting until it is taken or there is room; raise `ChannelClosedError` if closed."""

    def send_nowait(self, value: T_contra) -> None:
        """Send a value without waiting; raise `trio.WouldBlock` or `ChannelClosedError`."""

    def _can_send(self) -> bool:
        """Tell whether `send_nowait` would not raise `trio.WouldBlock`."""
        ...

    def close(self) -> None:
        """Take no more values."""

    def _park_sender(self, waiter: Waiter) -> None:
        """Put a waiter at the end of the queue of senders; it stays until it is served or leaves."""

    def _unpark_sender(self, waiter: Waiter) -> None:
        """Take a waiter out of the queue of senders, if it is there."""

    def _closed_error(self) -> ChannelClosedError:
        """Return a new error for a sender that finds it closed."""
        ...
