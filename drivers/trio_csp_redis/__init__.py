"""The Redis driver of trio-csp. Import its public names from `csp.redis` or `csp.testing`.

The rooms, from the bottom; each lists its files:

- `protocol`: what goes over the wire, and what is written in Redis; no I/O
- `connection`: connections to one server, which come back
- `reading`: one connection that reads many streams
- `topic`: every subscriber gets every value
- `queue`: each value is done by one worker
- `bus`: `Bus`
- `testing`: servers for tests
"""
