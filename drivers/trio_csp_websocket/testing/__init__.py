"""Servers in memory, for `csp.testing`.

From the bottom:

- `failures`: which exception comes out of a block
- `scripted`: a connection's stream and frames, as a test wants them
- `server_connection`: the server's end, which a test scripts
- `handling`: runs a handler for one connection
- `memory`: connects a client to a server in memory
"""
