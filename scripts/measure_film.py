"""
Measure how long a film with two faces takes with the default settings, and whether memory grows with it.

    python scripts/measure_film.py                                 # a minute of 640 x 480 at 25 frames a second
    python scripts/measure_film.py --minutes 10 --size 320x240     # memory of a long film
    python scripts/measure_film.py holiday.mp4                     # a film of your own

It makes the film itself, in a temporary folder: the heads of two photos of space/examples move over the photo of a
table. `rmn-hub video` then goes through it twice, once for a table alone and once for everything that it can write. The
numbers are printed as JSON: wall-clock and CPU seconds of the whole command, start and all, `ratio` (seconds for a
second of film; below 1 is faster than real time), `cpu_ratio` (CPU seconds for one, which other work on the machine
changes little), and the highest resident memory in each fifth of the run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
from PIL import Image

from rmn_hub.sessions import available_cores
from rmn_hub.video.frames import Film

EXAMPLES = Path(__file__).resolve().parents[1] / "space" / "examples"
# Where the heads are in two photos, and how large they are in a film of 480 rows.
HEADS = {"astronaut": ((100, 0, 360, 260), 190), "officer": ((150, 60, 450, 360), 150)}
RATE = 25
PARTS = 5
# Seconds between two looks at the memory.
STEP = 0.2


def make_film(path: Path, seconds: float, size: tuple[int, int]) -> None:
    """Write a film whose two heads sway, each in its half, and come closer and go."""
    width, height = size
    room = Image.open(EXAMPLES / "coffee.jpg").convert("RGB").resize(size)
    heads = [
        (Image.open(EXAMPLES / f"{name}.jpg").convert("RGB").crop(box), side * height / 480)
        for name, (box, side) in HEADS.items()
    ]
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "crf": "20"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        for number in range(round(seconds * RATE)):
            phase = 2 * np.pi * number / (RATE * 10)
            frame = room.copy()
            for place, (head, side) in enumerate(heads):
                now = round(side * (1 + 0.15 * np.sin(3 * phase + place)))
                x = width * (0.27 + 0.46 * place + 0.1 * np.sin(phase + 2 * place)) - now / 2
                y = height * (0.5 + 0.12 * np.cos(2 * phase + place)) - now / 2
                frame.paste(head.resize((now, now), Image.Resampling.BILINEAR), (round(x), round(y)))
            container.mux(video.encode(av.VideoFrame.from_image(frame)))
        container.mux(video.encode(None))


def run(film: Path, options: list[str], seconds: float) -> dict[str, Any]:
    """Run `rmn-hub video` and return what it took."""
    command = [sys.executable, "-m", "rmn_hub", "video", str(film), *options]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        seen, samples, cpu = psutil.Process(process.pid), [], 0.0
        while process.poll() is None:
            try:
                samples.append(seen.memory_info().rss / 1e6)
                cpu = sum(seen.cpu_times()[:2])
            except psutil.Error:  # it has just ended
                break
            time.sleep(STEP)
        _, problem = process.communicate()
    wall = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(problem)
    return {
        "seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "ratio": round(wall / seconds, 3),
        "cpu_ratio": round(cpu / seconds, 3),
        "memory_mb": [round(max(part)) for part in np.array_split(samples, PARTS)],
    }


def main() -> None:
    """Print the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("film", nargs="?", type=Path, help="a film of your own; one is made when not given")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--size", default="640x480", help="width x height of a frame")
    parser.add_argument("--only", choices=("table", "everything"), help="one of the two runs alone")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = arguments.film or folder / "film.mp4"
        if arguments.film is None:
            make_film(path, 60 * arguments.minutes, (width, height))
        with Film(path) as film:
            seconds, first = film.whole or 0.0, next(iter(film))
        outputs = {"output": "faces.mp4", "csv": "faces.csv", "json": "faces.jsonl", "timeline": "faces.png"}
        runs = {
            "table": ["--csv", str(folder / "faces.csv")],
            "everything": [f"--{option}={folder / file}" for option, file in outputs.items()]
            + ["--summary", str(folder / "faces")],
        }
        document = {
            "film": {"seconds": seconds, "frames_a_second": film.rate, "size": first.image.size},
            "cores": available_cores(),
            "load": round(os.getloadavg()[0], 2),
        }
        for kind, options in runs.items():
            if arguments.only in (None, kind):
                document[kind] = run(path, options, seconds)
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
