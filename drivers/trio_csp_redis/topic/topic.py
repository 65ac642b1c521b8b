"""`Topic`: a topic of a server."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Generic, TypeVar, cast, final

import trio

from csp.errors import ConnectionFailedError
from trio_csp_redis.connection.permission import check_receive, check_send
from trio_csp_redis.connection.visiting import checked
from trio_csp_redis.protocol.checks import parse_whole_number
from trio_csp_redis.protocol.codec import check_codec, encoded
from trio_csp_redis.protocol.failures import may_have_arrived
from trio_csp_redis.protocol.ids import FIRST, parse_id
from trio_csp_redis.protocol.names import check_name, number_key, topic_key
from trio_csp_redis.topic.scripts import PUBLISH
from trio_csp_redis.topic.topic_reading import TopicReading
from trio_csp_redis.topic.updates import Updates

if TYPE_CHECKING:
    from trio_csp_redis.connection.commands import Commands
    from trio_csp_redis.protocol.codec import Codec
    from trio_csp_redis.reading.reader import Reader

T = TypeVar("T")

_MAX_KEEP = 10**9
_MAX_CAPACITY = 100_000


@final
class Topic(Generic[T]):
    """A topic of a server: every subscriber gets every value, in order, or is told how many it missed.

    Made by `Bus.topic`. It is a handle: it holds nothing, and several of the same name are the same topic.
    """

    def __init__(self, commands: Commands, reader: Reader, name: object, keep: object, codec: Codec[T]) -> None:
        self._name = check_name("name", name)
        self._keep = parse_whole_number("keep", keep, 1, _MAX_KEEP)
        check_codec(codec)
        prefix = commands.settings.prefix
        self._commands = commands
        self._reader = reader
        self._codec = codec
        self._keys = topic_key(prefix, self._name), number_key(prefix, self._name)

    @property
    def name(self) -> str:
        """The name, without the prefix of the bus."""
        return self._name

    async def publish(self, value: T | str) -> str:
        """Give a value to all subscribers; return the id of its entry.

        It waits for a connection. If cancelled while it waits for that, nothing was published. If it fails or is
        cancelled after it was written, the value may have arrived; it is never written twice.

        Args:
            value: the value; what the codec takes, and without one bytes or a str, which goes as UTF-8.

        Raises:
            ConnectionFailedError: the connection was lost before there was an answer (kind UNAVAILABLE, retryable): the
                value may have arrived; or the bus has ended (INTERNAL).
            ConnectionTimeoutError: there was no answer within the ``timeout`` of the bus. Likewise.
            Error: the server is out of memory (RATE_LIMITED), or a key in Redis holds something else (CONFLICT).
            PermissionDeniedError: the policies or the server do not permit it.
            InvalidError: the value cannot be encoded; nothing was published.
            NoContextError: the bus has not been entered.
        """

        def check() -> bytes:
            check_send(self._name)
            data = encoded(self._codec, value)
            self._commands.check_entered()
            return data

        data = await checked(check)
        await trio.lowlevel.checkpoint_if_cancelled()
        link = await self._commands.link()
        arguments = data, self._keep, secrets.token_hex(8).encode()
        try:
            answer = await link.run(PUBLISH, self._keys, arguments, f"publishing on topic {self._name!r}")
        except ConnectionFailedError as error:
            if link.usable:  # it is what the server says
                raise
            raise may_have_arrived(error) from None
        self._commands.counts.published += 1
        return cast("bytes", answer).decode()

    def subscribe(self, *, capacity: int = 256, since: str = "now") -> Updates[T]:
        """Return a subscription: a block, and the source of its values.

            async with prices.subscribe() as updates:
                async for update in updates:
                    if isinstance(update, csp.Gap):
                        ...  # values are missing here
                    else:
                        print(update.data)

        Values are read ahead, as many as there is room for. For a subscriber that is slower than the publishers, the
        driver reads on from where it was once half of its room is free; it costs no more memory, and slows no other.
        It misses what the server does not keep for that long. A `csp.Gap` stands where values are missing:

        - behind a subscriber that was too slow: ``missed`` says how many, without an error
        - behind a lost connection, if anything was missed: ``missed`` says how many; if not, there is none
        - when the server was started again, or the topic deleted: ``missed`` is None

        A value that cannot be decoded closes the source, with an `csp.errors.InvalidError`.

        Args:
            capacity: how many values are read ahead, 1 to 100000. Fewer, where they are large.
            since: where to begin: ``"now"``, the moment at which the server is reached for the first time;
                ``"start"``, with all that is kept; or an id (`Published.id`), after that value, with a gap for what is
                not kept any more.

        Raises:
            InvalidError: an argument is out of range or malformed.
            InvalidTypeError: an argument has the wrong type.
            PermissionDeniedError: the policies do not permit it.
            NoContextError: on entering: the bus has not been entered; or it is entered twice.
        """
        check_receive(self._name)
        size = parse_whole_number("capacity", capacity, 1, _MAX_CAPACITY)
        begin = None if since == "now" else FIRST if since == "start" else parse_id("since", since)
        doing = f"reading topic {self._name!r}"
        reading = TopicReading(self._keys, size, begin, self._commands.counts, doing)
        return Updates(self._commands, self._reader, reading, self._name, self._codec[1])

    def __repr__(self) -> str:
        return f"<csp.redis.Topic {self._name!r} at {self._commands.settings.target.url}>"
