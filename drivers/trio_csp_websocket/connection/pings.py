"""Our pings that the peer has not answered yet, and their round trips (RFC 6455, sections 5.5.2 and 5.5.3)."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import trio

import csp

if TYPE_CHECKING:
    from trio_csp_websocket.connection.ending import Ending

MAX_OUTSTANDING = 1024


class _Ping(NamedTuple):
    payload: bytes
    time: float
    answer: csp.Channel[float]
    probe: bool
    """Whether it is one of keepalive's, for whose answer nobody waits."""


class Pings:
    """Matches pongs to pings and measures the round trips."""

    __slots__ = (
        "_outstanding",
        "_payloads",
        "latency",
    )

    def __init__(self) -> None:
        # Served from the front, but a list: it is bounded, and mostly empty, when a deque takes ten times the memory.
        self._outstanding: list[_Ping] = []
        self._payloads = itertools.count(1)
        self.latency: float | None = None
        """The latest round-trip time in seconds."""

    def __len__(self) -> int:
        return len(self._outstanding)

    def new_payload(self) -> bytes:
        """Return a payload that has not been returned before."""
        return next(self._payloads).to_bytes(8, "big")

    def probe(self) -> bytes:
        """Return the payload for a ping of keepalive; note the ping, unless too many are unanswered already."""
        payload = self.new_payload()
        if len(self) < MAX_OUTSTANDING:
            self._note(payload, probe=True)
        return payload

    def sent(self, payload: bytes) -> csp.Channel[float]:
        """Note a ping that is being sent; return the channel for its round-trip time."""
        return self._note(payload, probe=False)

    def _note(self, payload: bytes, *, probe: bool) -> csp.Channel[float]:
        answer = csp.Channel[float](1)
        self._outstanding.append(_Ping(payload, trio.current_time(), answer, probe))
        return answer

    @property
    def awaitable(self) -> bool:
        """Whether there are pings whose answer somebody may wait for."""
        return any(not ping.probe for ping in self._outstanding)

    def give_up_awaited(self) -> None:
        """Close the channels of unanswered pings on which a task waits: no answer can come."""
        for ping in self._outstanding.copy():
            statistics = ping.answer.statistics()
            if statistics.tasks_waiting_receive or statistics.selectors:
                self.forget(ping.answer)
                ping.answer.close()

    def forget(self, answer: csp.Channel[float]) -> None:
        """Forget a ping that was not sent after all."""
        self._outstanding = [ping for ping in self._outstanding if ping.answer is not answer]

    def answered(self, payload: bytes) -> None:
        """Match a pong to the oldest ping with its payload. It also answers all pings before that one.

        (A peer may answer only the latest of several pings, RFC 6455, section 5.5.3.) A pong that matches no ping is
        ignored.
        """
        if all(ping.payload != payload for ping in self._outstanding):
            return
        now = trio.current_time()
        while True:
            ping = self._outstanding.pop(0)
            self.latency = now - ping.time
            if not ping.answer.closed:
                ping.answer.send_nowait(self.latency)
                ping.answer.close()
            if ping.payload == payload:
                return

    def close(self, ending: Ending | None = None) -> None:
        """Close the channels of all unanswered pings: no answer will come, because the connection has ended."""
        cause, details = (None, None) if ending is None else (ending.error, ending.details)
        outstanding, self._outstanding = self._outstanding, []
        for ping in outstanding:
            ping.answer.close(cause, details=details)
