"""Dante, a proxy that speaks SOCKS 4 and 5: see `_servers.py` for how it starts and ends. It refuses port 9."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.peers._listening import free_port, run_at

CONFIGURATION = """
logoutput: /dev/null
internal: 127.0.0.1 port = {port}
external: 127.0.0.1
clientmethod: none
socksmethod: {method}
user.privileged: root
user.unprivileged: nobody
client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}
socks block {{ from: 0.0.0.0/0 to: 0.0.0.0/0 port = 9 }}
socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}
"""


def run(danted: str, login: str) -> None:
    """Run it.

    Args:
        login: ``login`` if it wants one, of a user of this system.
    """
    version = subprocess.run([danted, "-v"], check=True, capture_output=True, text=True).stdout.partition(".  ")[0]
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "danted.conf")
        method = "username" if login == "login" else "none"
        path.write_text(CONFIGURATION.format(method=method, port=port), encoding="utf-8")
        run_at(port, [danted, "-N", "1", "-p", Path(folder, "pid"), "-f", path], version)


if __name__ == "__main__":
    run(*sys.argv[1:])
