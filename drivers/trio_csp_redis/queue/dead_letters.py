"""Dead letters: values that were given up, because workers rejected them, they came too often, or cannot be decoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast, final

import trio
from trio.lowlevel import enable_ki_protection

import csp
from csp.errors import ConnectionFailedError, Error, InvalidTypeError, Kind
from trio_csp_redis.connection.visiting import checked
from trio_csp_redis.protocol.failures import may_have_arrived
from trio_csp_redis.protocol.ids import id_of
from trio_csp_redis.protocol.script import Script
from trio_csp_redis.queue.scripts import DATA
from trio_csp_redis.queue.sender import Waiting
from trio_csp_redis.reading.entries import Entries
from trio_csp_redis.reading.reader import LAST
from trio_csp_redis.reading.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_csp_redis.connection.commands import Commands
    from trio_csp_redis.connection.line import Outage
    from trio_csp_redis.connection.link import Link
    from trio_csp_redis.protocol.codec import Codec
    from trio_csp_redis.queue.sender import QueueOverflow
    from trio_csp_redis.reading.reader import Reader
    from trio_csp_redis.reading.reading import Entry

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# What the next two scripts begin with. Ids repeat once all data was lost, so the value's own is compared too.
_FIND = """
local function find(dead, place, id)
  local entry = redis.call('XRANGE', dead, place, place)[1]
  if not entry then return nil end
  local fields, found = entry[2], place
  for i = 1, #fields, 2 do
    if fields[i] == 'id' then found = fields[i + 1] end
  end
  return found == id and fields or nil
end
"""

# Arguments: the dead letter's entry, the value's id, the capacity of the queue. Keys: the queue, its dead letters.
# Returns the new id, "" if the queue is full, nil if the dead letter is gone. The three last fields are the letter's.
REQUEUE: Final = Script(
    _FIND
    + """
local fields = find(KEYS[2], ARGV[1], ARGV[2])
if not fields then return false end
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[3]) then return '' end
local count = #fields
if count > 6 and fields[count - 5] == 'id' then count = count - 6 end
local id = redis.call('XADD', KEYS[1], '*', unpack(fields, 1, count))
redis.call('XDEL', KEYS[2], ARGV[1])
return id
"""
)

# Arguments: the dead letter's entry, the value's id. Keys: the dead letters. Returns 0 if it is gone, else 1.
DISCARD: Final = Script(
    _FIND
    + """
if not find(KEYS[1], ARGV[1], ARGV[2]) then return 0 end
return redis.call('XDEL', KEYS[1], ARGV[1])
"""
)


@final
@dataclass(frozen=True, slots=True)
class DeadLetter(Generic[T_co]):
    """A value that was given up. Later versions may add fields."""

    id: str
    """The id that it had in its queue."""
    data: T_co | bytes
    """The value; the bytes themselves if they cannot be decoded."""
    reason: str
    """Why it was given up."""
    attempts: int
    """How often it was delivered."""
    _place: bytes = field(repr=False)  # the id of its entry among the dead letters


@final
class _DeadReading(Reading):
    """What is read of dead letters: everything."""

    __slots__ = ("_doing",)

    size_at = 1  # a letter begins with the value

    def __init__(self, key: bytes, capacity: int, doing: str) -> None:
        super().__init__(key, capacity)
        self._doing = doing

    async def open(self, link: Link, outage: Outage | None) -> None:
        del outage  # nothing is trimmed, so nothing is missed
        self.check(id_of(cast("bytes", await link.run(LAST, (self.key,), (), self._doing))))
        self.reach()

    def start_again(self) -> None:
        """Do nothing: letters are not numbered."""

    def hold(self, entries: Sequence[Entry]) -> None:
        self.held.extend(entries)


@final
class DeadLetters(Entries[DeadLetter[T]]):
    """Dead letters of a queue, as a block and a source. Made by `Queue.dead_letters`.

    They come from the oldest on, and then as they are added. Entering does not wait for the server. It is closed at the
    end of the block, which drops what was not received, and when they cannot be read any more: its ``cause`` tells why.
    """

    __slots__ = ("_decode", "_name")

    def __init__(
        self, commands: Commands, reader: Reader, name: str, key: bytes, capacity: int, codec: Codec[T]
    ) -> None:
        doing = f"reading dead letters of queue {name!r}"
        super().__init__(commands, reader, _DeadReading(key, capacity, doing), "dead_letters", doing)
        self._name = name
        self._decode = codec[1]

    @enable_ki_protection
    def receive_nowait(self) -> csp.Received[DeadLetter[T]]:
        """Take the next dead letter.

        Returns ``(letter, True)``, or ``(None, False)`` once the source is closed and drained.

        Raises:
            trio.WouldBlock: there is none now.
        """
        self._check_entered()
        reading = self._reading
        held = self._held
        if held:
            place, fields = cast("Entry", held.popleft())
            if len(held) == reading.low:
                reading.nudge()
            return csp.Received(self._letter(place, fields), True)
        if reading.ended:
            return csp.Received(cast("DeadLetter[T]", None), False)
        raise trio.WouldBlock

    def _letter(self, place: bytes, fields: Sequence[bytes]) -> DeadLetter[T]:
        values = dict(zip(fields[::2], fields[1::2], strict=True))
        raw = values.get(DATA, b"")
        data: T | bytes
        try:
            data = self._decode(raw)
        except Exception:  # noqa: BLE001  # a user's function may raise anything; this is what some letters are here for
            data = raw
        attempts = values.get(b"attempts", b"")
        return DeadLetter(
            values.get(b"id", place).decode(errors="replace"),
            data,
            values.get(b"reason", b"").decode(errors="replace"),
            int(attempts) if attempts.isdigit() else 0,
            place,
        )

    def __repr__(self) -> str:
        return f"<csp.redis.DeadLetters of {self._name!r}: {self._state()}>"


async def requeue(
    commands: Commands,
    keys: tuple[bytes, bytes],
    name: str,
    capacity: int,
    overflow: QueueOverflow,
    letter: DeadLetter[Any],
) -> str:
    """Put a dead letter into its queue again and remove it, in one step; return the new id.

    Args:
        commands: of the bus.
        keys: of the queue and its dead letters.
        name: of the queue.
        capacity: of the queue.
        overflow: what to do when it is full.
        letter: the dead letter.

    Raises:
        Error: the letter is gone (kind NOT_FOUND), the queue is full (RATE_LIMITED), or what the server says.
        ConnectionFailedError: there was no answer; it may have been done.
        InvalidTypeError: letter is no dead letter.
    """
    place, entry = await checked(partial(_place_of, letter))
    wait = Waiting(overflow, name, capacity)
    while True:
        answer = await _run(commands, REQUEUE, keys, (place, entry, capacity), f"requeueing in queue {name!r}")
        if answer is None:
            raise _gone(letter, name)
        if answer:
            commands.counts.sent += 1
            return cast("bytes", answer).decode()
        await wait.for_room()


async def discard(commands: Commands, key: bytes, name: str, letter: DeadLetter[Any]) -> None:
    """Remove a dead letter.

    Args:
        commands: of the bus.
        key: of the dead letters.
        name: of the queue.
        letter: the dead letter.

    Raises:
        Error: the letter is gone (kind NOT_FOUND), or what the server says.
        ConnectionFailedError: there was no answer; it may have been done.
        InvalidTypeError: letter is no dead letter.
    """
    doing = f"discarding a dead letter of queue {name!r}"
    place = await checked(partial(_place_of, letter))
    if not await _run(commands, DISCARD, (key,), place, doing):
        raise _gone(letter, name)


async def _run(
    commands: Commands, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | int], doing: str
) -> object:
    await trio.lowlevel.checkpoint_if_cancelled()
    link = await commands.link()
    try:
        return await link.run(script, keys, arguments, doing)
    except ConnectionFailedError as error:
        if link.usable:  # it is what the server says
            raise
        raise may_have_arrived(error) from None


def _place_of(letter: object) -> tuple[bytes, bytes]:
    """Return the id of a dead letter's entry, and the id that the value had."""
    if not isinstance(letter, DeadLetter):
        raise InvalidTypeError(f"letter must be a DeadLetter, not {type(letter).__name__}")
    known = cast("DeadLetter[object]", letter)
    return known._place, known.id.encode()  # noqa: SLF001  # not for users


def _gone(letter: DeadLetter[Any], name: str) -> Error:
    return Error(
        f"{letter.id} is not among the dead letters of queue {name!r} any more", kind=Kind.NOT_FOUND, retryable=False
    )
