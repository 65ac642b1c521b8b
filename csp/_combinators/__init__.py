"""Sources made of sources.

From the bottom:

- `combinators`: several sources merged into one; values gathered into lists
- `rates`: fewer values than come
- `pipeline`: workers between a source and a channel
- `broadcast`: one source to many channels
"""
