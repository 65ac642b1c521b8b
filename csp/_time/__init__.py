"""Timers, which are channels.

From the bottom:

- `duration`: Go's durations, in seconds
- `alarm`: wakes the tasks that are parked on timers
- `timer_channels`: the channels on which timers give their times
- `never`: a channel that never gives anything
- `timers`: `after`, `tick`, `Timer`, `Ticker`
"""
