"""Sets of labelled faces: FER2013 in the forms in which people have it, and own sets of photos.

What is read, and how it is recognised:

* Kaggle's table: a CSV with the columns `emotion`, `pixels` and `Usage`, by itself or in a folder. FER+ votes are read
  from `fer2013new.csv` beside it (Barsoum et al., "Training deep networks for facial expression recognition with
  crowd-sourced label distribution", 2016), whose rows are those of FER2013.
* Parquet with an image and a label column, and FER+ votes in `ferplus_votes`: one file, or one or more files per split.
* A set that the `datasets` library saved to disk.
* A folder per expression, with or without folders for the splits around them. Kaggle's picture folders, whose file
  names carry `PublicTest` or `PrivateTest`, are such folders.

The roles of the splits are FER2013's: train, public_test (to choose on) and private_test (to score on, once). Other
names for them (`validation`, `test`, ...) are understood. A split that a set does not have is made from it, always the
same, and the notes say so.
"""

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import InputError
from ..expressions import EXPRESSIONS

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
StoredImage = bytes | Path | np.ndarray


@dataclass(frozen=True)
class FaceSet:
    """
    The faces of one split, ready for training.

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

    @property
    def counts(self) -> dict[str, int]:
        """Faces per expression."""
        return _counts(self.labels)

    def fingerprint(self) -> str:
        """SHA-256 over images and labels: two sets with the same one are the same set in the same order."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels.astype("<i8")).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class FaceImages:
    """
    The faces of one split as they are stored, in their own sizes and colours, decoded one by one.

    Args:
        pictures: one per face: an encoded picture, the path of one, or grey pixels.
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
        """The picture of one face, upright, grey (`"L"`) or `"RGB"`. `InputError`: it cannot be read."""
        picture = self.images[index]
        if isinstance(picture, np.ndarray):
            return Image.fromarray(picture)
        try:
            with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as opened:
                upright = ImageOps.exif_transpose(opened)
                return upright if upright.mode == "L" else upright.convert("RGB")
        except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise InputError(f"{self.names[index]} cannot be read as a picture: {error}") from error

    def __iter__(self) -> Iterator[Image.Image]:
        return (self[index] for index in range(len(self)))

    def reduced(self, size: int = FER_SIZE) -> FaceSet:
        """All faces in memory, grey and `size` pixels square."""
        images = np.empty((len(self), size, size), np.uint8)
        for index, picture in enumerate(self):
            # The processor's order: luma before size, so that a colour photo and its grey copy give the same face.
            grey = picture if picture.mode == "L" else picture.convert("L")
            if grey.size != (size, size):
                grey = grey.resize((size, size), Image.Resampling.BILINEAR)
            images[index] = np.asarray(grey)
        return FaceSet(images, self.labels, self.votes, tuple(self.names), self.notes)

    def take(self, indices: np.ndarray) -> "FaceImages":
        """The faces at `indices`, in their order."""
        return replace(
            self,
            images=[self.images[i] for i in indices],
            labels=self.labels[indices],
            votes=None if self.votes is None else self.votes[indices],
            names=[self.names[i] for i in indices],
        )


def duplicates_of(train: FaceSet, test: FaceSet) -> np.ndarray:
    """
    Which test faces are, byte for byte, a training face: bool `(N_test,)`. Labels are not looked at.

    Raises:
        ValueError: the two sets were loaded at different sizes.
    """
    if train.images.shape[1:] != test.images.shape[1:]:
        raise ValueError(f"load both sets at one size: {train.images.shape[1:]} and {test.images.shape[1:]} differ")
    known = {image.tobytes() for image in train.images}
    return np.fromiter((image.tobytes() in known for image in test.images), bool, len(test))


def split_role(name: str) -> str | None:
    """`"train"`, `"public_test"` or `"private_test"` for one of their many names, else `None`."""
    return next((role for role, names in ROLES.items() if squashed(name) in names), None)


def looks_like_fer2013(faces: FaceImages) -> bool:
    """Whether the faces (a sample of 16) are grey and 48 pixels wide."""
    sample = {int(i) for i in np.linspace(0, len(faces) - 1, 16)}
    return all((faces[i].size, faces[i].mode) == ((FER_SIZE, FER_SIZE), "L") for i in sample)


def class_index(name: str) -> int | None:
    """The index in `EXPRESSIONS` of a class name (`Anger`, `happiness`, `3_happy`, ...), or `None`: not known."""
    key = name.strip().lower()
    if key in _CLASS_INDEX:
        return _CLASS_INDEX[key]
    return _CLASS_INDEX.get(re.sub(r"^\d+[\s_.-]*", "", key))


# Choosing a split
def squashed(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.lower())


def concatenate(parts: list[FaceImages]) -> FaceImages:
    votes = [part.votes for part in parts]
    return FaceImages(
        images=[image for part in parts for image in part.images],
        labels=np.concatenate([part.labels for part in parts]),
        votes=None if any(vote is None for vote in votes) else np.concatenate(votes),
        names=[name for part in parts for name in part.names],
    )


# Comparing with the official FER2013
def _counts(labels: np.ndarray) -> dict[str, int]:
    return dict(zip(EXPRESSIONS, np.bincount(labels, minlength=len(EXPRESSIONS)).tolist()))


def differences(faces: FaceImages, split: str) -> list[str]:
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
