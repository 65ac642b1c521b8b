"""nginx or HAProxy in front of this project's own server: see `_servers.py` for how it starts and ends.

What it is told is a JSON object, with what is not the default:

- ``port`` or ``path``: where the server listens
- ``certificate``: the file with which TLS ends here
- ``proxy_protocol``: the version that is spoken to the server; then nothing else is said about the client
- ``forwarded``: whether the client is told by Forwarded instead of X-Forwarded-*; nginx only
- ``silence_seconds``: after how long without a byte from the server a connection is cut off; 60 by default
- ``secure``: whether the server speaks TLS; nginx leaves it to client and server, HAProxy speaks TLS of its own to it
- ``check``: the version of HTTP in which the server's health is asked for at ``/health``; HAProxy only
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

HAPROXY = """
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
    timeout tunnel {silence}s

frontend loopback
    bind fd@{listener}{tls}
    {said}
    default_backend behind

backend behind
    {check}
    server behind {server}{options}
"""
HAPROXY_SAYS = """option forwardfor
    http-request set-header X-Forwarded-Proto https if { ssl_fc }
    http-request set-header X-Forwarded-Proto http unless { ssl_fc }
    http-request set-header X-Forwarded-Host %[req.hdr(host)]"""
# HTTP/1.1 needs a Host, which HAProxy does not write of itself.
HAPROXY_CHECKS = {
    "1.0": "option httpchk GET /health HTTP/1.0",
    "1.1": "option httpchk\n    http-check send meth GET uri /health ver HTTP/1.1 hdr Host internal.test",
}

NGINX = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr crit;
{modules}
events {{}}
"""
NGINX_HTTP = """
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;

    server {{
        listen 127.0.0.1:{port}{tls};
        location / {{
            proxy_pass http://{server};
            proxy_http_version 1.1;
            proxy_read_timeout {silence}s;
            proxy_set_header Host internal.test;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            {said}
        }}
    }}
}}
"""
NGINX_SAYS = """proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;"""
NGINX_SAYS_FORWARDED = 'proxy_set_header Forwarded "for=$remote_addr;proto=$scheme;host=\\"$http_host\\"";'
NGINX_STREAM = """
stream {{
    server {{
        listen 127.0.0.1:{port};
        proxy_pass {server};
        proxy_protocol on;
        proxy_timeout {silence}s;
    }}
}}
"""


def haproxy(told: dict[str, Any], folder: str, listener: socket.socket) -> tuple[str, Sequence[str]]:
    """Return the configuration, and how to start with it."""
    version = told.get("proxy_protocol")
    check = told.get("check")
    options = "" if version is None else " send-proxy" if version == 1 else " send-proxy-v2"
    if told.get("secure"):
        options += " ssl verify none"
    text = HAPROXY.format(
        silence=told.get("silence_seconds", 60),
        listener=listener.fileno(),
        tls=f" ssl crt {told['certificate']}" if "certificate" in told else "",
        said="" if version is not None else HAPROXY_SAYS,
        check="" if check is None else HAPROXY_CHECKS[check],
        server=f"unix@{told['path']}" if "path" in told else f"127.0.0.1:{told['port']}",
        options=options
        + ("" if check is None else f" check{options and ' check-send-proxy'} inter 50ms fall 2 rise 2"),
    )
    return text, ["-q", "-db", "-f"]


def nginx(told: dict[str, Any], folder: str, listener: socket.socket) -> tuple[str, Sequence[str]]:
    """Return the configuration, and how to start with it."""
    stream = "proxy_protocol" in told
    server = f"unix:{told['path']}" if "path" in told else f"127.0.0.1:{told['port']}"
    certificate = told.get("certificate")
    text = (NGINX + (NGINX_STREAM if stream else NGINX_HTTP)).format(
        folder=folder,
        modules=f"load_module {stream_module()};" if stream else "",
        port=listener.getsockname()[1],
        tls="" if certificate is None else f" ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate}",
        server=server if stream or "path" not in told else f"{server}:",
        silence=told.get("silence_seconds", 60),
        said=NGINX_SAYS_FORWARDED if told.get("forwarded") else NGINX_SAYS,
    )
    return text, ["-p", folder, "-e", "stderr", "-c"]


def stream_module() -> Path | None:
    """Return where nginx's module for streams is; None if it is nowhere."""
    for root in (os.environ.get("PEERS_DEBIAN", "/"), "/"):
        path = Path(root, "usr/lib/nginx/modules/ngx_stream_module.so")
        if path.exists():
            return path
    return None


def run(program: str, told: dict[str, Any]) -> None:
    asked = subprocess.run([program, "-v"], check=True, capture_output=True, text=True)
    version = " ".join((asked.stdout or asked.stderr.rpartition(": ")[2]).split()[:3])
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        text, options = (haproxy if Path(program).name == "haproxy" else nginx)(told, folder, listener)
        path = Path(folder, "configuration")
        path.write_text(text, encoding="utf-8")
        process = subprocess.Popen(
            [program, *options, str(path)],
            # nginx takes a socket that listens already from its environment, as it does when it replaces itself.
            env={**os.environ, "NGINX": f"{listener.fileno()};"},
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
        print(json.dumps([listener.getsockname()[1], version]), flush=True)
        sys.stdin.read()
        # It and its worker.
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    run(sys.argv[1], json.loads(sys.argv[2]))
