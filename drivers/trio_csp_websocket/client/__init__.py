"""The client.

From the bottom:

- `options`: the options of `connect`, checked
- `dial`: name resolution, TCP and TLS
- `opening`: the opening handshake on the wire
- `handshakes`: the stream that trio-websocket is given; both handshakes pass through it
- `client`: an endpoint that connected
- `connect`: dial, shake hands, and keep the connection inside a block
- `states`: what a feed reports besides messages
- `backoff`: whether and when to connect again
- `keeper`: one connection after another
- `reconnecting`: one channel of messages over many connections
"""
