"""The client.

From the bottom:

- `proxy`: what the URL of a proxy says
- `options`: the options of `connect`, checked
- `verifying`: the TLS context that verifies servers, if a user gives none
- `progress`: how far the opening of a connection has come
- `failures`: what becomes of the system's errors
- `environment`: which proxy the environment names
- `addresses`: name resolution, and the policies about addresses
- `tcp`: a TCP connection to one of several addresses
- `securing`: the TLS handshake with a server or a proxy
- `http_proxy`: asking an HTTP proxy for a connection
- `socks_proxy`: asking a SOCKS proxy for one
- `tunnel`: a connection through a proxy
- `dial`: reaching a server, in one of the ways that the options name
- `redirects`: the way that redirects lead
- `opening`: the opening handshake on the wire
- `handshakes`: the stream that trio-websocket is given; both handshakes pass through it
- `client`: an endpoint that connected
- `connect`: dial, shake hands, and keep the connection inside a block
- `backoff`: whether and when to connect again
- `keeper`: one connection after another
- `feed`: what an application holds of many connections, one after another
- `reconnecting`: makes a feed
"""
