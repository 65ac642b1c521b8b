"""What spans say of the place that a connection leads to."""

from __future__ import annotations

import pytest

from trio_csp_websocket.telemetry.attributes import of_outcome, of_place


@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        ("192.0.2.3:443", {"network.peer.address": "192.0.2.3", "network.peer.port": 443}),
        ("[2001:db8::1]:81", {"network.peer.address": "2001:db8::1", "network.peer.port": 81}),
        ("/run/app.sock", {"network.peer.address": "/run/app.sock", "network.transport": "unix"}),
        (None, {}),
    ],
)
def test_the_other_end(remote: str | None, expected: dict[str, object]) -> None:
    assert of_place({"remote": remote}) == expected


def test_a_url_and_a_proxy() -> None:
    url = "wss://[2001:db8::1]:8443/a?..."
    assert of_place({"url": url, "proxy": "http://proxy.test:3128"}) == {
        "url.scheme": "wss",
        "url.path": "/a",
        "server.address": "2001:db8::1",
        "server.port": 8443,
        "websocket.proxy": "http://proxy.test:3128",
    }
    assert of_place({"url": "a URL not asked for yet"}) == {}


def test_a_status_is_the_type_of_an_error_from_300_on_or_from_500_on_where_nobody_raises() -> None:
    assert of_outcome({"status": 101, "error_type": "A"})["error.type"] == "A"
    assert of_outcome({"status": 302, "error_type": "A"})["error.type"] == "302"
    assert "error.type" not in of_outcome({"status": 404})
    assert of_outcome({"status": 503})["error.type"] == "503"
