"""Masking payloads, compiled and in plain Python."""

from __future__ import annotations

import platform
import random
import sys
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from trio_csp_websocket.protocol.masking import apply_mask, apply_mask_in_python, choose_apply_mask

if TYPE_CHECKING:
    from collections.abc import Callable

WHEELS = sys.implementation.name == "cpython" and platform.system() in ("Linux", "Darwin", "Windows")
BOTH = pytest.mark.parametrize("mask", [apply_mask, apply_mask_in_python])
KEY = b"\xff\x01\x80\x2a"


def naively_masked(payload: bytes, key: bytes) -> bytes:
    return bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


def speedups(monkeypatch: pytest.MonkeyPatch, function: object) -> None:
    """Put a module in the place of websockets' compiled one."""
    module = ModuleType("websockets.speedups")
    if function is not None:
        module.apply_mask = function  # type: ignore[attr-defined]  # a module has what it is given
    monkeypatch.setitem(sys.modules, "websockets.speedups", module)


@pytest.mark.skipif(not WHEELS, reason="websockets has compiled wheels for CPython on Linux, macOS and Windows")
def test_masking_is_compiled() -> None:
    # If this fails, websockets has changed, and sending large messages has become slow.
    assert apply_mask is not apply_mask_in_python


@BOTH
def test_every_size_is_masked_as_the_rfc_says_and_unmasked_by_the_same(
    mask: Callable[[bytes, bytes], bytes],
) -> None:
    payload = random.Random(0).randbytes(300)
    for size in range(301):
        masked = mask(payload[:size], KEY)
        assert masked == naively_masked(payload[:size], KEY)
        assert mask(masked, KEY) == payload[:size]


@pytest.mark.parametrize("key", [KEY, bytes(4), b"\xff" * 4, b"\x00\x00\x00\x01", b"\x80\x00\x00\x00"])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 15, 16, 17, 65_535, 65_536, 1_000_003])
def test_both_ways_of_masking_give_the_same(size: int, key: bytes) -> None:
    payload = random.Random(size).randbytes(size)
    assert apply_mask_in_python(payload, key) == apply_mask(payload, key)


@BOTH
def test_any_buffer_is_masked_and_left_as_it_was(
    mask: Callable[[bytes | bytearray | memoryview, bytes], bytes],
) -> None:
    payload = bytes(range(100))
    mutable = bytearray(payload)
    for given in (payload, mutable, memoryview(payload), memoryview(mutable), memoryview(b"x" + payload)[1:]):
        masked = mask(given, KEY)
        assert type(masked) is bytes
        assert masked == naively_masked(payload, KEY)
    assert mutable == payload


# What may become of websockets ----------------------------------------------------------------------------------------


def test_what_is_chosen_once_is_what_masks() -> None:
    assert choose_apply_mask() is apply_mask


def test_a_compiled_function_that_does_what_it_should_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def right(payload: bytes | bytearray | memoryview, key: bytes) -> bytes:
        return naively_masked(bytes(payload), key)

    speedups(monkeypatch, right)
    assert choose_apply_mask() is right


def test_without_the_compiled_module_masking_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "websockets.speedups", None)
    assert choose_apply_mask() is apply_mask_in_python


def test_without_websockets_masking_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "websockets", None)
    monkeypatch.delitem(sys.modules, "websockets.speedups", raising=False)
    assert choose_apply_mask() is apply_mask_in_python


def of_one_argument(payload: bytes) -> bytes:
    return payload


def swapped(key: bytes, payload: bytes) -> bytes:
    return naively_masked(payload, key)


def of_another_type(payload: bytes, key: bytes) -> bytearray:
    return bytearray(naively_masked(payload, key))


def with_the_key_reversed(payload: bytes, key: bytes) -> bytes:
    return naively_masked(payload, key[::-1])


def wrong_at_the_end(payload: bytes, key: bytes) -> bytes:
    return naively_masked(payload[:36], key) + payload[36:]


def of_bytes_alone(payload: bytes, key: bytes) -> bytes:
    return naively_masked(b"" + payload.removesuffix(b""), key)


def in_place(payload: bytearray, key: bytes) -> None:
    payload[:] = naively_masked(bytes(payload), key)


@pytest.mark.parametrize(
    "changed",
    [
        None,
        "not a function",
        of_one_argument,
        swapped,
        of_another_type,
        with_the_key_reversed,
        wrong_at_the_end,
        of_bytes_alone,
        in_place,
    ],
)
def test_a_compiled_function_that_has_changed_is_not_used(changed: object, monkeypatch: pytest.MonkeyPatch) -> None:
    speedups(monkeypatch, changed)
    assert choose_apply_mask() is apply_mask_in_python
