"""The WebSocket driver of trio-csp. Import its public names from `csp.websocket` or `csp.testing`.

The rooms, from the bottom; each lists its files:

- `protocol`: frames, handshakes, compression; no I/O
- `events`: what happens, told to logs and to observers
- `transport`: bytes to and from a peer
- `connection`: one open connection, for either role
- `network`: the ways through a network to a server
- `client`: `connect`, `Client`, `reconnecting`
- `server`: `listen`, `serve`, `ServerConnection`, `Hub`
- `testing`: servers in memory
- `telemetry`: spans and metrics of OpenTelemetry; not loaded unless it is asked for
- `command_line`: a client and a server for the shell
"""
