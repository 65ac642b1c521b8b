"""Sources made of sources.

From the bottom:

- `merge`: the values of several sources, as they come
- `batch`: values gathered into lists
- `latest`: what `throttle` and `debounce` share
- `throttle`: at most one value in a time
- `debounce`: a value once no other has come for a time
- `pipeline`: workers between a source and a channel
- `broadcast`: one source to many channels
"""
