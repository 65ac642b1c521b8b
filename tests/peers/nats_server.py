"""nats-server, with NATS over WebSocket: see `_servers.py` for how it starts and ends."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

CONFIGURATION = """
host: "127.0.0.1"
port: -1
ping_interval: "1s"
ping_max: 1
ports_file_dir: "{folder}"
websocket {{ host: "127.0.0.1", port: -1, no_tls: true }}
"""
START_SECONDS = 20


def port_told(folder: Path, process: subprocess.Popen[bytes]) -> int:
    """Wait for the file with the ports it has chosen."""
    path = folder / f"nats-server_{process.pid}.ports"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and (text := path.read_text(encoding="utf-8")).endswith("}"):
            url: str = json.loads(text)["websocket"][0]
            port: int | None = urlsplit(url).port
            assert port is not None
            return port
        time.sleep(0.01)
    raise SystemExit("nats-server has not told its ports")


def run(nats: str) -> None:
    version = subprocess.run([nats, "--version"], check=True, capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "nats.conf"
        path.write_text(CONFIGURATION.format(folder=folder), encoding="utf-8")
        process = subprocess.Popen([nats, "-c", str(path)], stderr=subprocess.DEVNULL)
        try:
            print(json.dumps([port_told(folder, process), version.strip()]), flush=True)
            sys.stdin.read()
        finally:
            process.kill()
            process.wait()


if __name__ == "__main__":
    run(*sys.argv[1:])
