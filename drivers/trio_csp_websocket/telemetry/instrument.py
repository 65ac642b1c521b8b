"""Begins and ends telemetry: `instrument`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, final

from opentelemetry import metrics, trace

import csp
from csp.errors import NoContextError
from trio_csp_websocket.events import add_observer, remove_observer
from trio_csp_websocket.telemetry.metrics import Metrics
from trio_csp_websocket.telemetry.spans import Spans

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from trio_csp_websocket.events import Event

_NAME = "csp.websocket"

_current: Instrumentation | None = None
# A provider makes an instrument of a name only once, and keeps asking it. So these are kept, and stop and start again.
_metrics: dict[MeterProvider, Metrics] = {}


def instrument(
    *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
) -> Instrumentation:
    """Have all clients, feeds and servers of this process give OpenTelemetry spans and metrics, from now on.

    Connections that are open already are not seen. Spans and metrics have no query of a URL, no header, no credentials
    and no data of messages. What a provider raises is logged by ``csp.websocket.telemetry``, and changes nothing for a
    connection.

    Args:
        tracer_provider: makes the spans. The global one of OpenTelemetry.
        meter_provider: makes the metrics. The global one of OpenTelemetry.

    Raises:
        NoContextError: it was called before, and that was not undone.
    """
    global _current  # noqa: PLW0603  # there is one for all connections
    if _current is not None:
        raise NoContextError("this process is instrumented already: call uninstrument() of what instrument returned")
    spans = Spans(trace.get_tracer(_NAME, csp.__version__, tracer_provider))
    _current = Instrumentation(spans, _metrics_of(meter_provider or metrics.get_meter_provider()))
    return _current


def _metrics_of(provider: MeterProvider) -> Metrics:
    found = _metrics.get(provider)
    if found is None:
        found = _metrics[provider] = Metrics(metrics.get_meter(_NAME, csp.__version__, provider))
    return found


@final
class Instrumentation:
    """What `instrument` returns. As a block, ``with instrument():``, it is undone at the end."""

    def __init__(self, spans: Spans, measured: Metrics) -> None:
        measured.start()
        self._observer = _Observer(spans, measured)
        add_observer(self._observer)

    def uninstrument(self) -> None:
        """Give no more spans and metrics; spans that are open end now. Calling it again does nothing."""
        global _current  # noqa: PLW0603  # as above
        if _current is self:
            _current = None
            remove_observer(self._observer)
            self._observer.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.uninstrument()


class _Observer:
    """Passes events on to both. One that fails does not keep them from the other."""

    def __init__(self, spans: Spans, measured: Metrics) -> None:
        self._spans = spans
        self._metrics = measured

    def told(self, event: Event) -> None:
        try:
            self._spans.told(event)
        finally:
            self._metrics.told(event)

    def enter(self, about: object) -> object:
        return self._spans.enter(about)

    def leave(self, token: object) -> None:
        self._spans.leave(token)

    def stop(self) -> None:
        try:
            self._metrics.stop()
        finally:
            self._spans.end_all()
