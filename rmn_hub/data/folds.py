"""Folds: a small set is trained on and scored on as a whole, each face by a network that has not seen it."""

from functools import partial

import numpy as np

from ..errors import InputError
from .faces import FaceImages, check_seed, first_copies
from .sources import OpenedSet


def folds(opened: OpenedSet, number: int, seed: int = 0) -> list[OpenedSet]:
    """
    Return a set cut into folds, each of them as a set of its own with the three splits.

    In the fold k, `private_test` is the k-th part of all faces, `public_test` (to choose on) the part after it, and
    `train` the rest: nothing is chosen on faces that are scored. Every part has its share of every expression, and
    copies of a face are in the same part.

    Args:
        opened: the set; splits of its own are joined.
        number: how many folds, at least 3.
        seed: of the parts; 0 to 2**31 - 1.

    Raises:
        InputError: `number` is less than 3, `seed` is out of range, an expression has fewer different faces than
            folds, or an image cannot be read.
    """
    from sklearn.model_selection import StratifiedKFold

    if number < 3:
        raise InputError(f"folds={number} must be at least 3: one to score, one to choose on, the rest to train on")
    check_seed(seed)
    faces = opened.split("all")
    copies = first_copies(faces)
    different = np.unique(copies)
    counts = np.bincount(faces.labels[different])
    if 0 < counts[counts > 0].min() < number:
        raise InputError(
            f"{opened.where} has an expression with {counts[counts > 0].min()} different faces only: give fewer than "
            f"{number} folds, or add faces"
        )
    splitter = StratifiedKFold(number, shuffle=True, random_state=seed)
    labels = faces.labels[different]
    parts = [np.flatnonzero(np.isin(copies, different[part])) for _, part in splitter.split(labels, labels)]
    sets = []
    for index in range(number):
        test, chosen = parts[index], parts[(index + 1) % number]
        train = np.setdiff1d(np.arange(len(faces)), np.concatenate([test, chosen]))
        indices = {"train": train, "public_test": chosen, "private_test": test}
        sets.append(OpenedSet(opened.where, {name: partial(_take, faces, own) for name, own in indices.items()}))
    return sets


def _take(faces: FaceImages, indices: np.ndarray) -> FaceImages:
    return faces.take(indices)


__all__ = ["folds"]
