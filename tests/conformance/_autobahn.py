"""What the Autobahn cases say, and kosoku, which carries them, in a process of its own.

The sockets counted in this process are those of the end that is tested, and what kosoku does to `binascii` and to the
import path stays there.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import threading
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from multiprocessing.connection import Connection

NOT_INSTALLED = "kosoku is not installed: pip install kosoku"
READ_LIMIT_BYTES = 16 * 1024 * 1024
"""The largest message of the cases."""


class Verdict(NamedTuple):
    """What kosoku says about a case."""

    case: str
    behavior: str
    """OK, NON-STRICT, INFORMATIONAL, FAILED, ERROR, or UNIMPLEMENTED where compression was not agreed on."""
    close_behavior: str
    """OK, INFORMATIONAL, or what was wrong with the end of the connection."""
    expected: str
    happened: str
    close_code: int | None
    """The code in the close frame of the end that is tested; None if there was no close frame."""


class Observation(NamedTuple):
    """What is seen of a case at the end that is tested."""

    seconds: float
    sockets_left: int
    crash: Exception | None
    """What came out of the library that should not have."""


class Outcome(NamedTuple):
    """What became of a case."""

    verdict: Verdict
    observation: Observation

    def __str__(self) -> str:
        verdict = self.verdict
        lines = [
            f"{verdict.case} {self.judgement}: close {verdict.close_behavior} with code {verdict.close_code}",
            f"  expected: {verdict.expected}",
            f"  happened: {verdict.happened}",
        ]
        if self.observation.crash is not None:
            lines += ["  raised:", *traceback.format_exception(self.observation.crash)]
        return "\n".join(lines)

    @property
    def group(self) -> int:
        return int(self.verdict.case.partition(".")[0])

    @property
    def judgement(self) -> str:
        """The verdict in a word, of OK, NON-STRICT, INFORMATIONAL, UNIMPLEMENTED and FAILED."""
        wrong_end = self.verdict.close_behavior not in ("OK", "INFORMATIONAL")
        failed = wrong_end or self.verdict.behavior == "ERROR" or self.observation.crash is not None
        return "FAILED" if failed else self.verdict.behavior


def installed() -> bool:
    """Tell whether there is a kosoku, without importing it."""
    return importlib.util.find_spec("kosoku") is not None


def verdict_of(result: Any) -> Verdict:
    """Return what a result of kosoku's says."""
    received = f"{result.received}"
    return Verdict(
        case=result.case_id,
        behavior=result.behavior.value,
        close_behavior=result.behavior_close.value,
        expected=" ".join(result.expectation.split()),
        happened=f"{result.result} {result.result_close}; received {received[:300]}",
        close_code=result.remote_close_code,
    )


@contextmanager
def process(target: Callable[..., None], *arguments: object) -> Generator[Callable[[], Any]]:
    """Run a function in a process of its own; yield a function that waits for the next thing it sends.

    Args:
        target: given the arguments, and the end of a pipe that it sends to. An exception that it sends is raised here.
    """
    context = multiprocessing.get_context("spawn")
    # One-way: a pipe for both directions would be two sockets.
    pipe, far_end = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(target, arguments, far_end), daemon=True)

    def receive() -> Any:
        received = pipe.recv()
        if isinstance(received, Exception):
            raise received
        return received

    with pipe:
        child.start()
        far_end.close()
        try:
            yield receive
        finally:
            child.terminate()
            child.join()
            child.close()


def _run(target: Callable[..., None], arguments: tuple[object, ...], pipe: Connection[Any, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's, which then ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        target(*arguments, pipe)
    except ValueError as error:
        pipe.send(error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
