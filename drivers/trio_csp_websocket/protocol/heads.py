"""Finds the heads of HTTP answers in what a server sends, within limits (RFC 9112, section 2.1). No I/O.

h11 parses a head. It is given complete heads only, and none in which a byte stands that HTTP forbids: its regular
expressions take time that grows with the square of a line's length where a line of many spaces has such a byte. For the
same reason it is not given many lines. What is done here takes time that grows with the number of bytes, however they
were cut into blocks.
"""

from __future__ import annotations

import re

MAX_HEAD_BYTES = 64 * 1024
"""How large the head of an answer may be, together with all informational answers before it."""
MAX_HEADER_LINES = 100
"""How many lines of headers it may have; all lines of informational answers count too."""

_HTTP = b"HTTP/"
# How the texts of h11 show bytes: as they came to it.
_BYTEARRAY = re.compile(r"""bytearray\((b'(?:[^'\\]|\\.)*'|b"(?:[^"\\]|\\.)*")\)""")
_BLANK_LINE = re.compile(rb"\n\r?\n")
# How much of the data before may be the beginning of a blank line.
_OVERLAP_BYTES = 2
# Nowhere in a head (RFC 9110, section 5.5). A carriage return stands before a line feed only.
_FORBIDDEN = re.compile(rb"[\x00\x0b\x0c]|\r(?!\n)")
_MAX_SHOWN_BYTES = 16
# How a server of TLS answers what is not TLS (RFC 8446, section 5.1); and what comes first in HTTP/2, behind the three
# bytes of its length (RFC 9113, sections 3.4, 4.1 and 6.5).
_TLS_ALERT = b"\x15\x03"
_HTTP_2_SETTINGS = b"\x04\0\0\0\0\0"


class NoAnswerError(Exception):
    """What a server sends is no answer in HTTP, or is above a limit; the text says why.

    Args:
        text: why.
        shows: what of it the text shows, if it does.
    """

    def __init__(self, text: str, *, shows: bytes = b"") -> None:
        super().__init__(text)
        self.shows = shows


class Heads:
    """Collects what a server sends, and gives each head that is complete.

    Args:
        max_bytes: how large the head of the answer may be, together with all informational answers before it.
        peer: what texts call who sends it.
        secure: what it may be if it answers in TLS.
    """

    def __init__(
        self, max_bytes: int = MAX_HEAD_BYTES, peer: str = "the server", secure: str = "a wss: server"
    ) -> None:
        self._max_bytes = max_bytes
        self._peer = peer
        self._secure = secure
        self._data = bytearray()
        # How much of it has been searched for the end of a head.
        self._searched = 0
        # Of all heads so far, as far as they have come; of the lines, the status lines too, but no blank ones.
        self._bytes = 0
        self._lines = 0

    def feed(self, data: bytes) -> None:
        self._data += data

    def next(self) -> bytes | None:
        """Return the next head with the blank line at its end, or None while it is not complete.

        Raises:
            NoAnswerError: it is not the head of an answer, or is above a limit.
        """
        data, searched = self._data, self._searched
        if not _HTTP.startswith(data[: len(_HTTP)]):
            began = bytes(data[:_MAX_SHOWN_BYTES])
            text = f"{self._peer} did not answer in HTTP: it began with {began!r}{self._known(began)}"
            raise NoAnswerError(text, shows=began)
        found = _BLANK_LINE.search(data, max(0, searched - _OVERLAP_BYTES))
        end = len(data) if found is None else found.end()
        self._searched = end
        self._bytes += end - searched
        self._lines += data.count(b"\n", searched, end) - (found is not None)
        # One of them is the status line.
        if self._lines > MAX_HEADER_LINES + 1:
            raise NoAnswerError(f"the head of {self._peer}'s answer has more than {MAX_HEADER_LINES} lines of headers")
        if self._bytes > self._max_bytes:
            raise NoAnswerError(f"the head of {self._peer}'s answer is larger than {self._max_bytes} bytes")
        if found is None:
            return None
        head = self._take(end)
        if (forbidden := _FORBIDDEN.search(head)) is not None:
            raise NoAnswerError(f"{self._peer} did not answer in HTTP: its head contains the byte {forbidden[0]!r}")
        return head

    def rest(self) -> bytes:
        """Take what has come behind the last head."""
        return self._take(len(self._data))

    def _take(self, size: int) -> bytes:
        taken = bytes(self._data[:size])
        del self._data[:size]
        self._searched = 0
        return taken

    def _known(self, began: bytes) -> str:
        """Return what it is that does not begin as HTTP does, where that is known."""
        if began.startswith(_TLS_ALERT):
            return f", as TLS does; is it {self._secure}?"
        if began[3:].startswith(_HTTP_2_SETTINGS):
            return ", as HTTP/2 does, and WebSocket needs HTTP/1.1"
        return ""


def said(error: Exception) -> str:
    """Return the text of an error of h11 as a person wants to read it."""
    return _BYTEARRAY.sub(r"\1", str(error))
