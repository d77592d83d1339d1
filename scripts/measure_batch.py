"""
Measure what docs/scaling.md states: throughput on one and two cores, the cost model, the share of the arithmetic floor.

    python scripts/measure_batch.py speed   # one process, a recognizer with two threads, Ray with one and two workers
    python scripts/measure_batch.py model   # decode, detect and classify one by one, and what they predict
    python scripts/measure_batch.py memory --images 5000
    python scripts/measure_batch.py resume --images 5000   # killed in the middle and started again, against one run

All make the same images from space/examples, of mixed sizes, in a temporary folder. `model` counts CPU seconds; run the
others on a machine that does nothing else.
"""

import argparse
import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
from PIL import Image

from rmn_hub import BUNDLED_CHECKPOINT, ExpressionRecognizer
from rmn_hub.distributed import recognize_batch
from rmn_hub.evaluation.measured import read_measured
from rmn_hub.images import load_image

EXAMPLES = Path(__file__).resolve().parents[1] / "space" / "examples"
# Longer sides in pixels: small web images to a screen's width.
SIDES = (320, 480, 640, 800, 1024, 1280)
SHARD = 50
LONG_SHARD = 100
# Views of a face that are averaged: it and its mirror image.
VIEWS = 2
# Multiply-adds of MTCNN's P-Net for a pixel of the pyramid: 3x3 convolutions of 3 to 10 channels, and after a pooling
# by two of 10 to 16 and 16 to 32, and its heads of 6.
P_NET = 3 * 10 * 9 + (10 * 16 * 9 + 16 * 32 * 9 + 32 * 6) / 4
# Pixels of the pyramid for one of the image: the first level at 12 / 40, each further one 0.709 times as large.
PYRAMID = (12 / 40) ** 2 / (1 - 0.709**2)


def make(folder: Path, count: int) -> list[Path]:
    """Write `count` JPEGs: each example in each size, shifted by a pixel or two so that no two are the same."""
    sources = [Image.open(path).convert("RGB") for path in sorted(EXAMPLES.glob("*.jpg"))]
    paths = []
    for number in range(count):
        source = sources[number % len(sources)]
        side = SIDES[number // len(sources) % len(SIDES)]
        shift = number // (len(sources) * len(SIDES)) % 16
        image = source.crop((shift, shift, source.width, source.height))
        scale = side / max(image.size)
        paths.append(folder / f"{number:05}.jpg")
        image.resize((round(image.width * scale), round(image.height * scale))).save(paths[-1], quality=90)
    return paths


def stream(paths: list[Path], threads: int) -> dict[str, float]:
    """Time one recognizer, without its start."""
    recognizer = ExpressionRecognizer.from_pretrained(device="cpu", threads=threads)
    recognizer(paths[0])
    start, cpu = time.perf_counter(), time.process_time()
    faces = sum(len(result) for result in recognizer.stream(paths))
    seconds = time.perf_counter() - start
    return {
        "images a second": len(paths) / seconds,
        "CPU ms an image": 1e3 * (time.process_time() - cpu) / len(paths),
        "faces an image": faces / len(paths),
    }


def _turns(paths: list[Path], ready: Any, results: Any) -> None:
    """Do one process's part of `two_processes`."""
    recognizer = ExpressionRecognizer.from_pretrained(device="cpu", threads=1)
    recognizer(paths[0])
    ready.wait()
    start = time.perf_counter()
    for _ in recognizer.stream(paths):
        pass
    results.put(len(paths) / (time.perf_counter() - start))


def two_processes(paths: list[Path]) -> float:
    """Return the images a second of two processes with a thread each and without Ray: what the two cores can do."""
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(2), context.Queue()
    # Every second image each: both have the same sizes to do.
    both = [context.Process(target=_turns, args=(paths[first::2], ready, results)) for first in (0, 1)]
    for process in both:
        process.start()
    rates = [results.get() for _ in both]
    for process in both:
        process.join()
    return sum(rates)


class Family:
    """A process and all that it has started."""

    def __init__(self) -> None:
        self.memory: list[tuple[float, float]] = []  # megabytes of this process, and of its largest worker
        self._cpu: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Family":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def cpu(self) -> float:
        """Return the CPU seconds of all of them so far."""
        for process in self._children():
            with contextlib.suppress(psutil.Error):
                self._cpu[process.pid] = sum(process.cpu_times()[:2])
        return time.process_time() + sum(self._cpu.values())  # of those that have ended, too

    def _children(self) -> list[psutil.Process]:
        return psutil.Process().children(recursive=True)

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            sizes = []
            for process in self._children():
                with contextlib.suppress(psutil.Error):
                    if any("MapWorker" in word for word in process.cmdline()):
                        sizes.append(process.memory_info().rss / 1e6)
            self.memory.append((psutil.Process().memory_info().rss / 1e6, max(sizes, default=0)))


def ray(folder: Path, out: Path, workers: int) -> dict[str, float]:
    """Time a batch, as a whole and from its first finished shards on."""
    ends: list[tuple[float, float, int]] = []
    with Family() as family:
        start = time.perf_counter()

        def report(what: str, more: int, total: int) -> None:
            if more:
                ends.append((time.perf_counter(), family.cpu(), len(family.memory)))

        recognize_batch(folder, out, device="cpu", workers=workers, shard_size=SHARD, progress=report)
        seconds = time.perf_counter() - start
    # By the first `workers` ends each worker has finished a shard, or nearly so.
    (first, first_cpu, begun), (last, last_cpu, ended) = ends[workers - 1], ends[-1]
    images = (len(ends) - workers) * SHARD
    rate = images / (last - first)
    memory = np.array(family.memory[begun:ended] or [(0, 0)])
    half = len(memory) // 2
    return {
        "images a second": rate,
        "CPU ms an image": 1e3 * (last_cpu - first_cpu) / images,
        "seconds in all": seconds,
        "seconds to start": first - start - workers * SHARD / rate,
        "MB of the driver, first half": memory[: half + 1, 0].max(),
        "MB of the driver, second half": memory[half:, 0].max(),
        "MB of a worker, first half": memory[: half + 1, 1].max(),
        "MB of a worker, second half": memory[half:, 1].max(),
    }


def speed(folder: Path, count: int) -> None:
    """Print the throughput of each way, and the ratios."""
    paths = make(folder / "images", count)
    runs: dict[str, dict[str, float]] = {"one thread": stream(paths, 1), "two threads": stream(paths, 2)}
    ceiling = two_processes(paths)
    for workers in (2, 1):
        runs[f"Ray, {workers}"] = ray(folder / "images", folder / f"out{workers}", workers)
    for name, numbers in runs.items():
        print(name, {key: round(float(value), 1) for key, value in numbers.items()}, flush=True)
    one, two, ray2, ray1 = (runs[name] for name in ("one thread", "two threads", "Ray, 2", "Ray, 1"))
    rate, cpu = "images a second", "CPU ms an image"
    whole = 5000 / (ray2["seconds to start"] + 5000 / ray2[rate])
    print(f"two processes with one thread each, without Ray: {ceiling:.1f} {rate}, {ceiling / one[rate]:.2f}")
    print(f"Ray on two cores to one process with one thread: {ray2[rate] / one[rate]:.2f}")
    print(f"Ray on two cores to two processes without Ray: {ray2[rate] / ceiling:.2f}")
    print(f"  with the start of Ray, for 5,000 images: {whole / one[rate]:.2f}")
    print(f"  by CPU seconds, where each process has a core: {2 * one[cpu] / ray2[cpu]:.2f}")
    print(f"Ray on two cores to stream with two threads: {ray2[rate] / two[rate]:.2f}")
    print(f"Ray on two cores to Ray on one: {ray2[rate] / ray1[rate]:.2f}")


def memory(folder: Path, count: int) -> None:
    """Print the memory of a long batch, in its first and in its second half."""
    make(folder / "images", count)
    print({key: round(float(value), 1) for key, value in ray(folder / "images", folder / "out", 2).items()})


def resume(folder: Path, count: int) -> None:
    """Run a batch once, and once more with a kill in the middle, and compare the rows."""
    make(folder / "images", count)
    command = [sys.executable, "-m", "rmn_hub", "batch", str(folder / "images"), "--device", "cpu", "--workers", "2"]
    environment = {**os.environ, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}

    def start(out: Path) -> "subprocess.Popen[bytes]":
        words = [*command, str(out), "--shard-size", str(LONG_SHARD)]
        return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)

    began = time.perf_counter()
    start(folder / "once").wait()
    print(
        f"{count} images in one run: {count / (time.perf_counter() - began):.1f} a second with Ray's start", flush=True
    )
    process = start(folder / "twice")
    while len(list((folder / "twice").glob("shard-*.parquet"))) < count / LONG_SHARD / 2:
        time.sleep(0.2)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.kill()
    process.wait()
    psutil.wait_procs(family[1:], timeout=60)
    finished = len(list((folder / "twice").glob("shard-*.parquet")))
    start(folder / "twice").wait()
    once, twice = (
        [row for path in sorted((folder / out).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
        for out in ("once", "twice")
    )
    print(f"killed after {finished} of {count // LONG_SHARD} files and started again: {len(twice)} rows")
    print(f"the rows of both are {'the same' if once == twice else 'NOT THE SAME'}: {len(once)}")


def model(folder: Path, count: int) -> None:
    """Print what the stages cost, what they predict for all images, and the share of the arithmetic floor."""
    paths = make(folder / "images", count)
    recognizer = ExpressionRecognizer.from_pretrained(device="cpu", threads=1)
    recognizer(paths[0])
    crops = recognizer.processor([Image.open(paths[0]).convert("RGB")] * 32)
    start = time.process_time()
    for _ in range(5):
        recognizer.engine(crops)
    classify = VIEWS * (time.process_time() - start) / 160
    rows = []
    for path in paths[: len(paths) // 2]:
        start = time.process_time()
        image = load_image(path).image
        decoded = time.process_time()
        faces = len(recognizer(image))
        seconds = time.process_time() - decoded
        rows.append((image.width * image.height / 1e6, faces, decoded - start, seconds - faces * classify))
    pixels, faces, decode, detect = np.array(rows).T
    per_pixel = float(decode.sum() / pixels.sum())
    # An image without a face is turned three times and looked through again.
    terms = np.stack([np.ones_like(pixels), pixels * (faces > 0), pixels * (faces == 0), faces], 1)
    fixed, detect_pixel, detect_empty, detect_face = np.linalg.lstsq(terms, detect, rcond=None)[0].tolist()
    print(f"decode {1e3 * per_pixel:.1f} ms a megapixel")
    print(
        f"detect {1e3 * fixed:.1f} ms + {1e3 * detect_pixel:.1f} ms a megapixel ({1e3 * detect_empty:.1f} without "
        f"a face) + {1e3 * detect_face:.1f} ms a face"
    )
    print(f"classify {1e3 * classify:.1f} ms a face")

    rest = paths[len(paths) // 2 :]
    start = time.process_time()
    results = list(recognizer.stream(rest))
    seconds = (time.process_time() - start) / len(rest)
    sizes = np.array([result.width * result.height / 1e6 for result in results])
    found = np.array([len(result) for result in results])
    mean_pixels, mean_faces = sizes.mean(), found.mean()
    looked = fixed + detect_face * mean_faces + float((sizes * np.where(found, detect_pixel, detect_empty)).mean())
    shares = (per_pixel * mean_pixels, looked, classify * mean_faces)
    predicted = sum(shares)
    print(f"the other half: {mean_pixels:.2f} megapixels and {mean_faces:.2f} faces an image")
    print(f"measured {1e3 * seconds:.1f} ms an image, predicted {1e3 * predicted:.1f} ({predicted / seconds:.2f})")
    print("shares of decode, detect, classify:", *(f"{share / sum(shares):.0%}" for share in shares))

    measured = read_measured(Path(BUNDLED_CHECKPOINT))
    network = measured.multiply_adds if measured and measured.multiply_adds else 0
    turns = float((sizes * np.where(found, 1, 4)).mean())
    needed = P_NET * PYRAMID * turns * 1e6 + VIEWS * network * mean_faces
    peak = _peak()
    print(f"a core multiplies and adds {peak / 1e9:.0f} billion times a second at most (a product of two matrices)")
    print(f"needed {needed / 1e6:.0f} million an image, {1e3 * needed / peak:.1f} ms: {needed / peak / seconds:.0%}")
    print(f"the network alone: {VIEWS * network / peak / classify:.0%} of its floor")


def _peak() -> float:
    """Return the multiply-adds a second of one core in a product of matrices."""
    code = """
import time, numpy as np
a = np.random.default_rng(0).random((1024, 1024), np.float32)
a @ a
times = []
for _ in range(20):
    start = time.process_time()
    a @ a
    times.append(time.process_time() - start)
print(1024 ** 3 / min(times))
"""
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | single, capture_output=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("part", choices=("speed", "model", "memory", "resume"))
    parser.add_argument("--images", type=int, default=200)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "images").mkdir()
        {"speed": speed, "model": model, "memory": memory, "resume": resume}[words.part](Path(folder), words.images)


if __name__ == "__main__":
    main()
