"""prosody, with XMPP over WebSocket (RFC 7395): see `_servers.py` for how it starts and ends."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
START_SECONDS = 20


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_until_it_listens(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return
    raise SystemExit("prosody does not listen")


def run(prosody: str) -> None:
    # It cannot be asked for its version without being started.
    told = Path("/usr/lib/prosody/prosody.version")
    version = f"prosody {told.read_text(encoding='utf-8').strip()}" if told.exists() else "prosody"
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        path = Path(folder, "prosody.cfg.lua")
        path.write_text(CONFIGURATION.format(folder=folder, port=port), encoding="utf-8")
        # In the foreground; it advises on its console which libraries it would like.
        process = subprocess.Popen(
            [prosody, "--config", str(path), "-F"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until_it_listens(port, process)
            print(json.dumps([port, version]), flush=True)
            sys.stdin.read()
        finally:
            process.kill()
            process.wait()


if __name__ == "__main__":
    run(*sys.argv[1:])
