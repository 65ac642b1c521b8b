"""Serves one port by three processes, --reuse-port or --inherited, and replaces each while clients read numbers."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from functools import partial
from subprocess import PIPE

signal.signal(signal.SIGINT, lambda _signal, _frame: os._exit(130))  # Ctrl-C while this loads

import trio

import csp
from csp import websocket

# Hands its standard input over to a program as systemd does: as descriptor 3, which two variables tell of.
HAND_OVER = ["/bin/sh", "-c", 'export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@" 3<&0 0</dev/null', "sh"]


async def publish(connection: websocket.ServerConnection) -> None:
    """Send a number each hundredth of a second: from now on, or all that follow the one that the client names."""
    number = int((await connection.receive_value()).data) or int(time.time() * 100)
    while True:
        await trio.sleep(max(0, number / 100 - time.time()))
        number += 1
        await connection.send(str(number))


async def work(port: int) -> None:
    """Be one of the processes: on SIGTERM accept no more, and send the clients to the others."""
    sockets = websocket.inherited_sockets()
    async with csp.from_signals(signal.SIGTERM) as stop, trio.open_nursery() as nursery:
        if sockets:
            serve = partial(websocket.serve, publish, sockets=sockets)
        else:
            serve = partial(websocket.serve, publish, port, host="127.0.0.1", reuse_port=True)
        server: websocket.Server = await nursery.start(serve)
        print("ready", flush=True)
        await stop.receive_value()
        await server.close(websocket.CLOSE_CODES.SERVICE_RESTART, grace="100ms")


async def read(
    url: str, name: str, end: csp.Latest[float], told: list[str], *, task_status: trio.TaskStatus[None]
) -> None:
    """Read numbers up to the end, and tell whether any were missing."""
    last, gaps, at_gap, missing = 0, 0, False, {True: 0, False: 0}

    async def subscribe(client: websocket.Client) -> None:
        await client.send(str(last if name == "resumes" else 0))

    async with websocket.reconnecting(url, subscribe=subscribe) as feed:
        while last < end.value:
            value = await feed.receive_value()
            if isinstance(value, csp.Gap):
                gaps, at_gap = gaps + 1, True
                continue
            number = int(value.data)
            if number <= last:
                continue  # it came twice: it waited in the channel when the client subscribed again
            if last:
                missing[at_gap] += number - last - 1
            else:
                task_status.started()
            last, at_gap = number, False
    lost = "some" if missing[True] else "none"
    told.append(
        f"a client that {name} met {'gaps' if gaps else 'no gap'}: {lost} missing there, {missing[False]} elsewhere"
    )


async def start(nursery: trio.Nursery, command: list[str], own: socket.socket) -> trio.Process:
    """Start one of the processes; return when it listens."""
    run = partial(trio.run_process, command, stdin=own, stdout=PIPE, check=False)
    process: trio.Process = await nursery.start(run)
    assert process.stdout is not None
    if not await process.stdout.receive_some():  # it says that it is ready
        raise ChildProcessError("a process has not started")
    return process


async def replace_all(how: str, nursery: trio.Nursery, done: csp.Channel[None]) -> None:
    """Start processes and clients, and replace each process by one that listens before the old one stops."""
    if sys.platform == "win32":
        raise OSError("here, processes can share a port in neither way")
    end, told = csp.Latest(float("inf")), list[str]()
    with done, socket.socket() as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, how == "--reuse-port")
        own.bind(("127.0.0.1", 0))
        if how == "--inherited":
            own.listen()  # otherwise it only keeps the port
        port = own.getsockname()[1]
        command = [*(HAND_OVER if how == "--inherited" else []), sys.executable, __file__, str(port)]
        processes = [await start(nursery, command, own) for _ in range(3)]
        print(f"3 processes listen, {how}", flush=True)
        async with trio.open_nursery() as clients:
            for name in ("resumes", "resumes", "begins anew"):
                await clients.start(read, f"ws://127.0.0.1:{port}/", name, end, told)
            for number, old in enumerate(processes, 1):
                await start(nursery, command, own)
                old.terminate()  # SIGTERM
                print(f"process {number} is replaced, and has ended with status {await old.wait()}", flush=True)
            end.set(time.time() * 100)
        print("\n".join(sorted(told)))


async def main(how: str) -> None:
    """Do so, until Ctrl-C."""
    done = csp.Channel[None]()
    async with csp.from_signals(signal.SIGINT) as stop, csp.BackgroundNursery() as nursery:
        nursery.start_soon(replace_all, how, nursery, done)
        if stop.gave(await csp.select(stop.case_receive(), done.case_receive())):
            raise SystemExit(130)


if __name__ == "__main__":
    argument = sys.argv[1] if len(sys.argv) > 1 else "--reuse-port" if sys.platform == "linux" else "--inherited"
    if argument.isdecimal():
        trio.run(work, int(argument))
    elif argument in ("--reuse-port", "--inherited"):
        trio.run(main, argument)
    else:
        sys.exit(f"several_processes: there is no {argument}")
