"""Work queues: each value is done by one worker.

- `scripts`: what the server does in one step
- `clock`: the clock that leases are counted on
- `hold`: a value that a worker has, and its lease
- `settling`: acks and returns on their way to the server
- `delivery`: `Delivery`, a value to be done
- `worker`: fetches values, keeps their leases, finds those of others that have run out
- `deliveries`: `Deliveries`, the block and source of a worker
- `sender`: values on their way into a queue
- `outlet`: a local channel that is pumped into a queue
- `dead_letters`: values that were given up
- `backlog`: what waits in a queue
- `queue`: `Queue`
"""
