"""The HTTP routes of a node. Owns paths, headers and status codes; the answers come from callables given by app.py."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from realtime.protocol.envelope import error_body
from realtime.protocol.errors import InvalidData, TalkmeterError

WEB = Path(__file__).resolve().parent
BODY_BYTES_MAX = 64 * 1024
STATUS = {
    "invalid_data": 422,
    "payload_too_large": 413,
    "forbidden": 403,
    "not_found": 404,
    "unavailable": 503,
    "unauthenticated": 401,
}
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(self), microphone=(self)"),
    (
        b"content-security-policy",
        b"default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data: blob:; media-src 'self' blob:; "
        b"style-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
)

Page = Callable[[], Awaitable[bytes]]
Check = Callable[[], Awaitable[dict[str, str]]]


class DevUser(msgspec.Struct):
    """Whom a development token is for; a host also gets a profile, and coins are topped up to `coins`."""

    user: str
    name: str = ""
    host: bool = False
    coins: int = 0
    price_coins: int = 0
    pulse_ms: int = 0
    languages: list[str] = []
    tags: list[str] = []
    media: list[str] = []


MintDev = Callable[[DevUser], Awaitable[dict[str, Any]]]


class SecurityHeaders:
    """Adds the fixed headers to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *SECURITY_HEADERS]
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def build(*, ready: Check, metrics: Page, mint_dev: MintDev | None) -> Starlette:
    """Return the HTTP application.

    Args:
        ready: gives each part's state by name, "ok" or what is wrong; all ok means ready.
        metrics: gives the page for Prometheus.
        mint_dev: makes development tokens; None closes the demo's sign-in.
    """

    async def healthz(request: Request) -> Response:
        return _json({"status": "ok"})

    async def readyz(request: Request) -> Response:
        parts = await ready()
        healthy = all(state == "ok" for state in parts.values())
        return _json({"status": "ok" if healthy else "unavailable", "parts": parts}, 200 if healthy else 503)

    async def metrics_page(request: Request) -> Response:
        return Response(await metrics(), media_type=CONTENT_TYPE_LATEST)

    routes: list[BaseRoute] = [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics_page),
        Mount("/client", StaticFiles(directory=WEB / "client" / "dist", check_dir=False)),
    ]
    if mint_dev is not None:
        routes += _development(mint_dev)
    return Starlette(routes=routes, middleware=[Middleware(SecurityHeaders)])


def _development(mint_dev: MintDev) -> list[BaseRoute]:
    async def dev_token(request: Request) -> Response:
        # A page of another origin must not mint: it would need a preflight for this content type.
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return _refusal(InvalidData("send application/json"))
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_BYTES_MAX:
                return _refusal(InvalidData("the body is too large"))
        try:
            user = msgspec.json.decode(bytes(body), type=DevUser)
            return _json(await mint_dev(user))
        except msgspec.DecodeError as exc:
            return _refusal(InvalidData(str(exc)))
        except TalkmeterError as exc:
            return _refusal(exc)

    async def home(request: Request) -> Response:
        return RedirectResponse("/demo/")

    return [
        Route("/dev/token", dev_token, methods=["POST"]),
        Route("/", home),
        Route("/demo", home),
        Mount("/demo", StaticFiles(directory=WEB / "demo", html=True)),
    ]


def _json(value: Any, status: int = 200) -> Response:
    headers = {"cache-control": "no-store"}
    return Response(msgspec.json.encode(value), status, media_type="application/json", headers=headers)


def _refusal(error: TalkmeterError) -> Response:
    return _json({"error": error_body(error)}, STATUS.get(error.code, 400))
