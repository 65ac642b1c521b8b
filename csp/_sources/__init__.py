"""What else a Trio program waits for, as sources.

Each is a `csp.PullSource`, and so a block: a task of the block waits when somebody asks, one value at most is held, and
none is dropped.

From the bottom:

- `pull`: values that an async function fetches when somebody asks
- `receive_channel`: what a Trio channel gives
- `async_iterable`: what an async iterable gives
- `stream`: the bytes that a Trio stream receives
- `event`: that a Trio event is set
- `signals`: the Unix signals that arrive
"""
