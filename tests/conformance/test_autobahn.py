"""Cases of the Autobahn test suite against client and server: of every group those that take little time.

``python -m tests.conformance`` runs all of them. The README beside says what comes out, and why not all are OK.
"""

from __future__ import annotations

import pytest

from tests.conformance import _client, _server
from tests.conformance._autobahn import NOT_INSTALLED, Outcome, installed

GROUPS = (1, 2, 3, 4, 5, 6, 7, 9, 10, 12, 13)
# Of the large groups the first case of each section.
CASES = (
    *("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"),
    *(f"9.{section}.1" for section in range(1, 9)),
    *(f"12.{section}.1" for section in range(1, 6)),
    *(f"13.{section}.1" for section in range(1, 8)),
)
# These take seconds, and are NON-STRICT.
LEFT_OUT = ("6.4.3", "6.4.4")

# Where a message and a violation come in one packet, the verdict comes before the echo.
NON_STRICT = {"3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.15"}
# No outcome is right or wrong.
INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}
# As a server, kosoku asks for a client that gives up context takeover of its own accord.
UNIMPLEMENTED = {"13.2.1", "13.5.1", "13.6.1"}


@pytest.fixture(scope="module", params=["client", "server"])
def tested(request: pytest.FixtureRequest) -> str:
    end: str = request.param
    return end


@pytest.fixture(scope="module")
def outcomes(tested: str) -> list[Outcome]:
    if not installed():
        pytest.skip(NOT_INSTALLED)
    if tested == "server":
        return _server.run_cases(CASES, without=LEFT_OUT)
    return _client.run_cases(_client.echo, CASES, without=LEFT_OUT)


def acceptable(tested: str, outcome: Outcome) -> bool:
    match outcome.judgement:
        case "NON-STRICT":
            return outcome.verdict.case in NON_STRICT
        case "INFORMATIONAL":
            return outcome.verdict.case in INFORMATIONAL
        case "UNIMPLEMENTED":
            return tested == "client" and outcome.verdict.case in UNIMPLEMENTED
        case judgement:
            return judgement == "OK"


@pytest.mark.parametrize("group", GROUPS)
def test_the_cases_of_a_group_pass(group: int, tested: str, outcomes: list[Outcome]) -> None:
    members = [outcome for outcome in outcomes if outcome.group == group]
    assert members
    wrong = [str(outcome) for outcome in members if not acceptable(tested, outcome)]
    assert not wrong, "\n".join(wrong)


def test_no_case_leaves_a_socket_open(outcomes: list[Outcome]) -> None:
    assert [outcome.verdict.case for outcome in outcomes if outcome.observation.sockets_left] == []
