"""The server: connections arrive on a channel, or at a handler.

From the bottom:

- `listed`: an option that is a list
- `hosts`: which hosts a request may name
- `origins`: which pages of browsers may connect
- `forwarded`: what proxies say about the client behind them
- `proxy_protocol`: what a load balancer says ahead of all else
- `page`: what is answered to requests that want no WebSocket
- `options`: the options of a server's connections, checked
- `place`: the options that say where to listen, checked
- `inherited`: listening sockets that systemd hands over
- `unix_binding`: a listening Unix socket at a path
- `binding`: listening at a place
- `register`: who is here, and the counts
- `opening`: a request that waits for its answer
- `server_connection`: what an application holds of a connection
- `hub`: one message to many connections
- `visit`: a stream until its request is answered
- `reading`: reads requests
- `reception`: takes in streams, and has their requests answered
- `accepting`: accepts what connects
- `closing`: ends all connections
- `server`: what an application holds of a server
- `listen`: `listen`
- `serve`: `serve`
"""
