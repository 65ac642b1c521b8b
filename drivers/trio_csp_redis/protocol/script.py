"""Scripts that the server runs: each is one step that nothing interrupts.

https://redis.io/docs/latest/develop/programmability/eval-intro/
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Script:
    """A script of Lua."""

    code: str = field(repr=False)
    sha: bytes = field(init=False)
    """By which the server knows it once it has run."""

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.code.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest.encode())
