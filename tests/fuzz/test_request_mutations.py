"""Mutated requests: each is taken, refused or incomplete, in whatever blocks it comes, and others do not contradict.

``CSP_FUZZ_EXAMPLES=20000 pytest tests/fuzz`` tries as many requests, not the same ones each time.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest

from tests.fuzz._handshake_mutations import changed
from tests.fuzz._targets import OPTIONS_BYTES, REQUEST, request, requested
from trio_csp_websocket.protocol.request import ParsedRequest

LONG_RUN = os.environ.get("CSP_FUZZ_EXAMPLES")

_HEAD = REQUEST.removesuffix(b"\r\n")
REQUESTS = (
    REQUEST,
    _HEAD + b"Origin: https://a.test\r\nSec-WebSocket-Protocol: chat, v2\r\nCookie: a=1\r\nCookie: b\r\n\r\n",
    _HEAD + b"Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: v2\r\nSec-WebSocket-Extensions: x;y=1\r\n\r\n",
    _HEAD.replace(b"Connection: Upgrade", b"Connection: keep-alive, Upgrade") + b"\r\n\x81\x80\0\0\0\0",
    _HEAD.replace(b"GET /", b"GET http://other.test:80/chat?a=b") + b"\r\n",
    b"GET /health?a=%41 HTTP/1.1\r\nHost: [::1]:8080\r\nAccept: */*\r\n\r\n",
    b"HEAD / HTTP/1.0\r\nUser-Agent: balancer\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: server.test\r\nContent-Length: 5\r\n\r\nhello",
)


def outcome(seed: int) -> str:
    """Try one request; return what came of it."""
    chance = random.Random(seed)
    data = changed(chance, chance.choice(REQUESTS))
    request(chance.randbytes(OPTIONS_BYTES) + data)
    found, _ = requested([data], 4096)
    if isinstance(found, ParsedRequest):
        return "websocket" if found.websocket else "page"
    return "incomplete" if found is None else found[:3]


@pytest.mark.timeout(0 if LONG_RUN else 60)
def test_a_request_however_mutated_is_taken_or_refused() -> None:
    first = random.SystemRandom().randrange(1 << 60) if LONG_RUN else 0
    outcomes: Counter[str] = Counter()
    for seed in range(first, first + int(LONG_RUN or 1500)):
        try:
            outcomes[outcome(seed)] += 1
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    assert set(outcomes) >= {"websocket", "page", "incomplete", "400", "405", "426"}
    assert outcomes["websocket"] > sum(outcomes.values()) / 10
    print(dict(outcomes))  # for those who run it for long: pytest -s
