"""One message to many connections."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, cast, final

from trio.lowlevel import enable_ki_protection

from csp.errors import InvalidError, InvalidTypeError
from trio_csp_websocket.connection.endpoint import Endpoint
from trio_csp_websocket.connection.outbox import Outbox
from trio_csp_websocket.connection.settings import parse_whole_number
from trio_csp_websocket.connection.writer import Posting
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.protocol.messages import encoded
from trio_csp_websocket.protocol.shared import SharedMessage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

    from trio_csp_websocket.client.client import Client
    from trio_csp_websocket.connection.connection import Connection
    from trio_csp_websocket.server.server_connection import ServerConnection

HubOverflow: TypeAlias = Literal["close", "drop_oldest", "drop_newest"]
"""What a hub does when a message would have to wait, and too many do.

It closes the connection, drops the oldest messages that wait, or drops the new one."""

_POLICIES = ("close", "drop_oldest", "drop_newest")
_MAX_CAPACITY = 1_000_000
_MAX_CAPACITY_BYTES = 1 << 30
_TOO_SLOW = "messages come faster than they are read"


class BroadcastResult(NamedTuple):
    """What became of a message that was broadcast. Later versions may add some; read the fields by name."""

    written: int
    """To how many members it was written at once, whole: the system has taken it."""
    queued: int
    """For how many it waits, or the rest of it does."""
    dropped: int
    """How many messages were lost: the oldest ones that waited, or this one."""
    closed: int
    """How many members have left: those that were closed because too much waited for them, and those whose connection
    turned out to be broken."""


class _Member(NamedTuple):
    endpoint: ServerConnection | Client
    outbox: Outbox
    overflow: HubOverflow


class _Members:
    """The members of a hub, which follows their connections: those that end leave."""

    def __init__(self) -> None:
        # In the order in which they were added.
        self.by_connection: dict[Connection, _Member] = {}

    def ended(self, connection: Connection) -> None:
        self.by_connection.pop(connection, None)


@final
class Hub:
    """Sends messages to many connections at once, and waits for none of them.

        hub = websocket.Hub()
        hub.add(connection)
        hub.broadcast("hello, all")

    A message is encoded once, and compressed once for all connections that keep no context between messages
    (`Compression.NO_CONTEXT`). It is written at once to each member for which nothing is ahead; for the others it waits
    in a line of their own, in order with what is sent to them otherwise. So a slow one holds up nobody. When its line
    is full, ``overflow`` says what happens. Members are connections of a server or clients, and may be in many hubs.
    One whose connection ends leaves by itself.

    Args:
        overflow: ``"close"`` closes the connection with 1013 (try again later): what waited is discarded. A peer that
            uses `reconnecting` comes back, with a `csp.Gap`. ``"drop_oldest"`` drops the oldest messages that wait,
            ``"drop_newest"`` the new one.
        capacity: how many messages may wait for a member, 1 to 1,000,000. What is being written does not count.
        capacity_bytes: how many bytes these may have, uncompressed, 1 to 2**30. One that has more by itself may wait
            alone.

    Raises:
        InvalidError: an argument is out of range.
        InvalidTypeError: an argument is of the wrong type.
    """

    def __init__(self, *, overflow: HubOverflow = "close", capacity: int = 64, capacity_bytes: int = 1 << 20) -> None:
        self._overflow: HubOverflow = _checked_policy(overflow)
        self._capacity = parse_whole_number("capacity", capacity, 1, _MAX_CAPACITY)
        self._capacity_bytes = parse_whole_number("capacity_bytes", capacity_bytes, 1, _MAX_CAPACITY_BYTES)
        self._members = _Members()
        # Owns the outboxes. If the hub did, it would refer to itself, and only the collector would free it.
        self._owner = object()

    @enable_ki_protection
    def add(
        self,
        connection: ServerConnection | Client,
        *,
        overflow: HubOverflow | None = None,
        capacity: int | None = None,
    ) -> None:
        """Add a connection: from now on it gets every message.

        One that is a member already stays one, with what is said here. One that has ended, or is being closed, is not
        added.

        Args:
            connection: a `ServerConnection` that was accepted, or a `Client`.
            overflow: for this one; by default the hub's.
            capacity: for this one; by default the hub's.

        Raises:
            InvalidError: an argument is out of range.
            InvalidTypeError: an argument is of the wrong type.
            NoContextError: the connection is unanswered: accept it first.
        """
        policy = self._overflow if overflow is None else _checked_policy(overflow)
        most = self._capacity if capacity is None else parse_whole_number("capacity", capacity, 1, _MAX_CAPACITY)
        plane = _plane(connection)
        connection.channel()  # raises if it is unanswered
        if plane.closing or not plane.writer.accepting:
            return
        member = self._members.by_connection.get(plane)
        # What was sent when it was a member before may still wait, and counts.
        outbox = plane.writer.outbox_of(self._owner) if member is None else member.outbox
        if outbox is None:
            outbox = Outbox(self._owner, most, self._capacity_bytes)
        outbox.capacity = most
        self._members.by_connection[plane] = _Member(connection, outbox, policy)
        plane.follow(self._members)

    @enable_ki_protection
    def discard(self, connection: ServerConnection | Client) -> None:
        """Remove a connection, if it is a member. What waits for it already is still sent."""
        plane = _plane(connection)
        if self._members.by_connection.pop(plane, None) is not None:
            plane.unfollow(self._members)

    @enable_ki_protection
    def broadcast(
        self,
        data: str | Buffer,
        type: int | None = None,  # noqa: A002  # as in `send`
        *,
        exclude: ServerConnection | Client | Iterable[ServerConnection | Client] = (),
    ) -> BroadcastResult:
        """Send a message to all members, without waiting for anything.

        Members that are being closed get nothing, and are counted nowhere. No other task runs meanwhile: to write to
        thousands takes some tens of milliseconds.

        Args:
            data: a str is sent as a text message, anything bytes-like as a binary one.
            type: `TEXT` or `BINARY` to choose otherwise, as in `Client.send`.
            exclude: a connection, or several, that do not get it; whoever is no member does not matter.

        Raises:
            InvalidError: ``type`` is neither `TEXT` nor `BINARY`, or the data is not valid text; nothing was sent.
            InvalidTypeError: ``data`` is neither a str nor bytes-like, or ``exclude`` has something else than
                connections; nothing was sent.
        """
        opcode, payload = encoded(data, type)
        message = SharedMessage(opcode, bytes(payload))
        excluded = _planes(exclude)
        written = queued = dropped = closed = 0
        for plane, member in list(self._members.by_connection.items()):
            if plane in excluded:
                continue
            posting = plane.writer.post(message, member.outbox)
            if posting is Posting.FULL and member.overflow == "drop_oldest":
                while not member.outbox.has_room(message):
                    plane.writer.withdraw(member.outbox.oldest)
                    dropped += 1
                posting = plane.writer.post(message, member.outbox)
            if posting is Posting.WRITTEN:
                written += 1
            elif posting is Posting.QUEUED:
                queued += 1
                plane.writer.watch(plane.end_if_broken)
            elif posting is Posting.FULL and member.overflow == "drop_newest":
                dropped += 1
            else:
                self.discard(member.endpoint)
                closed += posting is not Posting.REFUSED
                if posting is Posting.FULL:
                    _close(plane, member.outbox)
        return BroadcastResult(written, queued, dropped, closed)

    def __len__(self) -> int:
        return len(self._members.by_connection)

    def __contains__(self, connection: object) -> bool:
        return isinstance(connection, Endpoint) and connection._connection in self._members.by_connection  # noqa: SLF001

    def __iter__(self) -> Iterator[ServerConnection | Client]:
        """Iterate over the members as they are now."""
        return iter([member.endpoint for member in self._members.by_connection.values()])

    def __repr__(self) -> str:
        return f"<csp.websocket.Hub, {len(self)} {'member' if len(self) == 1 else 'members'}>"


def _checked_policy(overflow: HubOverflow) -> HubOverflow:
    if overflow not in _POLICIES:
        raise InvalidError(f'overflow must be "close", "drop_oldest" or "drop_newest", not {overflow!r}')
    return overflow


def _plane(connection: object, name: str = "connection") -> Connection:
    if not isinstance(connection, Endpoint):
        raise InvalidTypeError(f"{name} must be a ServerConnection or a Client, not {connection!r}")
    return connection._connection  # noqa: SLF001  # a hub works below what users hold


def _planes(exclude: object) -> set[Connection]:
    if isinstance(exclude, Endpoint):
        return {_plane(exclude)}
    if not isinstance(exclude, Iterable):
        raise InvalidTypeError(f"exclude must be a connection or an iterable of connections, not {exclude!r}")
    return {_plane(connection, "each connection in exclude") for connection in cast("Iterable[object]", exclude)}


def _close(plane: Connection, outbox: Outbox) -> None:
    """Discard what waits for a member, and have it closed."""
    while outbox:
        plane.writer.withdraw(outbox.oldest)
    plane.close_soon(CloseCode.TRY_AGAIN_LATER, _TOO_SLOW)
