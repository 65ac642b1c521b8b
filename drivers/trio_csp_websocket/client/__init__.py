"""The client.

From the bottom:

- `options`: the options of `connect`, checked
- `redirects`: the way that redirects lead
- `opening`: the opening handshake on the wire
- `handshakes`: the stream that trio-websocket is given; both handshakes pass through it
- `client`: an endpoint that connected
- `connect`: dial, shake hands, and keep the connection inside a block
- `user_functions`: the functions that a user gives to a feed, checked and called
- `destination`: where the connections of a feed go
- `backoff`: whether and when to connect again
- `feed_counts`: what a feed has done so far
- `line`: passes on the messages of one connection after another
- `keeper`: one connection after another
- `feed`: what an application holds of many connections, one after another
- `reconnecting`: makes a feed
"""
