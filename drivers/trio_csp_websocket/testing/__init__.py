"""Servers in memory, for `csp.testing`.

From the bottom:

- `peer`: speaks the protocol, with wsproto
- `failures`: which exception comes out of a block
- `server_connection`: the server's end, which a test scripts
- `memory`: connects a client to a server in memory
"""
