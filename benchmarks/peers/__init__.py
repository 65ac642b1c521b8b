"""What csp is compared with, and what clients and servers talk to.

From the bottom:

- `asyncio_queues`: asyncio's queues, and `asyncio.wait`
- `aiochan_channels`: aiochan's channels, and its `select`
- `memory_channels`: Trio's memory channels, and anyio's
- `go_select`: Go's `reflect.Select`, measured by the program in `go/`
- `websocket_messages`: what goes over the wire
- `websocket_server`: the server, a process of its own
- `websocket_bomb`: a client that takes a bomb, a process of its own
- `websocket_picows`: picows' own interface
- `websocket_clients`: the clients
- `websocket_load`: what loads the servers that are compared
- `websocket_servers`: these servers, each a process of its own
- `redis_server`: a Redis or Valkey server, a process of its own
- `redis_sides`: what uses it: csp, and coredis
- `redis_fed`: a WebSocket server that is fed from a topic, a process of its own
- `redis_load`: what feeds these servers, and takes what they send
"""
