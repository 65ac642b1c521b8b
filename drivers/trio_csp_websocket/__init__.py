"""The WebSocket driver of trio-csp. Import it as `csp.websocket`.

From the bottom:

- no I/O: ``_constants``, ``_frames``, ``_negotiation``, ``_deflate``, ``_decoder``, ``_encoder``, ``_url``,
  ``_options``, ``_handshake``, ``_ending``, ``_pieces``, ``_backoff``, ``_states``
- the byte stream: ``_transport``, ``_tls`` over another one, and ``_dial``, which opens one
- the parts of a connection: ``_opening``, ``_delivery``, ``_pings``, ``_writer``, ``_patience``
- ``_connection``, the data plane beneath trio-websocket
- ``_client`` and ``_connect``, what an application sees; ``_reconnecting``, many of them one after the other
- ``_testing``, servers in memory, and ``_command_line``, a client for the shell
"""
