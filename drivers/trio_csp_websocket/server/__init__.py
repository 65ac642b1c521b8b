"""The server's side.

From the bottom:

- `place`: the options that say where to listen, checked
- `inherited`: listening sockets that systemd hands over
- `unix_binding`: a listening Unix socket at a path
- `binding`: listening at a place
"""
