"""The numbers of the page about hostile clients are those of the code, and its tests exist."""

from __future__ import annotations

import re

from csp import websocket
from tests.docs._pages import ROOT
from trio_csp_websocket.connection.writer import MAX_WAITING_PONGS
from trio_csp_websocket.protocol.heads import MAX_HEADER_LINES
from trio_csp_websocket.server.options import parse_options
from trio_csp_websocket.server.visit import _LINGER_SECONDS


def test_the_numbers_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "explanation" / "hostile-clients.md").read_text(encoding="utf-8")
    options = parse_options({}, websocket.ListenOptions.__annotations__)
    connection = options.connection
    assert connection.read_limit_bytes == 1024 * 1024
    assert f"`header_limit`, {options.header_limit_bytes // 1024} KiB, and {MAX_HEADER_LINES} lines" in page
    assert f"`handshake_timeout`, {options.handshake_timeout_seconds:g} s" in page
    assert f"`max_handshakes`, {options.max_handshakes}:" in page
    assert f"`max_waiting`, {options.max_waiting}," in page
    assert f"| {_LINGER_SECONDS:g} s, in which what it sends is discarded" in page
    assert f"the latest {MAX_WAITING_PONGS} are answered" in page
    assert f"`write_timeout` ends the connection after {connection.write_timeout_seconds:g} s" in page
    assert f"`keepalive` pings after {connection.keepalive_seconds:g} s" in page
    assert f"`close_timeout`, {connection.close_timeout_seconds:g} s" in page
    assert options.max_connections == float("inf")
    named = re.findall(r"`([\w/]+\.py)`", page)
    assert len(named) > 2
    assert [name for name in named if not (ROOT / "tests" / name).exists()] == []
