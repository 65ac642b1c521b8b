"""What is offered, what a server may make of it, and what ours makes of it (RFC 7692, section 7.1)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from csp.errors import shown
from trio_csp_websocket.protocol.constants import Compression
from trio_csp_websocket.protocol.negotiation import DeflateParameters, accepted, agreed, offer

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

TAKEOVER, NO_CONTEXT = Compression.CONTEXT_TAKEOVER, Compression.NO_CONTEXT
BOTH = pytest.mark.parametrize("compression", [TAKEOVER, NO_CONTEXT])
EITHER_WINDOW = pytest.mark.parametrize("name", ["client_max_window_bits", "server_max_window_bits"])
EITHER_TAKEOVER = pytest.mark.parametrize("name", ["client_no_context_takeover", "server_no_context_takeover"])


def refusal(answer: str, compression: Compression = TAKEOVER) -> str:
    """Return what is said against an answer."""
    with pytest.raises(ValueError, match=r"^it") as caught:
        agreed(answer, compression)
    return str(caught.value)


def calls_within(parse: Callable[[str], object], header: str) -> int:
    """Count the calls it takes to parse a header; the work of one is linear in what it consumes."""
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event.endswith("call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        parse(header)
    except ValueError:
        pass
    finally:
        sys.setprofile(before)
    return calls


# Offers ---------------------------------------------------------------------------------------------------------------


def test_context_takeover_offers_the_plain_extension_and_lets_the_server_limit_our_window() -> None:
    assert offer(TAKEOVER) == "permessage-deflate; client_max_window_bits"


def test_no_context_asks_both_sides_to_start_afresh() -> None:
    assert (
        offer(NO_CONTEXT)
        == "permessage-deflate; client_no_context_takeover; server_no_context_takeover; client_max_window_bits"
    )


def test_without_compression_nothing_is_offered() -> None:
    assert offer(Compression.DISABLED) is None


# Agreements -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("answer", ["", " ", "\t", ",", " , ,\t,"])
def test_a_server_may_want_no_compression(answer: str, compression: Compression) -> None:
    assert agreed(answer, compression) is None


def test_the_plain_extension_is_context_takeover_with_full_windows_on_both_sides() -> None:
    assert agreed("permessage-deflate", TAKEOVER) == (False, False, 15, 15)
    assert DeflateParameters() == (False, False, 15, 15)


def test_with_no_context_we_start_afresh_whatever_the_server_has_taken_note_of() -> None:
    assert agreed("permessage-deflate", NO_CONTEXT) == (True, False, 15, 15)
    assert agreed("permessage-deflate; server_no_context_takeover", NO_CONTEXT) == (True, True, 15, 15)
    assert agreed("permessage-deflate; client_no_context_takeover", NO_CONTEXT) == (True, False, 15, 15)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("client_no_context_takeover", (True, False, 15, 15)),
        ("server_no_context_takeover", (False, True, 15, 15)),
        ("server_no_context_takeover; client_no_context_takeover", (True, True, 15, 15)),
        ("client_max_window_bits=9; server_max_window_bits=12", (False, False, 9, 12)),
        (
            "server_max_window_bits=10;client_max_window_bits=11;client_no_context_takeover;server_no_context_takeover",
            (True, True, 11, 10),
        ),
    ],
)
def test_a_server_may_start_afresh_and_limit_windows_although_not_asked_to(
    parameters: str, expected: tuple[bool, bool, int, int]
) -> None:
    assert agreed(f"permessage-deflate; {parameters}", TAKEOVER) == expected


@BOTH
@pytest.mark.parametrize("bits", range(8, 16))
def test_either_window_may_be_8_to_15_bits_quoted_or_not(bits: int, compression: Compression) -> None:
    ours = compression is NO_CONTEXT
    for value in (f"{bits}", f'"{bits}"'):
        assert agreed(f"permessage-deflate; client_max_window_bits={value}", compression) == (ours, False, bits, 15)
        assert agreed(f"permessage-deflate; server_max_window_bits={value}", compression) == (ours, False, 15, bits)


@pytest.mark.parametrize(
    "answer",
    [
        "permessage-deflate;server_max_window_bits=9",
        "  permessage-deflate  ;  server_max_window_bits  =  9  ",
        "\tpermessage-deflate\t;\tserver_max_window_bits\t=\t9\t",
        ", permessage-deflate; server_max_window_bits=9",
        ',,permessage-deflate; server_max_window_bits = "9" , ,',
    ],
)
def test_spaces_and_empty_elements_mean_nothing(answer: str) -> None:
    assert agreed(answer, TAKEOVER) == (False, False, 15, 9)


# Refusals -------------------------------------------------------------------------------------------------------------


@EITHER_WINDOW
@pytest.mark.parametrize(
    "value", ["0", "7", "16", "20", "80", "08", "015", "0x9", "+9", "-9", "9.0", "1_0", "99999999999", "nine", "8,"]
)
def test_a_window_of_other_than_8_to_15_bits_is_refused(value: str, name: str) -> None:
    told = value.removesuffix(",")
    for quote in ("", '"') if told == value else ():
        said = refusal(f"permessage-deflate; {name}={quote}{value}{quote}")
        assert said == f"it gives the parameter {name!r} of permessage-deflate the value {told!r}"


@BOTH
@EITHER_WINDOW
def test_a_window_without_a_size_is_refused(name: str, compression: Compression) -> None:
    # In an offer it may come without one; in an answer it may not.
    said = refusal(f"permessage-deflate; server_no_context_takeover; {name}", compression)
    assert said == f"it gives the parameter {name!r} of permessage-deflate no value"


@BOTH
@EITHER_TAKEOVER
@pytest.mark.parametrize("value", ["true", "false", "1", "0", "15"])
def test_a_flag_with_a_value_is_refused(value: str, name: str, compression: Compression) -> None:
    said = refusal(f"permessage-deflate; {name}={value}", compression)
    assert said == f"it gives the parameter {name!r} of permessage-deflate the value {value!r}"
    assert refusal(f'permessage-deflate; {name}="{value}"', compression) == said


@pytest.mark.parametrize("values", [("", ""), ("=9", "=9"), ("=9", "=10"), ("=99", ""), ("", '="9"')])
@pytest.mark.parametrize(
    "name",
    [
        "client_no_context_takeover",
        "server_no_context_takeover",
        "client_max_window_bits",
        "server_max_window_bits",
        "other",
    ],
)
def test_a_parameter_given_twice_is_refused(name: str, values: tuple[str, str]) -> None:
    said = refusal(f"permessage-deflate; {name}{values[0]}; {name}{values[1]}")
    assert said == f"it gives the parameter {name!r} of permessage-deflate twice"


@BOTH
@pytest.mark.parametrize("name", ["x", "client_max_window_bit", "CLIENT_MAX_WINDOW_BITS", "mem_level", "9"])
@pytest.mark.parametrize("value", ["", "=9", '="9"'])
def test_a_parameter_that_does_not_exist_is_refused(value: str, name: str, compression: Compression) -> None:
    said = refusal(f"permessage-deflate; client_max_window_bits=9; {name}{value}", compression)
    assert said == f"it gives permessage-deflate the parameter {name!r}, which does not exist"


@BOTH
@pytest.mark.parametrize(
    "extension",
    ["x-webkit-deflate-frame", "permessage-bzip2", "Permessage-Deflate", "permessage-deflate2", "deflate", "x"],
)
def test_an_extension_that_was_not_offered_is_refused(extension: str, compression: Compression) -> None:
    said = f"it wants the extension {extension!r}, which was not offered"
    assert refusal(extension, compression) == said
    assert refusal(f"{extension}; server_max_window_bits=9", compression) == said
    assert refusal(f"permessage-deflate, {extension}", compression) == said
    assert refusal(f"{extension}, permessage-deflate", compression) == said


def test_any_extension_is_refused_if_none_was_offered() -> None:
    said = refusal("permessage-deflate; client_max_window_bits=9", Compression.DISABLED)
    assert said == "it wants the extension 'permessage-deflate', which was not offered"


@BOTH
@pytest.mark.parametrize("again", ["permessage-deflate", "permessage-deflate; server_max_window_bits=9"])
def test_the_extension_given_twice_is_refused(again: str, compression: Compression) -> None:
    # An offer lists alternatives; an answer names what holds.
    said = refusal(f"permessage-deflate, {again}", compression)
    assert said == "it wants the extension 'permessage-deflate' twice"


MALFORMED = [
    ";",
    "=",
    '"permessage-deflate"',
    "(comment)",
    "\u00fcber",
    "permessage-deflate;",
    "permessage-deflate;;client_max_window_bits=9",
    "permessage-deflate; ,",
    "permessage-deflate; =9",
    "permessage-deflate; client_max_window_bits=",
    "permessage-deflate; client_max_window_bits==9",
    "permessage-deflate; client_max_window_bits=9=9",
    "permessage-deflate; client_max_window_bits=9 10",
    'permessage-deflate; client_max_window_bits=""',
    'permessage-deflate; client_max_window_bits="9',
    'permessage-deflate; client_max_window_bits=9"',
    'permessage-deflate; client_max_window_bits=" 9"',
    'permessage-deflate; client_max_window_bits="9 "',
    "permessage-deflate; client_max_window_bits='9\"",
    "permessage-deflate; client max window bits",
    "permessage-deflate client_no_context_takeover",
    "permessage-deflate x",
    "permessage-deflate=9",
    "permessage-deflate; client_max_window_bits=\u0669",
    "permessage-deflate\x00",
    "permessage-deflate; client_no_context_takeover\u00a0",
]


@BOTH
@pytest.mark.parametrize("answer", MALFORMED)
def test_what_does_not_follow_the_grammar_is_refused_and_shown(answer: str, compression: Compression) -> None:
    said = refusal(answer, compression)
    assert said == f"its Sec-WebSocket-Extensions header is malformed: '{shown(answer)}'"


# Hostile answers ------------------------------------------------------------------------------------------------------


PIECES = [
    "; a{}",
    "; a{}=1",
    '; a{}="1"',
    "; client_no_context_takeover",
    ", permessage-deflate",
    ",",
    " ",
    "; a{}  ",
]


@pytest.mark.parametrize("piece", PIECES)
def test_the_work_on_a_long_answer_grows_with_its_length(piece: str) -> None:
    def calls(count: int) -> int:
        answer = "permessage-deflate" + "".join(piece.format(number) for number in range(count))
        return calls_within(lambda header: agreed(header, TAKEOVER), answer)

    calls(1)  # whatever is done once
    assert calls(4000) <= 5 * max(calls(1000), 10)


@pytest.mark.parametrize(
    "answer",
    [
        "a" * 60_000,
        "permessage-deflate" + " " * 60_000 + "x",
        "permessage-deflate; " + "a" * 60_000 + '="' + "b" * 60_000,
        "permessage-deflate; a=" + " " * 60_000 + "(",
        "permessage-deflate; a" + "\t" * 60_000 + "(",
        "permessage-deflate; a=" + '"' * 60_000,
        "permessage-deflate; client_max_window_bits=" + "9" * 60_000,
        "permessage-deflate" + "; a" * 20_000,
        ", " * 30_000 + "(",
    ],
    ids=["name", "spaces", "quoted", "spaces before a value", "tabs", "quotes", "digits", "twice", "commas"],
)
def test_a_huge_answer_is_refused(answer: str) -> None:
    # With anything quadratic this takes minutes, and the test's time limit strikes.
    assert len(refusal(answer)) < 1000


# A server's end -------------------------------------------------------------------------------------------------------


def answered(offers: str, compression: Compression = TAKEOVER, bits: int = 15) -> str | None:
    """Return what a server answers; that it does what it answers is tested below."""
    agreement = accepted(offers, compression, bits)
    return None if agreement is None else agreement.header.removeprefix("permessage-deflate").removeprefix("; ")


@pytest.mark.parametrize("offers", ["", " ", ",", "permessage-deflate", "permessage-deflate; client_max_window_bits"])
def test_without_compression_a_server_agrees_to_nothing(offers: str) -> None:
    assert accepted(offers, Compression.DISABLED, 12) is None


@BOTH
@pytest.mark.parametrize("offers", ["", "\t ,", "x", "x-webkit-deflate-frame", "Permessage-Deflate", "x; y=1, z"])
def test_what_does_not_offer_the_extension_is_declined(offers: str, compression: Compression) -> None:
    assert accepted(offers, compression, 12) is None


@pytest.mark.parametrize(
    ("offers", "expected"),
    [
        ("", ""),
        ("server_no_context_takeover", "server_no_context_takeover"),
        ("client_no_context_takeover", "client_no_context_takeover"),
        (
            "client_no_context_takeover; server_no_context_takeover",
            "server_no_context_takeover; client_no_context_takeover",
        ),
        ("client_max_window_bits", ""),
        ("client_max_window_bits=15", ""),
        ("client_max_window_bits=10", "client_max_window_bits=10"),
        ('client_max_window_bits="8"', "client_max_window_bits=8"),
        ("server_max_window_bits=15", "server_max_window_bits=15"),
        ("server_max_window_bits=8", "server_max_window_bits=8"),
        (
            "client_max_window_bits=9; server_max_window_bits=10",
            "server_max_window_bits=10; client_max_window_bits=9",
        ),
    ],
)
def test_a_server_grants_what_is_offered_and_asks_for_nothing_it_does_not_need(offers: str, expected: str) -> None:
    assert answered(f"permessage-deflate; {offers}" if offers else "permessage-deflate") == expected


@pytest.mark.parametrize(
    ("offers", "expected"),
    [
        # It may limit its own window unasked, the client's only if that was offered.
        ("", "server_max_window_bits=12"),
        ("client_max_window_bits", "server_max_window_bits=12; client_max_window_bits=12"),
        ("client_max_window_bits=15", "server_max_window_bits=12; client_max_window_bits=12"),
        ("client_max_window_bits=11", "server_max_window_bits=12; client_max_window_bits=11"),
        ("server_max_window_bits=15", "server_max_window_bits=12"),
        ("server_max_window_bits=12", "server_max_window_bits=12"),
        ("server_max_window_bits=9", "server_max_window_bits=9"),
        # A window that is not kept costs nothing.
        ("server_no_context_takeover", "server_no_context_takeover"),
        (
            "server_no_context_takeover; server_max_window_bits=14",
            "server_no_context_takeover; server_max_window_bits=14",
        ),
        (
            "client_no_context_takeover; client_max_window_bits",
            "client_no_context_takeover; server_max_window_bits=12",
        ),
        (
            "client_no_context_takeover; client_max_window_bits=14",
            "client_no_context_takeover; server_max_window_bits=12; client_max_window_bits=14",
        ),
    ],
)
def test_a_server_limits_the_windows_that_are_kept(offers: str, expected: str) -> None:
    assert answered(f"permessage-deflate; {offers}" if offers else "permessage-deflate", bits=12) == expected


@pytest.mark.parametrize(
    ("offers", "more"),
    [
        ("", ""),
        ("; client_max_window_bits", ""),
        ("; client_max_window_bits=10", "; client_max_window_bits=10"),
        ("; server_max_window_bits=10", "; server_max_window_bits=10"),
        ("; server_no_context_takeover", ""),
    ],
)
def test_with_no_context_a_server_asks_both_sides_to_start_afresh(offers: str, more: str) -> None:
    expected = f"server_no_context_takeover; client_no_context_takeover{more}"
    assert answered(f"permessage-deflate{offers}", NO_CONTEXT, 12) == expected


BAD_PARAMETERS = (
    "x",
    "x=1",
    "CLIENT_MAX_WINDOW_BITS",
    "server_no_context_takeover=true",
    "client_no_context_takeover=1",
    "server_max_window_bits",
    "server_max_window_bits=7",
    "server_max_window_bits=16",
    "client_max_window_bits=07",
    "client_max_window_bits=banana",
    "client_max_window_bits; client_max_window_bits",
    "client_max_window_bits; client_max_window_bits=10",
    "server_no_context_takeover; server_no_context_takeover",
)


@BOTH
@pytest.mark.parametrize("bad", BAD_PARAMETERS)
def test_an_offer_that_cannot_be_accepted_is_passed_over(bad: str, compression: Compression) -> None:
    assert accepted(f"permessage-deflate; {bad}", compression, 12) is None
    good = "permessage-deflate; client_max_window_bits=10"
    for offers in (f"permessage-deflate; {bad}, {good}", f"permessage-deflate; client_max_window_bits; {bad},x,{good}"):
        assert accepted(offers, compression, 12) == accepted(good, compression, 12)


def test_the_first_offer_that_can_be_accepted_is() -> None:
    first = "permessage-deflate; server_max_window_bits=10; client_max_window_bits"
    offers = f"x-webkit-deflate-frame, {first}, permessage-deflate; server_no_context_takeover"
    assert accepted(offers, TAKEOVER, 12) == accepted(first, TAKEOVER, 12)
    assert answered(offers, bits=12) == "server_max_window_bits=10; client_max_window_bits=12"


@pytest.mark.parametrize("offers", MALFORMED)
def test_a_malformed_header_offers_nothing(offers: str) -> None:
    assert accepted(offers, TAKEOVER, 12) is None
    assert accepted(f"permessage-deflate, {offers}", TAKEOVER, 12) is None
    assert accepted(f"{offers}, permessage-deflate", TAKEOVER, 12) is None


MODES = [
    (compression, afresh_server, afresh_client, server_bits, client_bits)
    for compression in (TAKEOVER, NO_CONTEXT)
    for afresh_server in ("", "; server_no_context_takeover")
    for afresh_client in ("", "; client_no_context_takeover")
    for server_bits in ("", "; server_max_window_bits=8", "; server_max_window_bits=15")
    for client_bits in ("", "; client_max_window_bits", "; client_max_window_bits=8", "; client_max_window_bits=15")
]


@pytest.mark.parametrize("bits", [9, 12, 15])
def test_our_client_takes_the_answer_for_what_the_server_means_by_it(bits: int) -> None:
    for compression, *parameters in MODES:
        agreement = accepted("".join(["permessage-deflate", *parameters]), compression, bits)
        assert agreement is not None
        client, server = agreed(agreement.header, TAKEOVER), agreement.deflate
        assert client == (
            server.peer_no_context_takeover,
            server.own_no_context_takeover,
            server.peer_max_window_bits,
            server.own_max_window_bits,
        )


@pytest.mark.parametrize("piece", PIECES)
def test_the_work_on_a_long_offer_grows_with_its_length(piece: str) -> None:
    def calls(count: int) -> int:
        offers = "permessage-deflate" + "".join(piece.format(number) for number in range(count))
        return calls_within(lambda header: accepted(header, TAKEOVER, 12), offers)

    calls(1)  # whatever is done once
    assert calls(4000) <= 5 * max(calls(1000), 10)


@pytest.mark.parametrize(
    "offers",
    [
        "permessage-deflate; x, " * 20_000,
        "permessage-deflate" + "; a" * 60_000,
        "permessage-deflate; a=" + '"' * 60_000,
        "x, " * 60_000 + "(",
        "permessage-deflate; client_max_window_bits=" + "9" * 60_000,
    ],
)
def test_a_huge_offer_is_declined(offers: str) -> None:
    # With anything quadratic this takes minutes, and the test's time limit strikes.
    assert accepted(offers, TAKEOVER, 12) is None
