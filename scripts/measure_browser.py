"""
How fast is the page in the browser, and does its memory stay flat? Prints a line of JSON for each.

uv run python scripts/measure_browser.py start live worker
uv run python scripts/measure_browser.py memory --frames 2000

It builds the page of a checkpoint, hands it out by a local server that sends the headers of a static Space, and opens
it in headless Chromium (Debian: chromium) whose camera plays a film of 640 x 480 at 30 frames a second.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser_helpers import build_page, handing_out  # noqa: E402
from space_helpers import CHROMIUM, browsing, write_film  # noqa: E402

from rmn_hub import BUNDLED_CHECKPOINT  # noqa: E402

TIMEOUT = 140_000  # milliseconds
# Chromium measures its memory at once when it is asked, and not when it happens to collect garbage.
OPTIONS = ("--enable-blink-features=ForceEagerMeasureMemory",)
# Resolves with the milliseconds until so many more frames of the camera have been shown.
FRAMES = """async count => {
    const layer = document.querySelector('#layer');
    const shown = () => Number(layer.dataset.frames ?? 0);
    const end = shown() + count;
    const started = performance.now();
    await new Promise(resolve => {
        const look = () => shown() >= end && (watching.disconnect(), resolve());
        const watching = new MutationObserver(look);
        watching.observe(layer, { attributes: true, attributeFilter: ['data-frames'] });
    });
    return performance.now() - started;
}"""
# The same frame size without a camera and without drawing.
WORKER = """async count => {
    const { Engine } = await import('/js/engine.js');
    const engine = globalThis.engine ??= new Engine(() => {});
    const photo = await createImageBitmap(await (await fetch('/astronaut.jpg')).blob());
    const started = performance.now();
    for (let number = 0; number < count; number++) {
        const image = await createImageBitmap(photo, { resizeWidth: 640, resizeHeight: 480 });
        await engine.frame(image, { now: number / 10, minConfidence: 0.5, attention: false });
    }
    return performance.now() - started;
}"""
BYTES = "async () => (await performance.measureUserAgentSpecificMemory()).bytes"


def main() -> None:
    """Build the page, and measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", choices=[[], "start", "live", "worker", "memory"])
    parser.add_argument("--checkpoint", default=BUNDLED_CHECKPOINT)
    parser.add_argument(
        "--runtime", type=Path, help="folder of onnxruntime-web's files; npm downloads them if not given"
    )
    parser.add_argument("--page", type=Path, help="measure this page, instead of building one")
    parser.add_argument("--frames", type=int, default=2000, help="of the camera, for the memory")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    if CHROMIUM is None:
        sys.exit("Chromium is not installed (Debian: apt-get install chromium)")
    what = arguments.what or ["start", "live", "worker", "memory"]
    with tempfile.TemporaryDirectory() as work:
        page = arguments.page or build_page(Path(work) / "page", arguments.runtime, arguments.checkpoint)
        film = write_film(Path(work) / "face.y4m", rate=30)
        report("machine", {"cores": os.cpu_count(), "load": os.getloadavg()[0]})
        if "start" in what:
            report("start", [start(page) for _ in range(arguments.repeat)])
        if what == ["start"]:
            return
        with opened(page, film) as tab:
            if "worker" in what:
                report("worker", rates(tab, WORKER, arguments.repeat))
            if "live" in what or "memory" in what:
                camera_on(tab)
            if "live" in what:
                report("live", rates(tab, FRAMES, arguments.repeat))
            if "memory" in what:
                for found in memory(tab, arguments.frames):
                    report("memory", found)


def report(name: str, found: Any) -> None:
    """Print what was measured at once: a later part may take too long."""
    print(json.dumps({name: found}), flush=True)


@contextmanager
def opened(page: Path, film: Path | None = None) -> Iterator[Any]:
    """Open the page in a browser of its own; its `seconds` and `megabytes` are what the first result took."""
    with handing_out(page) as server, browsing(film, OPTIONS) as browser:
        context = browser.new_context(permissions=["camera"], service_workers="block")
        tab = context.new_page()
        tab.set_default_timeout(TIMEOUT)
        started = time.monotonic()
        tab.goto(server.url)
        tab.wait_for_selector("#result .rmn-result")
        tab.seconds = time.monotonic() - started
        tab.megabytes = sum(server.sent.values()) / 1e6
        yield tab


def start(page: Path) -> dict[str, float]:
    """Return what the first result of a browser without a cache takes."""
    with opened(page) as tab:
        return {"seconds": round(tab.seconds, 2), "megabytes": round(tab.megabytes, 2)}


def camera_on(tab: Any) -> None:
    """Start the camera, and wait until a face is shown."""
    tab.click("#tab-live")
    tab.click("#switch")
    tab.wait_for_selector(".rmn-live-face")


def rates(tab: Any, script: str, repeat: int, frames: int = 60) -> dict[str, Any]:
    """Return frames a second and CPU seconds a frame; the first frames of all are not counted."""
    tab.evaluate(script, 30)
    before = cpu_seconds()
    shown = [frames * 1000 / tab.evaluate(script, frames) for _ in range(repeat)]
    spent = (cpu_seconds() - before) / (frames * repeat)
    return {
        "frames_per_second": round(statistics.median(shown), 1),
        "all": [round(value, 1) for value in shown],
        "cpu_seconds_per_frame": round(spent, 4),
    }


def memory(tab: Any, frames: int, parts: int = 10) -> Iterator[dict[str, float]]:
    """
    Yield the memory of the page in MB after each part of the frames, and last that of its scripts, which takes a minute
    to measure. Every other part shows attention.
    """
    for part in range(parts + 1):
        if part:
            tab.set_checked("#live-attention", part % 2 == 0)
            tab.evaluate(FRAMES, frames // parts)
        own = sum(each.memory_full_info().uss for each in renderers())
        yield {"frames": part * (frames // parts), "own": round(own / 1e6)}
    yield {"frames": frames, "scripts": round(tab.evaluate(BYTES) / 1e6, 1)}


def renderers() -> list[psutil.Process]:
    """Return Chromium's processes that run pages."""
    processes = psutil.Process().children(recursive=True)
    return [each for each in processes if "--type=renderer" in each.cmdline()]


def cpu_seconds() -> float:
    """Return what they have used so far."""
    times = [each.cpu_times() for each in renderers()]
    return sum(each.user + each.system for each in times)


if __name__ == "__main__":
    main()
