"""The WebSocket driver of trio-csp. Import it as `csp.websocket`.

The rooms, from the bottom; each lists its files:

- `protocol`: no I/O, no role
- `transport`: bytes to and from a peer
- `connection`: an open connection
- `client`: `connect`, `Client`, `reconnecting`
- `testing`: servers in memory
- `command_line`: a client for the shell
"""
