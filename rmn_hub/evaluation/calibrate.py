"""
Calibration: `rmn-hub calibrate`. One temperature per expression, folded into the classifier.

A network's probabilities are too bold or too shy, and not to the same degree for every expression: label smoothing
leaves the easy ones too shy and the hard ones too bold, which one temperature for all cannot mend. So each expression's
logit is divided by a temperature of its own: vector scaling (Guo et al., "On calibration of modern neural networks",
2017, section 4.2) without its bias, which would teach the network how frequent each expression is in one data set.
Folded into the classifier's weight and bias, it costs nothing and reaches every runtime, exported ones too.

What is calibrated is the mean of a face's views, which the recognizer predicts: it is shyer than one view alone.
"""

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file

from ..checkpoints import weight_files
from ..data.faces import check_choosing
from ..data.sources import load_face_images
from ..engines.pixels import PixelProcessor
from ..engines.torch import TorchEngine
from ..engines.views import VIEWS, averaged
from ..errors import CheckpointError, InputError
from ..expressions import EXPRESSIONS
from ..files import replacing, write_json
from ..hub import checkpoint as checkpoints
from ..hub.card import CALIBRATION
from ..hub.checkpoint import WEIGHTS
from ..hub.records import trained_split
from ..images import is_folder
from ..progress import Progress, silent
from .evaluate import predict
from .metrics import scores
from .report import command_line
from .report import versions as package_versions

# Temperatures beyond these mean a network that predicts at random, or labels that are.
LIMITS = (0.05, 20.0)
# How far, in nats, an expression's temperature is expected from that of the others: the standard deviation of a normal
# prior. Thousands of faces outvote it; with few, the temperatures stay near a common one.
SPREAD = 0.3


def fit_temperatures(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """
    Return the temperatures T > 0, floats `(classes,)`, under which the mean over the views of softmax(logits / T) has
    the least negative log-likelihood, each drawn to their geometric mean by a normal prior on its logarithm (`SPREAD`).
    The mean is kept within `LIMITS`.

    Args:
        logits: floats `(views, N, classes)`.
        labels: int64 `(N,)`.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax, logsumexp, softmax

    logits = logits.astype(np.float64)
    views, count, classes = logits.shape
    hot = np.eye(classes)[labels]

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        own = parameters[1:]
        scaled = logits * np.exp(parameters[0] + own)
        log_probabilities = log_softmax(scaled, axis=2)
        right = log_probabilities[:, np.arange(count), labels]
        # The slope of the mean's logarithm is that of its views, each by its share of the mean.
        shares = softmax(right, axis=0)[:, :, None]
        slope = (shares * (np.exp(log_probabilities) - hot) * scaled).sum((0, 1))
        value = -(logsumexp(right, axis=0) - np.log(views)).sum() + (own**2).sum() / (2 * SPREAD**2)
        return value / count, np.concatenate([[slope.sum()], slope + own / SPREAD**2]) / count

    bounds = [tuple(np.log(1 / np.array(LIMITS[::-1])))] + [(None, None)] * classes
    found = minimize(loss, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14})
    return np.exp(-found.x[0] - found.x[1:])


def calibrate(
    checkpoint: str | Path,
    data: str | Path,
    split: str = "public_test",
    *,
    views: int = VIEWS,
    device: str | None = None,
    batch_size: int = 32,
    progress: Progress = silent,
) -> dict[str, Any]:
    """
    Fit the temperatures on one split's faces, fold them into the checkpoint's weights and write down what was done in
    `calibration.json` beside them. Done again on the same faces, it changes nothing.

    Args:
        checkpoint: folder of the checkpoint, which is changed.
        data: file or folder of labelled faces, see [`rmn_hub.data.sources`].
        split: the split to fit on: not one that was trained on, and not the one that is scored.
        views: 2 calibrates the mean of a face and its mirror image, which the recognizer predicts; 1 the face alone,
            for those who call the network.
        device: where to compute; the GPU if there is one when not given.
        batch_size: faces at once.
        progress: called for every batch.

    Returns:
        what `calibration.json` holds: `temperatures` (by expression, against the weights as they were before any
        calibration), scores before and after, the weights' hash before and after, data, command, versions, date.

    Raises:
        InputError: checkpoint, data or split cannot be used; a split that was trained on or that is for scoring;
            weights in several files.
    """
    if isinstance(views, bool) or views not in (1, 2):
        raise InputError(f"views={views!r} must be 1 or 2")
    folder = own_folder(checkpoint)
    check_choosing("split", split, trained_split(folder, data))
    if weight_files(folder) != [WEIGHTS]:
        raise InputError(f"checkpoint={str(checkpoint)!r} must have its weights in one file, {WEIGHTS}: save it anew")
    faces = load_face_images(data, split)
    loaded = checkpoints.load(folder, expressions=EXPRESSIONS, rmn_only=True)
    engine = TorchEngine(loaded.model, device)
    predicted = predict(engine, PixelProcessor.from_folder(folder), faces, batch_size, progress)
    logits = np.stack([predicted.logits, predicted.mirrored][:views])
    before = checkpoints.weights_hash(folder)
    previous = _previous(folder / CALIBRATION, before)
    # Fitted to the logits as they were before any calibration: else the prior would pull anew each time.
    temperatures = fit_temperatures(logits * previous, faces.labels)
    if not LIMITS[0] * 1.01 < np.exp(np.log(temperatures).mean()) < LIMITS[1] / 1.01:
        raise InputError(
            f"the {len(faces)} faces of {split} fit no temperature: the network predicts them at random, or they are "
            "too few. Give more faces, or a trained network."
        )

    fold_temperatures(folder / WEIGHTS, temperatures / previous)
    record = {
        "temperatures": dict(zip(EXPRESSIONS, temperatures.tolist())),
        "split": split,
        "faces": len(faces),
        "views": views,
        "before": scores(averaged(logits), faces.labels),
        "after": scores(averaged(logits * previous / temperatures), faces.labels),
        "sha256_before": before,
        "sha256": checkpoints.weights_hash(folder),
        "command": command_line(
            "calibrate", [checkpoint], {"--data": data, "--split": split, "--views": views, "--device": device}
        ),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "versions": package_versions(),
    }
    write_json(folder / CALIBRATION, record)
    return record


def own_folder(checkpoint: str | Path) -> Path:
    """
    Return the folder of a checkpoint that may be changed, which the Hub's cache must not be.

    Raises:
        CheckpointError: it is not a folder of a checkpoint.
    """
    if not is_folder(Path(checkpoint)):
        raise CheckpointError(f"checkpoint={str(checkpoint)!r} must be a folder: download or train one first")
    return checkpoints.find(checkpoint)


def fold_temperatures(weights: Path, temperatures: np.ndarray) -> None:
    """
    Divide each row of the classifier's weight and bias in a safetensors file by its expression's temperature; all else
    stays as it is.

    Args:
        weights: the file, which is changed.
        temperatures: floats `(classes,)`.

    Raises:
        InputError: the file has no classifier, or cannot be written.
    """
    with safe_open(weights, framework="pt") as file:
        metadata = file.metadata()
    # Not mapped: Windows does not replace a file that is.
    tensors = load_tensors(weights.read_bytes())
    for name in ("classifier.weight", "classifier.bias"):
        if name not in tensors:
            raise InputError(f"{weights} has no {name}: give the weights of an RMN")
        rows = torch.from_numpy(temperatures).view(-1, *[1] * (tensors[name].ndim - 1))
        tensors[name] = (tensors[name].double() / rows).to(tensors[name].dtype)
    try:
        with replacing(weights) as beside:
            save_file(tensors, beside, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{weights} cannot be written: {error}") from error


def _previous(record: Path, sha256: str) -> np.ndarray:
    """Return the temperatures that these very weights already have in them; ones when none are recorded."""
    nothing = np.ones(len(EXPRESSIONS))
    if not record.exists():
        return nothing
    try:
        values = json.loads(record.read_text(encoding="utf-8"))
        known = np.array([float(values["temperatures"][name]) for name in EXPRESSIONS])
        return known if values["sha256"] == sha256 else nothing
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{record} must be what rmn-hub calibrate wrote: delete it, or restore it") from error


__all__ = ["LIMITS", "SPREAD", "calibrate", "fit_temperatures", "fold_temperatures", "own_folder"]
