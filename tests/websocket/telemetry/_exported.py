"""What is exported in memory."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from csp.websocket import telemetry

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from opentelemetry.sdk.trace import ReadableSpan


class Exported(NamedTuple):
    """A tracer and a meter, and what has come of them."""

    tracers: TracerProvider
    meters: MeterProvider
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader

    def spans(self, name: str = "") -> list[ReadableSpan]:
        """Return the spans that have ended, in that order."""
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith(f"websocket {name}")]

    def points(self, name: str) -> list[Any]:
        """Collect, and return the points of a metric."""
        data = self.reader.get_metrics_data()
        if data is None:
            return []
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def values(self, name: str) -> dict[tuple[object, ...], float]:
        """Collect, and return the values of a metric by role and direction."""
        return {
            tuple(point.attributes[key] for key in sorted(point.attributes, reverse=True)): point.value
            for point in self.points(name)
        }


def new() -> Exported:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    return Exported(tracers, MeterProvider([reader], shutdown_on_exit=False), exporter, reader)


@contextmanager
def instrumented() -> Generator[Exported]:
    exported = new()
    with telemetry.instrument(tracer_provider=exported.tracers, meter_provider=exported.meters):
        yield exported


def attributes(span: ReadableSpan) -> Mapping[str, object]:
    assert span.attributes is not None
    return dict(span.attributes)
