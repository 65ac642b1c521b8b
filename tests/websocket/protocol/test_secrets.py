"""What a server says without the secrets of the request, whatever it says."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from trio_csp_websocket.protocol.secrets import Secrets

TOKEN, COOKIE, USER, PASSWORD, QUERY = "Hunter2/=", "s%3Abc+d", "t0ken4me", "pa\u00df w0rd", "sig\U0001f511nature"
SECRETS = Secrets(
    "/feed?key=sig%F0%9F%94%91nature",
    [
        ("Authorization", "Basic dDBrZW40bWU6cGHDnyB3MHJk"),
        ("Cookie", f"id={COOKIE}"),
        ("X-Key", f"Key {TOKEN}"),
    ],
)
SHOWN_NEVER = (TOKEN, COOKIE, "s:bc+d", USER, PASSWORD, QUERY)

# Secrets and their parts, and what escapes are made of, as a whole and cut.
PARTS = st.sampled_from(
    [
        *SHOWN_NEVER,
        *(secret[:-1] for secret in SHOWN_NEVER),
        *(secret.upper() for secret in SHOWN_NEVER),
        *"\\u%&#;\"' \n\t\0",
        *("\\u0074", "\\ud83d", "\\udd11", "\\u12", "%74", "%C3%9F", "%ff", "&#116;", "&#x74", "&szlig;", "&#xd800;"),
        *("\u0130", "\u212a", "\u017f", "\u1e9e", "\ud800", "0ken4me", "unter2/="),
    ]
)
TEXTS = st.lists(PARTS | st.text(max_size=3), max_size=12).map("".join)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(TEXTS)
def test_no_text_has_a_secret_in_it(text: str) -> None:
    for cut in (False, True):
        shown = SECRETS.hidden(text, cut=cut).lower()
        assert [secret for secret in SHOWN_NEVER if secret.lower() in shown] == []


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(TEXTS, st.sampled_from(SHOWN_NEVER), st.integers(4, 8))
def test_no_text_that_is_cut_ends_as_a_secret_begins(text: str, secret: str, size: int) -> None:
    begun = secret[:size]
    assert not SECRETS.hidden(text + begun, cut=True).lower().endswith(begun.lower())


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.text(alphabet="abc \\%&;\n\u0130"))
def test_a_text_without_secrets_stays_as_it_is(text: str) -> None:
    assert SECRETS.hidden(text) == text
    assert SECRETS.hidden(text, cut=True) == text


def test_where_there_are_too_many_nothing_is_shown() -> None:
    many = Secrets("/feed?" + "&".join(f"name{number}" for number in range(1200)), [])
    assert many.too_many
    assert many.hidden("no secret") == ""
    assert not SECRETS.too_many
    long = Secrets("/feed?" + "&".join(str(number) * 30_000 for number in range(10)), [])
    assert long.too_many
    assert Secrets("/", [], long).too_many
