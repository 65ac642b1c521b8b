"""Streams of frames from clients, right and wrong, through a whole connection of a server, from the request on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from csp import websocket
from csp.errors import ConnectionFailedError
from tests.fuzz._oracles import Ours, found, read
from tests.fuzz._streams import DAMAGES, FAULTS, Case, cases, split
from tests.fuzz.test_whole_connection import Ended, examples
from tests.hostile._foe import Said, from_client, head
from tests.websocket._entrance import Entrance
from tests.websocket._peers import CLOSE, PING, PONG, driver_tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csp.websocket import ServerConnection
