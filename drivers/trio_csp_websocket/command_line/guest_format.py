"""How a server's connections are told of: as JSON or not, for a terminal or for another program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from csp.errors import shown
from trio_csp_websocket.command_line.format import Format, agreed, closed
from trio_csp_websocket.command_line.lines import Line, escaped
from trio_csp_websocket.transport.base import shown_address

_SLOW = "it did not read what was sent, and was closed with code 1013 (TRY_AGAIN_LATER)"
# What the server tells of options, and what stands for it here. For hosts there are no arguments.
_OF_OPTIONS = {
    "the option origins=": "--origin",
    ": its options hosts= and trusted_proxies= say which it does": "",
}

if TYPE_CHECKING:
    from trio_csp_websocket.command_line.news import Came, Left, Refused


class GuestFormat(Format):
    """How lines about a server and its connections are written."""

    def listening(self, url: str) -> list[Line]:
        """Return what says where the server is."""
        lines = [Line("note", f"listening on {url}")]
        return [*lines, self.members(type="listening", url=url)] if self.json else lines

    def came(self, came: Came, *, count: int) -> list[Line]:
        """Return what says that somebody has connected, who is one of so many."""
        number, connection = came
        remote = "somebody" if connection.remote is None else shown_address(connection.remote)
        path, origin = shown(connection.path), connection.origin
        said = [f"#{number} connected from {remote}, path {path}"]
        if origin is not None:
            said.append(f"a page of {shown(origin)}")
        compressed = connection._connection.decoder.inflater is not None  # noqa: SLF001  # no user needs this
        said += agreed(connection.subprotocol, compressed=compressed)
        lines = [Line("note", f"{', '.join(said)} ({count} connected)")]
        if not self.json:
            return lines
        return [*lines, self.members(type="open", connection=number, remote=remote, path=path, origin=origin)]

    def left(self, left: Left, *, count: int) -> list[Line]:
        """Return what says how a connection has ended, and how many there are yet."""
        number, connection, slow = left
        code, reason, error = connection.close_code, connection.close_reason, connection.error
        why = str(error) if error is not None else _SLOW if slow else None
        how = why or closed(code, reason, ours=connection.closing, other="client")
        lines = [Line("note", f"#{number} disconnected: {how} ({count} connected)")]
        if not self.json:
            return lines
        return [*lines, self.members(type="close", connection=number, code=code, reason=reason, error=why)]

    def refused(self, refused: Refused) -> Line:
        """Return what says that the server has let somebody not in."""
        remote, status, why = refused
        for said, here in _OF_OPTIONS.items():
            why = why.replace(said, here)
        return Line("note", escaped(f"refused {remote} with status {status}: {why}"))
