"""evaluation.report"""

import json
import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..data.faces import FaceImages
from ..errors import InputError
from ..files import file_hash, replacing
from ..hub.checkpoint import WEIGHTS

FAILURES = 24
_PACKAGES = ("torch", "transformers", "numpy", "scikit-learn", "pillow")


def command_line(command: str, checkpoint: str | Path, options: dict[str, object], flags: Sequence[str] = ()) -> str:
    """The command line that does it again: `rmn-hub COMMAND CHECKPOINT` with the options that are not `None`."""
    words = ["rmn-hub", command, str(checkpoint)]
    for option, value in options.items():
        words += [option, str(value)] if value is not None else []
    return shlex.join([*words, *flags])


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of what the numbers depend on."""
    own = {"rmn-hub": __version__, "python": platform.python_version()}
    return {**own, **{name: version(name) for name in _PACKAGES}}


def summary(document: dict[str, Any]) -> str:
    """The main numbers of every set in a document of [`evaluate`], a few lines each, for people."""
    lines = []
    for name, numbers in document["sets"].items():
        lines.append(f"{name}: {numbers['data']['faces']:,} faces")
        lines += [f"  note: {note}" for note in numbers["data"]["notes"]]
        groups = [("", numbers), (" without duplicates", numbers["without_duplicates"] or {})]
        for suffix, group in groups:
            for view in ("single_view", "flip_averaged"):
                values = group.get(view)
                if values is not None:
                    low, high = values["interval"]
                    lines.append(
                        f"  {view.replace('_', ' ')}{suffix}: {values['accuracy']:.2%} ({low:.2%} to {high:.2%}), "
                        f"expected calibration error {values['expected_calibration_error']:.3f}"
                    )
        speed = numbers["milliseconds_per_face"]
        lines.append(
            f"  milliseconds per face: {speed['batch_1']['with_processor']:.2f} alone, "
            f"{speed['batch_32']['with_processor']:.2f} in batches of 32"
        )
    return "\n".join(lines)


def read_results(json_file: str | Path | None, sha256: str) -> dict[str, Any]:
    """
    The results in a file when they are about the weights with this hash, else an empty document about them: numbers of
    other weights must not stay beside new ones.

    Raises:
        InputError: the file exists but is something else.
    """
    if json_file is not None and Path(json_file).exists():
        document = _results(Path(json_file))
        if document["checkpoint"]["sha256"] == sha256:
            return document
    return {"checkpoint": {"sha256": sha256}, "sets": {}}


def _results(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(document["checkpoint"]["sha256"], str) and isinstance(document["sets"], dict):
            return document
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{path} exists and holds no results of rmn-hub evaluate: give another file")


def replaces_results(json_file: str | Path, checkpoint: str | Path) -> bool:
    """Whether a file holds results that [`evaluate`] would drop, because they are about other weights."""
    path, weights = Path(json_file), Path(checkpoint) / WEIGHTS
    return (
        path.is_file()
        and weights.is_file()
        and bool(_results(path)["sets"])
        and (_results(path)["checkpoint"]["sha256"] != file_hash(weights))
    )


def write_figures(
    folder: Path, name: str, probabilities: np.ndarray, faces: FaceImages, numbers: dict[str, Any]
) -> list[Path]:
    """
    The pictures of one set's numbers, as PNG files whose names begin with the set's. `InputError`: they cannot be
    written there.
    """
    from ..drawing import figures as plots

    answers, labels = probabilities.argmax(1), faces.labels
    wrong = np.flatnonzero(answers != labels)
    # The most confident mistakes say most about the network, and about the labels.
    worst = wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:FAILURES]
    title = f"{name}, single view"
    pictures = {
        "confusion_matrix": plots.confusion_matrix(numbers["confusion_matrix"], title=title),
        "reliability_diagram": plots.reliability_diagram(numbers["calibration"], title=title),
        "coverage": plots.coverage_curve(numbers["coverage"], title=title),
    }
    if len(worst):
        pictures["failure_cases"] = plots.failure_cases(
            [np.asarray(faces[index]) for index in worst], labels[worst], probabilities[worst]
        )
    if numbers["faithfulness"] is not None:
        pictures["faithfulness"] = plots.faithfulness_chart(numbers["faithfulness"], title=f"{name}: attention maps")
    written = [folder / f"{name}_{kind}.png" for kind in pictures]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, picture in zip(written, pictures.values()):
            with replacing(path) as beside:
                picture.save(beside)
    except OSError as error:
        raise InputError(f"the figures cannot be written to {folder}: {error.strerror or error}") from error
    return written
