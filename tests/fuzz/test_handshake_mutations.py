"""Mutated answers to the handshake, through the whole of `connect`: a client that is open, or the documented error.

``CSP_FUZZ_EXAMPLES=20000 pytest tests/fuzz`` tries as many answers, not the same ones each time.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from csp import websocket
from csp.errors import ConnectionFailedError, Kind
from tests.fuzz._handshake_mutations import mutated
from tests.websocket._server import Server, connecting
from trio_csp_websocket.client.backoff import retry_after

if TYPE_CHECKING:
    from email.message import Message as Headers

LONG_RUN = os.environ.get("CSP_FUZZ_EXAMPLES")
NOW = datetime(1994, 11, 6, tzinfo=UTC)

OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"protocols": ["v1", "v2"]},
    {"compression": websocket.COMPRESSION.CONTEXT_TAKEOVER},
    {"dial_timeout": None},
)


async def outcome(seed: int) -> str:
    """Connect to a server with one answer; return what came of it, and fail if it is anything else."""
    chance = random.Random(seed)
    blocks: list[bytes] = []

    def answer(request: Headers[str, str]) -> bytes:
        blocks.extend(mutated(chance, request))
        return b""

    server = Server(answer, answers_close=False)

    async def send() -> None:
        await wait_all_tasks_blocked()
        for block in blocks:
            server.send(block)
            await wait_all_tasks_blocked()
        server.end()

    refusal: ConnectionFailedError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        try:
            async with connecting(server, **chance.choice(OPTIONS)) as client:
                assert client.response_headers.get_all("upgrade")
        except ConnectionFailedError as error:
            refusal = error
        nursery.cancel_scope.cancel()
    assert server.closed
    if refusal is None:
        return "open"
    assert refusal.kind is Kind.INTERNAL
    # Nothing that the server says makes trio-websocket, wsproto or h11 raise.
    assert "the opening handshake failed" not in str(refusal), blocks
    assert (retry_after(refusal, NOW) or 0) >= 0
    return "refused" if "status" in refusal.details else "no answer"


@pytest.mark.timeout(0 if LONG_RUN else 60)
def test_an_answer_however_mutated_opens_a_client_or_is_refused() -> None:
    first = random.SystemRandom().randrange(1 << 60) if LONG_RUN else 0
    outcomes: Counter[str] = Counter()

    async def run() -> None:
        for seed in range(first, first + int(LONG_RUN or 1000)):
            try:
                outcomes[await outcome(seed)] += 1
            except BaseException as error:
                error.add_note(f"seed {seed}")
                raise

    trio.run(run, clock=MockClock(autojump_threshold=0))
    assert set(outcomes) == {"open", "refused", "no answer"}
    assert min(outcomes.values()) > sum(outcomes.values()) / 20
    print(dict(outcomes))  # for those who run it for long: pytest -s
