"""What a session talks over: one connection, or one after another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

import trio

import csp
from csp.errors import ConnectionFailedError
from trio_csp_websocket.client.reconnecting import reconnecting

if TYPE_CHECKING:
    from trio_csp_websocket.client.client import Client
    from trio_csp_websocket.client.options import ConnectOptions
    from trio_csp_websocket.protocol.messages import Message


class Ending(NamedTuple):
    """How it all ended."""

    code: int | None
    """The close code of the last connection; None if there was no connection when it ended."""
    reason: str | None
    """The reason that goes with it."""
    error: BaseException | None
    """What ended it, if that was an error."""


class Link(ABC):
    """What a session talks over."""

    def __init__(self) -> None:
        self.latest: Client | None = None
        """The client of the latest connection, which may have ended; None before the first."""
        self._connected = trio.Event()  # set, and replaced, when there is a new `latest`

    @property
    def client(self) -> Client | None:
        """The client of the open connection; None while there is none."""
        return self.latest if self.latest is not None and self.latest.close_code is None else None

    @property
    @abstractmethod
    def values(self) -> csp.Source[Message | csp.Gap]:
        """The messages, and gaps between those of two connections; closes at the end."""

    @property
    @abstractmethod
    def states(self) -> csp.Source[csp.ConnectionState]:
        """Each new state, as `Feed.states` gives them."""

    @property
    @abstractmethod
    def goes_on(self) -> bool:
        """Whether another connection may follow."""

    async def send(self, text: str) -> bool:
        """Send a text message on the open connection; wait for one if there is none.

        If a connection fails before anything of the message is written, it is sent on the next one. Only one task may
        send.

        Returns False if it failed later: the server may have the message, or not.
        """
        tried: Client | None = None
        while True:
            while (client := self.latest) is None or client is tried:
                await self._connected.wait()
            tried, messages_sent = client, client.statistics().messages_sent
            try:
                await client.send(text)
            except ConnectionFailedError:
                if client.statistics().messages_sent > messages_sent:
                    return False
            else:
                return True

    @abstractmethod
    async def close(self, code: int, reason: str) -> None:
        """Close the open connection, and make no other."""

    @abstractmethod
    def ending(self) -> Ending:
        """Return how it ended; call it once `values` is closed."""

    def _connect(self, client: Client) -> None:
        """Note a new connection."""
        self.latest = client
        self._connected.set()
        self._connected = trio.Event()


class OneConnection(Link):
    """A connection that is open."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._connect(client)
        self._client = client
        self._states = csp.Channel[csp.ConnectionState](1)
        self._states.send_nowait(csp.ConnectionState("open", 1))

    @property
    def values(self) -> csp.Source[Message]:
        return self._client.channel()

    @property
    def states(self) -> csp.Source[csp.ConnectionState]:
        return self._states

    @property
    def goes_on(self) -> bool:
        return False

    async def close(self, code: int, reason: str) -> None:
        await self._client.close(code, reason)

    def ending(self) -> Ending:
        return Ending(self._client.close_code, self._client.close_reason, self._client.error)


class ManyConnections(Link):
    """A feed, which connects again when a connection is lost. It runs in the block of `feed`."""

    def __init__(self, url: str, options: ConnectOptions) -> None:
        super().__init__()
        self.feed = reconnecting(url, subscribe=self._subscribe, **options)

    async def _subscribe(self, client: Client) -> None:
        # The client of the feed is None again once its connection has ended, perhaps before anybody has looked.
        self._connect(client)

    @property
    def values(self) -> csp.Source[Message | csp.Gap]:
        return self.feed.channel()

    @property
    def states(self) -> csp.Source[csp.ConnectionState]:
        return self.feed.states()

    @property
    def goes_on(self) -> bool:
        return self.feed.state.name != "closed"

    async def close(self, code: int, reason: str) -> None:
        self.latest = self.client  # how an earlier connection ended is not how this ends
        await self.feed.close(code, reason)

    def ending(self) -> Ending:
        error, last = self.feed.channel().cause, self.latest
        if last is None or error is not last.error:
            return Ending(None, None, error)
        return Ending(last.close_code, last.close_reason, error)
