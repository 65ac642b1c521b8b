"""What goes over the wire in the WebSocket benchmarks: texts, and the server's frames, made once."""

from __future__ import annotations

import json
import random
import zlib
from functools import cache

WARM_UP = 16
"""How many messages go ahead of those that count."""

TEXT = 0x81
_COMPRESSED_TEXT = 0xC1


@cache
def text(size: int) -> str:
    """Return JSON as a price feed sends it, cut to ``size`` bytes."""
    chance = random.Random(1)
    trades = [
        {"symbol": chance.choice(("BTC-USD", "ETH-USD")), "price": round(chance.random() * 50_000, 2), "size": i}
        for i in range(size // 32 + 1)
    ]
    return json.dumps(trades)[:size]


def message_length(size: int) -> int:
    """Return how many bytes a client sends for a message of ``size`` bytes: header, key and payload."""
    return (2 if size < 126 else 4 if size < 1 << 16 else 10) + 4 + size


@cache
def message(size: int, *, compressed: bool) -> bytes:
    payload = text(size).encode()
    if not compressed:
        return frame(TEXT, payload)
    return frame(_COMPRESSED_TEXT, _deflated(payload)[:-4])


def _deflated(payload: bytes) -> bytes:
    """Return a deflate stream that refers to nothing before it, to its flush (RFC 7692, section 7.2.1)."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    return compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)


@cache
def bomb() -> bytes:
    mib = 16
    return frame(_COMPRESSED_TEXT, (_deflated(b"a" * (mib << 20)) * (1024 // mib))[:-4])


def frame(head: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((head, size)) + payload
    if size < 1 << 16:
        return bytes((head, 126)) + size.to_bytes(2, "big") + payload
    return bytes((head, 127)) + size.to_bytes(8, "big") + payload
