"""
Evaluation: `rmn-hub evaluate`. What a checkpoint, or an ensemble of several, is worth on a set of labelled faces, with
the doubt that remains.

The numbers are made in the way in which people get their expressions: the checkpoint's own image processing on the
faces as they are stored. The network runs in torch, on a CPU too, where the recognizer prefers onnxruntime: the two
engines agree within 1e-4, as their tests see to. Each set's block of the JSON (see `report`) holds the
command that made it, the SHA-256 of the weights and of the faces, the versions and the date.
"""

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..baselines.networks import masking_blocks, name_of
from ..data.faces import (
    UNSPLIT,
    FaceImages,
    FaceSet,
    concatenate,
    duplicates_of,
    looks_like_fer2013,
    split_role,
    squash,
)
from ..data.sources import OpenedSet
from ..devices import usable_device
from ..engines.engine import Engine
from ..engines.ensemble import Processor, combined
from ..engines.pixels import PixelProcessor
from ..engines.torch import TorchEngine
from ..engines.views import VIEWS, averaged, check_views
from ..engines.views import run as run_views
from ..errors import InputError
from ..expressions import EXPRESSIONS
from ..files import file_hash, write_json
from ..hub import checkpoint as checkpoints
from ..hub.checkpoint import LoadedCheckpoint, weights_hash, weights_megabytes
from ..hub.records import is_fer2013, public_name, public_word, trained_on
from ..model.modeling_rmn import RMNModel
from ..progress import Progress, silent
from .batches import pixel_batches
from .benchmark import multiply_adds, take_turns
from .faithfulness import faithfulness
from .metrics import calibration, coverage, per_expression, scores, softmax, votes_agreement
from .peers import peer as peer_engine
from .report import command_line, identity, read_results, versions, write_figures
from .robustness import robustness

# How long each batch size is timed.
TIMING_SECONDS = 2.0


@dataclass(frozen=True)
class Predictions:
    """
    What a network predicts for every face of a set.

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
        return averaged(np.stack([self.logits, self.mirrored]))


def predict(
    engine: Engine, processor: Processor, faces: FaceImages, batch_size: int = 32, progress: Progress = silent
) -> Predictions:
    """
    Return the logits for every face and its mirror image.

    Args:
        engine: the network.
        processor: the image processing that belongs to it.
        faces: the faces.
        batch_size: faces at once.
        progress: called for every batch.
    """
    logits, mirrored = [], []
    for pixel_values in pixel_batches(processor, faces, batch_size):
        _, (plain, flipped) = run_views(engine, pixel_values, 2)
        logits.append(plain)
        mirrored.append(flipped)
        progress("predicting", len(pixel_values), len(faces))
    return Predictions(np.concatenate(logits), np.concatenate(mirrored))


def milliseconds(engine: Engine, device: torch.device, processor: Processor, faces: FaceImages) -> dict[str, Any]:
    """Return the milliseconds per face at batch 1 and 32: the network, with the image processing, two views."""
    result: dict[str, Any] = {"device": device_name(device), "threads": torch.get_num_threads()}
    for batch_size in (1, 32):
        images = [faces[index % len(faces)] for index in range(batch_size)]
        pixel_values = processor(images)
        calls = {
            "network": lambda pixel_values=pixel_values: engine(pixel_values),
            "with_processor": lambda images=images: engine(processor(images)),
            "two_views": lambda images=images: run_views(engine, processor(images), 2),
        }
        times = take_turns(calls, seconds=TIMING_SECONDS)
        result[f"batch_{batch_size}"] = {name: timing.milliseconds / batch_size for name, timing in times.items()}
    return result


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return models[0].split(":", 1)[1].strip() if models else platform.processor() or platform.machine()


# A whole evaluation
@dataclass(frozen=True)
class _Subject:
    """
    What is scored.

    Args:
        sha256: of its weights.
        engine: the network, or the ensemble.
        processor: the image processing that belongs to it.
        described: the `checkpoint` of `eval.json` but for its hash, see `report`.
        model: the network of a single checkpoint, for what looks into it.
    """

    sha256: str
    engine: Engine
    processor: Processor
    described: dict[str, Any]
    model: RMNModel | None = None


def evaluate(
    checkpoint: str | Path | Sequence[str | Path],
    data: str | Path,
    split: str = "public_test",
    *,
    peer: str | None = None,
    name: str | None = None,
    training_data: str | Path | None = None,
    json_file: str | Path | None = None,
    figures: str | Path | None = None,
    with_faithfulness: bool = False,
    with_robustness: bool = False,
    views: int = VIEWS,
    device: str | None = None,
    batch_size: int = 32,
    progress: Progress = silent,
) -> dict[str, Any]:
    """
    Score a checkpoint on one split of a set of faces, and return all that the model card repeats about it.

    Args:
        checkpoint: folder of the checkpoint, or its id on the Hub. Of several, the unweighted ensemble is scored: each
            member sees the faces at its own size, through its own image processing, and their probabilities are
            averaged. Empty with `peer`.
        data: file or folder of the faces, see [`rmn_hub.data.sources`].
        split: the split to score on.
        peer: another package whose network is scored instead, see [`rmn_hub.evaluation.peers`].
        name: name of the set in the result; else `public_test` and so on for FER2013's whole splits, and the names of
            data and split for others.
        training_data: set whose training split is searched for the faces that are scored; `data` itself when it has a
            training split, its own or one that was made for it. With neither, duplicates are not looked for. The
            training split of a set that a checkpoint's `run.json` names is the one that stands there.
        json_file: file to write the result to, beside what it holds about other sets of the same weights.
        figures: folder for the confusion matrix, the reliability diagram, coverage and failure cases, as PNG.
        with_faithfulness: whether to measure the faithfulness of the attention maps too, which takes longer.
        with_robustness: whether to measure what changes of the image do, which takes twenty times as long.
        views: views of a face whose average is compared with the single view then.
        device: where to compute; the GPU if there is one when not given.
        batch_size: faces at once.
        progress: called while faces are read and predicted.

    Returns:
        what `json_file` holds, or would hold, see [`rmn_hub.evaluation.report`].

    Raises:
        InputError: checkpoint, data, split, device or `json_file` cannot be used.
    """
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} must be at least 1")
    check_views(views)
    names = [checkpoint] if isinstance(checkpoint, (str, Path)) else list(checkpoint)
    if bool(names) == bool(peer):
        raise InputError(f"checkpoint={names} and peer={peer!r}: give either of the two")
    if figures is not None and Path(figures).exists() and not Path(figures).is_dir():
        raise InputError(f"figures={str(figures)!r} must be a folder")
    place = usable_device(device)
    folders = []
    if peer:
        subject, place = _peer(peer), torch.device("cpu")  # its runtime's only one
        document = read_results(json_file, subject.sha256)
        opened = OpenedSet.open(data)
    else:
        # What a checkpoint's files show at once comes before the data, which takes longer to open than its network.
        folders = [checkpoints.find(name) for name in names]
        document = read_results(json_file, identity([weights_hash(folder) for folder in folders]))
        opened = OpenedSet.open(data)
        subject = _checkpoints(names, folders, place)
    faces = opened.split(split)
    engine, processor = subject.engine, subject.processor
    if with_faithfulness and subject.model is None:
        shown = " ".join(map(str, names)) or peer
        raise InputError(f"with_faithfulness=True needs masks, and {shown} has none: leave it out")
    if with_faithfulness and len(faces) < 2:
        raise InputError("with_faithfulness=True needs at least two faces, because it is a mean over faces")
    document["checkpoint"].update(subject.described)
    own_name = _set_name(faces, data, split)
    name = name or own_name

    predicted = predict(engine, processor, faces, batch_size, progress)
    single, averaged, labels = predicted.single_view, predicted.flip_averaged, faces.labels
    scored = faces.reduced(progress=progress)
    options = {
        "--peer": peer,
        "--data": data,
        "--split": split,
        "--name": name if name != own_name else None,
        "--training-data": training_data if training_data != data else None,
        "--json": json_file,
        "--figures": figures,
        "--views": views if with_robustness and views != VIEWS else None,
        "--device": device,
    }
    flags = [f"--{word}" for word, on in (("faithfulness", with_faithfulness), ("robustness", with_robustness)) if on]
    numbers: dict[str, Any] = {
        "command": command_line("evaluate", names, options, flags),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "versions": versions(),
        "data": {
            "name": public_name(opened.where),
            "split": split,
            "faces": len(faces),
            "per_expression": scored.counts,
            "sha256": scored.fingerprint(),
            "ferplus_agreement": votes_agreement(faces),
            "notes": list(scored.notes),
        },
        "single_view": scores(single, labels),
        "flip_averaged": scores(averaged, labels),
        "without_duplicates": None,
        **per_expression(single, labels),
        "calibration": calibration(single, labels),
        "coverage": coverage(single, labels),
        # A digit per face, in the set's order: two networks compare far more sharply face by face than by their means.
        "right": "".join(str(int(right)) for right in single.argmax(1) == labels),
        "milliseconds_per_face": milliseconds(engine, place, processor, faces),
        "faithfulness": None,
    }
    training = _training_faces(folders, opened, training_data, split, progress)
    if training is not None:
        kept = ~duplicates_of(training, scored)
        numbers["without_duplicates"] = {
            "duplicates": int((~kept).sum()),
            "single_view": scores(single[kept], labels[kept]) if kept.any() else None,
            "flip_averaged": scores(averaged[kept], labels[kept]) if kept.any() else None,
        }
    if subject.model is not None and with_faithfulness:
        model = subject.model.for_inference().to(place)
        batches = pixel_batches(processor, faces, batch_size)
        numbers["faithfulness"] = faithfulness(model, _tensors(batches, place, len(faces), progress)).to_dict()

    if with_robustness:
        numbers["robustness"] = robustness(
            engine, processor, faces, views=views, batch_size=batch_size, progress=progress
        )

    document["sets"][name] = numbers
    if figures is not None:
        write_figures(Path(figures), name, single, faces, numbers)
    if json_file is not None:
        write_json(Path(json_file), document)
    return document


def _checkpoints(names: Sequence[str | Path], folders: Sequence[Path], device: torch.device) -> _Subject:
    """Load checkpoints: the network of one, or the unweighted ensemble of several."""
    members = [checkpoints.load(folder, expressions=EXPRESSIONS) for folder in folders]
    engine, processor = combined(
        [(TorchEngine(member.model, device), PixelProcessor.from_folder(member.folder)) for member in members]
    )
    return _Subject(
        sha256=identity([weights_hash(folder) for folder in folders]),
        engine=engine,
        processor=processor,
        described=_described(names, members),
        model=members[0].model if engine.has_masks else None,
    )


def _peer(name: str) -> _Subject:
    engine = peer_engine(name)
    described = {
        "name": f"{name} {engine.version}",
        "megabytes": engine.file.stat().st_size / 1e6,
        "image_size": engine.image_size,
        "masks": False,
    }
    return _Subject(file_hash(engine.file), engine, engine.processor, described)


def _described(names: Sequence[str | Path], members: Sequence[LoadedCheckpoint]) -> dict[str, Any]:
    """Return the `checkpoint` of `eval.json` but for its hash, see `report`."""
    blocks: list[dict[str, Any]] = [
        {
            "network": name_of(member.model.config),
            "parameters": sum(parameter.numel() for parameter in member.model.parameters()),
            "multiply_adds": multiply_adds(member.model),
            "megabytes": weights_megabytes(member.folder),
            "image_size": member.model.config.image_size,
            "masks": len(masking_blocks(member.model)) > 0,
        }
        for member in members
    ]
    if len(blocks) == 1:
        return blocks[0]
    described: dict[str, Any] = {
        key: sum(block[key] for block in blocks) for key in ("parameters", "multiply_adds", "megabytes")
    }
    described |= {"image_size": max(block["image_size"] for block in blocks), "masks": False}
    described["members"] = [
        {"name": public_word(name), "sha256": weights_hash(member.folder), **block}
        for name, member, block in zip(names, members, blocks)
    ]
    return described


def _training_faces(
    folders: Sequence[Path], opened: OpenedSet, training_data: str | Path | None, split: str, progress: Progress
) -> FaceSet | None:
    """Return the faces among which duplicates of the scored ones are looked for, or `None` without any."""
    where = public_name(opened.where if training_data is None else training_data)
    trained = set() if folders else {"train"}
    for folder in folders:
        name, own = trained_on(folder)
        if training_data is None and name != where and split_role(own) != "train":
            return None  # the set has no split of that kind, or one of other faces
        trained.add(split_role(own) or squash(own) if name == where else "train")
    if training_data is not None:
        opened = OpenedSet.open(training_data)
    elif (split_role(split) or squash(split)) in trained:
        return None  # a split is not searched for its own faces
    elif not all(opened.has(name) or _is_made(opened, name, split) for name in trained):
        return None
    return concatenate([opened.split(name) for name in sorted(trained)]).reduced(progress=progress)


def _is_made(opened: OpenedSet, trained: str, split: str) -> bool:
    """Return whether a set without splits is cut into one to train on and the one that is scored."""
    return trained == "train" and UNSPLIT in opened.parts and split_role(split) is not None


def _tensors(
    batches: Iterator[np.ndarray], device: torch.device, faces: int, progress: Progress
) -> Iterator[torch.Tensor]:
    for pixel_values in batches:
        yield torch.from_numpy(pixel_values).to(device)
        progress("measuring faithfulness", len(pixel_values), faces)


def _set_name(faces: FaceImages, data: str | Path, split: str) -> str:
    role = split_role(split)
    # Other sets are grey and small, too: their numbers must not take the place of FER2013's.
    if role and is_fer2013(role, len(faces)) and looks_like_fer2013(faces):
        return role
    where = Path(data).resolve()
    stem = where.parent.name if split_role(where.stem) else where.stem  # faces/test.parquet
    return stem if split.lower() == "all" else f"{stem}_{role or split}"


__all__ = ["TIMING_SECONDS", "Predictions", "device_name", "evaluate", "milliseconds", "predict"]
