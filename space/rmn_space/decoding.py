"""
Images of visitors, decoded in processes of their own, with a limit of time and memory.

A decoder is C code that meets whatever somebody made up. In a process that can be stopped it takes neither the page's
memory nor its cores. This module is what such a process runs, too: it imports nothing but the decoder.
"""

import contextlib
import json
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import IO, Any

from PIL import Image

from rmn_hub.errors import InputError
from rmn_hub.images import LoadedImage, load_image

# Seconds of CPU for one image: the largest JPEG takes 0.5, an HEIC or AVIF of 24 megapixels about 2.
CPU_SECONDS = 4
# By the clock, also where a process cannot limit its own CPU. Many visitors share the cores.
SECONDS = 30
# Bytes of memory beyond the code: 24 megapixels with transparency take 600 MB.
MEMORY = 1_000_000_000

TOO_LONG = "This photo takes too long to open. Please save it again as a JPEG and try once more."
TOO_MUCH = "This photo takes too much memory to open. Please make it smaller and try again."
VISITOR_LEFT = "The visitor has left."

# How often a waiting thread looks whether its visitor is still there.
_LOOK = 0.1
_PROGRAM = "from rmn_space.decoding import serve; serve()"


class Decoder:
    """
    Decodes images one at a time in each of a few processes, which are started when they are needed.

    Args:
        processes: how many may run at the same time.
        cpu_seconds: CPU that one image may take.
        seconds: time by the clock that one image may take.
        memory: bytes that a process may take.
    """

    def __init__(
        self, processes: int = 2, cpu_seconds: float = CPU_SECONDS, seconds: float = SECONDS, memory: int = MEMORY
    ) -> None:
        self.limits = (cpu_seconds, memory)
        self.seconds = seconds
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(processes):
            self._idle.put(None)

    def load(self, data: bytes, name: str, max_pixels: int, wanted: Callable[[], bool] = lambda: True) -> LoadedImage:
        """
        Return what [`rmn_hub.images.load_image`] returns.

        Args:
            data: the bytes of an image file.
            name: what messages call it.
            max_pixels: most pixels that it may have.
            wanted: whether somebody waits for the image; when not, decoding stops.

        Raises:
            InputError: the image cannot be used, takes too long or too much memory, or is not wanted any more.
        """
        while True:
            try:
                worker = self._idle.get(timeout=_LOOK)
                break
            except queue.Empty:
                if not wanted():
                    raise InputError(VISITOR_LEFT) from None
        try:
            if worker is None or not worker.runs():
                worker = _Worker(self.limits)
            return worker.load(data, name, max_pixels, time.monotonic() + self.seconds, wanted)
        except BaseException:
            if worker is not None and not worker.ready:
                worker.stop()
                worker = None
            raise
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Stop the processes that wait."""
        with contextlib.suppress(queue.Empty):
            while True:
                worker = self._idle.get_nowait()
                if worker is not None:
                    worker.stop()


class _Worker:
    """One process, and the thread that reads from it."""

    def __init__(self, limits: tuple[float, int]) -> None:
        # The process finds the packages where this one has found them; threads of numpy would only take memory.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *map(str, limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        self._stop = weakref.finalize(self, self.process.kill)
        self._results: queue.Queue[tuple[dict[str, Any], bytes] | None] = queue.Queue()
        # Between two images, as opposed to within one.
        self.ready = True
        assert self.process.stdout is not None
        threading.Thread(target=_read_all, args=(self.process.stdout, self._results), daemon=True).start()

    def runs(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        self._stop()
        self.process.wait()

    def load(self, data: bytes, name: str, max_pixels: int, end: float, wanted: Callable[[], bool]) -> LoadedImage:
        self.ready = False
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # a process that has ended says so below
            _write(self.process.stdin, {"name": name, "max_pixels": max_pixels}, data)
        while True:
            try:
                answer = self._results.get(timeout=_LOOK)
                break
            except queue.Empty:
                if not wanted():
                    raise InputError(VISITOR_LEFT) from None
                if time.monotonic() > end:
                    raise InputError(TOO_LONG) from None
        if answer is None:
            # SIGPROF ends a process that has used up its CPU, anything else one that had no memory left.
            ended_by = -self.process.wait()
            raise InputError(TOO_LONG if ended_by == getattr(signal, "SIGPROF", None) else TOO_MUCH)
        self.ready = True
        head, pixels = answer
        if "error" in head:
            raise InputError(head["error"])
        image = Image.frombuffer("RGB", tuple(head["size"]), pixels, "raw", "RGB", 0, 1)
        return LoadedImage(image, name, head["width"], head["height"], head["message"])


def serve() -> None:
    """Decode what comes from stdin until it ends: what a process of [`Decoder`] runs."""
    cpu_seconds, memory = float(sys.argv[1]), int(sys.argv[2])
    # Ctrl-C in a terminal reaches all processes of the page, which ends by itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, target = sys.stdin.buffer, sys.stdout.buffer
    while _serve_one(source, target, cpu_seconds):
        pass


def _serve_one(source: IO[bytes], target: IO[bytes], cpu_seconds: float) -> bool:
    """Decode the next image; return whether there was one. What was read and written is forgotten with the call."""
    request = _read(source)
    if request is None:
        return False
    settings, data = request
    with _cpu_limited(cpu_seconds):
        head, pixels = _decoded(data, settings["name"], settings["max_pixels"])
    _write(target, head, pixels)
    return True


def _decoded(data: bytes, name: str, max_pixels: int) -> tuple[dict[str, Any], bytes]:
    try:
        loaded = load_image(data, name, max_pixels=max_pixels)
        head = {
            "size": loaded.image.size,
            "width": loaded.width,
            "height": loaded.height,
            "message": loaded.message,
        }
        return head, loaded.image.tobytes()
    except MemoryError:
        return {"error": TOO_MUCH}, b""
    except InputError as error:
        # The advice for callers of the package is not for visitors.
        sentence = str(error).removesuffix(" or raise max_pixels")
        return {"error": TOO_MUCH if isinstance(error.__cause__, MemoryError) else sentence}, b""


@contextlib.contextmanager
def _cpu_limited(seconds: float) -> Any:
    """End this process when the block takes more CPU, by a signal that no decoder can hold up."""
    timer = getattr(signal, "setitimer", None)
    if timer is None:
        yield
        return
    timer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        timer(signal.ITIMER_PROF, 0)


def _write(file: IO[bytes], head: dict[str, Any], body: bytes) -> None:
    text = json.dumps(head).encode()
    file.write(struct.pack("<QQ", len(text), len(body)))
    file.write(text)
    file.write(body)
    file.flush()


def _read(file: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    lengths = file.read(16)
    if len(lengths) < 16:
        return None
    head, body = struct.unpack("<QQ", lengths)
    text, data = file.read(head), file.read(body)
    return (json.loads(text), data) if len(data) == body else None


def _read_all(file: IO[bytes], results: "queue.Queue[tuple[dict[str, Any], bytes] | None]") -> None:
    """Pass on what comes, and `None` when the process has ended."""
    with contextlib.suppress(OSError, ValueError):
        while _pass_on(file, results):
            pass
    results.put(None)
    file.close()


def _pass_on(file: IO[bytes], results: "queue.Queue[tuple[dict[str, Any], bytes] | None]") -> bool:
    """Pass on what comes next; return whether there was something. It is forgotten with the call."""
    answer = _read(file)
    if answer is None:
        return False
    results.put(answer)
    return True


__all__ = ["TOO_LONG", "TOO_MUCH", "VISITOR_LEFT", "Decoder", "serve"]
