"""What keeps the page safe: its limits and their sentences, and the rate."""

import os
import threading
import time
from collections import OrderedDict

MAX_BYTES = 10 * 1024 * 1024
# Phones make photos of 12 and 24.5 million pixels. JPEGs of up to four times as many are read at half their size.
MAX_PIXELS = 25_000_000
# The browser makes larger photos this small before it sends them: every phone's canvas holds as much, and a face that a
# phone's full 48 megapixels show with 40 pixels has 20.
REDUCED_PIXELS = 12_000_000
# Most pixels of a photo over those of a square of the smallest face: what finding the faces costs.
MAX_PLACES = 16_000
MAX_FACES = 50
# A request body: a photo as a `data:` URL is a third larger than its file, and JSON comes around it.
MAX_BODY = MAX_BYTES * 4 // 3 + 64 * 1024
# Files and sessions are forgotten after this many seconds; gradio's own cleaning runs once a minute.
FILE_AGE = 300
SESSION_AGE = 360

TOO_LARGE = "This file is larger than 10 MB. Please make it smaller and try again."
NOT_AN_IMAGE = "This is not an image. Please send a JPEG, PNG, WebP, BMP, TIFF or GIF file."
NO_ADDRESSES = "Please send the file itself: addresses are not opened here."
NOT_UPLOADED = "Only a file that was uploaded here can be read. Please upload it first."
NOT_HERE = "This page does not offer that."
BAD_REQUEST = "This request cannot be followed. Please see the page's API description."
OTHER_HOST = "This page was opened under a name that is not its own. Please use the address that it was started with."
TOO_SLOW = "This request took too long to arrive. Please try again."
GONE = "This file has been deleted already: nothing is kept for longer than six minutes. Please add it again."
UNEXPECTED = "Something went wrong on this side. Please try again, or try another file."
TOO_MANY_WAITING = "Too many are waiting for their turn already. Please try again in a minute."
TOO_FAST = "That was a lot in a short time. Please wait a few seconds and try again."


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

    def allows(self, visitor: str, now: float | None = None, cost: float = 1.0) -> bool:
        """Take `cost` tokens of the visitor's bucket; return `False` when it has fewer. `now` is in seconds."""
        now = time.monotonic() if now is None else now
        with self._lock:
            tokens, before = self._buckets.pop(visitor, (float(self.burst), now))
            tokens = min(self.burst, tokens + (now - before) * self.per_second)
            allowed = tokens >= cost
            self._buckets[visitor] = (tokens - cost * allowed, now)
            while len(self._buckets) > self.visitors:
                self._buckets.popitem(last=False)
        return allowed


def visitor_of(client: str | None, forwarded: str | None) -> str:
    """
    Return who is asking, for the rate limit.

    On a Space every request comes from Hugging Face's proxy, which adds the visitor as the last entry of
    `X-Forwarded-For`; entries before it are what the visitor wrote, and so is the header anywhere else.
    """
    if os.environ.get("SPACE_ID") and forwarded:
        return forwarded.split(",")[-1].strip()
    return client or "unknown"
