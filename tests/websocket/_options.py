"""Options of `connect`, parsed, and refused."""

from __future__ import annotations

from typing import Any

import pytest

from csp import websocket
from csp.errors import InvalidError, Kind
from tests.websocket._server import URL
from trio_csp_websocket.client.options import Options, parse_options


def invalid(**options: Any) -> InvalidError:
    """Return the error that ``connect`` raises at the call."""
    with pytest.raises(InvalidError) as caught:
        websocket.connect(URL, **options)
    assert caught.value.kind is Kind.INVALID
    assert caught.value.retryable is False
    return caught.value


def parsed(**options: object) -> Options:
    return parse_options(options)
