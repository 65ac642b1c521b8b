"""Names of queues and topics, and the keys that they have in Redis.

All keys of a name have it in braces, so that a Redis Cluster would keep them in one place: its hash tags.
"""

from __future__ import annotations

from csp.errors import InvalidError
from trio_csp_redis.protocol.checks import parse_text

_MAX_CHARACTERS = 500


def check_name(what: str, name: object) -> str:
    """Return a name of a queue or topic: 1 to 500 characters, no braces.

    Raises:
        InvalidError: it is too long, empty, or has a brace.
        InvalidTypeError: it is no string.
    """
    text = parse_text(what, name, _MAX_CHARACTERS)
    if "{" in text or "}" in text:
        raise InvalidError(f"{what} must not have braces: its keys in Redis have it in braces")
    return text


def check_prefix(prefix: object) -> str:
    """Return what all keys begin with: at most 500 characters, no braces; it may be empty.

    Raises:
        InvalidError: it is too long, or has a brace.
        InvalidTypeError: it is no string.
    """
    text = parse_text("prefix", prefix, _MAX_CHARACTERS, least=0)
    if "{" in text or "}" in text:
        raise InvalidError("prefix must not have braces: the name that follows it stands in braces")
    return text


def queue_key(prefix: str, name: str) -> bytes:
    """Return the key of a queue: a stream."""
    return f"{prefix}{{{name}}}".encode()


def dead_key(prefix: str, name: str) -> bytes:
    """Return the key of a queue's dead letters: a stream."""
    return queue_key(prefix, name) + b":dead"


def once_key(prefix: str, name: str, key: str) -> bytes:
    """Return the key that says which entry was sent with ``key``: a string, which expires."""
    return queue_key(prefix, name) + b":once:" + key.encode()


def topic_key(prefix: str, name: str) -> bytes:
    """Return the key of a topic: a stream."""
    return queue_key(prefix, name) + b":topic"


def number_key(prefix: str, name: str) -> bytes:
    """Return the key that counts what is published on a topic: a hash of ``epoch`` and ``n``."""
    return topic_key(prefix, name) + b":n"
