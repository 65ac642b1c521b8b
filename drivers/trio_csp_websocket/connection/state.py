"""The states of a connection, and the moves between them.

A connection moves through its states from left to right, and may skip some:

                        +-> CLOSED --+
    OPEN --> CLOSING ---+            +---> LOST ---> GIVEN_UP ---> FINISHED
                        +-> FAILED --+

    CLOSING     `close` was called
    CLOSED      the peer's close frame has come
    FAILED      the peer broke the protocol, or stalled
    LOST        the transport broke or ended, part of a frame was not written in time, or `abort` was called
    GIVEN_UP    `give_up` or `drop` was called
    FINISHED    the transport is being closed, or is closed

There is no move from OPEN or CLOSING straight to FINISHED: a connection ends in CLOSED, FAILED, LOST or GIVEN_UP before
its transport is closed. At the first move to one of these, `ending` is set, once and for
all: the state says what the connection is doing, the ending how it ended. The channel of messages closes when all that
was received before is delivered, or discarded.

Only `Connection._move` changes the state, and no `await` lies between a decision and its move, so no lock is needed. A
new state or move belongs in `MOVES`, in the drawing above, and in ``test_state.py``, which has a way to end for each
path.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet


class State(Enum):
    """What a connection is doing."""

    OPEN = auto()
    """Messages go both ways."""
    CLOSING = auto()
    """We send our close frame, and wait for the peer's."""
    CLOSED = auto()
    """The peer's close frame has come. We answer it, unless it is the answer to ours."""
    FAILED = auto()
    """We send a close frame that tells the peer what it did wrong, unless our close frame was sent before."""
    LOST = auto()
    """Nothing more is written or read."""
    GIVEN_UP = auto()
    """The task that called `give_up` or `drop` writes a last frame without waiting, and closes the transport."""
    FINISHED = auto()
    """The transport is being closed, or is closed."""


MOVES: Mapping[State, AbstractSet[State]] = {
    State.OPEN: {State.CLOSING, State.CLOSED, State.FAILED, State.LOST, State.GIVEN_UP},
    State.CLOSING: {State.CLOSED, State.FAILED, State.LOST, State.GIVEN_UP},
    State.CLOSED: {State.LOST, State.GIVEN_UP, State.FINISHED},
    State.FAILED: {State.LOST, State.GIVEN_UP, State.FINISHED},
    State.LOST: {State.GIVEN_UP, State.FINISHED},
    State.GIVEN_UP: {State.FINISHED},
    State.FINISHED: frozenset(),
}
