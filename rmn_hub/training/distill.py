"""
Distillation (Hinton et al., 2015) of an ensemble into one network.

The teacher's probabilities over a fixed number of augmented views of the training split are kept in one small file
(24 views of FER2013: 9.6 MB), with all that is needed to make the same views again. So a student needs neither the
teacher's weights nor the machine that could run them: it can be trained later, on a CPU.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..data.faces import FaceSet, check_seed
from ..engines.engine import Engine, softmax
from ..engines.ensemble import Processor
from ..errors import InputError
from ..expressions import EXPRESSIONS
from ..files import naming_failures, replacing
from ..progress import Progress, silent
from .augment import Augmentation, augment
from .feeding import EpochFaces, Epochs, Source
from .loop import TrainingResult
from .recipe import MAX_SIZE, Recipe
from .train import train

CHUNK = 1024  # faces augmented at a time; a part of what makes a view reproducible, so it is fixed
BATCH = 256  # faces that the teacher's networks see at once
# Mean difference of probabilities: bfloat16 moves them by 0.001, another network by 0.02 and more.
_SAME = 0.005
MAX_VALUES = 2_000_000_000  # probabilities in a file: 4 GB in memory


@dataclass(frozen=True)
class Teacher:
    """
    What an ensemble predicts for augmented views of a training split.

    Args:
        probabilities: float16 `(views, N, classes)`.
        fingerprint: of the training split, so that a student meets the same faces in the same order.
        size: height and width of a view in pixels.
        seed: of the views.
        augmentation: of the views.
        members: names of the ensemble's checkpoints.

    Raises:
        InputError: the values do not fit together.
    """

    probabilities: np.ndarray
    fingerprint: str
    size: int
    seed: int
    augmentation: Augmentation
    members: tuple[str, ...]

    def __post_init__(self) -> None:
        values = self.probabilities
        if values.ndim != 3 or values.dtype.kind != "f" or not values.size:
            raise InputError(f"probabilities of shape {values.shape} must be floats (views, N, classes)")
        # float16 rounds: a sum of seven is exact to 0.005.
        if not (np.isfinite(values).all() and np.abs(values.sum(-1, dtype=np.float32) - 1).max() < 0.01):
            raise InputError("probabilities must be finite and sum to 1")
        if not 8 <= self.size <= MAX_SIZE:
            raise InputError(f"size={self.size} must be from 8 to {MAX_SIZE} pixels")
        check_seed(self.seed)

    @cached_property
    def identity(self) -> str:
        """A hash of the probabilities and of what makes their views again."""
        digest = hashlib.sha256(np.ascontiguousarray(self.probabilities).data)
        how = {name: float(value) for name, value in asdict(self.augmentation).items()}
        digest.update(repr((self.fingerprint, self.size, self.seed, how)).encode())
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """
        Write an `.npz` file beside `path` and rename it.

        Raises:
            InputError: the file cannot be written there.
        """
        with naming_failures(path), replacing(Path(path)) as beside, beside.open("wb") as file:
            np.savez_compressed(
                file,
                probabilities=self.probabilities,
                fingerprint=self.fingerprint,
                size=self.size,
                seed=self.seed,
                members=np.array(self.members),
                **{f"augmentation_{name}": value for name, value in asdict(self.augmentation).items()},
            )

    @classmethod
    def load(cls, path: str | Path) -> "Teacher":
        """
        Read what [`save`] wrote.

        Raises:
            InputError: there is no such file, it is damaged, or it is not a teacher's.
        """
        try:
            # Sizes first: a small file may hold a terabyte of zeros.
            with zipfile.ZipFile(path) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > 2 * MAX_VALUES:
                    raise ValueError(f"it holds more than {MAX_VALUES:,} probabilities")
            with np.load(path, allow_pickle=False) as file:
                prefix = "augmentation_"
                how = {name[len(prefix) :]: float(file[name]) for name in file.files if name.startswith(prefix)}
                return cls(
                    probabilities=file["probabilities"],
                    fingerprint=str(file["fingerprint"]),
                    size=int(file["size"]),
                    seed=int(file["seed"]),
                    augmentation=Augmentation(**how),
                    members=tuple(map(str, file["members"].tolist())),
                )
        except (
            *(OSError, KeyError, ValueError, TypeError, EOFError, MemoryError, NotImplementedError, SyntaxError),
            *(zipfile.BadZipFile, zlib.error, RuntimeError, OverflowError),
        ) as error:
            reason = " ".join(str(error).split()) or "it is damaged"
            raise InputError(
                f"{path} cannot be read as a teacher's file: {reason}. Make one with `rmn-hub teach`."
            ) from error


def make_view(images: np.ndarray, view: int, size: int, how: Augmentation, seed: int) -> np.ndarray:
    """
    Return one augmented view of all faces, the same for teacher and student on any machine.

    Args:
        images: uint8 `(N, S, S)`.
        view: its number. The faces of odd views are mirrored where those of even views are not.
        size: height and width of the view in pixels.
        how: ranges of the random changes.
        seed: of all views.

    Returns:
        uint8 `(N, size, size)`.
    """
    # The CPU's generator, wherever the networks run: a GPU draws other numbers.
    generator = torch.Generator().manual_seed(seed * 1_000_003 + view)
    flips = np.random.default_rng(seed).integers(0, 2, len(images)).astype(bool) ^ bool(view % 2)
    out = np.empty((len(images), size, size), np.uint8)
    for start in range(0, len(images), CHUNK):
        part = slice(start, start + CHUNK)
        faces = augment(torch.from_numpy(images[part]), torch.from_numpy(flips[part]), size, how, generator)
        out[part] = (faces.squeeze(1) * 255).round().to(torch.uint8).numpy()
    return out


def teach(
    engine: Engine,
    processor: Processor,
    names: Sequence[str],
    faces: FaceSet,
    how: Augmentation,
    *,
    views: int = 24,
    seed: int = 0,
    keep: str | Path | None = None,
    progress: Progress = silent,
) -> Teacher:
    """
    Keep what a network or an unweighted ensemble predicts for `views` augmented views of a training split.

    Args:
        engine: the network or the ensemble.
        processor: the image processing that belongs to it.
        names: names of the members, for the record.
        faces: the training split, in the size of the views.
        how: augmentation of the views; a recipe's, as a rule. Mixup and CutMix have no part in it.
        views: how many; a student sees them in turn.
        seed: of the views; 0 to 2**31 - 1.
        keep: file that is written after every view. Where it is there, its views are kept, and only those that it lacks
            are made.
        progress: called after every view, and first for the views of `keep`.

    Raises:
        InputError: `views` or `seed` cannot be used, the network predicts other expressions, or `keep` cannot be
            written or is of other faces, other views or other networks.
    """
    if engine.expressions != EXPRESSIONS:
        raise InputError(f"engine must predict {', '.join(EXPRESSIONS)}, not {', '.join(engine.expressions)}")
    if views < 1:
        raise InputError(f"views={views} must be at least 1")
    check_seed(seed)
    size, fingerprint = faces.images.shape[-1], faces.fingerprint()

    def predict(images: np.ndarray) -> np.ndarray:
        parts = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        logits = [engine(processor([Image.fromarray(image) for image in part])).logits for part in parts]
        return softmax(np.concatenate(logits)).astype(np.float16)

    teacher = None
    if keep is not None and Path(keep).is_file():
        teacher = Teacher.load(keep)
        made = (fingerprint, size, seed, how) == (teacher.fingerprint, teacher.size, teacher.seed, teacher.augmentation)
        # Predictions tell networks apart that have the same name, and know those that were moved.
        first = make_view(faces.images, 0, size, how, seed)[:BATCH] if made else None
        if first is None or np.abs(predict(first) - teacher.probabilities[0, :BATCH]).mean() > _SAME:
            of = "the same networks" if made else "these faces and views"
            raise InputError(f"{keep} is not of {of}: name another file, or remove it")
        progress("views", min(len(teacher.probabilities), views), views)
    for view in range(0 if teacher is None else len(teacher.probabilities), views):
        probabilities = predict(make_view(faces.images, view, size, how, seed))[None]
        if teacher is not None:
            probabilities = np.concatenate([teacher.probabilities, probabilities])
        teacher = Teacher(probabilities, fingerprint, size, seed, how, tuple(names))
        if keep is not None:
            teacher.save(keep)
        progress("views", 1, views)
    assert teacher is not None  # there is at least one view
    return teacher


def student_source(teacher: Teacher) -> Source:
    """Return what [`train`] takes as its `source`: in each epoch the next view, with the teacher's probabilities."""

    def epochs(faces: FaceSet) -> Epochs:
        if faces.fingerprint() != teacher.fingerprint or teacher.probabilities.shape[1] != len(faces):
            raise InputError("data must be what the teacher was made from: it has other training faces")
        targets = np.eye(teacher.probabilities.shape[-1], dtype=np.float32)[faces.labels]

        def epoch_faces(epoch: int) -> EpochFaces:
            view = epoch % len(teacher.probabilities)
            return EpochFaces(
                images=make_view(faces.images, view, teacher.size, teacher.augmentation, teacher.seed),
                targets=targets,
                teacher=teacher.probabilities[view].astype(np.float32),
                augmented=False,
            )

        return epoch_faces

    return Source(epochs, "distill TEACHER.npz", teacher.identity, teacher=teacher.members, size=teacher.size)


def distill(teacher: Teacher, data: str | Path, output: str | Path, recipe: Recipe, **options: Any) -> TrainingResult:
    """
    Train one network on 0.7 T^2 KL (T = 2) against the teacher and 0.3 cross-entropy against the labels, both on the
    same view of a face.

    Args:
        teacher: see [`teach`].
        data: the set that the teacher was made from.
        output: folder of the run.
        recipe: of the student. Of its augmentation, `blur` and `jpeg` are used, on what the student sees: the teacher
            has seen the view without them.
        options: further arguments of [`train`].

    Raises:
        InputError: the data are not those the teacher was made from.
    """
    return train(data, output, recipe, source=student_source(teacher), in_memory=True, **options)


__all__ = ["Teacher", "distill", "make_view", "student_source", "teach"]
