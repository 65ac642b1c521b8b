"""Connections to one server, which come back.

- `exceptions`: what comes out of nurseries
- `blocks`: what sources say whose block ends
- `visiting`: operations that fail at once
- `settings`: what can be set for a bus, checked
- `counts`: what a bus has done
- `backoff`: how long to wait before the next attempt
- `permission`: what the policies say
- `guard`: what a server can make the client keep
- `link`: one open connection
- `line`: one connection after another
- `commands`: the connection for commands, and the end of a bus
"""
