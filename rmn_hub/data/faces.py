"""Faces of one split with their labels: as they are stored, decoded one by one, or in memory and ready for training."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import InputError
from ..expressions import EXPRESSIONS
from ..images import load_image
from ..progress import Progress, silent

# Faces per expression, in the order of EXPRESSIONS, in the release of 2013 (Goodfellow et al., "Challenges in
# representation learning", 2013): counted by the `Usage` column of fer2013.csv.
OFFICIAL_COUNTS = {
    "train": (3995, 436, 4097, 7215, 4830, 3171, 4965),
    "public_test": (467, 56, 496, 895, 653, 415, 607),
    "private_test": (491, 55, 528, 879, 594, 416, 626),
}
# FER+'s columns, which are also the order of FaceSet.votes.
FERPLUS_VOTES = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
    "unknown",
    "no-face",
)
FER_SIZE = 48
MAX_SEED = 2**31 - 1
# Names of splits without case, spaces, dashes and underscores; the official one first.
ROLES = {
    "train": ("train", "training"),
    "public_test": ("publictest", "validation", "valid", "val", "dev"),
    "private_test": ("privatetest", "test", "testing"),
}
_SYNONYMS = {
    "angry": ("anger", "angriness", "an"),
    "disgust": ("disgusted", "disgusting", "di"),
    "fear": ("fearful", "afraid", "scared", "fe"),
    "happy": ("happiness", "joy", "joyful", "ha"),
    "sad": ("sadness", "sa"),
    "surprise": ("surprised", "su"),
    "neutral": ("neutrality", "calm", "ne"),
}
_CLASS_INDEX = {name: index for index, own in enumerate(EXPRESSIONS) for name in (own, *_SYNONYMS[own])}
UNSPLIT = ""  # the name of the only part of a set without splits
StoredImage = bytes | Path | np.ndarray


@dataclass(frozen=True)
class FaceSet:
    """
    The faces of one split in memory, ready for training.

    Args:
        images: uint8 `(N, size, size)`, grey, as the image processor reduces them (luma first, then an antialiased
            bilinear resize); FER2013's 48-pixel faces are untouched at size 48.
        labels: int64 `(N,)`, indices into `EXPRESSIONS`.
        votes: float32 `(N, 10)`, FER+ votes in the order of `FERPLUS_VOTES`, or `None`.
        names: one name per face: its file, or its row in a table.
        notes: what differs from the official FER2013 and what was done to the set, in sentences.
    """

    images: np.ndarray
    labels: np.ndarray
    votes: np.ndarray | None
    names: tuple[str, ...]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the uint8 pixels `(size, size)` of one face."""
        return self.images[index]

    @property
    def counts(self) -> dict[str, int]:
        """The number of faces per expression."""
        return _counts(self.labels)

    def fingerprint(self) -> str:
        """Return a SHA-256 over images and labels: two sets with the same one are the same set in the same order."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels.astype("<i8")).data)
        return digest.hexdigest()


class LazyImages(Sequence[StoredImage]):
    """
    Stored images that are fetched one by one, when they are asked for.

    Args:
        fetch: returns the image of an index in `range(count)`. It is pickled for the workers of a `DataLoader`.
        count: number of images.
    """

    def __init__(self, fetch: Callable[[int], StoredImage], count: int) -> None:
        self._fetch, self._count = fetch, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> StoredImage:  # type: ignore[override] # slices are not needed
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._fetch(index)


@dataclass(frozen=True)
class FaceImages:
    """
    The faces of one split as they are stored, in their own sizes and colours, decoded one by one.

    Args:
        images: one per face: an encoded image, the path of one, or grey pixels.
        labels: int64 `(N,)`, indices into `EXPRESSIONS`.
        votes: float32 `(N, 10)`, FER+ votes in the order of `FERPLUS_VOTES`, or `None`.
        names: one name per face: its file, or its row in a table.
        notes: see [`FaceSet`].
    """

    images: Sequence[StoredImage]
    labels: np.ndarray
    votes: np.ndarray | None
    names: Sequence[str]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Image.Image:
        """
        Return the image of one face as the recognizer decodes it: upright, RGB, transparency on white.

        Raises:
            InputError: the image cannot be read.
        """
        return load_image(self.images[index], self.names[index]).image

    def __iter__(self) -> Iterator[Image.Image]:
        return (self[index] for index in range(len(self)))

    def reduced(self, size: int = FER_SIZE, progress: Progress = silent) -> FaceSet:
        """
        Decode all faces into memory, grey and `size` pixels square.

        Raises:
            InputError: an image cannot be read.
        """
        images = np.empty((len(self), size, size), np.uint8)
        messages = []
        for index, (stored, name) in enumerate(zip(self.images, self.names)):
            loaded = load_image(stored, name)
            images[index] = reduce(loaded.image, size)
            if loaded.message:
                messages.append(loaded.message)
            progress("decoding", 1, len(self))
        partly = (f"{len(messages):,} images were read in part only. For one: {messages[0]}",) if messages else ()
        return FaceSet(images, self.labels, self.votes, tuple(self.names), (*self.notes, *partly))

    def take(self, indices: np.ndarray) -> "FaceImages":
        """Return the faces at `indices`, in their order."""
        return replace(
            self,
            images=LazyImages(partial(_selected, self.images, indices), len(indices)),
            labels=self.labels[indices],
            votes=None if self.votes is None else self.votes[indices],
            names=[self.names[i] for i in indices],
        )


Read = Callable[[], FaceImages]
Parts = dict[str, Read]  # how to read each split of a set, by the split's own name


@dataclass(frozen=True)
class LazyFaceSet:
    """
    The faces of one split for training, decoded and reduced when they are asked for: a data set for a `DataLoader`.

    Args:
        faces: the faces as they are stored.
        size: height and width in pixels that they are reduced to.
    """

    faces: FaceImages
    size: int

    @property
    def labels(self) -> np.ndarray:
        """See [`FaceSet`]."""
        return self.faces.labels

    @property
    def votes(self) -> np.ndarray | None:
        """See [`FaceSet`]."""
        return self.faces.votes

    @property
    def notes(self) -> tuple[str, ...]:
        """See [`FaceSet`]."""
        return self.faces.notes

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the uint8 pixels `(size, size)` of one face, the same as in [`FaceSet`]."""
        return reduce(self.faces[index], self.size)

    def fingerprint(self) -> str:
        """Return a SHA-256 over names and labels: to read every image would take as long as an epoch."""
        digest = hashlib.sha256("\n".join(self.faces.names).encode("utf-8", "surrogateescape"))
        digest.update(np.ascontiguousarray(self.labels.astype("<i8")).data)
        return digest.hexdigest()


def reduce(image: Image.Image, size: int) -> np.ndarray:
    """Return an image's uint8 pixels `(size, size)`, grey, as the image processor makes them."""
    # The processor's order: luma before size, so that a colour photo and its grey copy give the same face.
    grey = image.convert("L")
    if grey.size != (size, size):
        grey = grey.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(grey)


def duplicates_of(train: FaceSet, test: FaceSet) -> np.ndarray:
    """
    Return which test faces are, byte for byte, a training face: bool `(N_test,)`. Labels are not compared.

    Raises:
        InputError: the two sets were loaded at different sizes.
    """
    if train.images.shape[1:] != test.images.shape[1:]:
        raise InputError(
            f"train and test must be loaded at one size: {train.images.shape[1:]} and {test.images.shape[1:]} differ"
        )
    known = {image.tobytes() for image in train.images}
    return np.fromiter((image.tobytes() in known for image in test.images), bool, len(test))


def first_copies(faces: FaceImages) -> np.ndarray:
    """
    Return, for each face, the index of the first one that is the same, byte for byte, when both are reduced to
    FER2013's size: its own where it is the first. int64 `(N,)`.

    Raises:
        InputError: an image cannot be read.
    """
    seen: dict[bytes, int] = {}
    hashes = (hashlib.sha256(reduce(face, FER_SIZE).tobytes()).digest() for face in faces)
    return np.array([seen.setdefault(own, index) for index, own in enumerate(hashes)], np.int64)


def split_role(name: str) -> str | None:
    """Return `"train"`, `"public_test"` or `"private_test"` for one of their many names, else `None`."""
    return next((role for role, names in ROLES.items() if squash(name) in names), None)


def check_seed(seed: int) -> None:
    """
    Check a seed of training or of a set's parts.

    Raises:
        InputError: it is outside what numpy, torch and scikit-learn all take.
    """
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"seed={seed} must be from 0 to {MAX_SEED}")


def check_choosing(argument: str, split: str, trained: str = "train") -> None:
    """
    Check that a split may choose between networks, or calibrate one: by its name, it has neither faces that are scored
    nor trained ones.

    Args:
        argument: what the caller calls the split.
        split: its name.
        trained: name of the split of the same set that is trained on.

    Raises:
        InputError: the split is the one that is scored or the one that is trained on, holds both, or is a part of it.
    """
    role, choose = split_role(split), f"{argument}={split!r} must not be"
    if role == "private_test":
        raise InputError(f"{choose} the one that is scored once, at the end: give public_test")
    if squash(split) == "all" or (role or squash(split)) in ("train", split_role(trained) or squash(trained)):
        raise InputError(
            f"{choose} one with faces that a network was trained on, which it knows by heart: give "
            f"{'another' if role == 'public_test' else 'public_test'}"
        )
    if squash(trained) == "all":
        raise InputError(
            f"{choose} a part of what a network is trained on, {trained!r}: train on train, or take other data"
        )


def looks_like_fer2013(faces: FaceImages) -> bool:
    """Return whether the faces (a sample of 16) are grey and 48 pixels wide."""
    sample = {int(i) for i in np.linspace(0, len(faces) - 1, 16)}
    return all(_is_grey(faces[i]) and faces[i].size == (FER_SIZE, FER_SIZE) for i in sample)


def class_index(name: str) -> int | None:
    """Return the index in `EXPRESSIONS` of a class name (`Anger`, `happiness`, `3_happy`, ...), `None` for others."""
    key = name.strip().lower()
    if key in _CLASS_INDEX:
        return _CLASS_INDEX[key]
    return _CLASS_INDEX.get(re.sub(r"^\d+[\s_.-]*", "", key))


def squash(name: str) -> str:
    """Return a split's name without case, spaces, dashes and underscores."""
    return re.sub(r"[\s_-]", "", name.lower())


def concatenate(parts: Sequence[FaceImages]) -> FaceImages:
    """Return the faces of all parts, one part after the other, with the notes of all."""
    votes = [part.votes for part in parts if part.votes is not None]
    notes = [note for part in parts for note in part.notes]
    if 0 < len(votes) < len(parts):
        notes.append("Only a part of the faces has FER+ votes: they are left out.")
    ends = np.cumsum([len(part) for part in parts])
    return FaceImages(
        images=LazyImages(partial(_joined, [part.images for part in parts], ends), int(ends[-1])),
        labels=np.concatenate([part.labels for part in parts]),
        votes=np.concatenate(votes) if len(votes) == len(parts) else None,
        names=[name for part in parts for name in part.names],
        notes=tuple(dict.fromkeys(notes)),
    )


def differences(faces: FaceImages, split: str) -> list[str]:
    """Return sentences on how a set that looks like FER2013 differs from the official split of that name."""
    role = split_role(split)
    if role is None or not looks_like_fer2013(faces):
        return []
    counts, official = tuple(_counts(faces.labels).values()), OFFICIAL_COUNTS[role]
    tests = tuple(map(sum, zip(OFFICIAL_COUNTS["public_test"], OFFICIAL_COUNTS["private_test"])))
    if role == "private_test" and counts == tests:
        return [
            f"This test split is FER2013's PublicTest and PrivateTest together ({sum(tests):,} faces): an accuracy on "
            "it is not one on PrivateTest."
        ]
    notes = []
    if sum(counts) != sum(official):
        notes.append(f"FER2013's official {role} split has {sum(official):,} faces; this one has {sum(counts):,}.")
    if counts != official:
        different = [
            f"{name} {here:,} (official {there:,})"
            for name, here, there in zip(EXPRESSIONS, counts, official)
            if here != there
        ]
        notes.append(f"Faces per expression differ from the official FER2013 {role} split: {', '.join(different)}.")
    return notes


def checked_labels(
    values: Sequence[Any], names: Sequence[str] | None, where: Path, rows: Sequence[int] | np.ndarray | None = None
) -> np.ndarray:
    """
    Return labels as indices into `EXPRESSIONS`, int64 `(N,)`.

    Args:
        values: one label per face: the name of a class, or its number.
        names: the classes' names in the order of their numbers; `EXPRESSIONS` when not given.
        where: the file, for the error message.
        rows: numbers of the faces' rows in it; 0, 1, ... when not given.

    Raises:
        InputError: a label is missing, not a whole number, or of another class.
    """
    own: dict[str, int] = {}
    labels = np.empty(len(values), np.int64)
    unknown: set[str] = set()
    for place, value in enumerate(values):
        text = str(value)
        if text not in own:
            number = _whole_number(value)
            if number is not None:
                classes = EXPRESSIONS if names is None else names
                name = classes[number] if 0 <= number < len(classes) else text
            elif isinstance(value, str):
                name = value
            else:
                row = place if rows is None else int(rows[place])
                raise InputError(f"row {row} of {where} has the label {text[:40]}: it must be a class or its number")
            index = class_index(name)
            if index is None:
                unknown.add(name[:40])
            own[text] = -1 if index is None else index
        labels[place] = own[text]
    if unknown:
        row = int(np.flatnonzero(labels < 0)[0])
        raise InputError(unknown_classes(where, sorted(unknown), row if rows is None else int(rows[row])))
    return labels


def unknown_classes(where: Path, names: Sequence[str], row: int | None = None) -> str:
    """Return the sentence on classes that are none of the seven expressions."""
    known = ", ".join(f"{index} {name}" for index, name in enumerate(EXPRESSIONS))
    shown = ", ".join(repr(name) for name in names[:10]) + (", ..." if len(names) > 10 else "")
    place = "" if row is None else f" (row {row} for one)"
    return f"{where} has faces of the class {shown}{place}: it must be one of {known}. Rename it or remove its faces."


def checked_votes(rows: Sequence[Any], where: Path) -> np.ndarray:
    """
    Return FER+ votes as float32 `(N, 10)`.

    Raises:
        InputError: a row does not hold ten numbers of at least 0.
    """
    try:
        votes = np.array(rows, np.float32).reshape(len(rows), -1)
    except (ValueError, TypeError) as error:
        raise InputError(f"the FER+ votes of {where} must be {len(FERPLUS_VOTES)} numbers in every row") from error
    if votes.shape[1] != len(FERPLUS_VOTES) or not np.isfinite(votes).all() or (votes < 0).any():
        raise InputError(f"the FER+ votes of {where} must be {len(FERPLUS_VOTES)} numbers of at least 0 in every row")
    return votes


def _whole_number(value: Any) -> int | None:
    """Return a label's number; `None` for a word, a boolean, a missing value or a fraction."""
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return int(value) if int(value) == float(value) else None
    except (TypeError, ValueError, OverflowError):
        return None


def _selected(images: Sequence[StoredImage], indices: np.ndarray, index: int) -> StoredImage:
    return images[int(indices[index])]


def _joined(parts: Sequence[Sequence[StoredImage]], ends: np.ndarray, index: int) -> StoredImage:
    part = int(np.searchsorted(ends, index, side="right"))
    return parts[part][index - (int(ends[part - 1]) if part else 0)]


def _counts(labels: np.ndarray) -> dict[str, int]:
    return dict(zip(EXPRESSIONS, np.bincount(labels, minlength=len(EXPRESSIONS)).tolist()))


def _is_grey(image: Image.Image) -> bool:
    pixels = np.asarray(image)
    return bool((pixels == pixels[..., :1]).all())
