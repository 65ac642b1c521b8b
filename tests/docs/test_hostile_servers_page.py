"""The numbers of the page about hostile servers are those of the code, and its tests exist."""

from __future__ import annotations

import re

from tests.docs._pages import ROOT
from tests.websocket.whole.test_what_servers_say import MAX_CHARACTERS, MAX_CHARACTERS_OF_THE_WAY
from trio_csp_websocket.client.options import parse_options
from trio_csp_websocket.connection.delivery import READ_AHEAD_BYTES, READ_AHEAD_MESSAGES
from trio_csp_websocket.connection.pings import MAX_OUTSTANDING
from trio_csp_websocket.network.http_proxy import _MAX_HEAD_BYTES
from trio_csp_websocket.protocol.heads import MAX_HEAD_BYTES, MAX_HEADER_LINES
from trio_csp_websocket.protocol.refusal import MAX_BODY_BYTES

PAGE = (ROOT / "docs" / "explanation" / "hostile-servers.md").read_text(encoding="utf-8")
KIB, MIB = 1024, 1024 * 1024


def test_the_numbers_are_those_of_the_code() -> None:
    options = parse_options({})
    assert options.connection.read_limit_bytes == 16 * MIB
    assert f"{READ_AHEAD_BYTES // KIB} KiB or {READ_AHEAD_MESSAGES} messages behind them" in PAGE
    assert f"{MAX_HEAD_BYTES // KIB} KiB and {MAX_HEADER_LINES} lines of headers" in PAGE
    assert f"the first {MAX_BODY_BYTES} bytes are kept" in PAGE
    assert f"Of our own pings {MAX_OUTSTANDING} may wait" in PAGE
    assert f"`max_redirects`, {options.max_redirects} if" in PAGE
    assert f"| {_MAX_HEAD_BYTES // KIB} KiB and {MAX_HEADER_LINES} lines of headers; its body is not read |" in PAGE
    assert f"`dial_timeout`, {options.dial_timeout_seconds:g} seconds" in PAGE
    assert f"`close_timeout`, {options.connection.close_timeout_seconds:g} seconds" in PAGE


def test_how_long_a_text_may_be_is_told_as_it_is_tested() -> None:
    errors = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    assert f"has at most {MAX_CHARACTERS} characters besides the URL" in PAGE
    assert f"`str(error)` of a connection has at most {MAX_CHARACTERS} characters" in errors
    assert f"at most {MAX_CHARACTERS_OF_THE_WAY} more" in PAGE
    assert f"at most {MAX_CHARACTERS_OF_THE_WAY} more" in errors


def test_the_sums_of_the_table_of_memory_are_right() -> None:
    rows = re.findall(r"(\d+)(½?) \u00d7 `read_limit` \+ (\d+) MiB.*?\| (\d+) MiB", PAGE)
    assert len(rows) == 4
    for times, half, more, total in rows:
        assert 16 * (int(times) + bool(half) / 2) + int(more) == int(total)


def test_the_tests_that_it_names_exist() -> None:
    named = re.findall(r"`([\w/]+\.py)`", PAGE)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / "tests" / name).exists()] == []
