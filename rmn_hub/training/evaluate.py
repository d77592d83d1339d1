"""Evaluation: `rmn-hub evaluate`. What a checkpoint is worth on a set of labelled faces, with the doubt that remains.

The numbers are made in the way in which people get their answers: the checkpoint's own image processor on the faces as
they are stored, and `RMNModel.for_inference()`. Each set's block of the JSON holds the command that made it, the
SHA-256 of the weights and of the faces, the versions and the date.
"""

import hashlib
import json
import platform
import shlex
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor

from .. import __version__
from ..benchmark import multiply_adds
from ..configuration_rmn import EXPRESSIONS
from ..image_processing_rmn import RMNImageProcessor
from ..modeling_rmn import RMNModel, loading_problem
from ..results import InputError, replacing
from .data import (
    FacePictures,
    duplicates_of,
    has_split,
    load_faces,
    load_pictures,
    looks_like_fer2013,
    split_role,
)

WEIGHTS = "model.safetensors"
CALIBRATION_BINS = 15
CONFIDENCE = 0.95
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(20))
FAILURES = 24
_TIMING_SECONDS = 2.0
_PACKAGES = ("torch", "transformers", "numpy", "scikit-learn", "pillow")


@dataclass(frozen=True)
class Predictions:
    """
    What a network answers for every face of a set.

    Args:
        logits: float32 `(N, 7)` for the faces as they are.
        mirrored: float32 `(N, 7)` for their mirror images.
    """

    logits: np.ndarray
    mirrored: np.ndarray

    @property
    def single_view(self) -> np.ndarray:
        """Probabilities `(N, 7)` for the faces as they are."""
        return softmax(self.logits)

    @property
    def flip_averaged(self) -> np.ndarray:
        """Mean of the probabilities `(N, 7)` for each face and for its mirror image."""
        return (softmax(self.logits) + softmax(self.mirrored)) / 2


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in double precision."""
    return torch.from_numpy(logits).double().softmax(-1).numpy()


def load_checkpoint(checkpoint: str | Path, device: str | None = None) -> tuple[RMNModel, RMNImageProcessor]:
    """
    The model, in evaluation mode, and the image processor of a checkpoint.

    Raises:
        InputError: the folder holds no RMN checkpoint, or the device does not exist.
    """
    folder = checkpoint_folder(checkpoint, download=True)
    try:
        model, report = RMNModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
        processor = RMNImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise InputError(f"{folder} cannot be loaded as an RMN checkpoint: {' '.join(str(error).split())}") from error
    if report["missing_keys"] or report["unexpected_keys"]:
        raise InputError(f"{folder} holds weights of another network than its config.json describes")
    names = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
    if names != EXPRESSIONS:
        raise InputError(f"{folder} answers {', '.join(names)}, not the seven expressions {', '.join(EXPRESSIONS)}")
    try:
        return model.to(device or "cpu").eval(), processor
    except RuntimeError as error:
        raise InputError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error


def checkpoint_folder(checkpoint: str | Path, download: bool = False) -> Path:
    """
    A checkpoint's folder: a local one or, with `download`, the Hub's cache of it, which is not to be changed.

    Raises:
        InputError: it is not a folder with a configuration and safetensors, nor a model on the Hub that can be read.
    """
    folder = Path(checkpoint)
    if download and not folder.exists():
        try:
            folder = Path(snapshot_download(str(checkpoint), allow_patterns=["*.json", WEIGHTS]))
        except (OSError, ValueError) as error:
            raise InputError(loading_problem(str(checkpoint), "main", error)) from error
    if not (folder / "config.json").is_file() or not (folder / WEIGHTS).is_file():
        raise InputError(f"{checkpoint} is not a checkpoint: give a folder with config.json and {WEIGHTS}")
    return folder


@torch.inference_mode()
def predict(
    model: RMNModel,
    processor: RMNImageProcessor,
    faces: FacePictures,
    batch_size: int = 32,
    progress: Callable[[int], object] | None = None,
) -> Predictions:
    """Logits for every face and its mirror image; `progress` is called with the number of faces of each batch."""
    logits, mirrored = [], []
    for pixel_values in pixel_batches(processor, faces, batch_size):
        pixel_values = pixel_values.to(model.device)
        logits.append(model(pixel_values).logits.float().cpu())
        mirrored.append(model(pixel_values.flip(-1)).logits.float().cpu())
        if progress is not None:
            progress(len(pixel_values))
    return Predictions(torch.cat(logits).numpy(), torch.cat(mirrored).numpy())


def pixel_batches(processor: RMNImageProcessor, faces: FacePictures, batch_size: int) -> Iterator[Tensor]:
    """`pixel_values` `(batch, 3, S, S)` in 0..1 of all faces, in their order."""
    pictures = iter(faces)
    while batch := list(islice(pictures, batch_size)):
        yield processor(batch, return_tensors="pt")["pixel_values"]


# Numbers


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Share of right answers in 0..1, with its 95% interval (Wilson, 1927)."""
    from scipy.stats import binomtest

    correct = int((probabilities.argmax(1) == labels).sum())
    interval = binomtest(correct, len(labels)).proportion_ci(CONFIDENCE, method="wilson")
    return {
        "accuracy": correct / len(labels),
        "interval": [float(interval.low), float(interval.high)],
        "correct": correct,
        "faces": len(labels),
    }


def calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int = CALIBRATION_BINS) -> dict[str, Any]:
    """
    Expected calibration error: the mean over faces of |accuracy - confidence| of the bin of their confidence (the top
    probability), with `bins` bins of equal width over 0..1 (Guo et al., "On calibration of modern neural networks",
    2017, equation 3). Each bin holds lower < confidence <= upper.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    edges = np.linspace(0, 1, bins + 1)
    where = np.clip(np.digitize(confidence, edges, right=True) - 1, 0, bins - 1)
    table, error = [], 0.0
    for index in range(bins):
        inside = where == index
        count = int(inside.sum())
        row: dict[str, Any] = {"lower": float(edges[index]), "upper": float(edges[index + 1]), "faces": count}
        row["confidence"] = float(confidence[inside].mean()) if count else None
        row["accuracy"] = float(right[inside].mean()) if count else None
        if count:
            error += count / len(labels) * abs(row["accuracy"] - row["confidence"])
        table.append(row)
    return {"expected_calibration_error": error, "bins": table}


def coverage(probabilities: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """Share of the faces whose top probability reaches each threshold, and the accuracy (0..1) on those alone."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    rows = []
    for threshold in THRESHOLDS:
        answered = confidence >= threshold
        share = float(answered.mean())
        rows.append(
            {"threshold": threshold, "coverage": share, "accuracy": float(right[answered].mean()) if share else None}
        )
    return rows


def scores(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Accuracy with its interval, negative log-likelihood in nats and expected calibration error of some answers."""
    from sklearn.metrics import log_loss

    return {
        **accuracy(probabilities, labels),
        "negative_log_likelihood": float(log_loss(labels, probabilities, labels=list(range(len(EXPRESSIONS))))),
        "expected_calibration_error": calibration(probabilities, labels)["expected_calibration_error"],
    }


def paired_difference(right: Sequence[bool], others_right: Sequence[bool]) -> dict[str, Any]:
    """
    How much more accurate one network is than another on the same faces: the `difference` of accuracies (-1..1) with
    its normal 95% interval over the faces, how many faces only the one (`only_first`) or only the other (`only_second`)
    has right, and the exact `p_value` of McNemar's test (1947) on these.

    Args:
        right: for each face, whether the one network answers it right.
        others_right: the same of the other network, for the same faces in the same order.
    """
    from scipy.stats import binomtest

    from ..attention import Mean

    differences = np.asarray(right, float) - np.asarray(others_right, float)
    first, second = int((differences > 0).sum()), int((differences < 0).sum())
    difference = Mean.of(differences)
    return {
        "difference": difference.mean,
        "interval": list(difference.interval),
        "only_first": first,
        "only_second": second,
        "p_value": float(binomtest(first, first + second).pvalue) if first + second else 1.0,
    }


def per_expression(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Precision, recall and F1 (0..1) and faces per expression, their plain means, and the confusion matrix."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    answers, classes = probabilities.argmax(1), list(range(len(EXPRESSIONS)))
    values = precision_recall_fscore_support(labels, answers, labels=classes, zero_division=0)
    present = np.unique(labels)
    return {
        "per_expression": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "faces": int(count)}
            for name, p, r, f, count in zip(EXPRESSIONS, *values)
        },
        # Over the expressions that the set has: a set without fear says nothing about fear.
        "mean_recall": float(values[1][present].mean()),
        "mean_f1": float(values[2][present].mean()),
        "confusion_matrix": confusion_matrix(labels, answers, labels=classes).tolist(),
    }


def votes_agreement(faces: FacePictures) -> float | None:
    """Share of the faces whose most-voted FER+ label is their FER2013 label; `None` without votes."""
    if faces.votes is None:
        return None
    # FER+'s order in indices of EXPRESSIONS; contempt, unknown and no-face are none of the seven.
    own = np.array([6, 3, 5, 4, 0, 1, 2, -1, -1, -1])
    return float((own[faces.votes.argmax(1)] == faces.labels).mean())


@torch.inference_mode()
def milliseconds(model: RMNModel, processor: RMNImageProcessor, faces: FacePictures) -> dict[str, Any]:
    """Milliseconds per face at batch 1 and 32, median of many runs: the network alone, and with the image processor."""
    result: dict[str, Any] = {"device": _device_name(model.device), "threads": torch.get_num_threads()}
    for batch_size in (1, 32):
        pictures = [faces[index % len(faces)] for index in range(batch_size)]
        pixel_values = processor(pictures, return_tensors="pt")["pixel_values"].to(model.device)

        def network(pixel_values: Tensor = pixel_values) -> Tensor:
            return model(pixel_values).logits.cpu()

        def whole(pictures: list[Any] = pictures) -> Tensor:
            return network(processor(pictures, return_tensors="pt")["pixel_values"].to(model.device))

        result[f"batch_{batch_size}"] = {
            "network": _median_milliseconds(network) / batch_size,
            "with_processor": _median_milliseconds(whole) / batch_size,
        }
    return result


def _median_milliseconds(call: Callable[[], object]) -> float:
    call()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - start < _TIMING_SECONDS and len(times) < 200):
        before = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - before))
    return statistics.median(times)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return models[0].split(":", 1)[1].strip() if models else platform.processor() or platform.machine()


def command_line(command: str, checkpoint: str | Path, options: dict[str, object], flags: Sequence[str] = ()) -> str:
    """The command line that does it again: `rmn-hub COMMAND CHECKPOINT` with the options that are not `None`."""
    words = ["rmn-hub", command, str(checkpoint)]
    for option, value in options.items():
        words += [option, str(value)] if value is not None else []
    return shlex.join([*words, *flags])


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of what the numbers depend on."""
    own = {"rmn-hub": __version__, "python": platform.python_version()}
    return {**own, **{name: version(name) for name in _PACKAGES}}


# A whole evaluation


def evaluate(
    checkpoint: str | Path,
    data: str | Path,
    split: str = "public_test",
    *,
    name: str | None = None,
    training_data: str | Path | None = None,
    json_file: str | Path | None = None,
    figures: str | Path | None = None,
    with_faithfulness: bool = False,
    device: str | None = None,
    batch_size: int = 32,
    progress: Callable[[str, int, int], object] | None = None,
) -> dict[str, Any]:
    """
    Scores a checkpoint on one split of a set of faces, and says everything about it that the model card repeats.

    Args:
        checkpoint: folder of the checkpoint, or its id on the Hub.
        data: file or folder of the faces, see [`load_faces`].
        split: the split to score on.
        name: name of the set in the result; else `public_test` and so on for FER2013, and the data's name for others.
        training_data: set whose training split is searched for the faces that are scored; `data` itself when it has a
            training split of its own. With neither, duplicates are not looked for.
        json_file: file to write the result to, beside what it holds about other sets of the same weights.
        figures: folder for the confusion matrix, the reliability diagram, coverage and failure cases, as PNG.
        with_faithfulness: whether to measure the faithfulness of the attention maps too, which takes longer.
        device: where to compute; the CPU when not given.
        batch_size: faces at once.
        progress: called with what is being done, how many more faces are done, and of how many.

    Returns:
        what `json_file` holds, or would hold: `{"checkpoint": {"sha256", ...}, "sets": {name: numbers}}`.

    Raises:
        InputError: checkpoint, data, split, device or `json_file` cannot be used.
    """
    if batch_size < 1:
        raise InputError(f"the batch size {batch_size} must be at least 1")
    folder = checkpoint_folder(checkpoint, download=True)
    document = read_results(json_file, file_hash(folder / WEIGHTS))
    if figures is not None and Path(figures).exists() and not Path(figures).is_dir():
        raise InputError(f"{figures} is a file: give a folder for the figures")
    faces = load_pictures(data, split)
    if training_data is None and split_role(split) != "train" and has_split(data, "train"):
        training_data = data
    model, processor = load_checkpoint(folder, device)
    network = model.for_inference()
    document["checkpoint"].update(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        multiply_adds=multiply_adds(model),
        megabytes=(folder / WEIGHTS).stat().st_size / 1e6,
        image_size=model.config.image_size,
        masks=len(model.masking_blocks) > 0,
    )
    if with_faithfulness and not document["checkpoint"]["masks"]:
        raise InputError(f"{folder} has no masks, so no attention maps: leave --faithfulness out")
    if with_faithfulness and len(faces) < 2:
        raise InputError("faithfulness is a mean over faces: give at least two")
    name = name or _set_name(faces, data, split)
    report = progress or (lambda *_: None)

    report("predicting", 0, len(faces))
    answers = predict(network, processor, faces, batch_size, lambda done: report("predicting", done, len(faces)))
    single, averaged, labels = answers.single_view, answers.flip_averaged, faces.labels
    scored = faces.reduced()
    numbers: dict[str, Any] = {
        "command": command_line(
            "evaluate",
            checkpoint,
            {
                "--data": data,
                "--split": split,
                "--name": name if name != _set_name(faces, data, split) else None,
                "--training-data": training_data if training_data != data else None,
                "--json": json_file,
                "--figures": figures,
                "--device": device,
            },
            ["--faithfulness"] if with_faithfulness else [],
        ),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "versions": versions(),
        "data": {
            "split": split,
            "faces": len(faces),
            "per_expression": scored.counts,
            "sha256": scored.fingerprint(),
            "ferplus_agreement": votes_agreement(faces),
            "notes": list(faces.notes),
        },
        "single_view": scores(single, labels),
        "flip_averaged": scores(averaged, labels),
        "without_duplicates": None,
        **per_expression(single, labels),
        "calibration": calibration(single, labels),
        "coverage": coverage(single, labels),
        # A digit per face, in the set's order: two networks compare far more sharply face by face than by their means.
        "right": "".join(str(int(right)) for right in single.argmax(1) == labels),
        "milliseconds_per_face": milliseconds(network, processor, faces),
        "faithfulness": None,
    }
    if training_data is not None:
        report("looking for duplicates", 0, len(faces))
        kept = ~duplicates_of(load_faces(training_data, "train"), scored)
        numbers["without_duplicates"] = {
            "duplicates": int((~kept).sum()),
            "single_view": scores(single[kept], labels[kept]) if kept.any() else None,
            "flip_averaged": scores(averaged[kept], labels[kept]) if kept.any() else None,
        }
    if with_faithfulness:
        numbers["faithfulness"] = _faithfulness(network, processor, faces, batch_size, report)

    document["sets"][name] = numbers
    if figures is not None:
        write_figures(Path(figures), name, single, faces, numbers)
    if json_file is not None:
        write_json(Path(json_file), document)
    return document


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


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Writes a JSON file, whole or not at all. `InputError`: it cannot be written there."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all. `InputError`: it cannot be written there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            beside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def write_figures(
    folder: Path, name: str, probabilities: np.ndarray, faces: FacePictures, numbers: dict[str, Any]
) -> list[Path]:
    """
    The pictures of one set's numbers, as PNG files whose names begin with the set's. `InputError`: they cannot be
    written there.
    """
    from .. import plots

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


def _faithfulness(
    model: RMNModel,
    processor: RMNImageProcessor,
    faces: FacePictures,
    batch_size: int,
    report: Callable[[str, int, int], object],
) -> dict[str, Any]:
    from ..attention import faithfulness

    def batches() -> Iterator[Tensor]:
        for pixel_values in pixel_batches(processor, faces, batch_size):
            yield pixel_values.to(model.device)
            report("measuring faithfulness", len(pixel_values), len(faces))

    report("measuring faithfulness", 0, len(faces))
    return faithfulness(model, batches()).to_dict()


def _set_name(faces: FacePictures, data: str | Path, split: str) -> str:
    role = split_role(split)
    if role and looks_like_fer2013(faces):
        return role
    stem = Path(data).resolve().stem
    return stem if split.lower() == "all" else f"{stem}_{role or split}"
