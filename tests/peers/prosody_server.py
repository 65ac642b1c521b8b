"""prosody, with XMPP over WebSocket (RFC 7395): see `_servers.py` for how it starts and ends."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.peers._listening import free_port, run_at

CONFIGURATION = """
run_as_root = true
data_path = "{folder}"
certificates = "{folder}"
log = {{ {{ levels = {{ min = "warn" }}, to = "console" }} }}
modules_enabled = {{ "websocket", "saslauth" }}
modules_disabled = {{ "s2s", "offline" }}
c2s_ports = {{}}
https_ports = {{}}
http_ports = {{ {port} }}
http_interfaces = {{ "127.0.0.1" }}
http_default_host = "localhost"
consider_websocket_secure = true
authentication = "anonymous"
VirtualHost "localhost"
"""


def run(prosody: str) -> None:
    # It cannot be asked for its version without being started.
    told = Path("/usr/lib/prosody/prosody.version")
    version = f"prosody {told.read_text(encoding='utf-8').strip()}" if told.exists() else "prosody"
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        path = Path(folder, "prosody.cfg.lua")
        path.write_text(CONFIGURATION.format(folder=folder, port=port), encoding="utf-8")
        # In the foreground; it advises on its console which libraries it would like.
        run_at(port, [prosody, "--config", str(path), "-F"], version)


if __name__ == "__main__":
    run(*sys.argv[1:])
