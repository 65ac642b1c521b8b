"""Random programs on channels, `select` and `Selector`, compared step by step with a plain model.

How it works
------------
Hypothesis writes a *program*: the kinds of a few channels, and a list of *steps*. A step is one or more *operations*
(start a task that sends, receives or selects; send or receive without waiting; cancel; close; change a selector)
done in one scheduler tick: all by the driver itself, or each by a task of its own, in whatever order Trio runs them.
A step of one operation is the ordinary case; a longer one is a race. After each step everything settles.

The *driver* does the operations on the real thing. It notes them in the order in which they really took effect
(an operation takes effect, or parks, before its task first lets go of the scheduler) and how every task ended.

The *model* then does the same operations in the same order. It has no queues to keep in order, no wake-ups and no
scheduler: a list of who waits, in the order they came, and for each channel a list of the values buffered. Where the
contract leaves a choice, the model follows what was seen, once it has checked that this is one of the allowed
outcomes:

- a select chooses freely among its ready cases, also when it was parked with several cases on one channel, unless it
  has ``priority=True``, when it takes the first;
- of the tasks parked on a channel the first is served, plain and select alike; when tasks are parked both there and
  in selectors, the two kinds take turns, and so do several selectors; which begins is free;
- a selector takes from any of its ready channels, as long as none of them gives more than 16 values while another one
  has been ready.

Everything else must be equal: who waits, who ended and how, `Channel.statistics`, the cause. So the model also states
that a cancelled or refused operation changed nothing. A ledger beside it, which does not depend on the model, checks
that every value sent was received exactly once, is still buffered, or was dropped.

``CSP_MODEL_EXAMPLES=20000 pytest tests/core/whole/test_model.py`` runs as many examples, not the same ones each time.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from functools import cache
from itertools import chain, count
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import trio
from hypothesis import HealthCheck, Phase, example, given, register_random, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

import csp
from csp._core import checkpoint, select, sending, source, waiters
from csp._core.channel import ChannelStatistics
from csp._core.results import SelectResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

LONG_RUN = os.environ.get("CSP_MODEL_EXAMPLES")
SELECTORS = 2
VALUES_IN_A_ROW = 16

# What the examples contained: a model test that parks nothing tests nothing.
counts: Counter[str] = Counter()

# Seeded by `random_module` for each example.
register_random(select._rng)


# Programs ------------------------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    capacity: float
    overflow: Literal["wait", "drop_oldest", "drop_newest"] = "wait"


class Case(NamedTuple):
    sends: bool
    channel: int
    value: object = None


class Start(NamedTuple):
    """Start a task that selects, or, if ``plain``, does its only case as `Channel.send` or `Channel.receive`."""

    cases: tuple[Case | None, ...]
    plain: bool = False
    default: bool = False
    priority: bool = False


class StartSelector(NamedTuple):
    """Start a task in `Selector.select`."""

    selector: int


class Do(NamedTuple):
    """Do what never waits. The argument: the value to send, the cause to close with, the task to cancel (0: newest)."""

    name: str
    channel: int = 0
    selector: int = 0
    argument: Any = None


Operation: TypeAlias = Start | StartSelector | Do


class Step(NamedTuple):
    operations: Sequence[Operation]
    in_tasks: bool = False


class Program(NamedTuple):
    channels: list[Kind]
    steps: list[Step]


KINDS = [Kind(0), Kind(0), Kind(1), Kind(2), Kind(math.inf), Kind(1, "drop_oldest"), Kind(2, "drop_newest")]


@cache
def programs(channels: int) -> st.SearchStrategy[Program]:
    numbers = range(channels)
    cases = [Case(sends, number) for number in numbers for sends in (False, True)]
    some_cases = st.lists(st.sampled_from([*cases, None]), max_size=5).map(tuple)
    flags = st.sampled_from([(False, False), (False, False), (False, True), (True, False), (True, True)])
    select = st.tuples(some_cases, flags).map(lambda parts: Start(parts[0], False, *parts[1]))
    plain = st.sampled_from([Start((case,), plain=True) for case in cases])
    in_selector = st.sampled_from([StartSelector(selector) for selector in range(SELECTORS)])
    nowait = st.sampled_from([Do(name, number) for name in ("send_nowait", "receive_nowait") for number in numbers])
    closes = [Do("close", number, 0, with_cause) for number in numbers for with_cause in (False, True)]
    cancel = st.sampled_from([Do("cancel", argument=which) for which in range(5)])
    pairs = [(number, selector) for selector in range(SELECTORS) for number in numbers]
    add = st.sampled_from([Do("add", *pair) for pair in pairs])
    leaves = [Do(name, *pair) for name in ("remove", "drop_selector", "close_selector") for pair in pairs]
    # Rare, because little happens after it.
    end = st.sampled_from(leaves + closes)
    operation = (
        plain | plain | plain | select | select | select | in_selector | in_selector | nowait | cancel | add | end
    )
    alone = operation.map(lambda one: Step([one]))
    race = st.builds(Step, st.lists(operation, min_size=2, max_size=5), st.booleans())
    cut = (plain | select | in_selector).map(lambda one: Step([one, Do("cancel", argument=0)]))
    burst = st.tuples(nowait | in_selector, st.sampled_from([3, 18])).map(lambda parts: Step([parts[0]] * parts[1]))
    watching = st.lists(add, min_size=1, max_size=5).map(lambda some: [Step(list(some))])
    others = st.lists(alone | alone | alone | race | race | race | burst | cut, min_size=15, max_size=35)
    steps = st.tuples(watching, others).map(lambda parts: parts[0] + parts[1])
    kinds = st.lists(st.sampled_from(KINDS), min_size=channels, max_size=channels)
    return st.builds(Program, kinds, steps)


# What random programs seldom come to: two channels that stay ready take turns in a selector;
FILL = [Step([Do(name, number)] * 18) for name in ("add", "send_nowait") for number in (0, 1)]
TURNS = [*FILL, *[Step([StartSelector(0)])] * 36]
# plain receivers and two selectors take turns on one channel.
PARK = [Step([Do("add", 0, selector)] + [StartSelector(selector)] * 3) for selector in (0, 1)]
SHARED = [*PARK, Step([Start((Case(False, 0),), plain=True)] * 6), *[Step([Do("send_nowait")])] * 12]


# The model -----------------------------------------------------------------------------------------------------------


class Failure(NamedTuple):
    """An operation that ended by raising."""

    error: type[BaseException]
    cause: BaseException | None = None


# A plain send or receive ends like a select of that one case. Channels are named by their number.
Ending: TypeAlias = SelectResult[Any] | Failure

CANCELLED = Failure(trio.Cancelled)
WOULD_BLOCK = Failure(trio.WouldBlock)


def done(channel: int, value: object, ok: bool, index: int = 0, *, sent: bool = False) -> Ending:
    return SelectResult(channel, value, ok, False, index, sent)


class Event(NamedTuple):
    """An operation that was done: by a task, started ``cancelled`` or not, or at once, with this ``ending``."""

    operation: Operation
    task: int = -1
    cancelled: bool = False
    ending: Ending | None = None


class ModelChannel:
    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.buffer: list[object] = []
        self.dropped = 0
        self.closed = False
        self.cause: BaseException | None = None
        # Who was handed a value last: of the two kinds, and of the selectors.
        self.last_kind: bool | None = None
        self.last_selector: ModelSelector | None = None


class ModelSelector:
    def __init__(self) -> None:
        self.cases: dict[int, int] = {}  # channel -> index
        self.added = 0
        # (a, b): how many values b gave while a was ready.
        self.overtaken: Counter[tuple[int, int]] = Counter()

    def forget(self, channel: int) -> None:
        del self.cases[channel]
        self.keep_score([*self.cases])

    def keep_score(self, ready: list[int], but: int | None = None) -> None:
        self.overtaken = Counter({one: n for one, n in self.overtaken.items() if one[0] in ready and one[0] != but})


class Waiting(NamedTuple):
    task: int
    cases: tuple[Case | None, ...] = ()
    priority: bool = False
    selector: ModelSelector | None = None

    def on(self, channel: int, sends: bool | None = None) -> list[tuple[int, Case]]:
        """Return the cases on a channel, of one direction or both, with their indices."""
        mine = [(index, case) for index, case in enumerate(self.cases) if case is not None and case.channel == channel]
        return [(index, case) for index, case in mine if sends is None or case.sends is sends]


class Model:
    def __init__(self, kinds: list[Kind]) -> None:
        self.channels = [ModelChannel(kind) for kind in kinds]
        self.selectors = [ModelSelector() for _ in range(SELECTORS)]
        self.waiting: list[Waiting] = []  # in the order they came
        self.seen: dict[int, Ending] = {}

    # Who waits, and what is ready.

    def queue(self, channel: int, *, sends: bool) -> list[Waiting]:
        return [waiting for waiting in self.waiting if waiting.on(channel, sends)]

    def parked(self, selector: ModelSelector) -> list[Waiting]:
        return [waiting for waiting in self.waiting if waiting.selector is selector]

    def alive(self) -> list[ModelSelector]:
        """Return the selectors that exist: those not forgotten, and those a task still waits in."""
        waited = [waiting.selector for waiting in self.waiting if waiting.selector is not None]
        return list(dict.fromkeys([*self.selectors, *waited]))

    def takers(self, channel: int) -> list[Waiting]:
        """Return the first waiter of the channel's queue and of every selector that watches it."""
        watching = [selector for selector in self.alive() if channel in selector.cases]
        lines = [self.queue(channel, sends=False), *map(self.parked, watching)]
        return [line[0] for line in lines if line]

    def can_receive(self, channel: int) -> bool:
        return bool(self.channels[channel].buffer or self.channels[channel].closed or self.queue(channel, sends=True))

    def can_send(self, channel: int) -> bool:
        model = self.channels[channel]
        room = model.kind.overflow != "wait" or len(model.buffer) < model.kind.capacity
        return model.closed or room or bool(self.takers(channel))

    # What happens.

    def end(self, waiting: Waiting, *allowed: Ending) -> Ending:
        """End a task in the way that was seen, if that is allowed."""
        assert waiting.task in self.seen, f"task {waiting.task} should have ended with one of {allowed}"
        ending = self.seen.pop(waiting.task)
        assert ending in (allowed[:1] if waiting.priority else allowed), f"task {waiting.task}: {ending}, not {allowed}"
        self.waiting = [other for other in self.waiting if other.task != waiting.task]
        return ending

    def send(self, channel: int, value: object) -> None:
        """Send to an open channel that can take it."""
        model = self.channels[channel]
        if takers := self.takers(channel):
            taker = next((one for one in takers if received(self.seen.get(one.task)) == (value, True)), None)
            assert taker is not None, f"{value!r} should have gone to one of {takers}"
            kinds = {one.selector is None for one in takers}
            assert len(kinds) == 1 or (taker.selector is None) is not model.last_kind, "no turns"
            model.last_kind = taker.selector is None
            if taker.selector is not None:
                others = [one for one in takers if one.selector not in (None, taker.selector)]
                assert not others or taker.selector is not model.last_selector, "no turns among selectors"
                model.last_selector = taker.selector
                counts["handed to a selector"] += 1
            cases = taker.on(channel, sends=False)
            indices = [taker.selector.cases[channel]] if taker.selector else [index for index, _ in cases]
            self.end(taker, *[done(channel, value, True, index) for index in indices])
        elif len(model.buffer) < model.kind.capacity:
            model.buffer.append(value)
        else:
            model.dropped += 1
            if model.kind.overflow == "drop_oldest":
                model.buffer = [*model.buffer[1:], value]

    def receive(self, channel: int) -> tuple[object, bool]:
        """Receive from a channel that has something to give."""
        model = self.channels[channel]
        if senders := self.queue(channel, sends=True):
            sends = senders[0].on(channel, sends=True)
            ending = self.end(senders[0], *[done(channel, case.value, True, index, sent=True) for index, case in sends])
            model.buffer.append(received(ending)[0])
        return (model.buffer.pop(0), True) if model.buffer else (None, False)

    def _closed_error(self, channel: int) -> Failure:
        return Failure(csp.ChannelClosedError, self.channels[channel].cause)

    def attempt(self, case: Case, index: int = 0) -> Ending:
        """Perform a case, if that is possible now; return how it ends."""
        if not (self.can_send(case.channel) if case.sends else self.can_receive(case.channel)):
            return WOULD_BLOCK
        if not case.sends:
            return done(case.channel, *self.receive(case.channel), index)
        if self.channels[case.channel].closed:
            return self._closed_error(case.channel)
        self.send(case.channel, case.value)
        return done(case.channel, case.value, True, index, sent=True)

    def start(self, operation: Start, task: int) -> None:
        """Perform one of the cases that are ready, or wait."""
        waiting = Waiting(task, operation.cases, operation.priority)
        ready = {
            index: case
            for index, case in enumerate(operation.cases)
            if case is not None and (self.can_send(case.channel) if case.sends else self.can_receive(case.channel))
        }
        if not ready and operation.default:
            self.end(waiting, SelectResult(None, None, True, True, -1, False))
        elif not ready:
            self.waiting = [*self.waiting, waiting]
        else:
            allowed = {min(ready): ready[min(ready)]} if operation.priority else ready
            ending = self.seen.get(task, WOULD_BLOCK)
            # An error does not tell which case it was; any case that gives this error will do.
            refused = [i for i, case in allowed.items() if case.sends and self.channels[case.channel].closed]
            refused = [i for i in refused if self._closed_error(ready[i].channel) == ending]
            chosen = refused if isinstance(ending, Failure) else [i for i in allowed if i == ending.index]
            assert chosen, f"task {task}: {ending}, but ready were {allowed}"
            counts["chosen among several"] += len(ready) > 1
            self.end(waiting, self.attempt(ready[chosen[0]], chosen[0]))

    def serve_selectors(self) -> None:
        """Let every task take its value that is parked in a selector with a ready channel."""
        for selector in self.alive():
            while (ready := [*filter(self.can_receive, selector.cases)]) and (parked := self.parked(selector)):
                ending = self.seen.get(parked[0].task)
                assert ending is not None, f"task {parked[0].task} waits, but its selector has {ready} ready"
                channel = next((one for one in ready if ending[0] == one), None)
                assert channel is not None, f"task {parked[0].task}: {ending}, but ready are {ready}"
                value, ok = self.receive(channel)
                self.end(parked[0], done(channel, value, ok, selector.cases[channel]))
                selector.keep_score(ready, but=channel)
                selector.overtaken.update((one, channel) for one in ready if one != channel)
                longest = max(selector.overtaken.values(), default=0)
                assert longest <= VALUES_IN_A_ROW, "too many in a row"
                counts["longest turn"] = max(longest, counts["longest turn"])
                if not ok:
                    selector.forget(channel)
            selector.keep_score(ready)

    # Operations that never wait, under the names they have in `Do`.

    def send_nowait(self, do: Do) -> Ending:
        return self.attempt(Case(True, do.channel, do.argument))

    def receive_nowait(self, do: Do) -> Ending:
        return self.attempt(Case(False, do.channel))

    def cancel(self, do: Do) -> None:
        """Cancel a task; one that has been served keeps its result."""
        for waiting in self.waiting:
            if waiting.task == do.argument:
                counts["cancelled while parked"] += 1
                self.end(waiting, CANCELLED)

    def close(self, do: Do) -> None:
        model = self.channels[do.channel]
        if model.closed:
            return
        model.closed, model.cause = True, do.argument
        for waiting in self.waiting:
            if cases := waiting.on(do.channel):
                counts["closed while parked"] += 1
                error = self._closed_error(do.channel)
                self.end(waiting, *[error if case.sends else done(do.channel, None, False, i) for i, case in cases])

    def add(self, do: Do) -> None:
        self.channels[do.channel].last_selector = None
        selector = self.selectors[do.selector]
        if do.channel not in selector.cases:
            selector.cases[do.channel] = selector.added
            selector.added += 1

    def remove(self, do: Do) -> Ending | None:
        self.channels[do.channel].last_selector = None
        selector = self.selectors[do.selector]
        if do.channel not in selector.cases:
            return Failure(KeyError)
        selector.forget(do.channel)
        return None

    def drop_selector(self, do: Do) -> None:
        """Put a new selector in the place of one, which lives on as long as tasks wait in it."""
        self.selectors[do.selector] = ModelSelector()

    def close_selector(self, do: Do) -> None:
        for waiting in self.parked(self.selectors[do.selector]):
            self.end(waiting, Failure(trio.ClosedResourceError))
        self.selectors[do.selector] = ModelSelector()

    # All together.

    def apply(self, event: Event) -> Ending | None:
        """Do an operation; return how it ends, unless it is a task's."""
        if event.cancelled:
            self.end(Waiting(event.task), CANCELLED)
        elif isinstance(event.operation, Start):
            self.start(event.operation, event.task)
        elif isinstance(event.operation, StartSelector):
            self.waiting = [*self.waiting, Waiting(event.task, selector=self.selectors[event.operation.selector])]
        else:
            ending: Ending | None = getattr(self, event.operation.name)(event.operation)
            return ending
        return None

    def replay(self, events: list[Event], seen: dict[int, Ending]) -> None:
        """Do what was really done, and check that it could end as it was seen to."""
        self.seen = dict(seen)
        for event in events:
            assert self.apply(event) == event.ending, event
            self.serve_selectors()
            counts["parked"] += event.task in [waiting.task for waiting in self.waiting]
        assert not self.seen, "tasks ended that should wait"

    def statistics(self, channel: int) -> ChannelStatistics:
        model = self.channels[channel]
        sending, receiving = (len(self.queue(channel, sends=sends)) for sends in (True, False))
        selectors = sum(channel in selector.cases for selector in self.alive())
        buffered, capacity = len(model.buffer), model.kind.capacity
        return ChannelStatistics(buffered, capacity, sending, receiving, selectors, model.dropped, model.closed)


def received(ending: Ending | None) -> tuple[object, bool]:
    return (ending.value, ending.ok) if isinstance(ending, SelectResult) else (None, False)


# The driver ----------------------------------------------------------------------------------------------------------


class Driver:
    """Does a program on the real thing, a step at a time, and holds the model against it."""

    def __init__(self, kinds: list[Kind], nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.channels = [csp.Channel[object](capacity, overflow=overflow) for capacity, overflow in kinds]
        self.selectors = [csp.Selector[object]() for _ in range(SELECTORS)]
        self.model = Model(kinds)
        self.values = chain([None], count(1))  # None is a value like any other
        self.tasks = count()
        self.scopes: dict[int, trio.CancelScope] = {}  # of the tasks that have not ended
        self.events: list[Event] = []
        self.seen: dict[int, Ending] = {}
        self.sent: list[object] = []
        self.received: list[object] = []

    async def step(self, step: Step) -> None:
        """Do the operations in one tick, let everything settle, compare."""
        for operation in step.operations:
            if not isinstance(operation, Do):
                task = next(self.tasks)
                self.scopes[task] = trio.CancelScope()
                self.nursery.start_soon(self.task, task, operation)
            elif step.in_tasks:
                self.nursery.start_soon(self.do_later, operation)
            else:
                self.do(operation)
        await wait_all_tasks_blocked()
        self.model.replay(self.events, self.seen)
        self.events, self.seen = [], {}
        assert sorted(self.scopes) == sorted(waiting.task for waiting in self.model.waiting)
        for number, channel in enumerate(self.channels):
            assert channel.statistics() == self.model.statistics(number)
            model = self.model.channels[number]
            assert (len(channel), channel.closed, channel.cause) == (len(model.buffer), model.closed, model.cause)
        assert [len(selector) for selector in self.selectors] == [len(one.cases) for one in self.model.selectors]

    async def task(self, task: int, operation: Start | StartSelector) -> None:
        """Be a task: do one operation that may have to wait."""
        if isinstance(operation, Start):
            cases = [case and case._replace(value=next(self.values)) for case in operation.cases]
            operation = operation._replace(cases=tuple(cases))
        scope = self.scopes[task]
        self.events.append(Event(operation, task, cancelled=scope.cancel_called))
        ending: Ending = CANCELLED
        with scope:
            try:
                ending = self.note(operation, await self.wait(operation))
            except trio.ClosedResourceError as error:
                ending = Failure(type(error), error.__cause__)
        self.seen[task] = ending
        del self.scopes[task]

    async def wait(self, operation: Start | StartSelector) -> SelectResult[object]:
        if isinstance(operation, StartSelector):
            return await self.selectors[operation.selector].select()
        if operation.plain and (case := operation.cases[0]):
            channel = self.channels[case.channel]
            if not case.sends:
                return SelectResult(channel, *await channel.receive(), default=False, index=0, sent=False)
            await channel.send(case.value)
            return SelectResult(channel, case.value, True, False, 0, True)
        cases = [
            case and (channel.case_send(case.value) if case.sends else channel.case_receive())
            for case in operation.cases
            for channel in [self.channels[case.channel if case else 0]]
        ]
        return await csp.select(*cases, default=operation.default, priority=operation.priority)

    async def do_later(self, do: Do) -> None:
        self.do(do)

    def do(self, do: Do) -> None:
        """Do an operation that never waits."""
        result = None
        channel, selector = self.channels[do.channel], self.selectors[do.selector]
        try:
            match do.name:
                case "send_nowait":
                    do = do._replace(argument=next(self.values))
                    channel.send_nowait(do.argument)
                    result = SelectResult(channel, do.argument, True, False, 0, True)
                case "receive_nowait":
                    result = SelectResult(channel, *channel.receive_nowait(), default=False, index=0, sent=False)
                case "cancel":
                    do = do._replace(argument=[-1, *self.scopes][-1 - do.argument % (len(self.scopes) + 1)])
                    self.scopes.get(do.argument, trio.CancelScope()).cancel()
                case "close":
                    do = do._replace(argument=ValueError("cause") if do.argument else None)
                    channel.close(do.argument)
                case "add":
                    selector.add(channel.case_receive())
                case "remove":
                    selector.remove(channel.case_receive())
                case _:
                    if do.name == "close_selector":
                        selector.close()
                    self.selectors[do.selector] = csp.Selector()
        except (trio.WouldBlock, csp.ChannelClosedError, KeyError) as error:
            self.events.append(Event(do, ending=Failure(type(error), error.__cause__)))
        else:
            self.events.append(Event(do, ending=result and self.note(do, result)))

    def note(self, operation: Operation, result: SelectResult[object]) -> Ending:
        """Enter a result into the ledger; return it with the channel's number in the channel's place."""
        if result.default:
            return result
        sent = isinstance(operation, Do) and operation.name == "send_nowait"
        if isinstance(operation, Start) and (case := operation.cases[result.index]):
            sent = case.sends
        if result.ok:
            (self.sent if sent else self.received).append(result.value)
        return result._replace(channel=[channel is result.channel for channel in self.channels].index(True))

    async def finish(self) -> None:
        """Cancel every task, in one tick; then nobody waits, and every value is accounted for."""
        counts["cancelled while parked"] -= len(self.scopes)  # these do not count
        await self.step(Step([Do("cancel", argument=which) for which in range(len(self.scopes))]))
        statistics = [channel.statistics() for channel in self.channels]
        assert all(one.tasks_waiting_send == one.tasks_waiting_receive == 0 for one in statistics)
        buffered = [channel.receive_nowait().value for channel in self.channels for _ in range(len(channel))]
        assert buffered == [value for channel in self.model.channels for value in channel.buffer]
        assert len(self.received) == len(set(self.received)), "a value was received twice"
        missing = Counter(self.sent) - Counter(self.received) - Counter(buffered)
        assert missing.total() == sum(one.dropped for one in statistics), f"lost: {missing}"
        assert Counter(self.received) + Counter(buffered) <= Counter(self.sent), "a value came from nowhere"


async def drive(program: Program) -> None:
    async with trio.open_nursery() as nursery:
        # The tasks inherit this task's count of completed operations; else each would begin at 0.
        await csp.select(default=True)
        driver = Driver(program.channels, nursery)
        for step in program.steps:
            await driver.step(step)
        await driver.finish()


@settings(
    max_examples=int(LONG_RUN or 300),
    derandomize=not LONG_RUN,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.integers(1, 3).flatmap(programs), st.random_module())
@example(Program([Kind(math.inf)] * 2, TURNS), None)
@example(Program([Kind(0)], SHARED), None)
def check(program: Program, _seed: object) -> None:
    counts["examples"] += 1
    trio.run(drive, program, clock=MockClock())


def test_random_programs_do_what_the_model_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every second operation that completes at once visits the scheduler, where a cancellation may come too late.
    for module in (checkpoint, select, sending, source, waiters):
        monkeypatch.setattr(module, "OPERATIONS_PER_SCHEDULE_POINT", 2)
    check()
    with capsys.disabled():
        print("\nmodel test:", ", ".join(f"{number} {what}" for what, number in sorted(counts.items())))
    for what in ("parked", "cancelled while parked", "closed while parked", "handed to a selector"):
        assert counts[what] > 30, what
    assert counts["longest turn"] == VALUES_IN_A_ROW
