"""The reference's tables, against the code."""

from __future__ import annotations

import argparse
import inspect
import math
import re
from typing import TYPE_CHECKING

import pytest

from csp import errors, websocket
from tests.docs._pages import ROOT
from trio_csp_websocket.command_line import arguments
from trio_csp_websocket.connection.ending import closed_by_peer, failed_by_us, lost, quiet_end
from trio_csp_websocket.protocol.close import ForbiddenCodeViolation, is_sendable
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.server.options import parse_options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_csp_websocket.connection.ending import Ending

REFERENCE = ROOT / "docs" / "reference"


def table(page: str, header: str, section: str = "") -> list[list[str]]:
    """Return the rows of the first table of a page, or of a section, that has this header, each a list of cells."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    text = text[text.index(section) :]
    lines = text[text.index(header) :].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def first_names(rows: list[list[str]]) -> list[str]:
    return [row[0].strip("`") for row in rows]


# Options --------------------------------------------------------------------------------------------------------------

OPTIONS = "| option | meaning | range | default |"
OF_A_SERVER = "## Options of a server"


def connect(**options: object) -> None:
    websocket.connect("wss://server.test/", **options)  # type: ignore[arg-type]  # any option


def listen(**options: object) -> None:
    websocket.listen(0, **options)  # type: ignore[arg-type]  # any option


def test_the_table_of_options_lists_those_of_a_connection() -> None:
    assert first_names(table("options.md", OPTIONS)) == list(websocket.ConnectOptions.__annotations__)


def test_the_second_table_of_options_lists_those_of_a_feed() -> None:
    page = (REFERENCE / "options.md").read_text(encoding="utf-8")
    second = page[page.index("## Options of a feed") :]
    named = re.findall(r"^\| `(\w+)`", second[: second.index("##", 2)], re.MULTILINE)
    keywords = inspect.signature(websocket.reconnecting).parameters.values()
    assert named == [keyword.name for keyword in keywords if keyword.kind is inspect.Parameter.KEYWORD_ONLY]


def test_the_third_table_of_options_lists_those_of_a_server() -> None:
    assert first_names(table("options.md", OPTIONS, OF_A_SERVER)) == list(websocket.ListenOptions.__annotations__)


@pytest.mark.parametrize(
    ("section", "use", "bounded"),
    [
        ("", connect, ["compression_threshold", "read_limit", "channel_capacity", "max_redirects"]),
        (
            OF_A_SERVER,
            listen,
            [
                *("compression_threshold", "max_window_bits", "header_limit", "max_connections", "max_handshakes"),
                *("max_waiting", "read_limit", "channel_capacity", "backlog"),
            ],
        ),
    ],
    ids=["connection", "server"],
)
def test_numbers_of_the_tables_of_options_are_the_bounds(
    section: str, use: Callable[..., None], bounded: list[str]
) -> None:
    checked: list[str] = []
    for name, _, values, _ in table("options.md", OPTIONS, section):
        found = re.match(r"(\d+) to (\d+)", values)
        if found is None:
            continue
        least, most = int(found[1]), int(found[2])
        option = name.strip("`")
        checked.append(option)
        for value in (least, most):
            use(**{option: value})
        for value in (least - 1, most + 1):
            with pytest.raises(errors.InvalidError):
                use(**{option: value})
    assert checked == bounded


@pytest.mark.parametrize(
    ("section", "use", "option"),
    [
        *(("", connect, option) for option in websocket.ConnectOptions.__annotations__),
        *((OF_A_SERVER, listen, option) for option in websocket.ListenOptions.__annotations__),
    ],
)
def test_the_options_that_take_milliseconds_are_those_of_the_tables(
    section: str, use: Callable[..., None], option: str
) -> None:
    ranges = {row[0].strip("`"): row[2] for row in table("options.md", OPTIONS, section)}
    if "duration" not in ranges[option]:
        return
    if ranges[option] == "duration or ms":
        use(**{option: 1500})
    else:
        with pytest.raises(errors.InvalidTypeError):
            use(**{option: 1500})


DEFAULTS = {
    "1 MiB": 1024 * 1024,
    "16 KiB": 16 * 1024,
    "10 s": 10,
    "20 s": 20,
    "30 s": 30,
    "`None`: no limit": math.inf,
    "none": math.inf,
}


def test_the_defaults_of_a_server_are_those_of_the_table() -> None:
    options = parse_options({}, websocket.ListenOptions.__annotations__)
    actual: dict[str, float] = {
        "max_window_bits": options.max_window_bits,
        "handshake_timeout": options.handshake_timeout_seconds,
        "header_limit": options.header_limit_bytes,
        "max_connections": options.max_connections,
        "max_handshakes": options.max_handshakes,
        "max_waiting": options.max_waiting,
        "read_limit": options.connection.read_limit_bytes,
        "channel_capacity": options.connection.channel_capacity,
        "read_timeout": options.connection.read_timeout_seconds,
        "write_timeout": options.connection.write_timeout_seconds,
        "keepalive": options.connection.keepalive_seconds,
        "close_timeout": options.connection.close_timeout_seconds,
    }
    told = {row[0].strip("`"): row[3] for row in table("options.md", OPTIONS, OF_A_SERVER)}
    assert {name: DEFAULTS.get(told[name]) or int(told[name]) for name in actual} == actual


def test_the_constants_are_those_of_the_face() -> None:
    named = {
        name for row in table("options.md", "| name | value | for |") for name in re.findall(r"`([A-Z_]+)", row[0])
    }
    assert named == {name for name in websocket.__all__ if name.isupper()}


# Endings --------------------------------------------------------------------------------------------------------------


def peers_close(code: int) -> Ending:
    """Return the ending after a close frame of the peer with a code; for 1005 without one, for 1006 after no frame."""
    if code == CloseCode.ABNORMAL_CLOSURE:
        return lost("the stream ended", closing=False)
    if code == CloseCode.NO_STATUS or is_sendable(code):
        return closed_by_peer(code, "", closing=False)
    return failed_by_us(ForbiddenCodeViolation(code, ""), closing=False)


def test_the_table_of_close_codes_has_all_of_them_and_tells_what_becomes_of_each() -> None:
    rows = table("endings.md", "| code | name in `CLOSE_CODES` |")
    named = {int(row[0]): row[1].strip("`") for row in rows if row[0].isdecimal()}
    assert named == {int(code): code.name for code in CloseCode}
    others = {"3000 to 4999": [3000, 4000, 4999], "any other": [0, 999, 1004, 1016, 2999, 5000, 65535]}
    for first, _, sendable, error, feed in rows:
        for code in others.get(first) or [int(first)]:
            ending = peers_close(code)
            assert sendable == ("yes" if is_sendable(code) else "no"), code
            told = ending.error or quiet_end(ending.code, ending.reason)
            assert feed == ("comes back" if websocket.default_retry(told) else "ends"), code
            if error.startswith("as any"):
                assert ending.code == 1002
            elif ending.error is None:
                assert error.startswith("none"), code
            else:
                assert error.startswith(f"{ending.error.kind}, {'yes' if ending.error.retryable else 'no'}"), code


def test_the_table_of_endings_names_codes_kinds_and_what_may_be_retried() -> None:
    rows = table("endings.md", "| the connection ended by |")
    assert len(rows) == 10
    kinds = {"`None`", "UNAVAILABLE", "INTERNAL", "TIMEOUT", "CANCELED"}
    assert {re.split("[,;]", row[2])[0] for row in rows} == kinds


# Errors ---------------------------------------------------------------------------------------------------------------


def test_the_table_of_errors_names_the_classes_with_what_they_derive_from() -> None:
    named: set[str] = set()
    for _, classes, kind, _ in table("errors.md", "| condition | class"):
        name, *bases = re.findall(r"`([\w.]+)`", classes)
        named.add(name)
        cls = getattr(errors, name)
        assert set(bases) <= {f"trio.{base.__name__}" for base in cls.__mro__} | {base.__name__ for base in cls.__mro__}
        assert kind in list(errors.Kind)
    assert named == {name for name in errors.__all__ if name.endswith("Error")} - {"Error"}


# The command line -----------------------------------------------------------------------------------------------------


def test_the_table_of_the_command_line_lists_the_options_of_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    parsers: list[argparse.ArgumentParser] = []
    real_parse_known_args = argparse.ArgumentParser.parse_known_args

    def parse_known_args(self: argparse.ArgumentParser, args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        parsers.append(self)
        return real_parse_known_args(self, args)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)
    arguments.parse(["--demo"])
    (parser,) = parsers
    listed = table("command-line.md", "| option | |")
    options = [re.findall(r"(?<![\w-])--?[A-Za-z-]+", row[0]) for row in listed if row[0] != "`URL`"]
    assert options == [action.option_strings for action in parser._actions if action.option_strings]
    assert [action.metavar for action in parser._actions if not action.option_strings] == ["URL"]


def test_the_defaults_of_the_command_line_are_those_of_the_table() -> None:
    described = {row[0]: row[1] for row in table("command-line.md", "| option | |")}
    parsed = arguments.parse(["--demo"])
    assert described["`--timeout DURATION`"].endswith(parsed.timeout)
    assert f"; {parsed.wait}, and with `--count` or `--listen` forever" in described["`--wait DURATION`"]
    assert arguments.parse(["--demo", "--count", "1"]).wait is None
    assert arguments.parse(["--listen", "0"]).wait is None
