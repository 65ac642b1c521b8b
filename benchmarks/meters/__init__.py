"""What measures.

From the bottom:

- `apart`: a side in a process of its own
- `measure`: workloads, and their rounds
- `counters`: steps, passes, allocations, instructions and system calls, counted for the guard
- `report`: the environment, the table and the JSON
- `figures`: what was written as JSON, read back
- `rig`: what the WebSocket benchmarks run on; it starts the server, `peers/websocket_server.py`
- `served`: a server in a process of its own, and what measures it
- `across`: a Redis server, and processes that are measured with it
- `instructions`: instructions instead of time, counted in child processes
"""
