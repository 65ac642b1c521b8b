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
        "_awaited",
        "_outstanding",
        "_payloads",
        "_unanswered",
        "latency",
    )

    def __init__(self) -> None:
        # In the order in which they were sent. Dicts because they are bounded, and mostly empty, when a deque takes ten
        # times the memory. A new one each time it has become empty, as a dict does not shrink.
        self._outstanding: dict[csp.Channel[float], _Ping] = {}
        # How many of them have each payload: a pong that answers none of them must not cost a look at them all.
        self._unanswered: dict[bytes, int] = {}
        # How many of them are no probes.
        self._awaited = 0
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
        self._outstanding[answer] = _Ping(payload, trio.current_time(), answer, probe)
        self._unanswered[payload] = self._unanswered.get(payload, 0) + 1
        self._awaited += not probe
        return answer

    def _take(self, answer: csp.Channel[float]) -> _Ping:
        ping = self._outstanding.pop(answer)
        others = self._unanswered.pop(ping.payload) - 1
        if others:
            self._unanswered[ping.payload] = others
        self._awaited -= not ping.probe
        if not self._outstanding:
            self._outstanding, self._unanswered = {}, {}
        return ping

    @property
    def awaitable(self) -> bool:
        """Whether there are pings whose answer somebody may wait for."""
        return self._awaited > 0

    def give_up_awaited(self) -> None:
        """Close the channels of unanswered pings on which a task waits: no answer can come."""
        for answer in list(self._outstanding):
            statistics = answer.statistics()
            if statistics.tasks_waiting_receive or statistics.selectors:
                self._take(answer)
                answer.close()

    def forget(self, answer: csp.Channel[float]) -> None:
        """Forget a ping that was not sent after all."""
        if answer in self._outstanding:
            self._take(answer)

    def answered(self, payload: bytes) -> bool:
        """Match a pong to the oldest ping with its payload. It also answers all pings before that one.

        (A peer may answer only the latest of several pings, RFC 6455, section 5.5.3.) A pong that matches no ping is
        ignored. Returns whether it has matched one.
        """
        if payload not in self._unanswered:
            return False
        now = trio.current_time()
        ping = None
        while ping is None or ping.payload != payload:
            ping = self._take(next(iter(self._outstanding)))
            self.latency = now - ping.time
            if not ping.answer.closed:
                ping.answer.send_nowait(self.latency)
                ping.answer.close()
        return True

    def close(self, ending: Ending | None = None) -> None:
        """Close the channels of all unanswered pings: no answer will come, because the connection has ended."""
        cause, details = (None, None) if ending is None else (ending.error, ending.details)
        outstanding = list(self._outstanding)
        self._outstanding, self._unanswered, self._awaited = {}, {}, 0
        for answer in outstanding:
            answer.close(cause, details=details)
