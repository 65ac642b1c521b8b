"""What the policies of `csp.security` say of what this driver does."""

from __future__ import annotations

from csp import security
from csp.errors import PermissionDeniedError


def check_connect(url: str) -> None:
    """Ask for ``redis.connect``, and ``redis.connect.url`` of a URL.

    Raises:
        PermissionDeniedError: it is denied.
    """
    if not security.can("redis.connect", ""):
        raise PermissionDeniedError("connections to Redis are not allowed (redis.connect)")
    if not security.can("redis.connect.url", url):
        raise PermissionDeniedError(f"the url {url} is not allowed (redis.connect.url)")


def check_send(name: str) -> None:
    """Ask for ``redis.send`` of a queue or topic.

    Raises:
        PermissionDeniedError: it is denied.
    """
    if not security.can("redis.send", name):
        raise PermissionDeniedError(f"sending to {name!r} is not allowed (redis.send)")


def check_receive(name: str) -> None:
    """Ask for ``redis.receive`` of a queue or topic.

    Raises:
        PermissionDeniedError: it is denied.
    """
    if not security.can("redis.receive", name):
        raise PermissionDeniedError(f"receiving from {name!r} is not allowed (redis.receive)")
