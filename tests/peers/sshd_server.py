"""OpenSSH's server: see `_servers.py` for how it starts and ends. It lets in who has one key, and forwards TCP."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.peers._listening import free_port, run_at

CONFIGURATION = """
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowTcpForwarding yes
"""


def as_root() -> bool:
    return sys.platform != "win32" and os.geteuid() == 0


def user() -> str:
    """Return as whom it runs, which is who can log in: not as root, for which the system would have to be prepared."""
    return "daemon" if as_root() else getpass.getuser()


def run(sshd: str, public_key: str) -> None:
    """Run it.

    Args:
        public_key: of who is let in, as a line of a file of authorized keys.
    """
    # It runs itself once more for each connection, and wants its whole path for that.
    sshd = shutil.which(sshd) or sshd
    version = subprocess.run([sshd, "-V"], check=False, capture_output=True, text=True).stderr.splitlines()[0]
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        host_key = Path(folder, "host_key")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", host_key], check=True)
        shutil.chown(host_key, user())
        Path(folder, "authorized_keys").write_text(f"{public_key}\n", encoding="utf-8")
        path = Path(folder, "sshd_config")
        path.write_text(CONFIGURATION.format(folder=folder, port=port), encoding="utf-8")
        run_at(port, [sshd, "-D", "-f", path], version, user=user() if as_root() else None)


if __name__ == "__main__":
    run(*sys.argv[1:])
