"""The door of the page: which requests reach gradio at all, how large, how many, how slowly, and under which name."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import Any
from urllib.parse import parse_qs

from .requests import MAX_NAME, checked, fault
from .safety import (
    BAD_REQUEST,
    MAX_BODY,
    NOT_HERE,
    OTHER_HOST,
    TOO_FAST,
    TOO_LARGE,
    TOO_SLOW,
    RateLimit,
    visitor_of,
)

# Seconds between two parts of a body, and for all of it: 10 MB over a slow line take three minutes.
PART_SECONDS = 20.0
BODY_SECONDS = 300.0
_MAX_QUERY = 2000
# File systems take no longer name.
_MAX_SEGMENT = 255

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Guard:
    """
    ASGI middleware: lets only those requests in that this page is made of, refuses large bodies while they arrive and
    odd ones before gradio reads them, and too many calls. It also makes the browser ask no other host.

    Args:
        app: gradio's application.
        rate: how many uploads and calls a visitor may make.
        frames: how many camera frames.
        hosts: the names under which the page may be asked, without ports; any when `None`. A page on this computer
            only must refuse others: a website could give its own name this computer's address (DNS rebinding).
        tools: whether the address for language models (MCP) is offered.
        part_seconds: time between two parts of a body.
    """

    # Everything that gradio's browser part and its Python client ask for. What is not here is refused: among it are
    # addresses that fetch from other hosts, write files, or show how the page is made.
    exact = frozenset(
        {
            "/",
            "/config",
            "/info",
            "/openapi.json",
            "/upload",
            "/upload_progress",
            "/queue/join",
            "/queue/data",
            "/queue/status",
            "/cancel",
        }
        | {
            "/reset",
            "/startup-events",
            "/theme.css",
            "/favicon.ico",
            "/robots.txt",
            "/app_id",
            "/login_check",
            "/token",
        }
        | {"/user", "/manifest.json"}
    )
    below = ("/assets/", "/static/", "/svelte/", "/call/", "/stream/", "/heartbeat/", "/file=", "/custom_component/")
    no_files = ("/file=http:", "/file=https:")
    headers = (
        # gradio's page builds functions from templates, hence 'unsafe-eval'.
        (
            b"content-security-policy",
            b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' "
            b"'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
            b"connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; form-action 'self'",
        ),
        (b"referrer-policy", b"no-referrer"),
        (b"x-content-type-options", b"nosniff"),
    )

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        rate: RateLimit,
        frames: RateLimit | None = None,
        hosts: Collection[str] | None = None,
        tools: bool = False,
        part_seconds: float = PART_SECONDS,
    ) -> None:
        self.app = app
        self.rate = rate
        # A camera sends about 16 frames a second, and several visitors may share an address.
        self.frames = RateLimit(burst=300, per_second=50) if frames is None else frames
        # Megabytes of files, which stay for five minutes: at most 650 of one visitor lie here.
        self.megabytes = RateLimit(burst=300, per_second=1)
        self.hosts = None if hosts is None else frozenset(name.lower() for name in hosts)
        self.part_seconds = part_seconds
        if tools:
            self.exact = self.exact | {"/mcp"}

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        response = _Response(send, self.headers)
        if refusal := self._refusal(scope, headers):
            if headers.get("content-length", "0") != "0":
                await _discard(receive, self.part_seconds)
            await response.refuse(*refusal)
            return
        body = _Body(receive, self.part_seconds)
        try:
            path = _path(scope)
            if scope["method"] == "POST" and path != "/upload" and _is_json(headers):
                await self.app(scope, _replayed(checked(await body.whole()), body), response.send)
            else:
                await self.app(scope, body.part, response.send)
        except _Refused as refused:
            await response.refuse(*refused.args)
        except ValueError as error:
            await response.refuse(400, str(error) if str(error) == BAD_REQUEST else fault(error)[1])
        except Exception as error:
            # A body that ended early makes gradio raise an error of its own.
            await response.refuse(*(body.problem or fault(error)))

    def _refusal(self, scope: dict[str, Any], headers: dict[str, str]) -> tuple[int, str] | None:
        """Return why a request is refused before its body is looked at, or `None`."""
        if self.hosts is not None and _name_of(headers.get("host", "")) not in self.hosts:
            return 403, OTHER_HOST
        path, query = _path(scope), scope.get("query_string", b"").decode("latin-1")
        if not self._offered(scope["method"], path, query):
            return 404, NOT_HERE
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > MAX_BODY:
            return 413, TOO_LARGE
        if scope["method"] == "POST" and not self._allows(path, scope, headers):
            return 429, TOO_FAST
        return None

    def _offered(self, method: str, path: str, query: str) -> bool:
        named = path.rstrip("/") or "/"
        if method not in ("GET", "HEAD", "POST") or (method == "POST" and not named.startswith(_POSTED)):
            return False
        if not path.isprintable() or any(len(part.encode()) > _MAX_SEGMENT for part in path.split("/")):
            return False
        if not (named in self.exact or path.startswith(self.below)) or path.lower().startswith(self.no_files):
            return False
        if named == "/file=" or (path.startswith(("/stream/", "/heartbeat/", "/call/")) and len(path) > 3 * MAX_NAME):
            return False
        if len(query) > _MAX_QUERY:
            return False
        values = parse_qs(query)
        # The page has one page, and links that lead into a state of it would be files.
        return not ({"page", "deep_link"} & set(values)) and all(
            len(value) <= MAX_NAME for value in values.get("session_hash", [])
        )

    def _allows(self, path: str, scope: dict[str, Any], headers: dict[str, str]) -> bool:
        client = scope["client"][0] if scope.get("client") else None
        visitor = visitor_of(client, headers.get("x-forwarded-for"))
        if path.startswith("/stream/"):
            return self.frames.allows(visitor)
        if path.startswith("/upload"):
            length = headers.get("content-length", "")
            megabytes = (int(length) if length.isdigit() else MAX_BODY) / 1e6
            return self.rate.allows(f"upload {visitor}") and self.megabytes.allows(visitor, cost=megabytes)
        return self.rate.allows(f"call {visitor}")


# What may be posted.
_POSTED = ("/upload", "/queue/join", "/cancel", "/reset", "/call", "/stream/", "/mcp")


def _path(scope: dict[str, Any]) -> str:
    return str(scope["path"]).removeprefix("/gradio_api") or "/"


def _name_of(host: str) -> str:
    """Return the name in a Host header, without its port: `[::1]:7860` is `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if host.count(":") == 1 else host.lower()


def _is_json(headers: dict[str, str]) -> bool:
    return not headers.get("content-type", "").startswith("multipart/")


class _Refused(Exception):
    """A status and a sentence."""


class _Body:
    """A request's body as it arrives: not larger and not slower than the limits."""

    def __init__(self, receive: Receive, part_seconds: float) -> None:
        self.receive = receive
        self.part_seconds = part_seconds
        self.end = time.monotonic() + BODY_SECONDS
        self.received = 0
        self.complete = False
        self.problem: tuple[int, str] | None = None

    async def part(self) -> dict[str, Any]:
        """Return the next message, or the end of the connection where a limit is passed."""
        if self.complete:
            return await self.receive()
        try:
            left = min(self.part_seconds, self.end - time.monotonic())
            message = await asyncio.wait_for(self.receive(), max(0.0, left))
        except asyncio.TimeoutError:
            self.problem = 408, TOO_SLOW
            return {"type": "http.disconnect"}
        self.received += len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        if self.received > MAX_BODY:
            self.problem = 413, TOO_LARGE
            return {"type": "http.disconnect"}
        return message

    async def whole(self) -> bytes:
        """Return all of it."""
        parts = []
        while not self.complete:
            message = await self.part()
            if message["type"] == "http.disconnect":
                raise _Refused(*(self.problem or (400, BAD_REQUEST)))
            parts.append(message.get("body", b""))
        return b"".join(parts)


def _replayed(data: bytes, body: _Body) -> Receive:
    messages: Iterator[dict[str, Any]] = iter([{"type": "http.request", "body": data, "more_body": False}])

    async def receiver() -> dict[str, Any]:
        message = next(messages, None)
        return await body.receive() if message is None else message

    return receiver


class _Response:
    """What is sent, with the headers that every response of the page has."""

    def __init__(self, send: Send, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        self._send = send
        self.headers = headers
        self.started = self.complete = False

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            message["headers"] = [*message.get("headers", []), *self.headers]
        elif message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)
        await self._send(message)

    async def refuse(self, status: int, sentence: str) -> None:
        """Send a status and a sentence as JSON, or end a response that has begun."""
        if self.started:
            if not self.complete:
                await self.send({"type": "http.response.body", "body": b""})
            return
        body = json.dumps({"detail": sentence}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


async def _discard(receive: Receive, part_seconds: float) -> None:
    """Let a body pass by, up to a limit: most programs read a response only when they have sent all."""
    passed, more = 0, True
    end = time.monotonic() + BODY_SECONDS
    while more and passed < 4 * MAX_BODY and time.monotonic() < end:
        try:
            message = await asyncio.wait_for(receive(), part_seconds)
        except asyncio.TimeoutError:
            return
        passed += len(message.get("body", b""))
        more = message.get("more_body", False)


__all__ = ["Guard"]
