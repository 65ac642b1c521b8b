"""One open connection, for either role.

From the bottom:

- `settings`: limits, timeouts and compression, checked
- `state`: the states of a connection, and the moves between them
- `ending`: how a connection ended
- `pings`: our pings that the peer has not answered yet, and the round trips
- `backlog`: how many bytes wait in a channel, and on the way to it
- `delivery`: parsed messages go into the channel
- `writer`: the one place where frames are written
- `liveness`: how long a connection waits for its peer
- `connection`: the data plane of one connection
- `statistics`: counts of a connection
- `report`: tells how a connection has ended
- `endpoint`: what an application holds
"""
