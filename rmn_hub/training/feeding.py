"""
What a run trains on: which faces each step takes, from memory or decoded by workers while the network computes.

Decoded in every epoch, images in folders and in sets saved by the `datasets` library stay on the disk until then; those
of parquet files stay in memory as they are stored there, which takes a fraction of their pixels.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..data.faces import FER_SIZE, FaceImages, FaceSet, LazyFaceSet, looks_like_fer2013
from ..errors import InputError

MEMORY_LIMIT = 2 << 30  # bytes of decoded faces: larger sets are decoded again in every epoch
MAX_WORKERS = 8

Faces = FaceSet | LazyFaceSet


@dataclass(frozen=True)
class EpochFaces:
    """
    What one epoch trains on.

    Args:
        images: uint8 faces `(N, S, S)`, or a set that decodes them when they are asked for.
        targets: one-hot or soft labels `(N, classes)`, float32.
        votes: the FER+ votes as probabilities `(N, votes)`, where there are any.
        teacher: a teacher's probabilities `(N, classes)` for these very images, where there is one.
        augmented: whether the images are to be augmented (a teacher has seen them as they are).
    """

    images: np.ndarray | LazyFaceSet
    targets: np.ndarray
    votes: np.ndarray | None = None
    teacher: np.ndarray | None = None
    augmented: bool = True


# Given the number of an epoch, returns what it trains on.
Epochs = Callable[[int], EpochFaces]


@dataclass(frozen=True)
class Source:
    """
    Another source of a run's faces than the labelled split itself.

    Args:
        epochs: returns what the epochs train on, given the training split.
        program: the command that trains so, as it stands in `run.json` (`distill TEACHER.npz`).
        identity: what a run must not go on without, a hash for instance.
        teacher: names of the networks that taught, for the record.
        size: height and width in pixels of the faces that it is made of; the run's own when not given.
    """

    epochs: Callable[[FaceSet], Epochs]
    program: str
    identity: str
    teacher: tuple[str, ...] = ()
    size: int | None = None


def size_for_training(stored: FaceImages, largest: int) -> int:
    """
    Return the size in pixels to read faces at: FER2013's own 48, which are resized on the training device, and photos
    at the largest size that a network sees, but 48 at least.
    """
    return FER_SIZE if looks_like_fer2013(stored) else max(largest, FER_SIZE)


def faces_for_training(stored: FaceImages, size: int, in_memory: bool | None) -> Faces:
    """
    Return faces at a size: in memory, or decoded in every epoch when `in_memory` is off. When it is `None`, sets of
    more than `MEMORY_LIMIT` bytes are decoded in every epoch.
    """
    if in_memory is None:
        in_memory = len(stored) * size * size <= MEMORY_LIMIT
    return stored.reduced(size) if in_memory else LazyFaceSet(stored, size)


def faces_of_every_epoch(faces: Faces, classes: int, use_votes: bool) -> Epochs:
    """Return the plain source of a run: the same labelled faces in every epoch."""
    votes = None
    if use_votes and faces.votes is not None:
        # Votes for "unknown" and "no face" are votes too; an image without votes teaches this head nothing.
        totals = faces.votes.sum(axis=1, keepdims=True)
        votes = np.divide(faces.votes, totals, out=np.zeros_like(faces.votes), where=totals > 0)
    images = faces.images if isinstance(faces, FaceSet) else faces
    epoch = EpochFaces(images, np.eye(classes, dtype=np.float32)[faces.labels], votes)
    return lambda _: epoch


def share_of(batch_size: int, processes: int) -> int:
    """Return the faces that each process takes of a batch: the same for all, so that their gradients count alike."""
    return max(1, batch_size // processes)


def steps_per_epoch(count: int, batch_size: int, processes: int) -> int:
    """Return how many batches [`batches`] yields."""
    return count // (share_of(batch_size, processes) * processes)


def batches(count: int, batch_size: int, processes: int, rank: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of one epoch's batches for one process: whole batches only, each shared out evenly."""
    order = torch.randperm(count, generator=generator)
    share = share_of(batch_size, processes)
    for step in range(steps_per_epoch(count, batch_size, processes)):
        start = (step * processes + rank) * share
        yield order[start : start + share]


@dataclass(frozen=True)
class _Decoding:
    """Faces for workers, with the error as a value: raised in a worker, it arrives as the text of a traceback."""

    faces: LazyFaceSet

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, index: int) -> np.ndarray | InputError:
        try:
            return self.faces[index]
        except InputError as error:
            return error


def _stacked(faces: Sequence[np.ndarray | InputError]) -> Tensor | InputError:
    """Return a batch, in memory of its own: Pillow's must not be written to, of which torch warns."""
    pixels = [face for face in faces if isinstance(face, np.ndarray)]
    errors = (face for face in faces if isinstance(face, InputError))
    return torch.from_numpy(np.stack(pixels)) if len(pixels) == len(faces) else next(errors)


def image_batches(
    images: np.ndarray | LazyFaceSet, indices: Sequence[Tensor], device: torch.device
) -> Iterator[Tensor]:
    """
    Yield uint8 faces `(len(part), S, S)` on a device for each part of `indices`.

    Raises:
        InputError: an image cannot be read.
    """
    if isinstance(images, np.ndarray):
        on_device = torch.from_numpy(images).to(device)
        for part in indices:
            yield on_device[part.to(device)]
        return
    loader: DataLoader[Tensor | InputError] = DataLoader(
        _Decoding(images),  # type: ignore[arg-type] # anything with a length and numbered items is a data set
        collate_fn=_stacked,
        batch_sampler=[part.tolist() for part in indices],
        num_workers=min(MAX_WORKERS, os.cpu_count() or 1),
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # or it would draw from the generator that dropout draws from
    )
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch.to(device, non_blocking=True)


__all__ = [
    "MEMORY_LIMIT",
    "EpochFaces",
    "Epochs",
    "Faces",
    "Source",
    "batches",
    "faces_for_training",
    "faces_of_every_epoch",
    "image_batches",
    "share_of",
    "size_for_training",
    "steps_per_epoch",
]
