"""Timers, which are channels.

From the bottom:

- `duration`: Go's durations, in seconds
- `alarm`: wakes the tasks that are parked on timers
- `timer_channels`: the channels that timers give their times on
- `never`: a channel that never gives anything
- `timers`: `after`, `tick`, `Timer`, `Ticker`
"""
