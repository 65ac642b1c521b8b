"""One open connection, for either role.

From the bottom:

- `settings`: limits, timeouts and compression, checked
- `ending`: how a connection ended
- `pings`: pings that are not answered yet
- `delivery`: parsed messages go into the channel
- `writer`: the one place where frames are written
- `liveness`: how long a connection waits for its peer
- `connection`: the data plane of one connection, and its states
- `endpoint`: what an application holds
"""
