"""The client.

From the bottom:

- `options`: the options of `connect`, checked
- `dial`: name resolution, TCP and TLS
- `opening`: the opening handshake on the wire
- `handshakes`: the stream that trio-websocket is given: both handshakes pass through it
- `client`: an endpoint that connected
- `connect`: dial, shake hands, and keep it all inside one block
- `states`: what a connection that comes back tells besides messages
- `backoff`: how long to wait before the next attempt
- `reconnecting`: one channel of messages over many connections
"""
