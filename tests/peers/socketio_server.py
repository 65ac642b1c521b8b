"""python-socketio on uvicorn: see `_servers.py` for how it starts and ends."""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import threading
from importlib.metadata import version


def run(listener: socket.socket) -> None:
    socketio = importlib.import_module("socketio")
    uvicorn = importlib.import_module("uvicorn")
    server = socketio.AsyncServer(async_mode="asgi", ping_interval=1, ping_timeout=1)

    async def greet(session: str, *arguments: object) -> str:
        await server.emit("greeted", arguments, to=session)
        return "done"

    server.on("greet", greet)
    config = uvicorn.Config(
        socketio.ASGIApp(server), ws="websockets-sansio", log_level="warning", lifespan="off", access_log=False
    )
    uvicorn.Server(config).run(sockets=[listener])


def end_with_standard_input() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=end_with_standard_input, daemon=True).start()
    versions = ", ".join(f"{name} {version(name)}" for name in ["python-socketio", "python-engineio", "uvicorn"])
    print(json.dumps([listener.getsockname()[1], versions]), flush=True)
    run(listener)
