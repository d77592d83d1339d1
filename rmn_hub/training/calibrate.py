"""Calibration: `rmn-hub calibrate`. One temperature, folded into the classifier.

A network's probabilities are too bold or too shy. Dividing all logits by one number, the temperature, mends most of it
and leaves every answer as it was (Guo et al., "On calibration of modern neural networks", 2017, section 4.2). Folded
into the classifier's weight and bias, it costs nothing and reaches every runtime, exported ones too.
"""

import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..results import InputError, replacing
from .data import load_pictures, split_role
from .evaluate import (
    WEIGHTS,
    checkpoint_folder,
    command_line,
    file_hash,
    load_checkpoint,
    predict,
    scores,
    softmax,
    write_json,
)
from .evaluate import versions as package_versions

RECORD = "calibration.json"
# Temperatures beyond these mean a network that knows nothing, or labels that say nothing.
LIMITS = (0.05, 20.0)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """
    The temperature T > 0 with the least negative log-likelihood of softmax(logits / T), between `LIMITS`.

    Args:
        logits: floats `(N, classes)`.
        labels: int64 `(N,)`.
    """
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        probabilities = softmax(logits / np.exp(log_temperature))
        return float(-np.log(np.maximum(probabilities[rows, labels], 1e-300)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=np.log(LIMITS), method="bounded", options={"xatol": 1e-6}).x))


def calibrate(
    checkpoint: str | Path,
    data: str | Path,
    split: str = "public_test",
    *,
    device: str | None = None,
    batch_size: int = 32,
    progress: Callable[[str, int, int], object] | None = None,
) -> dict[str, Any]:
    """
    Fits the temperature on one split's faces, seen once as they are, folds it into the checkpoint's weights and writes
    down what was done in `calibration.json` beside them. Done again, it finds a temperature of 1.

    Args:
        checkpoint: folder of the checkpoint, which is changed.
        data: file or folder of labelled faces, see [`load_faces`].
        split: the split to fit on: not one that was trained on, and not the one that is scored.
        device: where to compute; the CPU when not given.
        batch_size: faces at once.
        progress: called with what is being done, how many more faces are done, and of how many.

    Returns:
        what `calibration.json` holds: `temperature` (over all calibrations of these weights), `fitted` (this time),
        scores before and after, the weights' hash before and after, data, command, versions, date.

    Raises:
        InputError: checkpoint, data or split cannot be used; a split that was trained on or that is for scoring.
    """
    folder = checkpoint_folder(checkpoint)
    role = split_role(split)
    if role == "private_test":
        raise InputError(
            f"{split} is for scoring: fit the temperature on public_test, or its error is not an honest one"
        )
    if role == "train" or split.lower() == "all":
        raise InputError(
            f"{split} has faces that the network was trained on, of which it is too sure: fit it on public_test"
        )
    faces = load_pictures(data, split)
    model, processor = load_checkpoint(folder, device)
    report = progress or (lambda *_: None)
    report("predicting", 0, len(faces))
    answers = predict(
        model.for_inference(), processor, faces, batch_size, lambda done: report("predicting", done, len(faces))
    )
    fitted = fit_temperature(answers.logits, faces.labels)
    if not LIMITS[0] * 1.01 < fitted < LIMITS[1] / 1.01:
        raise InputError(
            f"no temperature helps on the {len(faces)} faces of {split}: the network answers them at random, or they "
            "are too few to fit it"
        )

    before = file_hash(folder / WEIGHTS)
    previous = _previous(folder / RECORD, before)
    fold_temperature(folder / WEIGHTS, fitted)
    record = {
        "temperature": fitted * previous,
        "fitted": fitted,
        "split": split,
        "faces": len(faces),
        "before": scores(softmax(answers.logits), faces.labels),
        "after": scores(softmax(answers.logits / fitted), faces.labels),
        "sha256_before": before,
        "sha256": file_hash(folder / WEIGHTS),
        "command": command_line("calibrate", checkpoint, {"--data": data, "--split": split, "--device": device}),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "versions": package_versions(),
    }
    write_json(folder / RECORD, record)
    return record


def fold_temperature(weights: Path, temperature: float) -> None:
    """
    Divides the classifier's weight and bias in a safetensors file by the temperature; all else stays as it is.

    Raises:
        InputError: the file has no classifier.
    """
    with safe_open(weights, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    for name in ("classifier.weight", "classifier.bias"):
        if name not in tensors:
            raise InputError(f"{weights} has no {name}: it holds no RMN")
        tensors[name] = (tensors[name].double() / temperature).to(tensors[name].dtype)
    try:
        with replacing(weights) as beside:
            save_file(tensors, beside, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{weights} cannot be written: {error}") from error


def _previous(record: Path, sha256: str) -> float:
    """The temperature that these very weights already have in them; 1 when nothing is known about them."""
    if not record.exists():
        return 1.0
    try:
        values = json.loads(record.read_text(encoding="utf-8"))
        return float(values["temperature"]) if values["sha256"] == sha256 else 1.0
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{record} is not what rmn-hub calibrate wrote: delete it") from error
