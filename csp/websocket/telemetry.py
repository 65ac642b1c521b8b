"""OpenTelemetry for `csp.websocket`: spans of connecting, accepting and reconnecting, and metrics of connections.

    from csp.websocket import telemetry

    telemetry.instrument()

It needs OpenTelemetry's API, which ``trio-csp[otel]`` installs. Nothing of it is loaded unless this module is imported.
"""

from csp._home import publish

try:
    from trio_csp_websocket.telemetry.instrument import Instrumentation, instrument
except ImportError as _error:
    raise ImportError(
        "csp.websocket.telemetry needs OpenTelemetry's API: python -m pip install 'trio-csp[otel]'", name=_error.name
    ) from _error

__all__ = ["Instrumentation", "instrument"]

publish(__name__, [globals()[name] for name in __all__])
