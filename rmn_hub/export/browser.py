"""
The static page: detector, network and page as one folder, which any server of files can hand out.

`space/browser` holds the page's own files. What depends on the checkpoint or has its one source in Python (weights,
class order, colours, MTCNN's numbers) is written beside them when the page is built.
"""

import gzip
import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..attention import heat_colors
from ..detection import mtcnn
from ..detection.networks import FOLDER as DETECTOR
from ..engines.engine import softmax
from ..engines.onnx import OnnxEngine
from ..engines.pixels import PixelProcessor
from ..engines.views import VIEWS
from ..errors import CheckpointError, InputError, MissingPackageError
from ..files import naming_failures, write_text
from . import weights

# The runtime comes from npm. Its version is pinned: the page is tested with this one.
RUNTIME, RUNTIME_VERSION = "onnxruntime-web", "1.30.0"
# Of the runtime: the plain build for WebAssembly, with and without threads. It is a third of the one with WebGPU.
SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
# The build with WebGPU, which visitors with a graphics card load after their first result. It needs JSPI (Chromium has
# it); the build that does not is half as large again.
GPU_SCRIPT, GPU_BINARY = "ort.jspi.bundle.min.mjs", "ort-wasm-simd-threaded.jspi.wasm"
RUNTIME_FILES = (SCRIPT, BINARY, GPU_SCRIPT, GPU_BINARY)
# Bytes that a browser may load before the first result. Weights are stored in 8 bits where they take more in 16.
MOST_BYTES = 15_000_000
# What is loaded before the first result, with a line for how much of it has arrived.
_LARGE = (f"runtime/{BINARY}.gz", *(f"models/{name}.onnx.gz" for name in ("rmn", "pnet", "rnet", "onet")))
# What is loaded after it, by the names of the files.
_LATER = ("sw.js", "kept.js", GPU_SCRIPT, f"{GPU_BINARY}.gz", "icon.png")
# How `kept.js` begins, which lists the files of a page.
_KEPT = "// Written by `rmn-hub export --browser`.\nself.KEPT = "


@dataclass(frozen=True)
class PageReport:
    """
    What a build of the page wrote.

    Args:
        loaded: the bytes of each file that is loaded before the first result, by its path in the folder.
        stored: how the network's weights are stored: `"fp16"` or `"int8"`.
        difference: by how much that moves a probability at most, on the faces that it was compared on.
    """

    loaded: dict[str, int]
    stored: weights.Stored
    difference: float

    @property
    def megabytes(self) -> float:
        """Return the size of what is loaded before the first result, in MB."""
        return sum(self.loaded.values()) / 1e6


def write_page(
    out: str | Path,
    *,
    page: Path,
    graph: Path,
    processor: PixelProcessor,
    runtime: Path,
    look: Mapping[str, Any],
    pixel_values: np.ndarray,
    beside: Sequence[Path] = (),
    modules: Mapping[str, str] = MappingProxyType({}),
) -> PageReport:
    """
    Write the folder of the static page.

    The network's weights are stored in 16 bits where a browser then loads at most `MOST_BYTES` before the first result,
    and in 8 bits where it would load more.

    Args:
        out: the folder; it must be new or empty, or a page that was written before. Of that page, the files go that its
            build wrote; what else is there stays.
        page: the folder of the page's own files.
        graph: the network as `rmn-hub export` writes it, in fp32.
        processor: the checkpoint's settings of crops; bilinear alone can be followed.
        runtime: folder that holds `RUNTIME_FILES` of onnxruntime-web.
        look: what the page takes from rooms above this one: the classes' names, colours, words, limits. Ready for
            JSON.
        pixel_values: faces that the stored weights are compared on, `(N, 3, H, W)`.
        beside: other files that the page shows or reads, by their names alone; JPEGs get a thumbnail. The first JPEG is
            the photo that the page begins with.
        modules: scripts that make an `element` of the page do something, by the names of their files; the page imports
            each as a function.

    Raises:
        InputError: `out` holds something else, or a file is missing.
        CheckpointError: the page cannot follow the checkpoint's settings, or its weights fit neither into 16 nor into 8
            bits.
        MissingPackageError: the package `onnx` is not installed.
    """
    out = Path(out)
    earlier = _earlier(out)
    for name in RUNTIME_FILES:
        if not (runtime / name).is_file():
            raise InputError(f"runtime={str(runtime)!r} must hold {name} of {RUNTIME} {RUNTIME_VERSION}")
    if processor.do_resize and processor.resample != Image.Resampling.BILINEAR:
        raise CheckpointError("resample of the checkpoint must be bilinear for the page in the browser")
    engine = OnnxEngine(graph)
    out.parent.mkdir(parents=True, exist_ok=True)
    with naming_failures(out), tempfile.TemporaryDirectory(dir=out.parent, prefix=".page-") as work:
        folder = Path(work) / "page"
        shutil.copytree(page, folder, ignore=shutil.ignore_patterns("README.md", ".*"))
        photos = [path.name for path in beside if path.suffix == ".jpg"]
        for path in beside:
            shutil.copyfile(path, folder / path.name)
            if path.name in photos:
                _write_thumbnail(path, folder / f"{path.stem}-small.jpg")
        for name, script in modules.items():
            text = f"// Written by `rmn-hub export --browser`.\nexport default element => {{\n{script}}};\n"
            write_text(folder / "js" / name, text)
        for name in ("runtime", "models"):
            (folder / name).mkdir()
        for name in (SCRIPT, GPU_SCRIPT):
            shutil.copyfile(runtime / name, folder / "runtime" / name)
        for name in (BINARY, GPU_BINARY):
            _pack(folder / "runtime" / f"{name}.gz", (runtime / name).read_bytes())
        for name in ("pnet", "rnet", "onet"):
            _pack(folder / "models" / f"{name}.onnx.gz", weights.rounded(DETECTOR / f"{name}.onnx"))
        settings = {**_settings(engine, processor, pixel_values), **look}
        report = _finish(folder, settings, graph, pixel_values, later={*photos[1:], *_LATER})
        _replace(folder, out, earlier)
    return report


def _finish(
    folder: Path, settings: dict[str, Any], graph: Path, pixel_values: np.ndarray, later: Collection[str]
) -> PageReport:
    """
    Write the network and the settings into a folder that holds all else, in the first form that is small enough.

    Where none is, the smallest of those that leave the probabilities alone is written.

    Raises:
        CheckpointError: every form moves a probability too far.
    """
    written: PageReport | None = None
    differences = []
    for form, tolerance in weights.TOLERANCE.items():
        content, difference = _network(graph, form, pixel_values)
        differences.append(f"{difference:.2g} in {weights.BITS[form]}")
        if not difference <= tolerance:
            continue
        _pack(folder / "models" / "rmn.onnx.gz", content)
        large = [{"name": name, "bytes": (folder / name).stat().st_size} for name in _LARGE]
        # The page tells its visitors how much it has loaded; the number itself adds less than is told.
        for _ in range(2):
            report = PageReport(_loaded(folder, later), form, difference)
            size = {"megabytes": round(report.megabytes, 1), "weights": weights.BITS[form]}
            _write_settings(folder, {**settings, **size, "files": large})
        written = report
        if sum(report.loaded.values()) <= MOST_BYTES:
            break
    if written is None:
        raise CheckpointError(
            f"the page cannot be written: a probability moves by {' and by '.join(differences)}. "
            "Train with weight decay, so that weights stay small."
        )
    return written


def fetch_runtime(folder: Path) -> Path:
    """
    Download onnxruntime-web with npm into a folder, and return the folder of its files.

    Raises:
        MissingPackageError: npm is not installed.
        InputError: npm cannot download it.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise MissingPackageError(
            f"the page needs {RUNTIME} {RUNTIME_VERSION}: install npm (it comes with Node.js), or give "
            f"runtime='FOLDER' that holds {', '.join(RUNTIME_FILES)}"
        )
    command = [npm, "pack", f"{RUNTIME}@{RUNTIME_VERSION}", "--silent", "--pack-destination", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    archives = list(folder.glob("*.tgz"))
    if done.returncode or not archives:
        reason = " ".join((done.stderr or done.stdout).split())[-200:] or f"npm ended with {done.returncode}"
        raise InputError(f"{RUNTIME} {RUNTIME_VERSION} cannot be downloaded: {reason}. Check the connection of npm.")
    shutil.unpack_archive(archives[0], folder, "gztar", **_data_only())
    return folder / "package" / "dist"


def _data_only() -> dict[str, Any]:
    """Return the argument that keeps an archive within its folder, where this Python has it."""
    return {"filter": "data"} if hasattr(__import__("tarfile"), "data_filter") else {}


def _network(graph: Path, form: weights.Stored, pixel_values: np.ndarray) -> tuple[bytes, float]:
    """Return the network's graph with its weights in a form, and by how much a probability moves at most."""
    content = weights.stored(graph, form)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stored.onnx"
        path.write_bytes(content)
        found, expected = (softmax(OnnxEngine(each)(pixel_values).logits) for each in (path, graph))
    return content, float(np.abs(found - expected).max())


def _write_thumbnail(photo: Path, path: Path) -> None:
    """Write a small image of an example, as the page with a server has it."""
    with Image.open(photo) as image:
        ImageOps.fit(image.convert("RGB"), (160, 160), centering=(0.5, 0.15)).save(path, quality=88)


def _loaded(folder: Path, later: Collection[str]) -> dict[str, int]:
    """Return the sizes of a folder's files but of some names, by their paths in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in later)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _pack(path: Path, content: bytes) -> None:
    """Write bytes compressed, without a time: the same inputs make the same file."""
    path.write_bytes(gzip.compress(content, 9, mtime=0))


def _settings(engine: OnnxEngine, processor: PixelProcessor, pixel_values: np.ndarray) -> dict[str, Any]:
    """Return what the page's scripts have to have in common with Python, ready for JSON."""
    return {
        "stages": len(engine(pixel_values[:1], attention=True).maps),
        "views": min(VIEWS, 2),
        "margin": mtcnn.MTCNNDetector.margin,
        "heat": heat_colors().tobytes().hex(),
        "processor": {
            "width": processor.width,
            "height": processor.height,
            "grayscale": processor.do_grayscale,
            "factor": 1.0 if processor.rescale_factor is None else processor.rescale_factor,
            "mean": list(processor.mean or (0.0, 0.0, 0.0)),
            "std": list(processor.std or (1.0, 1.0, 1.0)),
        },
        "detector": mtcnn.numbers(),
    }


def _write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write `js/settings.js`, and what the service worker keeps, with a version that changes with any file."""
    small = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".gz" and path.name not in ("sw.js", "kept.js", "settings.js", GPU_SCRIPT)
    )
    large = [each["name"] for each in settings["files"]]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in ("sw.js", *small, *large):
        digest.update(name.encode() + (folder / name).read_bytes())
    version = digest.hexdigest()[:16]
    body = json.dumps({"version": version, **settings}, indent=2)
    write_text(folder / "js" / "settings.js", f"// Written by `rmn-hub export --browser`.\nexport default {body};\n")
    kept = json.dumps({"version": version, "small": [*small, "js/settings.js"], "large": large}, indent=2)
    write_text(folder / "kept.js", f"{_KEPT}{kept};\n")


def _earlier(out: Path) -> set[str]:
    """
    Return the paths of the files that an earlier build wrote into a folder; none where it is new or empty.

    Raises:
        InputError: it holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return set()
    try:
        kept = json.loads((out / "kept.js").read_text(encoding="utf-8").partition(_KEPT)[2].rstrip(";\n"))
        return {*kept["small"], *kept["large"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"out={str(out)!r} must be a new or empty folder, or one of an earlier page") from None


def _replace(folder: Path, out: Path, earlier: set[str]) -> None:
    """Put the files of a folder in the place of those that an earlier build wrote. Others stay, `.git` among them."""
    if not out.exists():
        folder.rename(out)
        return
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    present = {path.relative_to(out).as_posix() for path in out.rglob("*")}
    # `kept.js` last: until then, it lists what the next build has to replace.
    for name in sorted(names, key="kept.js".__eq__):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).replace(out / name)
    for name in earlier & present - names:
        (out / name).unlink()


__all__ = ["RUNTIME", "RUNTIME_FILES", "RUNTIME_VERSION", "PageReport", "fetch_runtime", "write_page"]
