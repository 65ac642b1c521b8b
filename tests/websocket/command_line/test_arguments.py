"""The arguments: what they become, how mistakes are told, the help."""

from __future__ import annotations

import argparse
import errno
import os
import ssl
import sys
from typing import TYPE_CHECKING

import pytest
import trustme

import csp
from csp import websocket
from trio_csp_websocket.command_line import program
from trio_csp_websocket.command_line.arguments import duration, parse

if TYPE_CHECKING:
    from pathlib import Path


def test_arguments_become_options() -> None:
    parsed = parse(["-H", "A: b:c", "--header=D:", "--protocol", "p", "--protocol=q", "--compress", "ws://h/"])
    assert parsed.options == {
        "headers": [("A", "b:c"), ("D", "")],
        "protocols": ["p", "q"],
        "compression": websocket.COMPRESSION.CONTEXT_TAKEOVER,
        "dial_timeout": "30s",
        "close_timeout": "2s",
    }
    assert parse(["ws://h/", "--timeout", "5s"]).options["dial_timeout"] == "5s"
    parsed = parse(["ws://h/", "--compress", "no-context", "--wait", "forever", "--ping=1m", "--count", "3"])
    assert parsed.options["compression"] == websocket.COMPRESSION.NO_CONTEXT
    assert (parsed.wait, parsed.ping, parsed.count) == (None, "1m", 3)
    assert parse(["wss://h/", "-k"]).options["ssl_context"].verify_mode == 0
    waits = {wait: parse(["ws://h/", *wait.split()]).wait for wait in ("", "--count 3", "--count 3 --wait 5s")}
    assert waits == {"": "1s", "--count 3": None, "--count 3 --wait 5s": "5s"}


def test_authorities_of_your_own_replace_the_systems(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(file)
    context = parse(["--ca", str(file), "wss://h/"]).options["ssl_context"]
    assert (context.check_hostname, context.verify_mode, len(context.get_ca_certs())) == (True, ssl.CERT_REQUIRED, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give either a URL or --demo"),
        (["ws://h/", "--demo"], "give either a URL or --demo"),
        (["http://h/"], 'url must start with "ws://" or "wss://", not "http:"'),
        (["localhost:8765"], 'url must start with "ws://" or "wss://"'),
        (["ws://h/", "--nonsense"], "there is no option --nonsense"),
        (["ws://h/", "--token=hunter2", "-phunter2", "hunter2"], "there is no option --token, -p"),
        (["-H", "Authorization:", "Basic", "hunter2", "ws://h/"], "too many arguments (2); quote headers"),
        (["ws://h/", "-H", "hunter2"], "argument -H/--header: must be 'NAME: VALUE'"),
        (["ws://h/", "-H", "a b: c"], "headers must have names without spaces and separators, not 'a' and more"),
        (["ws://h/", "--protocol", ""], "protocols must be names without spaces and separators, unlike number 1"),
        (["ws://h/", "--count", "0"], "argument --count: must be a whole number of at least 1, not '0'"),
        (["ws://h/", "--count", "x"], "argument --count: must be a whole number of at least 1, not 'x'"),
        (["ws://h/", "--ping", "0s"], "argument --ping: must be above 0, not 0s"),
        (
            ["ws://h/", "--wait", "1"],
            "argument --wait: must be a duration such as 300ms, 10s or 1m30s, not 1; write 1s",
        ),
        (
            ["ws://h/", "--ping", "0.5"],
            "argument --ping: must be a duration such as 300ms, 10s or 1m30s, not 0.5; write",
        ),
        (
            ["ws://h/", "--timeout", "5"],
            "argument --timeout: must be a duration such as 300ms, 10s or 1m30s, not 5; wr",
        ),
        (["ws://h/", "--timeout", "forever"], "argument --timeout: must be a duration such as"),
        (["ws://h/", "--compress=x"], "argument --compress: invalid choice: 'x'"),
        (["ws://h/", "-k"], "--ca and --insecure need a wss:// URL"),
        (["wss://h/", "--ca", "/no/such/file"], f"--ca /no/such/file: {os.strerror(errno.ENOENT)}"),
        (["wss://h/", "--ca", __file__], f"--ca {__file__}: no certificates in it"),
    ],
)
def test_wrong_usage_is_status_2(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as exit_info:
        program.main(arguments)
    assert exit_info.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith(f"python -m csp.websocket: error: {said}")
    assert "hunter2" not in err


@pytest.mark.parametrize("text", ["soon", "0x5", "1,5", "", "0.0", "5 s", "infinity"])
def test_what_no_unit_would_make_a_duration_gets_no_hint(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        duration(text)
    assert str(caught.value) == f"must be a duration such as 300ms, 10s or 1m30s, not {text}"


@pytest.mark.parametrize(
    ("started", "name"),
    [
        ("/usr/local/bin/csp-websocket", "csp-websocket"),
        ("csp-websocket.exe", "csp-websocket"),
        ("/site-packages/csp/websocket/__main__.py", "python -m csp.websocket"),
        ("-c", "python -m csp.websocket"),
    ],
)
def test_usage_help_and_mistakes_name_the_command_that_was_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], started: str, name: str
) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    for arguments in ([], ["--help"]):
        with pytest.raises(SystemExit):
            program.main(arguments)
    out, err = capsys.readouterr()
    assert err.splitlines() == [f"usage: {name} [options] URL", f"{name}: error: give either a URL or --demo"]
    assert out.startswith(f"usage: {name} [options] URL\n")
    assert f"  {name} --demo\n" in out
    (other,) = {"csp-websocket", "python -m csp.websocket"} - {name}
    assert other not in out


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_and_version(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        program.main(arguments)
    assert exit_info.value.code == 0
    out = capsys.readouterr().out
    assert csp.__version__ in out if arguments == ["--version"] else "exit status:" in out
    assert max(map(len, out.splitlines())) <= 80
