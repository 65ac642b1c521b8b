"""Bytes to and from a peer.

From the bottom:

- `base`: what a transport does
- `logged`: any transport, with a log of the frames that go over it
- `socket`: a TCP socket
- `stream`: any Trio stream
- `tls_reasons`: what went wrong in TLS, in words
- `tls`: either side of TLS, over another transport
"""
