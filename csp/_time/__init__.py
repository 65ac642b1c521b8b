"""Timers, which are channels.

From the bottom:

- `duration`: Go's durations, in seconds
- `alarm`: wakes what is parked on timers
- `timer_channels`: the channels behind timers
- `never`: a channel that never gives anything
- `timers`: `after`, `tick`, `Timer`, `Ticker`
"""
