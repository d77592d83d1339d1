"""Evaluation: `rmn-hub evaluate`. What a checkpoint is worth on a set of labelled faces, with the doubt that remains.

The numbers are made in the way in which people get their answers: the checkpoint's own image processor on the faces as
they are stored, and `RMNModel.for_inference()`. Each set's block of the JSON holds the command that made it, the
SHA-256 of the weights and of the faces, the versions and the date.
"""

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.faces import FaceImages, duplicates_of, looks_like_fer2013, split_role
from ..data.sources import has_split, load_face_images, load_faces
from ..errors import InputError
from ..files import file_hash, write_json
from ..hub.checkpoint import WEIGHTS, checkpoint_folder, load_checkpoint
from ..model.image_processing_rmn import RMNImageProcessor
from ..model.modeling_rmn import RMNModel
from .benchmark import multiply_adds
from .metrics import calibration, coverage, per_expression, scores, softmax, votes_agreement
from .report import command_line, read_results, versions, write_figures

_TIMING_SECONDS = 2.0


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


@torch.inference_mode()
def predict(
    model: RMNModel,
    processor: RMNImageProcessor,
    faces: FaceImages,
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


def pixel_batches(processor: RMNImageProcessor, faces: FaceImages, batch_size: int) -> Iterator[Tensor]:
    """`pixel_values` `(batch, 3, S, S)` in 0..1 of all faces, in their order."""
    pictures = iter(faces)
    while batch := list(islice(pictures, batch_size)):
        yield processor(batch, return_tensors="pt")["pixel_values"]


@torch.inference_mode()
def milliseconds(model: RMNModel, processor: RMNImageProcessor, faces: FaceImages) -> dict[str, Any]:
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
    faces = load_face_images(data, split)
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


def _faithfulness(
    model: RMNModel,
    processor: RMNImageProcessor,
    faces: FaceImages,
    batch_size: int,
    report: Callable[[str, int, int], object],
) -> dict[str, Any]:
    from .faithfulness import faithfulness

    def batches() -> Iterator[Tensor]:
        for pixel_values in pixel_batches(processor, faces, batch_size):
            yield pixel_values.to(model.device)
            report("measuring faithfulness", len(pixel_values), len(faces))

    report("measuring faithfulness", 0, len(faces))
    return faithfulness(model, batches()).to_dict()


def _set_name(faces: FaceImages, data: str | Path, split: str) -> str:
    role = split_role(split)
    if role and looks_like_fer2013(faces):
        return role
    stem = Path(data).resolve().stem
    return stem if split.lower() == "all" else f"{stem}_{role or split}"
