"""A plain Starlette WebSocket endpoint on uvicorn, as its documentation shows it. Prints "listening PORT"."""

from __future__ import annotations

import asyncio
import json
import socket

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

members: set[WebSocket] = set()


async def endpoint(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            request = await websocket.receive_json()
            if request["op"] == "join":
                members.add(websocket)
            if request["op"] == "publish":
                event = json.dumps({"event": "message", "data": request["data"]})
                for member in list(members):
                    await member.send_text(event)
            await websocket.send_text(json.dumps({"re": request["id"], "ok": request["data"]}))
    except WebSocketDisconnect:
        members.discard(websocket)


def main() -> None:
    sock = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(f"listening {sock.getsockname()[1]}", flush=True)
    app = Starlette(routes=[WebSocketRoute("/", endpoint)])
    config = uvicorn.Config(app, log_level="error", ws_per_message_deflate=False)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=[sock]))


if __name__ == "__main__":
    main()
