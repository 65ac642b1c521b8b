"""websocat, one process a connection, as inetd would run it: see `_servers.py` for how it starts and ends.

It does one thing whatever the path, so each connection's request is looked at before websocat reads it. It tells nobody
how its client closed, so that ``/told`` is as ``/echo``.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Sequence

# Of what the mirror gets, so that text stays text.
MIRROR = ("--text-prefix=t", "--binary-prefix=b", "--buffer-size=4000000", "inetd-ws:", "mirror:")


def arguments_for(request: str) -> Sequence[str]:
    path = unquote(request.split()[1].partition("?")[0])
    _, action, *arguments = path.split("/")
    if action == "close":
        return (f"--close-status-code={arguments[0]}", f"--close-reason={arguments[1]}", "inetd-ws:", "literal:")
    if action == "refuse":
        return ("--restrict-uri=/echo", *MIRROR)
    if "sec-websocket-protocol: " in request.lower():
        return ("--server-protocol=second", *MIRROR)
    return MIRROR


def serve(program: str, listener: socket.socket, started: list[subprocess.Popen[bytes]]) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            # The client sends its request in one piece.
            request = connection.recv(1 << 16, socket.MSG_PEEK).decode()
            command = [program, "-q", "--exit-on-eof", *arguments_for(request)]
            end = connection.fileno()
            started.append(subprocess.Popen(command, stdin=end, stdout=end, stderr=subprocess.DEVNULL))


if __name__ == "__main__":
    websocat = sys.argv[1]
    version = subprocess.run([websocat, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    listener = socket.create_server(("127.0.0.1", 0))
    started: list[subprocess.Popen[bytes]] = []
    threading.Thread(target=serve, args=(websocat, listener, started), daemon=True).start()
    print(json.dumps([listener.getsockname()[1], version]), flush=True)
    sys.stdin.read()
    for process in started:
        process.kill()
        process.wait()
