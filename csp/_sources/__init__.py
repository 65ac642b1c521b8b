"""What else a Trio program waits for, as sources.

From the bottom:

- `pull`: values that an async function fetches when somebody asks
- `adapters`: sources made of receive channels, async iterables, streams, events, signals
"""
