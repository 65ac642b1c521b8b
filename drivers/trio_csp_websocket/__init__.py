"""The WebSocket driver of trio-csp. Import it as `csp.websocket`.

From the bottom: ``_constants``; ``_frames``, ``_handshake``, ``_url``, ``_options`` and ``_ending``, which do no I/O;
``_transport``; ``_opening``, ``_writer`` and ``_pings``; ``_connection``, the data plane beneath trio-websocket;
``_client``; ``_connect``.
"""
