"""One connection that reads many streams.

- `appetite`: how many entries to ask for, so that they take a bounded number of bytes
- `reading`: what one subscription has read of a stream, and has room for
- `reader`: the connection that reads for all subscriptions of a bus
- `entries`: the block and source that all subscriptions are
"""
