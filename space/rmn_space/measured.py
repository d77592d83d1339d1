"""The measured results beside a checkpoint, read so that whatever stands in its `eval.json` is a number or text."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmn_hub.files import file_hash


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
        calibration_error: expected calibration error in 0..1, or `None`.
    """

    name: str
    faces: int
    accuracy: float
    interval: tuple[float, float] | None = None
    averaged: float | None = None
    averaged_interval: tuple[float, float] | None = None
    calibration_error: float | None = None


@dataclass(frozen=True)
class Measured:
    """
    What was measured of a checkpoint.

    Args:
        sets: the scores on each set.
        parameters: number of parameters, or `None`.
        multiply_adds: multiply-adds for one face, or `None`.
        image_size: side of a face in pixels, or `None`.
        faithfulness: a sentence about how faithful the attention maps are; empty where that was not measured.
    """

    sets: tuple[SetScores, ...]
    parameters: int | None = None
    multiply_adds: int | None = None
    image_size: int | None = None
    faithfulness: str = ""


def read_measured(checkpoint: Path | None) -> Measured | None:
    """Return the results in the checkpoint's `eval.json`, or `None` where there are none about these weights."""
    if checkpoint is None:
        return None
    try:
        document = json.loads((checkpoint / "eval.json").read_text(encoding="utf-8"))
        if _find(document, "checkpoint", "sha256") != file_hash(checkpoint / "model.safetensors"):
            return None
    except (OSError, ValueError, RecursionError):
        return None
    sets = _find(document, "sets")
    scores = [_scores(str(name), values) for name, values in sets.items()] if isinstance(sets, dict) else []
    known = tuple(each for each in scores if each is not None)
    sentences = [_faithfulness(_find(sets, each.name, "faithfulness")) for each in known]
    if not known:
        return None
    return Measured(
        sets=known,
        parameters=_whole(_find(document, "checkpoint", "parameters")),
        multiply_adds=_whole(_find(document, "checkpoint", "multiply_adds")),
        image_size=_whole(_find(document, "checkpoint", "image_size")),
        faithfulness=next(filter(None, sentences), ""),
    )


def _scores(name: str, values: Any) -> SetScores | None:
    accuracy, faces = _share(_find(values, "single_view", "accuracy")), _whole(_find(values, "single_view", "faces"))
    if accuracy is None or faces is None:
        return None
    return SetScores(
        name=name,
        faces=faces,
        accuracy=accuracy,
        interval=_interval(_find(values, "single_view", "interval")),
        averaged=_share(_find(values, "flip_averaged", "accuracy")),
        averaged_interval=_interval(_find(values, "flip_averaged", "interval")),
        calibration_error=_share(_find(values, "single_view", "expected_calibration_error")),
    )


def _faithfulness(values: Any, fraction: float = 0.2) -> str:
    """Return what hiding a share of the face does, for all stages; empty where that was not measured."""
    removals = _find(values, "removals")
    faces = _whole(_find(values, "faces"))
    drops: dict[str, list[float]] = {"map": [], "random": [], "features": []}
    for removal in removals if isinstance(removals, list) else []:
        means = {way: _number(_find(removal, way, "mean")) for way in drops}
        if _number(_find(removal, "fraction")) == fraction:
            for way, mean in means.items():
                if mean is None:
                    return ""
                drops[way].append(mean)
    if faces is None or not drops["map"]:
        return ""
    words = {way: _range(means) for way, means in drops.items()}
    return (
        f"On {faces:,} faces, the {fraction:.0%} of a face that a map ranks highest were hidden. The probability fell "
        f"by {words['map']} points, depending on the stage; by {words['random']} where places were hidden at random, "
        f"and by {words['features']} where the features are strongest even without the mask."
    )


def _range(shares: list[float]) -> str:
    low, high = f"{100 * min(shares):.0f}", f"{100 * max(shares):.0f}"
    return low if low == high else f"{low} to {high}"


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
