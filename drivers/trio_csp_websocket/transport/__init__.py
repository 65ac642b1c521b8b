"""Bytes to and from a peer.

From the bottom:

- `base`: what a transport does
- `socket`: a TCP socket
- `stream`: any Trio stream
- `tls`: a client's side of TLS, over another transport
"""
