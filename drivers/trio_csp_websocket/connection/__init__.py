"""Open connections, for either role.

From the bottom:

- `settings`: limits, timeouts and compression, checked
- `state`: the states of a connection, and the moves between them
- `ending`: how a connection ended
- `pings`: our pings that the peer has not answered yet, and the round trips
- `backlog`: how many bytes wait in a channel, and on the way to it
- `delivery`: parsed messages go into the channel
- `outgoing`: what waits to be written
- `outbox`: of that, what a hub sends to one of its members
- `writer`: the one place where frames are written
- `liveness`: how long a connection waits for its peer
- `connection`: the data plane of one connection
- `sending`: a message in pieces is sent
- `endpoint`: what an application holds
- `hub`: one message to many connections
"""
