"""A source of one's own, by the public protocol alone: it can be received from in every way there is."""

from __future__ import annotations

import copy
import gc
import pickle
import tracemalloc
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
from csp.errors import InvalidTypeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class Mailbox(csp.Source[T], Generic[T]):
    """An unbounded queue of letters: what a user of the package might write."""

    def __init__(self) -> None:
        super().__init__()
        self.letters: deque[T] = deque()

    def is_ready(self, moment: csp.Moment) -> bool:  # noqa: ARG002  # it has no clock
        return bool(self.letters)

    def receive_nowait(self) -> csp.Received[T]:
        if not self.letters:
            raise trio.WouldBlock
        return csp.Received(self.letters.popleft(), True)

    def post(self, letter: T) -> None:
        self.letters.append(letter)
        self.wake()


class Last(Mailbox[T]):
    """Gives one letter and no more."""

    one_shot = True


class Sealed(Mailbox[T]):
    """Closed from the beginning: what was posted, then the end."""

    def __init__(self, *letters: T, cause: BaseException | None = None) -> None:
        super().__init__()
        self.letters.extend(letters)
        self._cause = cause

    @property
    def cause(self) -> BaseException | None:
        return self._cause

    def is_ready(self, moment: csp.Moment) -> bool:  # noqa: ARG002  # it has no clock
        return True

    def receive_nowait(self) -> csp.Received[T]:
        return super().receive_nowait() if self.letters else csp.Received(None, False)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def by_receive(mailbox: Mailbox[str]) -> str:
    return (await mailbox.receive()).value


async def by_async_for(mailbox: Mailbox[str]) -> str:
    return await anext(mailbox)


async def by_select(mailbox: Mailbox[str]) -> str:
    result = await csp.select(csp.Channel[str]().case_receive(), mailbox.case_receive())
    assert result.channel is mailbox
    return result.value


async def by_selector(mailbox: Mailbox[str]) -> str:
    with csp.Selector(csp.Channel[str]().case_receive(), mailbox.case_receive()) as selector:
        result = await selector.select()
        assert result.channel is mailbox
        return result.value


each_way = pytest.mark.parametrize("receive", [by_receive, by_async_for, by_select, by_selector])


def test_a_source_must_say_what_it_gives() -> None:
    with pytest.raises(TypeError, match="abstract"):
        csp.Source()  # type: ignore[abstract]  # pyright: ignore[reportAbstractUsage]


def test_a_source_has_no_cause_and_is_not_one_shot_by_default() -> None:
    assert Mailbox[str]().cause is None
    assert not Mailbox.one_shot


@each_way
async def test_what_it_holds_is_received_at_once(receive: Callable[[Mailbox[str]], Awaitable[str]]) -> None:
    mailbox = Mailbox[str]()
    mailbox.post("a")
    mailbox.post("b")
    assert [await receive(mailbox), await receive(mailbox)] == ["a", "b"]


@each_way
async def test_what_it_gets_later_wakes_a_receiver(receive: Callable[[Mailbox[str]], Awaitable[str]]) -> None:
    mailbox = Mailbox[str]()
    received: list[str] = []

    async def run() -> None:
        received.append(await receive(mailbox))

    async with trio.open_nursery() as nursery:
        for letter in "ab":
            nursery.start_soon(run)
            await wait_all_tasks_blocked()
            mailbox.post(letter)
            assert not mailbox.letters
            await wait_all_tasks_blocked()
    assert received == ["a", "b"]


@each_way
async def test_a_cancelled_receiver_takes_nothing(receive: Callable[[Mailbox[str]], Awaitable[str]]) -> None:
    mailbox = Mailbox[str]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, mailbox)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    mailbox.post("a")
    with trio.CancelScope() as scope:
        scope.cancel()
        await receive(mailbox)
    assert scope.cancelled_caught
    assert mailbox.receive_nowait() == ("a", True)


async def test_a_closed_source_ends_its_iteration() -> None:
    assert [letter async for letter in Sealed("a", "b")] == ["a", "b"]


async def test_a_source_closed_with_a_cause_raises_it() -> None:
    cause = OSError("fire")
    with pytest.raises(csp.ChannelBrokenError) as caught:
        await anext(Sealed[str](cause=cause))
    assert caught.value.__cause__ is cause


async def test_a_closed_source_leaves_a_selector() -> None:
    sealed = Sealed("a")
    with csp.Selector(sealed.case_receive()) as selector:
        assert [(result.value, result.ok) async for result in selector] == [("a", True), (None, False)]


@pytest.mark.parametrize("parked", [False, True])
async def test_a_one_shot_source_leaves_a_selector_after_its_value(parked: bool) -> None:
    last = Last[str]()
    received: list[str] = []

    async def iterate() -> None:
        with csp.Selector(last.case_receive()) as selector:
            received.extend([result.value async for result in selector])

    if not parked:
        last.post("a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(iterate)
        if parked:
            await wait_all_tasks_blocked()
            last.post("a")
    assert received == ["a"]


@each_way
async def test_a_notification_without_a_value_wakes_nobody(receive: Callable[[Mailbox[str]], Awaitable[str]]) -> None:
    mailbox = Mailbox[str]()
    received: list[str] = []

    async def run() -> None:
        received.append(await receive(mailbox))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        mailbox.wake()
        await wait_all_tasks_blocked()
        assert received == []
        mailbox.post("a")
    assert received == ["a"]


class BrokenError(Exception):
    """What a source of one's own raises."""


class Torn(Mailbox[str]):
    """Raises what is posted."""

    def receive_nowait(self) -> csp.Received[str]:
        raise BrokenError(super().receive_nowait().value)


@each_way
@pytest.mark.parametrize("tasks", [1, 2])
async def test_what_a_source_raises_goes_to_the_task_that_waits(
    receive: Callable[[Mailbox[str]], Awaitable[str]], tasks: int
) -> None:
    torn = Torn()
    raised: list[str] = []

    async def run() -> None:
        with pytest.raises(BrokenError) as caught:
            await receive(torn)
        raised.append(str(caught.value))

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(run)
        await wait_all_tasks_blocked()
        for number in range(tasks):
            torn.post(f"letter {number}")
            await wait_all_tasks_blocked()
            assert len(raised) == number + 1
    assert sorted(raised) == [f"letter {number}" for number in range(tasks)]


@each_way
async def test_what_a_source_raises_at_once_comes_out_at_once(
    receive: Callable[[Mailbox[str]], Awaitable[str]],
) -> None:
    torn = Torn()
    torn.post("letter")
    with pytest.raises(BrokenError, match="letter"):
        await receive(torn)


class AlwaysReady(Mailbox[str]):
    """Says that it is ready, and raises."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.ready = False

    def is_ready(self, moment: csp.Moment) -> bool:  # noqa: ARG002  # it has no clock
        return self.ready

    def receive_nowait(self) -> csp.Received[str]:
        raise self.error


@each_way
@pytest.mark.parametrize("error", [BrokenError(), trio.WouldBlock()], ids=["broken", "would block"])
async def test_a_source_that_stays_ready_and_raises_makes_nothing_spin(
    receive: Callable[[Mailbox[str]], Awaitable[str]], error: Exception
) -> None:
    source = AlwaysReady(error)
    raised: list[BaseException] = []

    async def run() -> None:
        try:
            await receive(source)
        except (BrokenError, trio.WouldBlock) as caught:
            raised.append(caught)

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(run)
        await wait_all_tasks_blocked()
        source.ready = True
        source.wake()
    await run()
    assert raised == [error, error, error]


async def test_what_a_source_raises_leaves_a_selector_as_it_was() -> None:
    torn, channel = Torn(), csp.Channel[str](1)
    with csp.Selector(torn, channel) as selector:
        async with trio.open_nursery() as nursery:

            async def select() -> None:
                with pytest.raises(BrokenError):
                    await selector.select()
                assert (await selector.select()).value == "value"

            nursery.start_soon(select)
            await wait_all_tasks_blocked()
            torn.post("letter")
            await wait_all_tasks_blocked()
            channel.send_nowait("value")


class Unsure(Mailbox[str]):
    """Cannot say whether it is ready."""

    asked = False

    def is_ready(self, moment: csp.Moment) -> bool:
        if self.asked:
            raise BrokenError
        return super().is_ready(moment)


async def test_a_source_that_raises_when_it_is_added_is_not_added() -> None:
    unsure = Unsure()
    unsure.asked = True
    with csp.Selector[str]() as selector:
        with pytest.raises(BrokenError):
            selector.add(unsure)
        assert unsure not in selector
        assert not unsure.wanted


async def test_what_is_ready_raises_comes_out_of_wake(nursery: trio.Nursery) -> None:
    unsure = Unsure()
    nursery.start_soon(unsure.receive)
    await wait_all_tasks_blocked()
    unsure.asked = True
    with pytest.raises(BrokenError):
        unsure.wake()
    unsure.asked = False
    unsure.post("letter")


async def test_a_select_gets_what_another_of_its_cases_raises() -> None:
    # The one that becomes ready is not the one that is performed: its own error, all the same, is the select's.
    mailbox, unsure = Mailbox[str](), Unsure()

    async def select() -> None:
        with pytest.raises(BrokenError):
            await csp.select(unsure.case_receive(), mailbox.case_receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(select)
        await wait_all_tasks_blocked()
        unsure.asked = True
        mailbox.post("letter")
    assert mailbox.receive_nowait() == ("letter", True)


class Chained(Mailbox[str]):
    """Makes another source ready when it is asked for a value."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__()
        self.call = call

    def on_wanted(self) -> None:
        self.call()


@pytest.mark.parametrize("first", [True, False])
async def test_a_select_sees_what_becomes_ready_while_it_begins_to_wait(first: bool) -> None:
    mailbox = Mailbox[str]()
    chained = Chained(lambda: mailbox.post("letter"))
    cases = [chained.case_receive(), mailbox.case_receive()]
    result = await csp.select(*(cases if first else reversed(cases)))
    assert result.value == "letter"
    assert not mailbox.wanted
    assert not chained.wanted


class Late(Mailbox[str]):
    """Becomes ready just after it was found not to be, as by a finalizer."""

    def is_ready(self, moment: csp.Moment) -> bool:
        ready = super().is_ready(moment)
        if not ready and self.call is not None:
            call, self.call = self.call, None
            call()
        return ready

    call: Callable[[], object] | None = None


async def test_a_receive_sees_what_becomes_ready_before_it_waits() -> None:
    late = Late()
    late.call = lambda: late.post("letter")
    assert await late.receive() == ("letter", True)
    assert not late.wanted


@pytest.mark.parametrize("parked", [False, True])
@each_way
async def test_a_value_that_is_taken_by_another_just_before_is_waited_for(
    receive: Callable[[Mailbox[str]], Awaitable[str]], parked: bool
) -> None:
    class Stolen(Mailbox[str]):
        """Whose first letter is taken away when it is received."""

        def receive_nowait(self) -> csp.Received[str]:
            received = super().receive_nowait()
            if received.value == "stolen":
                raise trio.WouldBlock
            return received

    stolen = Stolen()
    received: list[str] = []

    async def run() -> None:
        received.append(await receive(stolen))

    async with trio.open_nursery() as nursery:
        if not parked:
            stolen.post("stolen")
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        if parked:
            stolen.post("stolen")
            await wait_all_tasks_blocked()
        assert received == []
        stolen.post("kept")
    assert received == ["kept"]


@each_way
async def test_a_value_that_is_taken_by_another_as_the_task_is_woken_is_waited_for(
    receive: Callable[[Mailbox[str]], Awaitable[str]],
) -> None:
    class Fickle(Mailbox[str]):
        """Whose letter is gone when somebody asks for it a second time."""

        def is_ready(self, moment: csp.Moment) -> bool:
            ready = super().is_ready(moment)
            if ready and self.letters[0] == "stolen":
                self.letters.popleft()
            return ready

    fickle = Fickle()
    received: list[str] = []

    async def run() -> None:
        received.append(await receive(fickle))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        fickle.post("stolen")
        await wait_all_tasks_blocked()
        assert received == []
        fickle.post("kept")
    assert received == ["kept"]


@each_way
async def test_a_value_that_is_taken_by_another_and_followed_by_one_is_no_error(
    receive: Callable[[Mailbox[str]], Awaitable[str]],
) -> None:
    class Replaced(Mailbox[str]):
        """Whose first letter is taken, and another one comes."""

        def receive_nowait(self) -> csp.Received[str]:
            received = super().receive_nowait()
            if received.value == "stolen":
                self.post("kept")
                raise trio.WouldBlock
            return received

    replaced = Replaced()
    replaced.post("stolen")
    assert await receive(replaced) == "kept"


async def test_a_select_that_is_served_while_it_begins_to_wait_is_served_once() -> None:
    # It joins the queues of the last two cases when it has been served, and leaves them again.
    first, closed, mailbox = csp.Channel[str](), csp.Channel[str](), Mailbox[str]()
    cases = [
        first.case_receive(),
        Chained(lambda: first.send_nowait("first")).case_receive(),
        closed.case_receive(),
        Chained(closed.close).case_receive(),
        mailbox.case_receive(),
        Chained(lambda: mailbox.post("letter")).case_receive(),
    ]
    result = await csp.select(*cases)
    assert (result.channel, result.value) == (first, "first")
    assert not mailbox.wanted
    assert mailbox.receive_nowait() == ("letter", True)


async def test_a_receive_sees_what_becomes_ready_while_it_begins_to_wait() -> None:
    def post() -> None:
        if not chained.letters:
            chained.post("letter")

    chained = Chained(post)
    assert await chained.receive() == ("letter", True)


@pytest.mark.parametrize("copy", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("make", [Mailbox[str], csp.Channel[str], csp.never])
def test_a_source_cannot_be_copied(copy: Callable[[object], object], make: Callable[[], csp.Source[str]]) -> None:
    # A copy would share the buffer, and not the count of what is in it.
    source = make()
    with pytest.raises(InvalidTypeError, match="cannot be copied"):
        copy(source)


async def test_what_one_selector_took_of_a_one_shot_source_the_others_forget() -> None:
    last = Last[str]()
    received: list[str] = []

    async def iterate() -> None:
        with csp.Selector(last) as selector:
            received.extend([result.value async for result in selector])

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(iterate)
        await wait_all_tasks_blocked()
        last.post("a")
    assert received == ["a"]


async def test_a_source_can_check_in_with_the_budget_of_its_own_operations() -> None:
    visited: list[bool] = []

    async def other() -> None:
        visited.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(2 * csp.OPERATIONS_PER_SCHEDULE_POINT):
            if csp.schedule_point_due():
                await trio.lowlevel.cancel_shielded_checkpoint()
        assert visited == [True]


async def test_a_moment_is_the_time_of_its_first_question(mock_clock: trio.testing.MockClock) -> None:
    moment = csp.Moment()
    mock_clock.jump(1)
    assert moment.time() == 1
    mock_clock.jump(1)
    assert moment.time() == 1
    assert csp.Moment().time() == 2


class Stream(Mailbox[T]):
    """Ends when it is told to."""

    ended = False

    def is_ready(self, moment: csp.Moment) -> bool:
        return self.ended or super().is_ready(moment)

    def receive_nowait(self) -> csp.Received[T]:
        if self.ended and not self.letters:
            return csp.Received(None, False)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        return super().receive_nowait()

    def end(self) -> None:
        self.ended = True
        self.wake()


async def test_the_end_of_a_source_reaches_everybody_who_waits() -> None:
    stream = Stream[str]()
    ends: list[bool] = []

    async def receive() -> None:
        ends.append((await stream.receive()).ok)

    async def select() -> None:
        ends.append((await csp.select(csp.never().case_receive(), stream.case_receive())).ok)

    async def iterate() -> None:
        ends.extend([True async for _ in stream])
        ends.append(False)

    async def select_from_selector() -> None:
        with csp.Selector(stream.case_receive()) as selector:
            ends.append((await selector.select()).ok)
            assert len(selector) == 0

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for wait in (receive, select, iterate, select_from_selector):
                nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            stream.end()
    assert ends == [False] * 4


async def test_tasks_that_receive_and_a_selector_take_turns() -> None:
    mailbox = Mailbox[int]()
    received: dict[str, list[int]] = {"receive": [], "select": []}

    async def receive() -> None:
        async for letter in mailbox:
            received["receive"].append(letter)

    async def select() -> None:
        async for result in csp.Selector(mailbox.case_receive()):
            received["select"].append(result.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(select)
        for letter in range(6):
            await wait_all_tasks_blocked()
            mailbox.post(letter)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert received == {"receive": [0, 2, 4], "select": [1, 3, 5]}


async def test_a_select_takes_the_first_of_two_sources_that_became_ready_together() -> None:
    first, second = Mailbox[int](), Mailbox[int]()
    results: list[int] = []

    async def select() -> None:
        result = await csp.select(first.case_receive(), second.case_receive(), priority=True)
        results.append(result.index)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(select)
        await wait_all_tasks_blocked()
        first.letters.append(1)
        second.post(2)
    assert results == [0]
    assert list(second.letters) == [2]


async def test_wanted_knows_of_selectors_that_exist_and_of_tasks() -> None:
    source = csp.Channel[int]()
    assert not source.wanted
    selector = csp.Selector(source.case_receive())
    assert source.wanted
    del selector
    gc.collect()
    assert not source.wanted
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.receive)
        await wait_all_tasks_blocked()
        assert source.wanted
        nursery.cancel_scope.cancel()


async def test_wanted_drops_selectors_that_are_gone_and_finds_the_one_that_is_left() -> None:
    source = Mailbox[int]()
    gone = [csp.Selector(source) for _ in range(3)]
    left = csp.Selector(source)
    gone.clear()
    gc.collect()
    assert source.wanted
    left.close()
    assert not source.wanted


async def test_what_wanted_takes_does_not_grow_with_the_number_of_selectors() -> None:
    source = Mailbox[int]()
    selectors = [csp.Selector(source) for _ in range(1000)]
    gc.disable()
    tracemalloc.start()
    try:
        assert source.wanted
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.enable()
    assert peak_bytes < 4 * len(selectors)  # references to all of them take 8 bytes each


@pytest.mark.parametrize(
    "make",
    [
        csp.Channel[int],
        Mailbox[int],
        csp.never,
        csp.Selector[int],
        lambda: csp.Latest(1),
        lambda: csp.Latest(1).changes(),
    ],
    ids=["channel", "own source", "never", "selector", "latest", "reader"],
)
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_what_gives_each_value_once_is_neither_copied_nor_pickled(
    make: Callable[[], object], duplicate: Callable[[object], object]
) -> None:
    original = make()
    with pytest.raises(csp.errors.InvalidTypeError, match="cannot be copied or pickled") as caught:
        duplicate(original)
    assert repr(original) in str(caught.value)


class Unreadable(csp.Source[str]):
    """A source that is ready once it is told to be, and whose values cannot be taken."""

    ready = False

    def is_ready(self, moment: csp.Moment) -> bool:  # noqa: ARG002  # the interface
        return self.ready

    def receive_nowait(self) -> csp.Received[str]:
        raise KeyError("unreadable")


async def keep_receiving(source: csp.Source[str]) -> None:
    await source.receive()


async def keep_selecting(source: csp.Source[str]) -> None:
    await csp.select(source.case_receive())


async def keep_selecting_registered(source: csp.Source[str]) -> None:
    with csp.Selector(source) as selector:
        await selector.select()


@pytest.mark.parametrize("receive", [keep_receiving, keep_selecting, keep_selecting_registered])
async def test_a_loop_that_ignores_what_a_source_raises_lets_other_tasks_run(
    receive: Callable[[csp.Source[str]], Awaitable[None]],
) -> None:
    source, caught, visits = Unreadable(), 0, 0
    source.ready = True

    async def ignore_errors() -> None:
        nonlocal caught
        for _ in range(3 * csp.OPERATIONS_PER_SCHEDULE_POINT):
            with pytest.raises(KeyError):
                await receive(source)
            caught += 1
        nursery.cancel_scope.cancel()

    async def other() -> None:
        nonlocal visits
        while True:
            visits += caught > 0
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        nursery.start_soon(ignore_errors)
    assert visits >= 2


@pytest.mark.parametrize("receive", [keep_receiving, keep_selecting, keep_selecting_registered])
async def test_what_a_source_raises_goes_to_each_task_that_waits(
    receive: Callable[[csp.Source[str]], Awaitable[None]],
) -> None:
    async def wait() -> None:
        with pytest.raises(KeyError, match="unreadable"):
            await receive(source)
        ended.append("one")

    source, ended = Unreadable(), list[str]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        source.ready = True
        source.wake()
    assert len(ended) == 2


class Broken(csp.Source[int]):
    """A source whose `on_wanted` raises."""

    def on_wanted(self) -> None:
        raise KeyError("broken")

    def is_ready(self, moment: csp.Moment) -> bool:  # noqa: ARG002  # the interface
        return False

    def receive_nowait(self) -> csp.Received[int]:
        raise trio.WouldBlock


async def test_an_exception_of_on_wanted_leaves_nobody_waiting() -> None:
    source, channel = Broken(), csp.Channel[int]()
    with pytest.raises(KeyError):
        await source.receive()
    with pytest.raises(KeyError):
        await csp.select(channel.case_receive(), source.case_receive())
    assert channel.statistics().tasks_waiting_receive == 0
    selector = csp.Selector[int]()
    with pytest.raises(KeyError):
        selector.add(source.case_receive())
    assert len(selector) == 0
    assert not source.wanted
