"""Timers, which are channels.

From the bottom:

- `duration`: Go's durations, in seconds
- `alarm`: wakes what is parked on timers
- `timers`: `after`, `tick`, `Timer`, `Ticker`, and the channels behind them
"""
