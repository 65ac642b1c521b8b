"""Mutated answers of proxies, through the whole of `connect`: a tunnel, or the documented error.

The proxy closes the connection behind its last answer, so a tunnel leads to a server that is not there.
``CSP_FUZZ_EXAMPLES=20000 pytest tests/fuzz`` tries as many answers, not the same ones each time.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest
import trio

from csp import websocket
from csp.errors import ConnectionFailedError, Kind
from tests.fuzz._handshake_mutations import changed
from tests.websocket._peers import open_sockets
from tests.websocket._proxies import (
    ESTABLISHED,
    SOCKS4_GRANTED,
    Protocol,
    Proxy,
    http_answer,
    socks4_answer,
    socks5_answer,
)

LONG_RUN = os.environ.get("CSP_FUZZ_EXAMPLES")
EXAMPLES = int(LONG_RUN or 300)
LOGIN = (b"user", b"hunter2")
SCHEMES: dict[Protocol, str] = {"http": "http", "socks4": "socks4a", "socks5": "socks5h"}
HTTP_ANSWERS = (
    ESTABLISHED,
    ESTABLISHED,
    b"HTTP/1.0 200 OK\r\nProxy-Agent: test\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + ESTABLISHED,
    http_answer(403),
    http_answer(407, b'Proxy-Authenticate: Basic realm="test"\r\nProxy-Authenticate: Negotiate\r\n'),
    http_answer(503, b"Retry-After: 120\r\n"),
)
SOCKS4_ANSWERS = ({"connect": SOCKS4_GRANTED}, {"connect": socks4_answer(91)})
SOCKS5_ANSWERS = (
    {"greeting": b"\x05\x02", "login": b"\x01\x00", "connect": socks5_answer(0)},
    {"greeting": b"\x05\x00", "connect": socks5_answer(0, b"\x03\x04name\x00\x50")},
    {"greeting": b"\x05\x00", "connect": socks5_answer(2)},
)


def answers(protocol: Protocol, chance: random.Random) -> dict[str, bytes]:
    """Return what a proxy says in its exchanges."""
    if protocol == "http":
        return {"connect": changed(chance, chance.choice(HTTP_ANSWERS))}
    said = dict(chance.choice(SOCKS4_ANSWERS if protocol == "socks4" else SOCKS5_ANSWERS))
    for _ in range(chance.choice((0, 1, 1, 2))):
        exchange = chance.choice(list(said))
        answer = bytearray(said[exchange])
        place = chance.randrange(len(answer))
        match chance.randrange(4):
            case 0:
                answer[place] ^= 1 << chance.randrange(8)
            case 1:
                answer[place] = chance.randrange(256)
            case 2:
                answer.insert(place, chance.randrange(256))
            case _ if len(answer) > 1:
                del answer[place]
            case _:
                pass
        said[exchange] = bytes(answer)
    return said


async def outcome(proxy: Proxy) -> str:
    """Connect through a proxy; return what came of it, and fail if it is anything else."""
    url = proxy.url(
        scheme=SCHEMES[proxy.protocol], credentials="user" if proxy.protocol == "socks4" else "user:hunter2"
    )
    with pytest.raises(ConnectionFailedError) as caught, trio.fail_after(10):
        async with websocket.connect("ws://server.test/", proxy=url):
            pytest.fail("connected")
    error = caught.value
    assert error.kind is Kind.INTERNAL
    assert str(error).isprintable()
    assert f"127.0.0.1:{proxy.port}" in str(error)
    assert "hunter2" not in repr(error) + repr(error.details)
    if "handshake" in str(error) or b"GET" in proxy.asked[-1].tunnel:
        return "tunnel"
    return "refused" if {"status", "reply"} & error.details.keys() else "no answer"


@pytest.mark.timeout(0 if LONG_RUN else 60)
@pytest.mark.parametrize("protocol", SCHEMES)
def test_an_answer_of_a_proxy_however_mutated_is_a_tunnel_or_an_error(protocol: Protocol) -> None:
    first = random.SystemRandom().randrange(1 << 60) if LONG_RUN else 0
    outcomes: Counter[str] = Counter()

    async def run() -> None:
        before = open_sockets()
        for seed in range(first, first + EXAMPLES):
            said = answers(protocol, random.Random(seed))
            # Behind half an answer nothing would come from either end.
            last = next((exchange for exchange, answer in said.items() if len(answer) < 2), "connect")
            proxy = Proxy(protocol, LOGIN, answers=said, stops_at=f"{last} answered")
            async with proxy.running():
                try:
                    outcomes[await outcome(proxy)] += 1
                except BaseException as error:
                    error.add_note(f"seed {seed}: {said}")
                    raise
        assert open_sockets() == before

    trio.run(run)
    assert set(outcomes) == {"tunnel", "refused", "no answer"}
    assert min(outcomes.values()) > sum(outcomes.values()) / 50
    print(dict(outcomes))  # for those who run it for long: pytest -s
