"""Who is at a server: what depends on the order in which tasks begin, elsewhere."""

from __future__ import annotations

import trio

from trio_csp_websocket.server.register import Register


async def test_a_request_that_begins_once_they_are_shut_out_is_shut_out_too() -> None:
    register = Register(100)
    before, after = trio.CancelScope(), trio.CancelScope()
    register.expect()
    register.begin_request(before)
    register.shut_out()
    register.begin_request(after)
    assert before.cancel_called
    assert after.cancel_called
