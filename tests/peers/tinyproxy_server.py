"""tinyproxy, which is asked by CONNECT: see `_servers.py` for how it starts and ends. It refuses ``forbidden.test``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.peers._listening import free_port, run_at

CONFIGURATION = """
Port {port}
Listen 127.0.0.1
User nobody
Group nogroup
LogLevel Critical
Allow 127.0.0.1
Filter "{folder}/filter"
{login}
"""


def run(tinyproxy: str, login: str) -> None:
    """Run it.

    Args:
        login: ``login`` if it wants one, which is ``user`` and ``pass``.
    """
    version = subprocess.run([tinyproxy, "-v"], check=True, capture_output=True, text=True).stdout.strip()
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        Path(folder, "filter").write_text("^forbidden[.]test$\n", encoding="utf-8")
        path = Path(folder, "tinyproxy.conf")
        basic = "BasicAuth user pass" if login == "login" else ""
        path.write_text(CONFIGURATION.format(folder=folder, login=basic, port=port), encoding="utf-8")
        run_at(port, [tinyproxy, "-d", "-c", path], version)


if __name__ == "__main__":
    run(*sys.argv[1:])
