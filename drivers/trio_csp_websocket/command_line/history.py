"""The history of what was typed at the prompt, in a file of the user's, and what does not go into it."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from trio_csp_websocket.command_line.streams import WINDOWS
from trio_csp_websocket.protocol.secrets import looks_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from urllib.parse import SplitResult

    from prompt_toolkit.history import History

# Of what was given on the command line, pieces shorter than this stand in too many lines by chance.
_MIN_PIECE = 6
_FILE_MODE, _FOLDER_MODE = 0o600, 0o700
# Windows lacks some of them. O_NONBLOCK: to open a pipe would wait for its other end.
_SAFE_FLAGS: int = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_set_mode: Callable[[int, int], object] = getattr(os, "fchmod", lambda _fd, _mode: None)


def history_file() -> Path | None:
    """Return where the state of a user's programs lies; None without a home.

    That is where the XDG Base Directory Specification says, and on Windows the user's local application data.
    """
    variable, usual = ("LOCALAPPDATA", "AppData/Local") if WINDOWS else ("XDG_STATE_HOME", ".local/state")
    # The specification has relative paths ignored.
    with contextlib.suppress(RuntimeError):
        state = Path(os.environ.get(variable, ""))
        return (state if state.is_absolute() else Path.home() / usual) / "trio-csp" / "websocket_history"
    return None


def is_kept(line: str, given: Iterable[str] = ()) -> bool:
    """Whether a line that was typed may go into the history file.

    It may not if it begins with a space, as in many shells; if it looks secret; or if it has a piece of what was given.
    """
    return not (line.startswith(" ") or looks_secret(line) or any(piece in line for piece in given))


def given_secrets(
    urls: Iterable[SplitResult], headers: Iterable[tuple[str, str]], protocols: Iterable[str]
) -> frozenset[str]:
    """Return what may be secret of what was given on the command line, in pieces.

    That is the password and the values of the query of each URL, and the words of headers' values and subprotocols.
    """
    texts: list[str] = []
    for url in urls:
        password = url.password or ""
        texts += [password, unquote(password), *(value for _, value in parse_qsl(url.query))]
    for value in (*protocols, *(value for _, value in headers)):
        texts += re.split(r"[\s;,=]+", value)
    return frozenset(text for text in texts if len(text) >= _MIN_PIECE)


def open_history(path: Path, given: Iterable[str] = ()) -> History:
    """Return a prompt's history in a file, which is read now, and made with the first line that is kept.

    Only its owner may read the file; if others may, that is mended. A symbolic link is not followed. Once it cannot be
    written, the history goes on in memory.

    Args:
        path: the file.
        given: pieces of text that do not go into it: see `is_kept`.

    Raises:
        ImportError: prompt_toolkit is missing.
        OSError: there is something that cannot be used; its ``strerror`` says why.
    """
    from prompt_toolkit.history import History  # noqa: PLC0415  # an optional extra, and slow to load

    class FileHistory(History):
        """Lines behind a ``+``, as prompt_toolkit's own, with the time in a line before them."""

        def load_history_strings(self) -> Iterable[str]:
            return reversed(entries)

        def store_string(self, string: str) -> None:
            if is_kept(string, given):
                with contextlib.suppress(OSError):
                    _append(path, string)

    entries = _read(path)
    return FileHistory()


def _read(path: Path) -> list[str]:
    try:
        fd = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return []
    with os.fdopen(fd, "rb") as file:
        text = file.read().decode(errors="replace")
    entries: list[str] = []
    lines: list[str] = []
    for line in [*text.split("\n"), ""]:
        if line.startswith("+"):
            lines.append(line[1:])
        elif lines:
            entries.append("\n".join(lines))
            lines = []
    return entries


def _append(path: Path, entry: str) -> None:
    path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    lines = "".join(f"+{line}\n" for line in entry.split("\n"))
    with os.fdopen(_open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as file:
        # What is typed at a terminal need not be UTF-8.
        file.write(f"\n# {datetime.now(UTC):%Y-%m-%d %H:%M:%S}\n{lines}".encode(errors="replace"))


def _open(path: Path, flags: int) -> int:
    """Open a file that is the user's own, and make it readable for nobody else."""
    if path.is_symlink():  # told in words; O_NOFOLLOW is for one that comes now
        raise OSError(None, "it is a symbolic link")
    fd = os.open(path, flags | _SAFE_FLAGS, _FILE_MODE)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(None, "it is not a regular file")
        _set_mode(fd, _FILE_MODE)  # fails for a file of somebody else
    except BaseException:
        os.close(fd)
        raise
    return fd
