"""Sends of which a test expects how they end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from csp.errors import ConnectionFailedError

if TYPE_CHECKING:
    from csp.websocket import Client


async def ended_send(client: Client) -> None:
    with pytest.raises(ConnectionFailedError):
        await client.send("data")
