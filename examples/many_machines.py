"""Two servers and three workers share a Redis: all orders are done, although a server and a worker are killed.

Clients send orders to either server, which puts them into a work queue. A worker does an order, and publishes on a
topic that it is done, which both servers broadcast to all their clients. Who is where does not matter, nor who dies:

- The orders that a killed worker had in hand are done by others, once its lease has run out.
- A client whose server is killed comes to the other one, behind a gap. It says which news it saw last, and is told what
  followed. It sends its orders that it has no news of again; by their keys, they are not put into the queue twice.

``many_machines.py [URL]`` starts all of it, with a Redis server of its own, or that of the URL.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import AsyncExitStack
from functools import partial
from subprocess import PIPE
from typing import TYPE_CHECKING, Any

signal.signal(signal.SIGINT, lambda _signal, _frame: os._exit(130))  # Ctrl-C while this loads

import trio

import csp
from csp import redis, testing, websocket

if TYPE_CHECKING:
    from collections.abc import Callable

CLIENTS, ORDERS = 6, 100  # orders of each client


async def serve(url: str, port: str) -> None:
    """Be a server: orders go into the queue, and what is published goes to all clients."""
    async with redis.Bus(url, codec=redis.JSON) as bus, trio.open_nursery() as nursery:
        orders, news = bus.queue("orders"), bus.topic("done")
        hub = websocket.Hub()
        latest = ""  # the id of what was read last; the hub's connections have had it

        async def handle(connection: websocket.ServerConnection) -> None:
            """Take the orders of a client, which first says which news it saw last."""
            since = str((await connection.receive_value()).data)
            await tell_missed(connection, news, since, lambda: latest)
            hub.add(connection)  # what follows is broadcast to it
            async for message in connection:
                await orders.send(message.data, key=str(message.data))

        async with news.subscribe() as updates:
            await updates.ready()
            started = await news.publish(None)  # what is before it is for clients to ask for
            async for update in updates:
                if isinstance(update, redis.Published):
                    latest = update.id
                    if latest == started:
                        await nursery.start(
                            partial(websocket.serve, handle, int(port), host="127.0.0.1", reuse_port=True)
                        )
                        print("ready", flush=True)
                    elif update.data is not None:
                        hub.broadcast(told(update))


async def tell_missed(
    connection: websocket.ServerConnection, news: redis.Topic[Any], since: str, latest: Callable[[], str]
) -> None:
    """Send a client what it has not seen; return at the moment at which it has had the latest."""
    if place(since) < place(latest()):
        async with news.subscribe(since=since) as missed:
            async for update in missed:
                if isinstance(update, redis.Published):
                    if update.data is not None:
                        await connection.send(told(update))
                    if place(update.id) >= place(latest()):
                        return


def told(update: redis.Published[Any]) -> str:
    """Return what clients are sent."""
    return json.dumps({"id": update.id, **update.data})


async def work(url: str, name: str) -> None:
    """Be a worker: do orders, and publish that they are done."""
    async with redis.Bus(url, codec=redis.JSON) as bus, bus.queue("orders").work(lease="1s") as orders:
        await orders.ready()
        print("ready", flush=True)
        async for order in orders:
            with order:
                await trio.sleep(0.01)
                await bus.topic("done").publish({"order": order.data, "by": name})


async def order(
    url: str, name: str, seen: csp.Channel[str], done: set[str], *, task_status: trio.TaskStatus[None]
) -> None:
    """Be a client: send orders, and wait for news of all those of all clients."""
    missing = {f"{name}-{number}" for number in range(ORDERS)}
    last = "0-0"

    async def subscribe(client: websocket.Client) -> None:
        await client.send(last)
        for each in sorted(missing):
            await client.send(each)

    async with websocket.reconnecting(url, subscribe=subscribe, min_delay="50ms", max_delay="200ms") as feed:
        task_status.started()
        while len(done) < CLIENTS * ORDERS:
            value = await feed.receive_value()
            if isinstance(value, csp.Gap):
                await seen.send(f"{name} saw a gap")
                continue
            news = json.loads(value.data)
            last = max(last, news["id"], key=place)
            missing.discard(news["order"])
            done.add(news["order"])
    await seen.send(f"{name} is done")


def place(entry: str) -> tuple[int, ...]:
    """Return where an id is among others."""
    return tuple(map(int, entry.split("-")))


async def start(nursery: trio.Nursery, *arguments: str) -> trio.Process:
    """Start a server or a worker; return when it is ready."""
    command = [sys.executable, __file__, *arguments]
    process: trio.Process = await nursery.start(partial(trio.run_process, command, stdout=PIPE, check=False))
    assert process.stdout is not None
    if not await process.stdout.receive_some():
        raise ChildProcessError("a process has not started")
    return process


async def show(url: str | None, ended: csp.Channel[None]) -> None:
    """Start all of it, kill some, and tell what clients saw."""
    async with AsyncExitStack() as stack:
        stack.enter_context(ended)
        if url is None:
            url = (await stack.enter_async_context(testing.redis_server())).url
        nursery = await stack.enter_async_context(csp.BackgroundNursery())
        with trio.socket.socket() as own:
            own.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEPORT, 1)
            await own.bind(("127.0.0.1", 0))
            port = str(own.getsockname()[1])  # kept for the servers, which share it
            servers = [await start(nursery, "serve", url, port) for _ in range(2)]
            workers = [await start(nursery, "work", url, f"worker {number}") for number in range(1, 4)]
            print("2 servers and 3 workers are ready", flush=True)
            seen = csp.Channel[str](100)
            done: dict[str, set[str]] = {f"client {number}": set() for number in range(1, CLIENTS + 1)}
            for name, news in done.items():
                await nursery.start(order, f"ws://127.0.0.1:{port}/", name, seen, news)
            await doing(done, 100)
            workers[0].kill()
            print("a worker is killed", flush=True)
            await doing(done, 250)
            servers[0].kill()
            print("a server is killed", flush=True)
            gaps = 0
            for _ in range(CLIENTS):
                while not (await seen.receive_value()).endswith("is done"):
                    gaps += 1
            print(f"{gaps} clients saw a gap; each has news of all {CLIENTS * ORDERS} orders")
            async with redis.Bus(url) as bus:
                orders = bus.queue("orders")
                while await orders.depth():  # what the killed worker had done, and not acked, is done again
                    await csp.after("100ms").receive()
                print(f"the queue is empty; dead letters: {(await orders.backlog()).dead_letters}")


async def doing(done: dict[str, set[str]], count: int) -> None:
    """Wait until all clients together have news of so many orders."""
    while len(set[str]().union(*done.values())) < count:
        await csp.after("10ms").receive()


async def main(url: str | None) -> None:
    """Do so, until Ctrl-C."""
    ended = csp.Channel[None]()
    async with csp.from_signals(signal.SIGINT) as stop, csp.BackgroundNursery() as nursery:
        nursery.start_soon(show, url, ended)
        if stop.gave(await csp.select(stop.case_receive(), ended.case_receive())):
            raise SystemExit(130)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", url, port]:
            trio.run(serve, url, port)
        case ["work", url, name]:
            trio.run(work, url, name)
        case arguments:
            trio.run(main, arguments[0] if arguments else None)
