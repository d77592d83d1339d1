"""
Sets of labelled faces: FER2013 in the forms in which people have it, and own sets of photos.

What is read, and how it is recognised:

* Kaggle's table: a CSV with the columns `emotion`, `pixels` and `Usage`, by itself or in a folder. FER+ votes are read
  from `fer2013new.csv` beside it (Barsoum et al., "Training deep networks for facial expression recognition with
  crowd-sourced label distribution", 2016), whose rows are those of FER2013.
* Parquet with an image and a label column, and FER+ votes in `ferplus_votes`: one file, or one or more files per split.
* A set that the `datasets` library saved to disk.
* A folder per expression, with or without folders for the splits around them. Kaggle's image folders, whose file names
  carry `PublicTest` or `PrivateTest`, are such folders.

The roles of the splits are FER2013's: train, public_test (to choose on) and private_test (to score on, once). Other
names for them (`validation`, `test`, ...) are understood. A split that a set does not have is made from it, always the
same, and the notes state it. Images are decoded by `rmn_hub.images`, as the recognizer decodes them.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..expressions import EXPRESSIONS
from ..progress import Progress, silent
from .columns import read_parquet_files, read_saved
from .faces import (
    FER_SIZE,
    ROLES,
    UNSPLIT,
    FaceImages,
    FaceSet,
    Parts,
    Read,
    concatenate,
    differences,
    split_role,
    squash,
)
from .folders import read_folders
from .kaggle import csv_columns, read_csv

ALL = "all"
HELD_OUT = 0.1
SPLIT_SEED = 2013


def load_faces(data: str | Path, split: str, size: int = FER_SIZE, progress: Progress = silent) -> FaceSet:
    """
    Read one split of a set of labelled faces into memory, grey and square.

    Args:
        data: file or folder in one of the forms that this module lists.
        split: `"train"`, `"public_test"` or `"private_test"`, one of their other names, a split's own name, or `"all"`.
        size: height and width of the images in pixels.
        progress: called for every face that is decoded.

    Raises:
        InputError: the set or the split does not exist, a class is unknown, a label or an image is broken.
    """
    if size < 1:
        raise InputError(f"size={size} must be at least 1 pixel")
    return load_face_images(data, split).reduced(size, progress)


def load_face_images(data: str | Path, split: str) -> FaceImages:
    """
    Find the faces of one split and read their labels, but leave the images as they are stored; see [`load_faces`].

    Raises:
        InputError: the set or the split does not exist, a class is unknown, a label is broken.
    """
    return OpenedSet.open(data).split(split)


@dataclass(frozen=True)
class OpenedSet:
    """
    A set of labelled faces of which several splits are read; finding out what it is takes time.

    Attributes:
        where: its file or folder.
        parts: what reads each of its own splits, by name.
    """

    where: Path
    parts: Parts

    @classmethod
    def open(cls, data: str | Path) -> "OpenedSet":
        """
        Find out what a path holds, in one of the forms that this module lists.

        Raises:
            InputError: the path does not exist, or holds none of these forms.
        """
        return cls(Path(data), _parts_of(Path(data)))

    def has(self, name: str) -> bool:
        """Return whether the set has a split of its own of a name or for its role; `"all"` every set has."""
        role = split_role(name)
        own = {squash(part) for part in self.parts if part} | {ALL}
        return squash(name) in own or (role is not None and _find(self.parts, role) is not None)

    def split(self, name: str) -> FaceImages:
        """
        Return the faces of one split as they are stored; see [`load_face_images`].

        Raises:
            InputError: the split does not exist, a class is unknown, a label is broken.
        """
        faces, notes = _choose(self.where, self.parts, name)
        if not len(faces):
            raise InputError(f"split={name!r} of {self.where} has no faces: choose another split, or add faces")
        return replace(faces, notes=(*faces.notes, *notes, *differences(faces, name)))


def _find(parts: Parts, role: str) -> Read | None:
    own = {squash(name): part for name, part in parts.items()}
    return next((own[name] for name in ROLES[role] if name in own), None)


def _choose(where: Path, parts: Parts, split: str) -> tuple[FaceImages, list[str]]:
    """Return the faces of a split, and what had to be done for it."""
    role = split_role(split)
    if squash(split) == ALL and ALL not in parts:
        if not parts:
            raise InputError(f"{where} has no faces: add some")
        return concatenate([part() for part in parts.values()]), []
    if UNSPLIT in parts and role is not None:
        faces = parts[UNSPLIT]()
        test, rest = _hold_out(faces.labels, np.arange(len(faces)), HELD_OUT)
        chosen, train = _hold_out(faces.labels, rest, HELD_OUT / (1 - HELD_OUT))
        indices = {"train": train, "public_test": chosen, "private_test": test}[role]
        return faces.take(indices), [
            f"The set has no splits: 80% of its {len(faces):,} faces are for training, 10% to choose on (public_test) "
            "and 10% to score on (private_test), drawn per expression with a fixed seed."
        ]
    training = _find(parts, "train")
    if role in ("train", "public_test") and training is not None and _find(parts, "public_test") is None:
        faces = training()
        chosen, train = _hold_out(faces.labels, np.arange(len(faces)), HELD_OUT)
        return faces.take(train if role == "train" else chosen), [
            f"The set has no split to choose on (public_test): 10% of its {len(faces):,} training faces, drawn per "
            "expression with a fixed seed, are held out for it."
        ]
    for name, part in parts.items():
        if name and squash(name) == squash(split):
            return part(), []
    found = _find(parts, role) if role else None
    if found is None:
        own = [name for name in parts if name] or list(ROLES)
        raise InputError(f"split={split!r} must be one that {where} has: {', '.join(own)} or {ALL}")
    return found(), []


def _hold_out(labels: np.ndarray, indices: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Split indices per label into a held-out part of at least one face (of two) and the rest, both ascending."""
    rng = np.random.default_rng(SPLIT_SEED)
    held: list[np.ndarray] = []
    for label in range(len(EXPRESSIONS)):
        of_label = indices[labels[indices] == label]
        count = min(max(1, round(fraction * len(of_label))), len(of_label) - 1) if len(of_label) else 0
        held.append(rng.permutation(of_label)[:count])
    out = np.sort(np.concatenate(held))
    return out, np.setdiff1d(indices, out)


def _parts_of(where: Path) -> Parts:
    """Return what reads each split of the set that a path holds, by the split's own name."""
    try:
        if not where.exists():
            raise InputError(f"{where} does not exist: give a .csv or .parquet file, or a folder of faces")
        if where.is_file():
            if where.suffix.lower() == ".csv":
                return read_csv(where)
            if where.suffix.lower() == ".parquet":
                return read_parquet_files(where, [where])
            raise InputError(f"{where} must be a .csv or .parquet file, or a folder of faces")
        if (where / "dataset_dict.json").exists() or (where / "state.json").exists():
            return read_saved(where)
        patterns = ("*.parquet", "*/*.parquet", "*/*/*.parquet")
        for files in ([path for path in sorted(where.glob(pattern)) if _is_shown(path, where)] for pattern in patterns):
            if files:
                return read_parquet_files(where, files)
        tables = {path: csv_columns(path) for path in sorted(where.glob("*.csv")) if _is_shown(path, where)}
        tables = {path: columns for path, columns in tables.items() if "pixels" in columns}
        if tables:
            # Kaggle's archive has the challenge's train.csv and test.csv beside the table with everything.
            return read_csv(next((path for path, columns in tables.items() if "usage" in columns), next(iter(tables))))
        return read_folders(where)
    except OSError as error:
        raise InputError(f"{where} cannot be read: {error.strerror or error}") from error


def _is_shown(path: Path, where: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(where).parts)


__all__ = ["OpenedSet", "load_face_images", "load_faces"]
