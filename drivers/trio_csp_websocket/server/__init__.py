"""The server's side.

From the bottom:

- `listed`: an option that is a list
- `hosts`: which hosts a request may name
- `origins`: which pages of browsers may connect
- `forwarded`: what proxies say about the client behind them
- `proxy_protocol`: what a load balancer says ahead of all else
"""
