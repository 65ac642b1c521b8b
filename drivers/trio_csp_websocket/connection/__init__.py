"""Open connections, for either role.

From the bottom:

- `settings`: limits, timeouts and compression, checked
- `state`: the states of a connection, and the moves between them
- `ending`: how a connection ended
- `pings`: our pings that the peer has not answered yet, and the round trips
- `incoming`: the message that an application takes piece by piece
- `backlog`: how many bytes wait in a channel, and on the way to it
- `delivery`: parsed messages go into the channel
- `holding`: for how long a message above the read limit is held
- `outgoing`: what waits to be written
- `outbox`: of that, what a hub sends to one of its members
- `writer`: the one place where frames are written
- `timers`: calls functions at their times
- `liveness`: how long a connection waits for its peer
- `connection`: the data plane of one connection
- `message_stream`: what an application holds of a message that it takes piece by piece
- `sending`: a message in pieces is sent
- `statistics`: counts of a connection
- `report`: tells how a connection has ended
- `endpoint`: what an application holds
"""
