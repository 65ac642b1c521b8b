"""nginx as a proxy of a server on another port: see `_servers.py` for how it starts and ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path


def configuration(folder: str, port: int, behind: str, certificate: str | None) -> str:
    tls = "" if certificate is None else f" ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate}"
    template = Path(__file__).with_name("nginx.conf").read_text(encoding="utf-8")
    return template.format(folder=folder, port=port, behind=behind, tls=tls)


def run(nginx: str, behind: str, certificate: str | None = None) -> None:
    version = subprocess.run([nginx, "-v"], check=True, capture_output=True, text=True).stderr
    # nginx takes a socket that listens already from its environment, as it does when it replaces itself.
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        path = Path(folder, "nginx.conf")
        path.write_text(configuration(folder, port, behind, certificate), encoding="utf-8")
        process = subprocess.Popen(
            [nginx, "-p", folder, "-c", str(path), "-e", "stderr"],
            env={**os.environ, "NGINX": f"{listener.fileno()};"},
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
        print(json.dumps([port, version.strip().rpartition(": ")[2]]), flush=True)
        sys.stdin.read()
        # It and its worker.
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    run(*sys.argv[1:])
