"""What is measured.

From the bottom:

- `channels`: one channel between two tasks
- `fan_in`: one task receives from many
- `timers`: a time limit on each receive
- `memory`: what a channel occupies
- `compression`: compressing and inflating messages
- `websocket_many`: many connections of which one task receives
- `websocket`: WebSocket clients against one server
- `websocket_served`: WebSocket servers under one load
- `across`: queues and topics of a Redis server
- `websocket_counted`: a connection whose operations can be counted, for the guard
- `websocket_served_counted`: a server whose operations can be counted, for the guard
- `across_counted`: queues and topics without a server, for the guard
"""
