"""
Distillation (Hinton et al., 2015) of an ensemble into one network.

The teacher's probabilities over a fixed number of augmented views of the training split are kept in one small file
(24 views of FER2013: 9.6 MB), with all that is needed to make the same views again. So a student needs neither the
teacher's weights nor the machine that could run them: it can be trained later, on a CPU.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from ..baselines.ensemble import ensemble_probabilities
from ..data.faces import FaceSet
from ..errors import InputError
from ..files import replacing
from ..model.modeling_rmn import RMNModel
from .augment import Augmentation, augment
from .loop import EpochFaces, TrainingResult, train
from .recipe import Recipe

CHUNK = 1024  # faces augmented at a time; a part of what makes a view reproducible, so it is fixed


@dataclass(frozen=True)
class Teacher:
    """
    What an ensemble says of augmented views of a training split.

    Args:
        probabilities: float16 `(views, N, classes)`.
        fingerprint: of the training split, so that a student meets the same faces in the same order.
        size: height and width of a view in pixels.
        seed: of the views.
        augmentation: of the views.
        members: names of the ensemble's checkpoints.
    """

    probabilities: np.ndarray
    fingerprint: str
    size: int
    seed: int
    augmentation: Augmentation
    members: tuple[str, ...]

    def save(self, path: str | Path) -> None:
        """Writes an `.npz` file beside `path` and renames it."""
        with replacing(Path(path)) as beside, beside.open("wb") as file:
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
        Reads what [`save`] wrote.

        Raises:
            InputError: there is no such file, or it is not a teacher's.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                prefix = "augmentation_"
                how = {name[len(prefix) :]: float(file[name]) for name in file.files if name.startswith(prefix)}
                return cls(
                    probabilities=file["probabilities"],
                    fingerprint=str(file["fingerprint"]),
                    size=int(file["size"]),
                    seed=int(file["seed"]),
                    augmentation=Augmentation(**how),
                    members=tuple(file["members"].tolist()),
                )
        except (OSError, KeyError, ValueError, EOFError) as error:
            raise InputError(f"{path} is not a teacher's file: make one with `rmn-hub teach`") from error


def make_view(images: np.ndarray, view: int, size: int, how: Augmentation, seed: int) -> np.ndarray:
    """
    One augmented view of all faces, the same for teacher and student on any machine.

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
    models: Sequence[RMNModel],
    names: Sequence[str],
    faces: FaceSet,
    how: Augmentation,
    *,
    views: int = 24,
    seed: int = 0,
) -> Teacher:
    """
    Lets an unweighted ensemble speak about `views` augmented views of a training split.

    Args:
        models: the members.
        names: their names, for the record.
        faces: the training split.
        how: augmentation of the views; a recipe's, as a rule. Mixup has no part in it.
        views: how many; a student sees them in turn.
        seed: of the views.
    """
    size = faces.images.shape[-1]
    probabilities = np.stack(
        [
            ensemble_probabilities(models, make_view(faces.images, view, size, how, seed)).astype(np.float16)
            for view in track(range(views), description="views", transient=True)
        ]
    )
    return Teacher(probabilities, faces.fingerprint(), size, seed, how, tuple(names))


def student_source(teacher: Teacher) -> Callable[[FaceSet], Callable[[int], EpochFaces]]:
    """What [`train`] takes as its `source`: in every epoch the next view, with the teacher's probabilities for it."""

    def source(faces: FaceSet) -> Callable[[int], EpochFaces]:
        if faces.fingerprint() != teacher.fingerprint:
            raise InputError(
                "the teacher's probabilities belong to other training faces: give the data it was made from"
            )
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

    return source


def distill(teacher: Teacher, data: str | Path, output: str | Path, recipe: Recipe, **options: Any) -> TrainingResult:
    """
    Trains one network on 0.7 T^2 KL (T = 2) against the teacher and 0.3 cross-entropy against the labels, both on the
    same view of a face.

    Args:
        teacher: see [`teach`].
        data: the set that the teacher was made from.
        output: folder of the run.
        recipe: of the student; its own augmentation is not used.
        options: further arguments of [`train`].

    Raises:
        InputError: the data are not those the teacher was made from.
    """
    return train(data, output, recipe, source=student_source(teacher), **options)
