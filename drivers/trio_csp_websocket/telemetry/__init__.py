"""Spans and metrics of OpenTelemetry, by its API alone. Nothing else here imports it.

From the bottom:

- `attributes`: what spans and metrics say of an event
- `spans`: what takes some time, as spans
- `metrics`: counts and durations
- `instrument`: begins and ends all of that
"""
