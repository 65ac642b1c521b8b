"""The history of what is typed: where it is, who may read it, and what does not go into it."""

from __future__ import annotations

import math
import os
import stat
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import trio

import csp
from tests.websocket.command_line._terminal import UP, keyboard
from trio_csp_websocket.command_line import program
from trio_csp_websocket.command_line.arguments import parse
from trio_csp_websocket.command_line.history import given_secrets, history_file, is_kept, open_history
from trio_csp_websocket.command_line.prompt import prompt

if TYPE_CHECKING:
    from pathlib import Path


SECRET = "hunter2"

of_unix = pytest.mark.skipif(os.name != "posix", reason="permissions and folders are others here")


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def link(path: Path, target: Path) -> None:
    try:
        path.symlink_to(target)
    except OSError as error:
        pytest.skip(f"no symbolic links here: {error}")


async def type_and_recall(state: Path, line: str | None, recalled: str) -> None:
    """Type a line, if there is one, and go back to it; the prompt loads its history in the background."""
    typed = csp.Channel[str | None](math.inf)
    with keyboard() as keys, trio.fail_after(10):
        async with prompt(typed, open_history(state)):
            if line is not None:
                keys.send_text(f"{line}\r")
                assert (await typed.receive()).value == line
            keys.send_text(f"{UP}\r")
            while (await typed.receive()).value != recalled:
                keys.send_text(f"{UP}\r")


@of_unix
async def test_the_history_is_kept_for_the_user_alone(state: Path) -> None:
    await type_and_recall(state, "remember me", "remember me")
    assert [permissions(path) for path in (state, state.parent)] == [0o600, 0o700]
    await type_and_recall(state, None, "remember me")


async def test_a_line_that_is_not_utf_8_is_kept_readable(state: Path) -> None:
    typed = csp.Channel[str | None](math.inf)
    with keyboard() as keys, trio.fail_after(10):
        async with prompt(typed, open_history(state)):
            keys.send_bytes(b"\xffabc\r")
            assert (await typed.receive()).value == "?abc"
            keys.send_text("\r")  # taken once the line before is in the history
            assert (await typed.receive()).value == ""
    assert "+?abc\n" in await trio.Path(state).read_text(encoding="utf-8")


def test_entries_of_several_lines_come_back_whole_and_the_latest_first(state: Path) -> None:
    history = open_history(state)
    for entry in ("one", "two\nlines\n", "# three", "+ four"):
        history.store_string(entry)
    assert list(open_history(state).load_history_strings()) == ["+ four", "# three", "two\nlines\n", "one"]


async def test_a_history_that_cannot_be_written_goes_on_in_memory(state: Path) -> None:
    history = open_history(state)
    state.parent.touch()
    history.append_string("again")
    assert history.get_strings() == ["again"]


# Other files in its place ---------------------------------------------------------------------------------------------


@of_unix
@pytest.mark.parametrize("mode", [0o666, 0o644, 0o640, 0o200])
@pytest.mark.parametrize("used", ["read", "written"])
def test_a_file_that_others_may_read_is_so_no_longer(state: Path, mode: int, used: str) -> None:
    state.parent.mkdir()
    history = open_history(state)
    state.touch()
    state.chmod(mode)
    if used == "written":
        history.store_string("a")
    elif os.access(state, os.R_OK):
        open_history(state)
    else:
        with pytest.raises(PermissionError):
            open_history(state)
        return
    assert permissions(state) == 0o600


def test_a_symbolic_link_is_not_followed(state: Path, tmp_path: Path) -> None:
    history = open_history(state)
    state.parent.mkdir()
    other = tmp_path / "other"
    other.write_text("+theirs\n", encoding="utf-8")
    other.chmod(0o644)
    allowed = permissions(other)
    link(state, other)
    with pytest.raises(OSError, match="it is a symbolic link"):
        open_history(state)
    history.store_string("ours")  # the link has come since it was opened
    assert other.read_text(encoding="utf-8") == "+theirs\n"
    assert permissions(other) == allowed


def test_a_link_to_nothing_makes_no_file(state: Path, tmp_path: Path) -> None:
    history = open_history(state)
    state.parent.mkdir()
    link(state, tmp_path / "other")
    history.store_string("ours")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("make", [os.mkdir, getattr(os, "mkfifo", None)])
def test_what_is_no_file_is_not_waited_for(state: Path, make: object) -> None:
    if not callable(make):
        pytest.skip("this system has no named pipes in folders")
    state.parent.mkdir()
    make(state)
    with pytest.raises(OSError, match="it is not a regular file"):
        open_history(state)


@of_unix
def test_the_history_is_where_the_specification_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = "trio-csp/websocket_history"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_file() == tmp_path / name
    monkeypatch.setenv("HOME", "/home/alice")
    for unusable in ("relative/path", ""):
        monkeypatch.setenv("XDG_STATE_HOME", unusable)
        assert str(history_file()) == f"/home/alice/.local/state/{name}"

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", homeless)
    assert history_file() is None


# What does not go into it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        " begins with a space",
        f'{{"op": "auth", "args": ["{SECRET}"]}}',
        f'{{"type": "login", "user": "a", "p": "{SECRET}"}}',
        f'{{"Password": "{SECRET}"}}',
        f'{{"accessToken": "{SECRET}"}}',
        f"Authorization: Basic {SECRET}",
        f"Bearer {SECRET}",
        f"api_key={SECRET}",
        f"X-Api-Key: {SECRET}",
        f"sessionid={SECRET}",
        f"connect wss://alice:{SECRET}@api.test/",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbg",
    ],
)
def test_what_looks_like_credentials_is_not_kept(state: Path, line: str) -> None:
    assert not is_kept(line)
    history = open_history(state)
    history.append_string(line)
    assert history.get_strings() == [line]  # in memory it is
    assert not state.exists()


@pytest.mark.parametrize(
    "line",
    ['{"subscribe": "prices"}', "/ping", "/close 4000 bye", "mail@example.com", "https://example.com/@a", "author"],
)
def test_other_lines_are_kept(line: str) -> None:
    assert is_kept(line)


def test_what_was_given_on_the_command_line_is_not_kept(state: Path) -> None:
    given = given_secrets(
        [urlsplit("wss://alice:p%40ssword@api.test/feed?key=1&t=query-value"), urlsplit("http://bob:proxy-pass%21@p")],
        [("X-Thing", "Scheme header-value"), ("X-More", "a=pair-value; b=1")],
        ["protocol-value"],
    )
    values = {"p%40ssword", "p@ssword", "query-value", "header-value", "pair-value", "protocol-value", "Scheme"}
    values |= {"proxy-pass%21", "proxy-pass!"}
    assert given == values
    history = open_history(state, given)
    for value in values:
        history.store_string(f"says {value}.")
    assert not state.exists()
    history.store_string("alice says 1")
    assert "+alice says 1\n" in state.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["https_proxy", "http_proxy", "all_proxy"])
def test_no_password_of_a_proxy_goes_into_it(state: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "alice:env%2Dword@proxy.test:8")
    monkeypatch.setenv("ftp_proxy", "http://[malformed")
    kept = program.kept_history(parse(["--proxy", "socks5://alice:given%2Dword@proxy.test", "ws://server.test/"]))
    assert kept is not None
    for secret in ("env-word", "env%2Dword", "given-word", "given%2Dword"):
        kept.store_string(f"says {secret}.")
    assert not state.exists()


# What the program makes of it -----------------------------------------------------------------------------------------


def test_the_program_keeps_no_history_that_is_not_wanted_or_has_no_place(
    state: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert program.kept_history(parse(["--demo"])) is not None
    assert program.kept_history(parse(["--demo", "--no-history"])) is None
    monkeypatch.setattr(program, "history_file", lambda: None)
    assert program.kept_history(parse(["--demo"])) is None
    assert capfd.readouterr().err == ""


def test_the_program_tells_in_a_line_that_a_history_cannot_be_used(
    state: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    state.mkdir(parents=True)
    assert program.kept_history(parse(["--demo"])) is None
    said = f"python -m csp.websocket: what is typed is not kept in {state}: it is not a regular file\n"
    assert capfd.readouterr().err == said
