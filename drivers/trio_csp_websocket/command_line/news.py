"""What a server tells of the connections that come to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from trio_csp_websocket.protocol.messages import Message
    from trio_csp_websocket.server.server_connection import ServerConnection


class Came(NamedTuple):
    """A connection that is open."""

    number: int
    """The first one is 1."""
    connection: ServerConnection


class Left(NamedTuple):
    """A connection that has ended, behind its last message."""

    number: int
    connection: ServerConnection
    slow: bool
    """Whether it was closed because it did not read what was sent."""


class Refused(NamedTuple):
    """A request that the server has refused by itself."""

    remote: str
    """Where it came from, for texts."""
    status: int
    why: str
    """For texts too."""


News: TypeAlias = Came | Left | Refused


class Said(NamedTuple):
    """A message of a connection."""

    number: int
    message: Message
