"""HAProxy as a proxy of a server on another port: see `_servers.py` for how it starts and ends."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path


def run(haproxy: str, tunnel: str, behind: str) -> None:
    """Run it.

    Args:
        tunnel: the silence after which it cuts a WebSocket connection off.
    """
    version = subprocess.run([haproxy, "-v"], check=True, capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        path = Path(folder, "haproxy.cfg")
        template = Path(__file__).with_name("haproxy.cfg").read_text(encoding="utf-8")
        path.write_text(template.format(tunnel=tunnel, listener=listener.fileno(), behind=behind), encoding="utf-8")
        process = subprocess.Popen([haproxy, "-q", "-db", "-f", str(path)], pass_fds=[listener.fileno()])
        print(json.dumps([listener.getsockname()[1], " ".join(version.split()[:3])]), flush=True)
        sys.stdin.read()
        process.kill()
        process.wait()


if __name__ == "__main__":
    run(*sys.argv[1:])
