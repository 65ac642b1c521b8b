"""Pings sent and not yet answered (RFC 6455, sections 5.5.2 and 5.5.3)."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import trio

import csp

MAX_OUTSTANDING = 1024


class _Ping(NamedTuple):
    payload: bytes
    time: float
    answer: csp.Channel[float]


class Pings:
    """Matches pongs to pings and measures the round trips."""

    __slots__ = (
        "_outstanding",
        "_payloads",
        "latency",
    )

    def __init__(self) -> None:
        # A list, though served from its front: bounded, mostly empty, and then a tenth of a deque's size.
        self._outstanding: list[_Ping] = []
        self._payloads = itertools.count(1)
        self.latency: float | None = None
        """The latest round-trip time in seconds."""

    def __len__(self) -> int:
        return len(self._outstanding)

    def new_payload(self) -> bytes:
        """Return a payload that no other ping has had."""
        return next(self._payloads).to_bytes(8, "big")

    def probe(self) -> bytes:
        """Note a ping for which nobody waits; return its payload."""
        payload = self.new_payload()
        if len(self) < MAX_OUTSTANDING:
            self.sent(payload)
        return payload

    def sent(self, payload: bytes) -> csp.Channel[float]:
        """Note a ping; return the channel for its round-trip time."""
        answer = csp.Channel[float](1)
        self._outstanding.append(_Ping(payload, trio.current_time(), answer))
        return answer

    def take_back(self, answer: csp.Channel[float]) -> None:
        """Forget a ping that was not sent after all."""
        self._outstanding = [ping for ping in self._outstanding if ping.answer is not answer]

    def answered(self, payload: bytes) -> None:
        """Take in a pong. It answers the oldest ping with its payload, and those before it, which the peer may skip.

        One that answers nothing is unsolicited, and ignored.
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

    def close(self) -> None:
        """Close the channels of all pings without an answer: none will come."""
        outstanding, self._outstanding = self._outstanding, []
        for ping in outstanding:
            ping.answer.close()
