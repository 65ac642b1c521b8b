"""The arguments: what they become, how mistakes are told, the help."""

from __future__ import annotations

import argparse
import errno
import os
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

import csp
from csp import websocket
from trio_csp_websocket.command_line import program
from trio_csp_websocket.command_line.arguments import parse
from trio_csp_websocket.command_line.values import duration

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
        "proxy": True,
        "unix_socket": None,
        "host_header": None,
        "max_redirects": 10,
    }
    assert parse(["ws://h/", "--timeout", "5s"]).options["dial_timeout"] == "5s"
    parsed = parse(["ws://h/", "--compress", "no-context", "--wait", "forever", "--ping=1m", "--count", "3"])
    assert parsed.options["compression"] == websocket.COMPRESSION.NO_CONTEXT
    assert (parsed.wait, parsed.ping, parsed.count) == (None, "1m", 3)
    parsed = parse(["ws://h/", "--delay", "500ms", "--after-first", "--count", "2"])
    assert (parsed.delay, parsed.after_first, parsed.count) == ("500ms", True, 2)
    parsed = parse(["ws://h/"])
    assert (parsed.delay, parsed.after_first) == (None, False)
    assert parse(["wss://h/", "-k"]).options["ssl_context"].verify_mode == 0
    parsed = parse(["ws://h/", "--proxy", "http://p", "--host-header", "a:8", "--max-redirects", "0"])
    assert [parsed.options[name] for name in ("proxy", "host_header", "max_redirects")] == ["http://p", "a:8", 0]
    parsed = parse(["ws://h/", "--no-proxy", "--unix-socket", "/run/x"])
    assert [parsed.options[name] for name in ("proxy", "unix_socket")] == [False, "/run/x"]
    assert "keepalive" not in parsed.options
    assert parse(["ws://h/", "--reconnect"]).options["keepalive"] == "30s"
    waits = {wait: parse(["ws://h/", *wait.split()]).wait for wait in ("", "--count 3", "--count 3 --wait 5s")}
    assert waits == {"": "1s", "--count 3": None, "--count 3 --wait 5s": "5s"}


def test_arguments_become_options_of_a_server() -> None:
    parsed = parse(["--listen", "8765"])
    assert parsed.listen == ("localhost", 8765)
    assert parsed.options == {"host": "localhost", "protocols": None, "close_timeout": "2s"}
    assert (parsed.echo, parsed.wait, parsed.count) == (False, None, None)
    assert parse(["--listen", "0", "--wait", "5s"]).wait == "5s"
    places = ["0.0.0.0:0", "[::1]:65535", "example.com:80"]
    assert [tuple(parse(["--listen", place]).listen) for place in places] == [
        ("0.0.0.0", 0),
        ("::1", 65535),
        ("example.com", 80),
    ]
    parsed = parse(["--listen", "0", "--echo", "--protocol", "p", "--compress", "--origin", "https://a.test"])
    assert parsed.echo
    assert parsed.options["protocols"] == ["p"]
    assert parsed.options["compression"] == websocket.COMPRESSION.CONTEXT_TAKEOVER
    assert parsed.options["origins"] == ["https://a.test"]
    two = parse(["--listen", "0", "--origin", "https://a.test", "--origin", "https://*.b.test"])
    assert two.options["origins"] == ["https://a.test", "https://*.b.test"]
    for word in ("*", "same"):
        assert parse(["--listen", "0", "--origin", word]).options["origins"] == word


def test_certificate_and_key_may_stand_in_two_files(tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("localhost")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    context = parse(["--listen", "0", "--cert", str(cert), "--key", str(key)]).options["ssl_context"]
    assert isinstance(context, ssl.SSLContext)


ENCRYPTED = """\
-----BEGIN RSA PRIVATE KEY-----
Proc-Type: 4,ENCRYPTED
DEK-Info: AES-128-CBC,00000000000000000000000000000000

AAAAAAAAAAAAAAAAAAAAAA==
-----END RSA PRIVATE KEY-----
"""


def test_keys_that_cannot_be_used_are_told_of(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    authority = trustme.CA()
    cert, key, encrypted = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "encrypted.pem"
    authority.issue_cert("localhost").cert_chain_pems[0].write_to_path(cert)
    authority.issue_cert("localhost").private_key_pem.write_to_path(key)
    encrypted.write_text(ENCRYPTED)
    empty = tmp_path / "empty.pem"
    empty.touch()
    for name, said in {
        key: f"--cert {cert}, --key {key}: the key is not that of the certificate",
        encrypted: f"--key {encrypted}: the key is encrypted, and there is nobody to ask for its password",
        empty: f"--cert {cert}, --key {empty}: is that PEM?",
    }.items():
        with pytest.raises(SystemExit):
            parse(["--listen", "0", "--cert", str(cert), "--key", str(name)])
        assert capsys.readouterr().err.splitlines()[-1].endswith(f"error: {said}")


def test_authorities_of_your_own_replace_the_systems(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(file)
    context = parse(["--ca", str(file), "wss://h/"]).options["ssl_context"]
    assert (context.check_hostname, context.verify_mode, len(context.get_ca_certs())) == (True, ssl.CERT_REQUIRED, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give either a URL, --listen or --demo"),
        (["ws://h/", "--demo"], "give either a URL, --listen or --demo"),
        (["ws://h/", "--listen", "0"], "argument URL: not allowed with argument --listen"),
        (["--demo", "--listen", "0"], "argument --demo: not allowed with argument --listen"),
        (["--listen", "0", "--reconnect"], "argument --reconnect: not allowed with argument --listen"),
        (["--listen", "0", "--after-first"], "argument --after-first: not allowed with argument --listen"),
        (["--listen", "0", "-H", "A: hunter2"], "argument -H/--header: not allowed with argument --listen"),
        (["--listen", "0", "--max-redirects", "0"], "argument --max-redirects: not allowed with argument --listen"),
        (["--listen", "0", "--timeout", "30s"], "argument --timeout: not allowed with argument --listen"),
        (["--listen", "0", "--no-proxy"], "argument --no-proxy: not allowed with argument --listen"),
        (["--listen", "0", "-k"], "argument -k/--insecure: not allowed with argument --listen"),
        (["--listen", "0", "--key", "x"], "argument --key: only with argument --cert"),
        (["--listen", "0", "--cert", "/no/such/file"], f"--cert /no/such/file: {os.strerror(errno.ENOENT)}"),
        (
            ["--listen", "0", "--origin", "a.test"],
            "argument --origin: must have a scheme, as 'https://app.example.com'",
        ),
        (
            ["--listen", "0", "--origin", "*", "--origin", "x://y"],
            "argument --origin: must have '*' alone, not in a list",
        ),
        (["--listen", "x y:0"], "argument --listen: must "),
        (["--listen", ""], "argument --listen: must be a port of 0 to 65535, or HOST:PORT, not ''"),
        (["--listen", ":8765"], "argument --listen: must be a port of 0 to 65535, or HOST:PORT, not ':8765'"),
        (["--listen", "65536"], "argument --listen: must be a port of 0 to 65535, or HOST:PORT, not '65536'"),
        (["--listen", "::1"], "argument --listen: must be a port of 0 to 65535, or HOST:PORT, not '::1'"),
        (["--listen", "host"], "argument --listen: must be a port of 0 to 65535, or HOST:PORT, not 'host'"),
        (["ws://h/", "--echo"], "argument --echo: only with argument --listen"),
        (["--demo", "--origin", "*"], "argument --origin: only with argument --listen"),
        (["ws://h/", "--cert", "x"], "argument --cert: only with argument --listen"),
        (["--demo", "--ca", __file__], "--ca and --insecure need a wss:// URL"),
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
        (["ws://h/", "--delay", "1"], "argument --delay: must be a duration such as 300ms, 10s or 1m30s, not 1; write"),
        (["ws://h/", "--delay", "0s"], "argument --delay: must be above 0, not 0s"),
        (["ws://h/", "--delay", "-1s"], "argument --delay: "),
        (["ws://h/", "--after-first=5s"], "argument --after-first: ignored explicit argument '5s'"),
        (
            ["ws://h/", "--after-first", "--count", "1"],
            "--after-first needs a --count of at least 2: it counts the first message too",
        ),
        (["ws://h/", "--timeout", "forever"], "argument --timeout: must be a duration such as"),
        (["ws://h/", "--compress=x"], "argument --compress: invalid choice: 'x'"),
        (["ws://h/", "-k"], "--ca and --insecure need a wss:// URL"),
        (["ws://h/", "--no-proxy", "--proxy", "http://p"], "argument --proxy: not allowed with argument --no-proxy"),
        (
            ["ws://h/", "--unix-socket", "/x", "--proxy", "http://p"],
            "argument --unix-socket: not allowed with argument --proxy",
        ),
        (["--demo", "--unix-socket", "/x"], "argument --unix-socket: not allowed with argument --demo"),
        (["--demo", "--proxy", "http://p"], "argument --proxy: not allowed with argument --demo"),
        (["ws://h/", "--proxy", "proxy:3128"], 'argument --proxy: must start with "http://", "https://", '),
        (["ws://h/", "--proxy", ""], 'argument --proxy: must start with "http://", "https://", '),
        (["ws://h/", "--proxy", "alice:hunter2@p"], "argument --proxy: must start with "),
        (["ws://h/", "--proxy", "ftp://alice:hunter2@p"], "argument --proxy: must start with "),
        (["ws://h/", "--proxy", "http://alice:hunter2@p:x"], "argument --proxy: has a port that is not a number"),
        (["ws://h/", "--proxy", "http://alice:hunter2@p/x"], "argument --proxy: must end with the proxy's host and"),
        (["ws://h/", "--proxy", "socks4://alice:hunter2@p"], "argument --proxy: has a password, and SOCKS4 knows non"),
        (["ws://h/", "--unix-socket", ""], "argument --unix-socket: must be a path without NUL characters, not ''"),
        (["ws://h/", "--unix-socket", "x" * 1000], "argument --unix-socket: must be a path of at most 107 bytes, not"),
        (
            ["ws://h/", "--host-header", "a/b"],
            "argument --host-header: must be a host, and a port if need be, not 'a/b",
        ),
        (["ws://h/", "--host-header", "a b"], "argument --host-header: must not contain spaces"),
        (["ws://h/", "--host-header", "a:x"], "argument --host-header: has a port that is not a number of 1 to 65535"),
        (["ws://h/", "--max-redirects", "-1"], "argument --max-redirects: "),
        (["ws://h/", "--max-redirects", "x"], "argument --max-redirects: must be a whole number, not 'x'"),
        (["ws://h/", "--max-redirects", "101"], "argument --max-redirects: must be 0 to 100, not 101"),
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
    usage = [f"usage: {name} [options] URL", f"       {name} [options] --listen [HOST:]PORT"]
    assert err.splitlines() == [*usage, f"{name}: error: give either a URL, --listen or --demo"]
    assert out.splitlines()[:2] == usage
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
