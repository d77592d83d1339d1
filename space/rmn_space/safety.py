"""What keeps the page safe: its limits and their sentences, the rate, and addresses that are refused."""

import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

MAX_BYTES = 10 * 1024 * 1024
MAX_PIXELS = 24_000_000
MAX_FACES = 50
# A request body: a photo as a `data:` URL is a third larger than its file, and JSON comes around it.
MAX_BODY = MAX_BYTES * 4 // 3 + 64 * 1024
# Files and sessions are forgotten after this many seconds; gradio's own cleaning runs once a minute.
FILE_AGE = 300
SESSION_AGE = 360

TOO_LARGE = "This file is larger than 10 MB. Please make the photo smaller and try again."
TOO_MANY_PIXELS = "This photo has more than 24 million pixels. Please make it smaller and try again."
NOT_AN_IMAGE = "This is not an image. Please send a JPEG, PNG, WebP, BMP, TIFF or GIF file."
NO_ADDRESSES = "Please send the photo itself: addresses are not opened here."
NOT_UPLOADED = "Only a photo that was uploaded here can be read. Please upload it first."
NOT_HERE = "This page does not offer that."
GONE = "This photo has been deleted already: nothing is kept for longer than six minutes. Please add it again."
UNEXPECTED = "Something went wrong on this side. Please try again, or try another photo."
TOO_FAST = "That was a lot of photos in a short time. Please wait a few seconds and try again."


class RateLimit:
    """
    A token bucket for each visitor: `burst` photos at once, then `per_second` on average.

    Args:
        burst: size of a bucket.
        per_second: tokens that come back each second.
        visitors: buckets to remember; the one used longest ago goes first.
    """

    def __init__(self, burst: int = 240, per_second: float = 2.0, visitors: int = 10_000) -> None:
        self.burst = burst
        self.per_second = per_second
        self.visitors = visitors
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def allows(self, visitor: str, now: float | None = None) -> bool:
        """Take a token of the visitor's bucket; return `False` when it is empty. `now` is in seconds."""
        now = time.monotonic() if now is None else now
        with self._lock:
            tokens, before = self._buckets.pop(visitor, (float(self.burst), now))
            tokens = min(self.burst, tokens + (now - before) * self.per_second)
            allowed = tokens >= 1
            self._buckets[visitor] = (tokens - allowed, now)
            while len(self._buckets) > self.visitors:
                self._buckets.popitem(last=False)
        return allowed


def visitor_of(client: str | None, forwarded: str | None) -> str:
    """
    Return who is asking, for the rate limit. On a Space every request comes from Hugging Face's proxy, which names the
    visitor; anywhere else that header is what the visitor wrote, and is not believed.
    """
    if os.environ.get("SPACE_ID") and forwarded:
        return forwarded.split(",")[0].strip()
    return client or "unknown"


class Guard:
    """
    ASGI middleware: refuses large bodies while they arrive, too many uploads, and those of gradio's addresses that
    fetch from other hosts or write files that this page does not need. It also makes the browser ask no other host.
    """

    refused = (
        *("/proxy=", "/deep_link", "/process_recording", "/vibe", "/undo-vibe", "/profiling", "/run-history"),
        *("/file=http:", "/file=https:", "/file/"),
    )
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

    def __init__(self, app: Callable[..., Awaitable[None]], rate: RateLimit) -> None:
        self.app = app
        self.rate = rate

    async def __call__(self, scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["path"].removeprefix("/gradio_api")
        length = headers.get("content-length", "0")
        if path.lower().startswith(self.refused):
            await _respond(send, 404, NOT_HERE)
        elif length.isdigit() and int(length) > MAX_BODY:
            await _discard(receive)
            await _respond(send, 413, TOO_LARGE)
        elif path.startswith("/upload") and scope["method"] == "POST" and not self._allows(scope, headers):
            await _respond(send, 429, TOO_FAST)
        else:
            await self.app(scope, _limited(receive), self._with_headers(send))

    def _allows(self, scope: dict[str, Any], headers: dict[str, str]) -> bool:
        client = scope["client"][0] if scope.get("client") else None
        return self.rate.allows("upload " + visitor_of(client, headers.get("x-forwarded-for")))

    def _with_headers(self, send: Callable[..., Any]) -> Callable[..., Any]:
        async def sender(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self.headers]
            await send(message)

        return sender


def _limited(receive: Callable[..., Any]) -> Callable[..., Any]:
    """End a body without a length in its header, or with a wrong one, as soon as it is too large."""
    received = 0

    async def receiver() -> dict[str, Any]:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        return {"type": "http.disconnect"} if received > MAX_BODY else message

    return receiver


async def _discard(receive: Callable[..., Any]) -> None:
    """Let a body pass by, up to a limit: most programs read a response only when they have sent all."""
    passed, more = 0, True
    while more and passed < 4 * MAX_BODY:
        message = await receive()
        passed += len(message.get("body", b""))
        more = message.get("more_body", False)


async def _respond(send: Callable[..., Any], status: int, sentence: str) -> None:
    """Send a status and a sentence as JSON."""
    body = json.dumps({"detail": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
