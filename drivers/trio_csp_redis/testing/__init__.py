"""A server for tests, for `csp.testing`. It needs no Redis library.

From the bottom:

- `server`: starts a real server on loopback, kills it, and starts it again
"""
