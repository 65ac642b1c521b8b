"""What the functions of this room refuse, and what they say."""

from __future__ import annotations

from typing import Any

import pytest
from trio.testing import memory_stream_pair

import csp
from csp.errors import InvalidError, InvalidTypeError


@pytest.mark.parametrize(
    ("make", "argument", "text"),
    [
        (csp.from_receive_channel, 3, "channel must be a trio.abc.ReceiveChannel, not 3"),
        (csp.from_receive_channel, csp.Channel[int](), "which is a source already"),
        (csp.from_async_iterable, [1], r"iterable must be async iterable, not \[1\]"),
        (csp.from_stream, None, "stream must be a trio.abc.ReceiveStream, not None"),
        (csp.from_event, "set", "event must be a trio.Event, not 'set'"),
    ],
)
def test_something_else_is_refused(make: Any, argument: object, text: str) -> None:
    with pytest.raises(InvalidTypeError, match=text):
        make(argument)


def test_options_out_of_range_are_refused() -> None:
    ours, _ = memory_stream_pair()
    with pytest.raises(InvalidError, match="max_bytes must be at least 1, not 0"):
        csp.from_stream(ours, 0)
    with pytest.raises(InvalidTypeError, match="max_bytes must be a whole number, not True"):
        csp.from_stream(ours, True)
    with pytest.raises(InvalidTypeError, match="at least one signal"):
        csp.from_signals()
    with pytest.raises(InvalidTypeError, match=r"a signal must be a number such as signal\.SIGTERM, not 'SIGTERM'"):
        csp.from_signals("SIGTERM")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    for number in (9999, 9):  # 9 is SIGKILL, where there is one
        with pytest.raises(InvalidError, match=f"there is no signal {number} that can be received here"):
            csp.from_signals(number)
