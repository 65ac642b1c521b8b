"""The values of arguments, as `argparse` has them parsed."""

from __future__ import annotations

import argparse

import csp
from csp.errors import InvalidError


def header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError("must be 'NAME: VALUE'")  # not shown: it may be a secret
    return name, value.strip()


def duration(text: str) -> str:
    seconds = parse_seconds(text)
    if seconds is None:
        # A number alone has no unit.
        hint = f"; write {text}s" if parse_seconds(f"{text}s") else ""
        raise argparse.ArgumentTypeError(f"must be a duration such as 300ms, 10s or 1m30s, not {text}{hint}")
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return text


def parse_seconds(text: str) -> float | None:
    """Return a duration in seconds; None for what is not a duration."""
    try:
        return csp.parse_duration(text)
    except InvalidError:
        return None


def duration_or_forever(text: str) -> str | None:
    return None if text == "forever" else duration(text)


def whole_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}")
    return int(text)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)
