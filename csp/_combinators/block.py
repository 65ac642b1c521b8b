"""`Block`: an ``async with`` block around the tasks of a combinator, which tells those who receive how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, final

from trio.lowlevel import enable_ki_protection

from csp._core.background import BackgroundNursery
from csp._core.causes import broken_by_block, ended_early
from csp._core.exceptions import without_cancelled
from csp.errors import NoContextError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType

T_co = TypeVar("T_co", covariant=True)


@final
class Block(Generic[T_co]):
    """Runs tasks for the length of a block, once.

    Args:
        name: the function that makes the block.
        given: what ``async with`` gives.
        tasks: what runs in the block; they are cancelled at its end.
        end: closes what the tasks send to, with a cause or None. It is called when the block ends, and when a task
            fails or is cancelled; it may be called again, and then must not do anything.
    """

    def __init__(
        self,
        name: str,
        given: T_co,
        tasks: Sequence[Callable[[], Awaitable[None]]],
        end: Callable[[BaseException | None], None],
    ) -> None:
        self._name = name
        self._given = given
        self._tasks = tasks
        self._end = end
        self._background = BackgroundNursery()
        self._entered = False
        self._leaving = False

    @enable_ki_protection
    async def __aenter__(self) -> T_co:
        if self._entered:
            raise NoContextError(f"this {self._name} was used before; make another one")
        nursery = await self._background.__aenter__()
        self._entered = True
        for task in self._tasks:
            nursery.start_soon(self._run, task, name=f"csp.{self._name}")
        return self._given

    @enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._leaving = True
        if (cause := ended_early(self._name, exc)) is not None:
            self._end(cause)
        try:
            return await self._background.__aexit__(exc_type, exc, traceback)
        finally:
            self._end(None)

    async def _run(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except BaseException as error:
            failure = without_cancelled(error)
            if failure is not None:
                self._end(failure)
            elif not self._leaving:
                # The block was cancelled, and this task is told first.
                self._end(broken_by_block(self._name, error))
            raise

    def __repr__(self) -> str:
        return f"<block of csp.{self._name} at {id(self):#x}>"
