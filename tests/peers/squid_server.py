"""squid, a proxy that is asked by CONNECT: see `_servers.py` for how it starts and ends.

It finds ``server.test`` on loopback, and no other name. It refuses port 9.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.peers._listening import free_port, run_at

CONFIGURATION = """
{listen}
cache_effective_user nobody
pid_filename none
cache_log /dev/null
access_log none
cache deny all
mime_table {share}/squid/mime.conf
error_directory {share}/squid-langpack/en
icon_directory {share}/squid/icons
unlinkd_program {programs}/unlinkd
pinger_enable off
coredump_dir none
hosts_file {folder}/hosts
dns_nameservers 127.0.0.1
auth_param basic program {programs}/basic_ncsa_auth {folder}/passwords
auth_param basic realm tests
acl known proxy_auth REQUIRED
acl discard port 9
http_access deny discard
{rule}
http_access allow all
"""


def unpacked(path: str) -> Path:
    """Return where a folder of Debian's package is."""
    root = os.environ.get("PEERS_DEBIAN")
    return Path(root, path) if root is not None and Path(root, path).exists() else Path("/", path)


def run(squid: str, login: str, certificate: str | None = None) -> None:
    """Run it.

    Args:
        login: ``login`` if it wants one, which is ``user`` and ``pass``.
        certificate: a file with the key and the certificate of a proxy that is reached by TLS.
    """
    version = subprocess.run([squid, "-v"], check=True, capture_output=True, text=True).stdout.splitlines()[0]
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        # It reads all of this as nobody.
        Path(folder).chmod(0o755)
        Path(folder, "hosts").write_text("127.0.0.1 server.test\n", encoding="utf-8")
        Path(folder, "passwords").write_text(f"user:{hashlib.md5(b'pass').hexdigest()}\n", encoding="utf-8")
        listen = f"http_port 127.0.0.1:{port}"
        if certificate is not None:
            listen = f"https_port 127.0.0.1:{port} tls-cert={certificate} tls-key={certificate}"
        path = Path(folder, "squid.conf")
        path.write_text(
            CONFIGURATION.format(
                folder=folder,
                listen=listen,
                programs=unpacked("usr/lib/squid"),
                rule="http_access deny !known" if login == "login" else "",
                share=unpacked("usr/share"),
            ),
            encoding="utf-8",
        )
        run_at(port, [squid, "-N", "-f", path], version)


if __name__ == "__main__":
    run(*sys.argv[1:])
