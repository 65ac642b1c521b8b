"""Compressing and inflating messages: what the driver's level costs and saves, and what a limit costs."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from benchmarks.meters.measure import Measure, Stopwatch, Workload
from trio_csp_websocket.protocol.deflate import Deflater, Inflater
from trio_csp_websocket.protocol.negotiation import DeflateParameters

Compress: TypeAlias = Callable[[bytes], bytes]

_SIZES = {"128 B": 128, "1 KiB": 1024, "16 KiB": 16 * 1024}
_END_OF_MESSAGE = b"\x00\x00\xff\xff"


def json_messages(size: int) -> list[bytes]:
    """Return JSON as a price feed sends it, each message cut to ``size`` bytes."""
    chance = random.Random(1)
    messages: list[bytes] = []
    for _ in range(64):
        text = ""
        while len(text) < size:
            trade = {
                "symbol": chance.choice(("BTC-USD", "ETH-USD", "SOL-USD")),
                "price": round(chance.random() * 50_000, 2),
                "size": chance.random(),
            }
            text += json.dumps(trade)
        messages.append(text[:size].encode())
    return messages


def _ours() -> Compress:
    return Deflater(DeflateParameters()).deflate


def _zlib_level(level: int) -> Compress:
    """Return what compresses with a context at another level, and zlib's default use of memory."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    return lambda message: (compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def _time_to_compress(size: int, make: Callable[[], Compress], count: int) -> float:
    messages, compress, stopwatch = json_messages(size), make(), Stopwatch()
    with stopwatch:
        for number in range(count):
            compress(messages[number % len(messages)])
    return stopwatch.seconds / count * 1e6


def _size_compressed(size: int, make: Callable[[], Compress], count: int) -> float:
    messages, compress = json_messages(size), make()
    return sum(len(compress(messages[number % len(messages)])) for number in range(count)) / count


def _time_to_inflate(size: int, count: int) -> float:
    messages, compress, stopwatch = json_messages(size), _ours(), Stopwatch()
    compressed = [compress(messages[number % len(messages)]) for number in range(count)]
    inflater = Inflater(DeflateParameters())
    with stopwatch:
        for payload in compressed:
            b"".join(inflater.inflate(payload, end=True))
    return stopwatch.seconds / count * 1e6


def _time_of_zlib_alone(size: int, count: int) -> float:
    messages, compress, stopwatch = json_messages(size), _ours(), Stopwatch()
    compressed = [compress(messages[number % len(messages)]) for number in range(count)]
    decompressor = zlib.decompressobj(-15)
    with stopwatch:
        for payload in compressed:
            decompressor.decompress(payload + _END_OF_MESSAGE)
    return stopwatch.seconds / count * 1e6


def _levels(
    measure: Callable[[int, Callable[[], Compress], int], float], size: int
) -> tuple[Measure, dict[str, Measure]]:
    peers: dict[str, Measure] = {
        f"zlib level {level}": partial(measure, size, partial(_zlib_level, level)) for level in (3, 6)
    }
    return partial(measure, size, _ours), peers


WORKLOADS = tuple(
    workload
    for name, size in _SIZES.items()
    for workload in (
        Workload(f"compress {name} of JSON", *_levels(_time_to_compress, size), count=2000),
        Workload(f"compress {name} of JSON, size", *_levels(_size_compressed, size), count=500, unit="B"),
        Workload(
            f"inflate {name} of JSON",
            partial(_time_to_inflate, size),
            {"zlib alone": partial(_time_of_zlib_alone, size)},
            count=2000,
        ),
    )
)
