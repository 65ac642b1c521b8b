"""What takes some time, as spans: connecting, accepting, and an attempt of a feed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import context, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from trio_csp_websocket.telemetry.attributes import of_outcome, of_place

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import Span, Tracer

    from trio_csp_websocket.events import Event

_BEGINNINGS: Mapping[str, tuple[str, SpanKind]] = {
    "client.connecting": ("websocket connect", SpanKind.CLIENT),
    "server.arrived": ("websocket accept", SpanKind.SERVER),
    "feed.attempt": ("websocket attempt", SpanKind.INTERNAL),
}
_ENDS: Mapping[str, str] = {
    "client.connected": "connected",
    "client.failed": "failed",
    "client.abandoned": "abandoned",
    "server.accepted": "accepted",
    "server.refused": "refused",
    "server.answered": "answered",
    "server.no_request": "no_request",
    "server.gone": "gone",
    "server.left": "abandoned",
    "feed.open": "open",
    "feed.tried": "failed",
}
"""Which events end a span, and the outcome of each."""
_CANCELLED = "Cancelled"
"""The type of what ends something that nobody wants any more, which is no error."""


class Spans:
    """Begins and ends spans.

    Args:
        tracer: makes them.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        # Those that have not ended, by what they are about.
        self._open: dict[object, Span] = {}

    def told(self, event: Event) -> None:
        """Begin or end a span, or add to one."""
        span = self._open.get(event.about)
        if span is None:
            if event.name in _BEGINNINGS:
                self._begin(event)
        elif event.name in _ENDS:
            del self._open[event.about]
            try:
                _complete(span, event)
            finally:
                span.end()
        elif event.name == "client.redirected":
            span.add_event("redirected", {"websocket.url": str(event.fields["url"])})

    def _begin(self, event: Event) -> None:
        name, kind = _BEGINNINGS[event.name]
        attributes = of_place(event.fields)
        attempt = event.fields.get("attempt")
        if isinstance(attempt, int):
            attributes["websocket.attempt"] = attempt
        # The current one, unless it is done for something that has a span of its own.
        parent = self._open.get(event.subject)
        around = None if parent is None else trace.set_span_in_context(parent)
        self._open[event.about] = self._tracer.start_span(name, around, kind, attributes)

    def enter(self, about: object) -> object:
        """Make the span of something the current one; return a token for `leave`."""
        span = self._open.get(about)
        return None if span is None else context.attach(trace.set_span_in_context(span))

    def leave(self, token: object) -> None:
        """Make the span current again that was before."""
        if token is not None:
            context.detach(token)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # from `enter`

    def end_all(self) -> None:
        """End those that are open."""
        while self._open:
            _, span = self._open.popitem()
            span.end()


def _complete(span: Span, event: Event) -> None:
    """Say how it has come out."""
    outcome = of_outcome(event.fields)
    error_type = outcome.get("error.type")
    said = _ENDS[event.name]
    if event.name == "feed.tried" and error_type in (None, _CANCELLED):
        said = "abandoned"
    compressed = event.fields.get("compressed")
    if isinstance(compressed, bool):
        outcome |= {"http.response.status_code": 101, "websocket.compressed": compressed}
    span.set_attributes({**of_place(event.fields), **outcome, "websocket.outcome": said})
    if error_type not in (None, _CANCELLED):
        span.set_status(Status(StatusCode.ERROR))
