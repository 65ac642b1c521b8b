"""mosquitto, with MQTT over WebSocket: see `_servers.py` for how it starts and ends."""

from __future__ import annotations

import getpass
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.peers._listening import free_port, run_at

# Version 2.0 does not start with WebSocket listeners alone, so it has a Unix socket too.
CONFIGURATION = """
user {user}
allow_anonymous true
listener 0 {folder}/socket
listener {port} 127.0.0.1
socket_domain ipv4
protocol websockets
"""


def run(mosquitto: str) -> None:
    # Asked for help it tells its version, and ends with a status that is not 0.
    told = subprocess.run([mosquitto, "-h"], check=False, capture_output=True, text=True).stdout
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mosquitto.conf")
        path.write_text(CONFIGURATION.format(folder=folder, port=port, user=getpass.getuser()), encoding="utf-8")
        run_at(port, [mosquitto, "-c", path], told.splitlines()[0])


if __name__ == "__main__":
    run(*sys.argv[1:])
