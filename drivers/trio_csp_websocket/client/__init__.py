"""The client.

From the bottom:

- `options`: the options of `connect`, checked
- `dial`: name resolution, TCP and TLS
- `opening`: the opening handshake on the wire
- `connection`: the data plane beneath trio-websocket
- `client`: what an application holds while a connection is open, and after
- `connect`: dial, shake hands, and keep it all inside one block
- `states`: what a connection that comes back tells besides messages
- `backoff`: how long to wait before the next attempt
- `reconnecting`: one channel of messages over many connections
"""
