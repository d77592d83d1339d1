"""What `rmn-hub export --browser` puts together: a checkpoint, the page's files, and what both pages share."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from ..export.browser import PageReport
    from ..hub.checkpoint import LoadedCheckpoint


def build(loaded: "LoadedCheckpoint", out: Path, runtime: Path | None, pixel_values: "np.ndarray") -> "PageReport":
    """
    Write the static page of a checkpoint, and return what was written.

    Args:
        loaded: the checkpoint.
        out: folder to write.
        runtime: folder of onnxruntime-web's files; npm downloads them when `None`.
        pixel_values: faces to compare the page's weights on.

    Raises:
        InputError: see [`rmn_hub.export.browser.write_page`].
    """
    from ..engines.onnx import ONNX_FILE, OnnxEngine
    from ..engines.pixels import PixelProcessor
    from ..errors import CheckpointError
    from ..export import browser
    from ..export.onnx import export
    from ..hub.checkpoint import weights_hash

    page, package, folder = _parts()
    examples = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as work:
        graph = loaded.folder / ONNX_FILE
        try:
            OnnxEngine.from_checkpoint(loaded.folder)
        except CheckpointError:
            # There is none, or it is of other weights.
            graph = Path(work) / "model.onnx"
            export(loaded.model, graph, pixel_values, weights_hash=weights_hash(loaded.folder))
        return browser.write_page(
            out,
            page=page,
            graph=graph,
            processor=PixelProcessor.from_folder(loaded.folder),
            runtime=runtime or browser.fetch_runtime(Path(work)),
            look={**_look(loaded.expressions), "examples": examples},
            pixel_values=pixel_values,
            beside=[package / "page.css", *(folder / each["file"] for each in examples)],
            modules={"zoom.js": (package / "scripts" / "zoom.js").read_text(encoding="utf-8")},
        )


def _look(expressions: tuple[str, ...]) -> dict[str, Any]:
    """Return what the page takes from the checkpoint, the drawings and the session of a stream of frames."""
    from .. import turning
    from ..drawing import palette
    from ..video import cuts, session, tracking

    return {
        # The checkpoint's: its ONNX file has those that the classes had at its export.
        "classes": list(expressions),
        "colors": {name: palette.color_of(name) for name in expressions},
        "inks": {name: palette.ink_on(palette.color_of(name)) for name in expressions},
        "near": palette.NEAR,
        "turning": {"doubtful": turning.DOUBTFUL, "sure": turning.SURE},
        "cuts": {
            "width": cuts.WIDTH,
            "height": cuts.HEIGHT,
            "leastChange": cuts.LEAST_CHANGE,
            "againstMotion": cuts.AGAINST_MOTION,
            "mostCorrelation": cuts.MOST_CORRELATION,
            "newest": cuts.NEWEST,
        },
        # As rmn_space has them; a test compares the two.
        "maxFaces": 50,
        "live": {
            "minFace": 48,
            "maxFaces": 6,
            "patience": 3,
            "hold": 1,
            "frameSize": 640,
            "smooth": session.SMOOTH,
            "detectEvery": session.DETECT_EVERY,
            "search": tracking.SEARCH,
            "lookSize": tracking.LOOK_SIZE,
            "lookAfter": tracking.LOOK_AFTER,
            "sameFace": tracking.SAME_FACE,
            "steadiness": tracking.STEADINESS,
            "reach": tracking.REACH,
            "growth": tracking.GROWTH,
        },
    }


def _parts() -> tuple[Path, Path, Path]:
    """Return the folders of the page's own files, of the page with a server, and of the examples of both."""
    from ..packages import page_part

    return page_part("browser"), page_part("__init__.py").parent, page_part("examples")
