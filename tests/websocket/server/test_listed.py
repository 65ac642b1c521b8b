"""Options that are lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from csp.errors import InvalidTypeError
from trio_csp_websocket.server.forwarded import parse_networks
from trio_csp_websocket.server.hosts import parse_hosts
from trio_csp_websocket.server.origins import parse_origins

if TYPE_CHECKING:
    from collections.abc import Callable

OPTIONS = {"origins": parse_origins, "hosts": parse_hosts, "trusted_proxies": parse_networks}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("example.com", r"write \['example\.com'\]"),
        ("", r"write \[''\]"),
        (b"*", "not bytes"),
        (None, "not NoneType"),
        pytest.param(10**5000, "not int", id="large"),
        (True, "not bool"),
    ],
)
def test_what_is_no_list_is_refused_and_the_text_tells_what_to_write(name: str, given: object, told: str) -> None:
    with pytest.raises(InvalidTypeError, match=f"^{name} must be .*{told}$"):
        OPTIONS[name](given)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(
    ("entry", "told"), [(5, "int"), pytest.param(10**5000, "int", id="large"), (b"*", "bytes"), (None, "NoneType")]
)
def test_a_list_has_nothing_but_what_it_is_for(name: str, entry: object, told: str) -> None:
    with pytest.raises(InvalidTypeError, match=rf"^{name} must .* {told}\b"):
        OPTIONS[name]([entry])


@pytest.mark.parametrize("made", [list, tuple, set, iter])
def test_any_iterable_is_a_list(made: Callable[[list[str]], object]) -> None:
    assert parse_hosts(made(["example.com"])).allows("example.com")
    assert parse_origins(made(["https://example.com"])).allows("https://example.com", None)
    assert parse_networks(made(["192.0.2.1"])).has_peer(("192.0.2.1", 1))
