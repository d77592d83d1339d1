"""The main results of a checkpoint's `eval.json` and `peers.json`, typed: each is a number, a name or left out."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints import weights_hash

# The share of a face whose removal is reported.
FRACTION = 0.2


@dataclass(frozen=True)
class SetScores:
    """
    The scores on one set of faces.

    Args:
        name: name of the set, as it stands in the file.
        faces: their number.
        accuracy: share of right predictions in 0..1.
        interval: its 95% interval, or `None`.
        averaged: accuracy of the average with the mirror image, or `None`.
        averaged_interval: its 95% interval, or `None`.
        calibration_error: expected calibration error in 0..1 of that average, of the single view where there is none;
            or `None`.
        peers: other networks on the very same faces: the name of each, and its accuracy averaged with the mirror image.
    """

    name: str
    faces: int
    accuracy: float
    interval: tuple[float, float] | None = None
    averaged: float | None = None
    averaged_interval: tuple[float, float] | None = None
    calibration_error: float | None = None
    peers: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Faithful:
    """
    How far the probability of the predicted expression falls when a share of each face is removed: the smallest and
    the largest mean drop among the stages, 0.1 for ten percentage points.

    Args:
        faces: number of faces.
        fraction: the share that was removed, in 0..1.
        map: drop where places were removed that a stage's attention map ranks highest.
        random: drop where places were removed at random.
        features: drop where the features are strongest before masking.
    """

    faces: int
    fraction: float
    map: tuple[float, float]
    random: tuple[float, float]
    features: tuple[float, float]


@dataclass(frozen=True)
class Robust:
    """
    What one change of the image does, averaged over the views that a recognizer averages.

    Args:
        change: its name; `"unchanged"` is none.
        accuracy: share of right predictions in 0..1.
        changed: share of faces in 0..1 whose predicted expression is another one than unchanged.
    """

    change: str
    accuracy: float
    changed: float


@dataclass(frozen=True)
class Measured:
    """
    What was measured of a checkpoint.

    Args:
        sets: the scores on each set.
        parameters: number of parameters, or `None`.
        multiply_adds: multiply-adds for one face, or `None`.
        image_size: side of a face in pixels, or `None`.
        faithfulness: how faithful the attention maps are, or `None` where that was not measured.
        robustness: what changes of the image do; empty where that was not measured.
    """

    sets: tuple[SetScores, ...]
    parameters: int | None = None
    multiply_adds: int | None = None
    image_size: int | None = None
    faithfulness: Faithful | None = None
    robustness: tuple[Robust, ...] = ()


def read_measured(checkpoint: Path | None) -> Measured | None:
    """Return the results in the checkpoint's `eval.json`, or `None` where there are none about these weights."""
    if checkpoint is None:
        return None
    try:
        document = _read(checkpoint / "eval.json")
        if document is None or _find(document, "checkpoint", "sha256") != weights_hash(checkpoint):
            return None
    except (OSError, ValueError):
        return None
    sets, networks = _find(document, "sets"), _find(_read(checkpoint / "peers.json"), "networks")
    others = networks if isinstance(networks, list) else []
    scores = [_scores(str(name), values, others) for name, values in sets.items()] if isinstance(sets, dict) else []
    known = tuple(each for each in scores if each is not None)
    faithful = [_faithfulness(_find(sets, each.name, "faithfulness")) for each in known]
    if not known:
        return None
    return Measured(
        sets=known,
        parameters=_whole(_find(document, "checkpoint", "parameters")),
        multiply_adds=_whole(_find(document, "checkpoint", "multiply_adds")),
        image_size=_whole(_find(document, "checkpoint", "image_size")),
        faithfulness=next(filter(None, faithful), None),
        robustness=next(filter(None, (_robustness(_find(sets, each.name, "robustness")) for each in known)), ()),
    )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _scores(name: str, values: Any, others: list[Any]) -> SetScores | None:
    accuracy, faces = _share(_find(values, "single_view", "accuracy")), _whole(_find(values, "single_view", "faces"))
    if accuracy is None or faces is None:
        return None
    both = _find(values, "flip_averaged")
    return SetScores(
        name=name,
        faces=faces,
        accuracy=accuracy,
        interval=_interval(_find(values, "single_view", "interval")),
        averaged=_share(_find(both, "accuracy")),
        averaged_interval=_interval(_find(both, "interval")),
        calibration_error=_share(_find(both or _find(values, "single_view"), "expected_calibration_error")),
        peers=tuple(filter(None, (_peer(name, _find(values, "data", "sha256"), other) for other in others))),
    )


def _peer(name: str, faces: Any, other: Any) -> tuple[str, float] | None:
    """Return the name and the accuracy of another network where it saw the faces of this hash."""
    known, scores = _find(other, "name"), _find(other, "sets", name)
    accuracy = _share(_find(scores, "flip_averaged", "accuracy"))
    is_same = isinstance(faces, str) and _find(scores, "data", "sha256") == faces
    return (known, accuracy) if isinstance(known, str) and accuracy is not None and is_same else None


def _faithfulness(values: Any) -> Faithful | None:
    removals, faces = _find(values, "removals"), _whole(_find(values, "faces"))
    drops: dict[str, list[float]] = {"map": [], "random": [], "features": []}
    for removal in removals if isinstance(removals, list) else []:
        if _number(_find(removal, "fraction")) != FRACTION:
            continue
        for way, means in drops.items():
            mean = _number(_find(removal, way, "mean"))
            if mean is None:
                return None
            means.append(mean)
    if faces is None or not drops["map"]:
        return None
    return Faithful(faces, FRACTION, **{way: (min(means), max(means)) for way, means in drops.items()})


def _robustness(values: Any) -> tuple[Robust, ...]:
    rows = _find(values, "changes")
    found = []
    for row in rows if isinstance(rows, list) else []:
        name, accuracy = _find(row, "change"), _share(_find(row, "averaged", "accuracy"))
        changed = _share(_find(row, "averaged", "changed"))
        if isinstance(name, str) and accuracy is not None and changed is not None:
            found.append(Robust(name, accuracy, changed))
    return tuple(found)


def _find(value: Any, *keys: str) -> Any:
    """Return what lies under some keys of nested dictionaries, or `None`."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15
    return float(value) if is_number and math.isfinite(value) else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return None if number is None or number < 0 else round(number)


def _share(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and 0 <= number <= 1 else None


def _interval(value: Any) -> tuple[float, float] | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    low, high = (_share(each) for each in value)
    return None if low is None or high is None else (low, high)


__all__ = ["FRACTION", "Faithful", "Measured", "Robust", "SetScores", "read_measured"]
