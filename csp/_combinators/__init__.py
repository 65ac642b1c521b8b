"""Sources made of sources.

Those that take a value only when one is asked for are a `csp.PullSource`: `merge` and `batch`. Those that must take
values as they come, because of their time, of their number or for several receivers, are blocks with tasks of their
own, in a `csp.BackgroundNursery`, and give channels.

From the bottom:

- `merge`: the values of several sources, in the order they come
- `batch`: values gathered into lists
- `latest`: what `throttle` and `debounce` share
- `throttle`: at most one value in each period
- `debounce`: a value once no other has come for a while
- `pipeline`: workers between a source and a channel
- `broadcast`: one source to many channels
"""
