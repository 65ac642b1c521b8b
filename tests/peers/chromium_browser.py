"""Chromium without a window: prints its DevTools port and version, and then the path of the DevTools' WebSocket.

Its profile is a new folder, and it connects to nothing but loopback: no other name or address leads anywhere.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

START_SECONDS = 30
FLAGS = [
    "--headless=new",
    # What a container and root need.
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    # What it would ask its maker for. And a page that is left is not kept for the way back, with its connections.
    "--no-first-run",
    "--no-default-browser-check",
    "--no-pings",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-client-side-phishing-detection",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-sync",
    "--metrics-recording-only",
    "--disable-features=OptimizationHints,MediaRouter,DialMediaRouteProvider,Translate,BackForwardCache",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
    # Tabs that nobody looks at are not slowed down.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    # The tests' own certificates.
    "--ignore-certificate-errors",
    "--remote-debugging-port=0",
]


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="chromium-"))
    process = subprocess.Popen(
        [sys.argv[1], *FLAGS, f"--user-data-dir={folder}", "about:blank"],
        env={**os.environ, "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port, path = wait_for(folder / "DevToolsActivePort", process)
        asked = subprocess.run([sys.argv[1], "--version"], check=True, capture_output=True, text=True)
        print(json.dumps([int(port), asked.stdout.strip()]), json.dumps(path), sep="\n", flush=True)
        sys.stdin.read()
    finally:
        # It and the processes it has started.
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        remove(folder)


def wait_for(file: Path, process: subprocess.Popen[bytes]) -> list[str]:
    """Wait until the browser has written where it listens: a line with the port, and one with the path."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if file.exists() and len(lines := file.read_text(encoding="ascii").splitlines()) == 2:
            return lines
        time.sleep(0.02)
    raise SystemExit(f"{process.args!r} does not start")


def remove(folder: Path) -> None:
    """Remove the profile; a process that has just been killed may still be writing a file of it."""
    for _ in range(100):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.02)


if __name__ == "__main__":
    main()
