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
from collections.abc import Mapping, Sequence
from pathlib import Path
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

# The runtime comes from npm. Its version is pinned: the page is tested with this one.
RUNTIME, RUNTIME_VERSION = "onnxruntime-web", "1.30.0"
# Of the runtime: the plain build for WebAssembly, with and without threads. It is a third of the one with WebGPU.
SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
# How far a probability may move when weights are stored in 16 bits.
_TOLERANCE = 0.02
# Weights smaller than this stay as they are: they are not worth a node.
_SMALL = 4096
# Pixels of a level that go through P-Net at once in the browser: WebAssembly never gives memory back.
_PIXELS_AT_ONCE = 131_072


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
) -> dict[str, int]:
    """
    Write the folder of the static page.

    Args:
        out: the folder; it must be new or empty, or a page that was written before.
        page: the folder of the page's own files.
        graph: the network as `rmn-hub export` writes it, in fp32.
        processor: the checkpoint's settings of crops; bilinear alone can be followed.
        runtime: folder that holds onnxruntime-web's `SCRIPT` and `BINARY`.
        look: what the page takes from rooms above this one: colours, words, limits. Ready for JSON.
        pixel_values: faces that the stored weights are compared on, `(N, 3, H, W)`.
        beside: other files that the page shows or reads, by their names alone; JPEGs get a thumbnail.

    Returns:
        the bytes of each file that is loaded before the first result, by its path in the folder. One of the examples
        is loaded as well.

    Raises:
        InputError: `out` holds something else, or a file is missing.
        CheckpointError: the page cannot follow the checkpoint's settings, or its weights do not fit into 16 bits.
        MissingPackageError: the package `onnx` is not installed.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / "js" / "settings.js").is_file())):
        raise InputError(f"out={str(out)!r} must be a new or empty folder, or one of an earlier page")
    for name in (SCRIPT, BINARY):
        if not (runtime / name).is_file():
            raise InputError(f"runtime={str(runtime)!r} must hold {name} of {RUNTIME} {RUNTIME_VERSION}")
    if processor.do_resize and processor.resample != Image.Resampling.BILINEAR:
        raise CheckpointError("resample of the checkpoint must be bilinear for the page in the browser")
    engine = OnnxEngine(graph)
    out.parent.mkdir(parents=True, exist_ok=True)
    with naming_failures(out), tempfile.TemporaryDirectory(dir=out.parent, prefix=".page-") as work:
        folder = Path(work) / "page"
        shutil.copytree(page, folder, ignore=shutil.ignore_patterns("README.md", ".*"))
        for path in beside:
            shutil.copyfile(path, folder / path.name)
            if path.suffix == ".jpg":
                _write_thumbnail(path, folder / f"{path.stem}-small.jpg")
        for name in ("runtime", "models"):
            (folder / name).mkdir()
        shutil.copyfile(runtime / SCRIPT, folder / "runtime" / SCRIPT)
        packed = {f"runtime/{BINARY}.gz": (runtime / BINARY).read_bytes()}
        packed["models/rmn.onnx.gz"], stages = _checked_halves(graph, pixel_values)
        for name in ("pnet", "rnet", "onet"):
            # As they are: with 16 bits a box moves by up to half a pixel, and a probability with it by up to 0.04.
            packed[f"models/{name}.onnx.gz"] = (DETECTOR / f"{name}.onnx").read_bytes()
        for name, content in packed.items():
            # Without a time, so that the same inputs make the same bytes.
            (folder / name).write_bytes(gzip.compress(content, 9, mtime=0))
        large = [{"name": name, "bytes": (folder / name).stat().st_size} for name in packed]
        settings = {**_settings(engine, stages, processor), **look, "files": large}
        _write_settings(folder, settings)
        _replace(folder, out)
    whole = {path.name for path in beside if path.suffix == ".jpg"}
    later = {"README.md", "sw.js", "kept.js", *whole}
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return {name: (out / name).stat().st_size for name in files if name not in later}


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
            f"runtime='FOLDER' that holds {SCRIPT} and {BINARY}"
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


def _stored_in_halves(graph: Path) -> Any:
    """
    Return a graph with its weights in 16 bits, each followed by a cast: half the bytes, and the same arithmetic.

    The runtime folds the casts when it opens the file. A graph in fp16 would compute in 32 bits as well, where there is
    no GPU, but with two casts around every layer.

    Raises:
        MissingPackageError: the package `onnx` is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingPackageError(
            "the page in the browser needs onnx: install it with pip install 'rmn-hub[export]'"
        ) from error
    model = onnx.load(graph)
    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != onnx.TensorProto.FLOAT or np.prod(weight.dims) < _SMALL:
            continue
        name, short = weight.name, f"{weight.name}.16"
        values = onnx.numpy_helper.to_array(weight).astype(np.float16)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, short))
        casts.append(onnx.helper.make_node("Cast", [short], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _checked_halves(graph: Path, pixel_values: np.ndarray) -> tuple[bytes, int]:
    """
    Return the network's graph as [`_stored_in_halves`] makes it, and the number of its attention maps.

    Raises:
        CheckpointError: a probability moves too far.
    """
    model = _stored_in_halves(graph)
    content: bytes = model.SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "halves.onnx"
        path.write_bytes(content)
        found, expected = (softmax(OnnxEngine(each)(pixel_values).logits) for each in (path, graph))
    difference = float(np.abs(found - expected).max())
    if not difference <= _TOLERANCE:
        raise CheckpointError(
            f"the page cannot be written: with weights of 16 bits a probability moves by {difference:.2g}. "
            "Train with weight decay, so that weights stay small."
        )
    return content, sum(output.name.startswith("map") for output in model.graph.output)


def _write_thumbnail(photo: Path, path: Path) -> None:
    """Write a small image of an example, as the page with a server has it."""
    with Image.open(photo) as image:
        ImageOps.fit(image.convert("RGB"), (240, 120), centering=(0.5, 0.15)).save(path, quality=88)


def _settings(engine: OnnxEngine, stages: int, processor: PixelProcessor) -> dict[str, Any]:
    """Return what the page's scripts have to have in common with Python, ready for JSON."""
    return {
        "classes": list(engine.expressions),
        "stages": stages,
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
        "detector": {**mtcnn.numbers(), "pixelsAtOnce": _PIXELS_AT_ONCE},
    }


def _write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write `js/settings.js`, and what the service worker keeps, with a version that changes with any file."""
    small = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".gz" and path.name not in ("sw.js", "README.md")
    )
    large = [each["name"] for each in settings["files"]]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in ("sw.js", *small, *large):
        digest.update(name.encode() + (folder / name).read_bytes())
    version = digest.hexdigest()[:16]
    body = json.dumps({"version": version, **settings}, indent=2)
    write_text(folder / "js" / "settings.js", f"// Written by `rmn-hub export --browser`.\nexport default {body};\n")
    kept = json.dumps({"version": version, "small": [*small, "js/settings.js"], "large": large}, indent=2)
    write_text(folder / "kept.js", f"// Written by `rmn-hub export --browser`.\nself.KEPT = {kept};\n")


def _replace(folder: Path, out: Path) -> None:
    """Put a folder in the place of another one, which goes."""
    if out.is_dir():
        shutil.rmtree(out)
    folder.rename(out)


__all__ = ["BINARY", "RUNTIME", "RUNTIME_VERSION", "SCRIPT", "fetch_runtime", "write_page"]
