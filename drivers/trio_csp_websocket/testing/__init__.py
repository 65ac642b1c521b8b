"""Servers in memory, for `csp.testing`.

From the bottom:

- `peer`: speaks the protocol, by wsproto
- `server_connection`: what a test scripts
- `memory`: where a client finds it
"""
