"""The parts of an open connection.

From the bottom:

- `settings`: limits, timeouts and compression, checked
- `ending`: how a connection ended
- `pings`: pings that are not answered yet
- `delivery`: from what was parsed to the channel of messages
- `writer`: the one place where frames are written
- `liveness`: how long a connection waits for its peer
"""
