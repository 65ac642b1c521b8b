"""What else a Trio program waits for, as sources.

Each so far is a `csp.PullSource`, and so a block: a task of the block fetches a value when one is asked for, holds one
at most, and drops none.

From the bottom:

- `pull`: values that an async function fetches when one is asked for
- `receive_channel`: what a Trio channel gives
- `async_iterable`: what an async iterable gives
- `stream`: the bytes that a Trio stream receives
- `event`: a source that ends when a Trio event is set
- `signals`: the Unix signals that arrive
"""
