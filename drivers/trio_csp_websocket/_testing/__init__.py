"""WebSocket servers in memory. Import them from `csp.testing`.

From the bottom: ``_peer`` speaks the protocol by wsproto, ``_server_connection`` is what a test scripts, ``_memory``
brings clients to it.
"""
