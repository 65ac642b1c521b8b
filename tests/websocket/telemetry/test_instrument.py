"""Telemetry begins when it is asked for, ends when it is told to, and breaks nothing."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

from csp import errors, testing, websocket
from csp.websocket import telemetry
from tests.websocket.telemetry._exported import instrumented, new
from trio_csp_websocket import events

if TYPE_CHECKING:
    from trio.testing import MockClock

URL = "wss://api.test/feed"


async def echo(connection: testing.ServerConnection) -> None:
    async for message in connection:
        await connection.send(message.data)


async def use_once() -> None:
    async with testing.websocket_server(echo), websocket.connect(URL) as client:
        await client.send("a")
        assert (await client.receive_value()).data == "a"


def test_twice_is_an_error_until_it_is_undone() -> None:
    with instrumented(), pytest.raises(errors.NoContextError, match="instrumented already"):
        telemetry.instrument()
    first = telemetry.instrument()
    first.uninstrument()
    with instrumented():
        first.uninstrument()  # does nothing: another one is in force
        with pytest.raises(errors.NoContextError, match="instrumented already"):
            telemetry.instrument()


async def test_the_global_providers_are_those_that_are_used_by_default(autojump_clock: MockClock) -> None:
    with telemetry.instrument():
        await use_once()


async def test_nothing_more_comes_once_it_is_undone_and_open_spans_end(autojump_clock: MockClock) -> None:
    async def wait(_connection: testing.ServerConnection) -> None:
        exported_then.extend(exported.spans())
        instrumentation.uninstrument()
        await trio.sleep(1)

    exported_then: list[object] = []
    exported = new()
    instrumentation = telemetry.instrument(tracer_provider=exported.tracers, meter_provider=exported.meters)
    async with testing.websocket_server(wait):
        with pytest.raises(errors.ConnectionFailedError):
            await websocket.connect(URL).__aenter__()
    assert exported_then == []
    assert sorted(span.name for span in exported.spans()) == ["websocket accept", "websocket connect"]
    assert exported.points("websocket.messages") == []
    assert exported.points("websocket.queue.messages") == exported.points("websocket.queue.bytes") == []
    await use_once()
    assert len(exported.spans()) == 2


async def test_it_can_be_done_again_with_the_same_providers(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    exported = new()
    for times in (1, 2):
        with telemetry.instrument(tracer_provider=exported.tracers, meter_provider=exported.meters):
            await use_once()
            assert exported.values("websocket.messages")["client", "transmit"] == times
    assert "instrument" not in caplog.text.lower()
    assert len(exported.spans("connect")) == 2


class Broken:
    """Fails at everything."""

    def __getattr__(self, name: str) -> Any:
        raise ValueError("broken")


@pytest.mark.parametrize("method", ["told", "enter", "leave"])
async def test_an_observer_that_raises_breaks_no_connection(
    method: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Observer:
        def told(self, _event: events.Event, /) -> None:
            self._did("told")

        def enter(self, _about: object, /) -> object:
            self._did("enter")
            return None

        def leave(self, _token: object, /) -> None:
            self._did("leave")

        def _did(self, what: str) -> None:
            if what == method:
                raise ValueError("broken")

    observer = Observer()
    events.add_observer(observer)
    try:
        await use_once()
        async with testing.websocket_server(echo), websocket.reconnecting(URL) as feed:
            await feed.send("b")
            assert isinstance(message := (await feed.receive()).value, websocket.Message)
            assert message.data == "b"
    finally:
        events.remove_observer(observer)
    failures = [record for record in caplog.records if record.name == "csp.websocket.telemetry"]
    assert failures
    assert all(record.levelno == logging.ERROR and record.exc_info for record in failures)


async def test_a_tracer_that_raises_breaks_no_connection_and_no_metric(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exported = new()
    with telemetry.instrument(tracer_provider=exported.tracers, meter_provider=exported.meters) as instrumentation:
        monkeypatch.setattr(instrumentation._observer._spans, "_tracer", Broken())
        await use_once()
        assert exported.values("websocket.messages")["client", "transmit"] == 1
    assert "broken" in caplog.text


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("trio_csp_websocket.telemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "csp.websocket.telemetry")
    monkeypatch.delattr(websocket, "telemetry")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"trio-csp\[otel\]"):
        import csp.websocket.telemetry  # noqa: F401  # pyright: ignore[reportUnusedImport]


def test_nothing_of_it_is_loaded_unless_it_is_asked_for() -> None:
    program = (
        "import sys, trio\n"
        "from csp import testing, websocket\n"
        "async def serve(connection): await connection.accept()\n"
        "async def main():\n"
        "    async with testing.websocket_server(serve), websocket.connect('wss://a.test/'): pass\n"
        "trio.run(main)\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


async def test_totals_go_on_although_a_connection_was_open_when_it_was_undone(autojump_clock: MockClock) -> None:
    exported = new()
    async with testing.websocket_server(echo):
        with telemetry.instrument(tracer_provider=exported.tracers, meter_provider=exported.meters) as instrumentation:
            async with websocket.connect(URL) as client:
                await client.send("a")
                instrumentation.uninstrument()
        with telemetry.instrument(tracer_provider=exported.tracers, meter_provider=exported.meters):
            assert exported.values("websocket.messages")["client", "transmit"] == 1
            assert exported.values("websocket.connections")["client",] == 0
