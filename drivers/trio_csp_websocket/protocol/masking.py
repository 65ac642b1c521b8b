"""Masking: each byte of a payload is combined with one of a key's four (RFC 6455, section 5.3). No I/O.

websockets has a compiled function for it, with a megabyte more than a hundred times as fast as plain Python. It is not
part of what websockets documents, so it is tried before it is trusted: where it is missing or does something else,
plain Python does the masking.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

Payload: TypeAlias = "bytes | bytearray | memoryview"
ApplyMask: TypeAlias = "Callable[[Payload, bytes], bytes]"

_SAMPLE_KEY: Final = b"\x01\x20\x03\x80"
# As many bytes as the compiled function takes at once, several times; and a few more.
_SAMPLE: Final = bytes(range(200, 237))


def apply_mask_in_python(payload: Payload, key: bytes) -> bytes:
    """Mask a payload, or unmask it, as if it were one large number."""
    size = len(payload)
    repeated = key * (size // 4) + key[: size % 4]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")


def choose_apply_mask() -> ApplyMask:
    """Return the compiled function if it is there and does the same as the plain one, else that."""
    try:
        from websockets.speedups import apply_mask  # noqa: PLC0415  # whatever it raises must not leave this function

        if _is_right(apply_mask):
            return apply_mask
    except Exception:  # noqa: BLE001, S110  # whatever is wrong with it, there is another
        pass
    return apply_mask_in_python


def _is_right(apply_mask: ApplyMask) -> bool:
    for size in (0, 3, len(_SAMPLE)):
        sample = _SAMPLE[:size]
        expected = apply_mask_in_python(sample, _SAMPLE_KEY)
        for payload in (sample, bytearray(sample), memoryview(sample)):
            masked = apply_mask(payload, _SAMPLE_KEY)
            if type(masked) is not bytes or masked != expected:
                return False
    return True


apply_mask: Final = choose_apply_mask()
"""Masks a payload with a key of four bytes, or unmasks it: ``apply_mask(payload, key)``."""
