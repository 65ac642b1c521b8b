"""The ways through a network to a server.

From the bottom:

- `unix_path`: the path of a Unix socket, checked
- `proxy`: what the URL of a proxy says
- `route`: the options that say which way it is, checked
- `progress`: how far the opening of a connection has come
- `failures`: what becomes of the system's errors
- `no_proxy`: which targets the environment takes out
- `environment`: which proxy the environment names
- `addresses`: name resolution, and the policies about addresses
- `tcp`: a TCP connection to one of several addresses
- `verifying`: TLS contexts that verify a server, if a user gives none
- `securing`: the TLS handshake with a server or a proxy
- `http_proxy`: asking an HTTP proxy for a connection
- `socks_proxy`: asking a SOCKS proxy for one
- `tunnel`: a connection through a proxy
- `dial`: reaching a server, in the way that the options name
"""
