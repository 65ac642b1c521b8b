"""What can be set for a bus, checked."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from csp.errors import InvalidError, InvalidTypeError
from trio_csp_redis.protocol.checks import parse_seconds, parse_whole_number
from trio_csp_redis.protocol.names import check_prefix
from trio_csp_redis.protocol.url import parse_url

if TYPE_CHECKING:
    import csp
    from trio_csp_redis.protocol.url import Target

_MAX_ATTEMPTS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked settings."""

    target: Target
    ssl_context: ssl.SSLContext | None = field(repr=False)
    """For TLS; None without."""
    prefix: str
    dial_seconds: float
    timeout_seconds: float
    close_seconds: float
    min_delay_seconds: float
    max_delay_seconds: float
    max_attempts: int | None


def parse_settings(
    url: object,
    *,
    ssl_context: object,
    prefix: object,
    dial_timeout: csp.Duration,
    timeout: csp.Duration,
    close_timeout: csp.Duration,
    min_delay: csp.Duration,
    max_delay: csp.Duration,
    max_attempts: object,
) -> Settings:
    """Check the arguments of `Bus`.

    Raises:
        InvalidError: one is malformed or out of range.
        InvalidTypeError: one is of the wrong type.
    """
    target = parse_url(url)
    if ssl_context is not None and not isinstance(ssl_context, ssl.SSLContext):
        raise InvalidTypeError(f"ssl_context must be an ssl.SSLContext or None, not {type(ssl_context).__name__}")
    if ssl_context is not None and not target.secure:
        raise InvalidError('ssl_context is for TLS: the url must start with "rediss://"')
    least = parse_seconds("min_delay", min_delay)
    most = parse_seconds("max_delay", max_delay)
    if least > most:
        raise InvalidError(f"max_delay must be at least min_delay, which is {least:g} s, not {most:g} s")
    return Settings(
        target=target,
        ssl_context=(ssl_context or ssl.create_default_context()) if target.secure else None,
        prefix=check_prefix(prefix),
        dial_seconds=parse_seconds("dial_timeout", dial_timeout),
        timeout_seconds=parse_seconds("timeout", timeout),
        close_seconds=parse_seconds("close_timeout", close_timeout),
        min_delay_seconds=least,
        max_delay_seconds=most,
        max_attempts=None
        if max_attempts is None
        else parse_whole_number("max_attempts", max_attempts, 1, _MAX_ATTEMPTS),
    )
