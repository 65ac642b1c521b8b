"""What else a Trio program waits for, as sources.

Each whose name begins with `from_` is a `csp.PullSource`, and so a block: a task of the block fetches a value when one
is asked for, holds one at most, and drops none.

From the bottom:

- `pull`: values that an async function fetches when one is asked for
- `receive_channel`: what a Trio channel gives
- `async_iterable`: what an async iterable gives
- `stream`: the bytes that a Trio stream receives
- `event`: a source that ends when a Trio event is set
- `signals`: the Unix signals that arrive
- `latest`: a value that changes, to read and to wait for
"""
