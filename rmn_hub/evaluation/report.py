"""
The form of `eval.json`, what a terminal shows of it, and its figures.

`eval.json` holds

* `checkpoint`: `sha256` of the weights, `network` (its name in `rmn_hub.baselines.networks`), `parameters`,
  `multiply_adds` (of one image), `megabytes`, `image_size` in pixels, and whether it has `masks`. Of an ensemble these
  are the sums, the largest `image_size` and a `sha256` of the members' hashes, and `members` holds one such block for
  each, with its `name`;
* `sets`: by name of the set
    * `command`, `date` and `versions`, which make the numbers again;
    * `data`: `name` of the file or folder (earlier ones lack it), `split`, number of `faces`, `per_expression`,
      `sha256` of images and labels, `ferplus_agreement` (0..1 or null) and `notes`;
    * `single_view` and `flip_averaged`: `accuracy` (0..1) with its 95% `interval`, `correct`, `faces`,
      `negative_log_likelihood` in nats and `expected_calibration_error`; and of the single view `per_expression`,
      `mean_recall`, `mean_f1`, `confusion_matrix` (rows are labels), `calibration`, `coverage` (see
      [`rmn_hub.evaluation.metrics.coverage`]), and `right`, a digit per face;
    * `without_duplicates`: null, or the number of `duplicates` of training faces and both views without them;
    * `milliseconds_per_face`: `device`, `threads`, and for `batch_1` and `batch_32` the `network` alone,
      `with_processor`, and `two_views` with it;
    * `faithfulness`: null, or what [`Faithfulness.to_dict`] returns;
    * `robustness`: absent, or what [`rmn_hub.evaluation.robustness.robustness`] returns.
"""

import hashlib
import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..data.faces import FaceImages
from ..errors import InputError
from ..files import replacing
from ..hub.records import public_word
from ..results import MIN_CONFIDENCE

FAILURES = 24
_PACKAGES = ("torch", "transformers", "numpy", "scikit-learn", "pillow")


def command_line(
    command: str, checkpoints: Sequence[str | Path], options: Mapping[str, object], flags: Sequence[str] = ()
) -> str:
    """
    Return the command line that does it again: `rmn-hub COMMAND CHECKPOINT...` and the options that are not `None`.
    Of paths that are not relative to the present folder it has the last part: it goes out with the checkpoint.
    """
    words: list[object] = ["rmn-hub", command, *checkpoints]
    for option, value in options.items():
        words += [option, value] if value is not None else []
    return shlex.join([*map(public_word, words), *flags])


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of what the numbers depend on."""
    own = {"rmn-hub": __version__, "python": platform.python_version()}
    return {**own, **{name: version(name) for name in _PACKAGES}}


def summary(document: dict[str, Any]) -> str:
    """Return the main numbers of every set of an `eval.json`, a few lines each, for people."""
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
        lines += [
            f"  predictions with {row['threshold']:.0%}: {row['coverage']:.1%} of the faces, {row['accuracy']:.1%} "
            f"right; the others {row['accuracy_below']:.1%}, {row['two_below']:.1%} with the second expression"
            for row in numbers.get("coverage", ())
            if row["threshold"] == MIN_CONFIDENCE and None not in map(row.get, ("accuracy", "two_below"))
        ]
        speed = numbers["milliseconds_per_face"]
        lines.append(
            f"  milliseconds per face: {speed['batch_1']['with_processor']:.2f} alone, "
            f"{speed['batch_32']['with_processor']:.2f} in batches of 32"
        )
        if "robustness" in numbers:
            robust = numbers["robustness"]
            lines.append("  under changes of the image: accuracy, share of changed expressions, of certain ones")
            lines.append(f"    {'':<22} {'single view':^22}    {robust.get('views', 1)} views averaged")
            for row in robust["changes"]:
                kinds = [kind for kind in (row, row.get("averaged")) if kind]
                keys = ("accuracy", "changed", "changed_certain")
                cells = ["  ".join(f"{kind[key]:6.1%}" for key in keys if key in kind) for kind in kinds]
                lines.append(f"    {row['change']:<22} {'    '.join(cells)}")
    return "\n".join(lines)


def read_results(json_file: str | Path | None, sha256: str) -> dict[str, Any]:
    """
    Return the results in a file when they are about the weights with this hash, else an empty document about them:
    numbers of other weights must not stay beside new ones.

    Raises:
        InputError: the file exists but is something else.
    """
    document = held_results(json_file)
    if document is not None and document["checkpoint"]["sha256"] == sha256:
        return document
    return {"checkpoint": {"sha256": sha256}, "sets": {}}


def held_results(json_file: str | Path | None) -> dict[str, Any] | None:
    """
    Return the results in a file, of whatever weights; `None` without a file.

    Raises:
        InputError: the file exists but is something else.
    """
    if json_file is None or not Path(json_file).exists():
        return None
    path = Path(json_file)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(document["checkpoint"]["sha256"], str) and isinstance(document["sets"], dict):
            summary(document)  # which looks at the main numbers
            return document
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise InputError(f"{path} must hold results of rmn-hub evaluate, because it exists: give another file")


def lost_results(before: dict[str, Any] | None, after: dict[str, Any]) -> list[str]:
    """Return what results no longer hold: those of other weights, or of other faces under the name of a set."""
    if before is None or not before["sets"]:
        return []
    if before["checkpoint"]["sha256"] != after["checkpoint"]["sha256"]:
        return ["results of other weights"]
    hashes = (
        {name: numbers["data"].get("sha256") for name, numbers in each["sets"].items()} for each in (before, after)
    )
    old, new = hashes
    return [f"results of other faces as {name}" for name in old if old[name] != new.get(name)]


def identity(hashes: Sequence[str]) -> str:
    """Return the hash of a checkpoint as it is, and one of an ensemble from its members' hashes, in any order."""
    if len(hashes) == 1:
        return hashes[0]
    return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()


def write_figures(
    folder: Path, name: str, probabilities: np.ndarray, faces: FaceImages, numbers: dict[str, Any]
) -> list[Path]:
    """
    Write the figures of one set's numbers, as PNG files whose names begin with the set's.

    Raises:
        InputError: they cannot be written there.
    """
    from ..drawing import figures

    labels = faces.labels
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    # The most confident mistakes show most about the network, and about the labels.
    worst = wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:FAILURES]
    title = f"{name}, single view"
    drawn = {
        "confusion_matrix": figures.confusion_matrix(numbers["confusion_matrix"], title=title),
        "reliability_diagram": figures.reliability_diagram(numbers["calibration"], title=title),
        "coverage": figures.coverage_curve(numbers["coverage"], title=title),
    }
    if len(worst):
        drawn["failure_cases"] = figures.failure_cases(
            [np.asarray(faces[index]) for index in worst], labels[worst].tolist(), probabilities[worst]
        )
    if numbers["faithfulness"] is not None:
        drawn["faithfulness"] = figures.faithfulness_chart(numbers["faithfulness"], title=f"{name}: attention maps")
    written = [folder / f"{name}_{kind}.png" for kind in drawn]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, figure in zip(written, drawn.values()):
            with replacing(path) as beside:
                figure.save(beside)
    except OSError as error:
        raise InputError(f"the figures cannot be written to {folder}: {error.strerror or error}") from error
    return written


__all__ = [
    "FAILURES",
    "command_line",
    "held_results",
    "identity",
    "lost_results",
    "read_results",
    "summary",
    "versions",
    "write_figures",
]
