"""Sources made of sources.

Two patterns. Where a value has to be taken only when one is asked for, as in `merge` and `batch`, the combinator is a
`csp.PullSource`. Where values have to be taken as they come (`throttle`, `debounce`), several at once (`pipeline`) or
for several receivers (`broadcast`), it is a `Block` with tasks, and gives channels.

A block that fails or is cancelled before its source has ended closes what it gives with a cause that says so: to those
who receive outside of it, that must not look like the end of the values. A block that is left closes it quietly.

From the bottom:

- `merge`: the values of several sources, in the order they come
- `batch`: values gathered into lists
- `block`: a block around tasks, which tells those who receive how it ended
- `latest`: what `throttle` and `debounce` share
- `throttle`: at most one value in each period
- `debounce`: a value once no other has come for a while
- `pipeline`: workers between a source and a channel
- `broadcast`: one source to many channels
"""
