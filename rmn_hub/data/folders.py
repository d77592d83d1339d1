"""Sets with a folder per expression, with or without folders for the splits around them."""

import re
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..expressions import EXPRESSIONS
from ..images import find_images
from .faces import UNSPLIT, FaceImages, Parts, class_index, split_role, unknown_classes


def read_folders(where: Path) -> Parts:
    """
    Open folders of images. The folders' names give the expressions and the splits.

    Raises:
        InputError: no folder is named like an expression, or an image's folder is not.
    """
    top = where
    folders = _folders(top)
    while len(folders) == 1 and split_role(folders[0].name) is None and class_index(folders[0].name) is None:
        top = folders[0]  # an archive's only folder
        folders = _folders(top)
    splits = [folder for folder in folders if split_role(folder.name)]
    if not splits:
        if not any(class_index(folder.name) is not None for folder in folders):
            raise InputError(
                f"{where} must hold parquet or CSV files, or a folder for each expression ({', '.join(EXPRESSIONS)}), "
                "below train, val and test if it has these splits"
            )
        return {UNSPLIT: partial(_read, top)}

    parts: Parts = {}
    for folder in splits:
        faces = _read(folder)
        # Kaggle's image folders put both tests into one: their files are called PublicTest_... and PrivateTest_...
        usages = np.array([re.split(r"[_-]", Path(name).name, maxsplit=1)[0] for name in faces.names])
        if split_role(folder.name) == "private_test" and set(usages) == {"PublicTest", "PrivateTest"}:
            for usage in ("PublicTest", "PrivateTest"):
                parts[usage] = partial(faces.take, np.flatnonzero(usages == usage))
        else:
            parts[folder.name] = partial(faces.take, np.arange(len(faces)))
    return parts


def _folders(where: Path) -> list[Path]:
    return sorted(path for path in where.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def _read(where: Path) -> FaceImages:
    """Return the images in the folders of a folder, each with the label that its folder's name means."""
    images: list[Path] = []
    labels: list[int] = []
    unknown: list[str] = []
    for folder in _folders(where):
        found = _images_in(folder)
        label = class_index(folder.name)
        if label is not None:
            images += found
            labels += [label] * len(found)
        elif found:
            unknown.append(folder.name)
    if unknown:
        raise InputError(unknown_classes(where, unknown))
    return FaceImages(
        images=images,
        labels=np.array(labels, np.int64),
        votes=None,
        names=[path.relative_to(where).as_posix() for path in images],
        notes=_left_out(where, set(images)),
    )


def _images_in(folder: Path) -> list[Path]:
    problems: list[InputError] = []
    try:
        found = find_images(folder, on_error=problems.append)
    except InputError as error:
        if isinstance(error.__cause__, OSError):
            raise
        return []  # a folder without images: an expression that the set does not have
    if problems:
        raise problems[0]
    return found


def _left_out(where: Path, images: set[Path]) -> tuple[str, ...]:
    """
    Return sentences on what is not read: hidden files, others than images, and linked folders in expressions' folders,
    which `find_images` does not follow (those of the expressions themselves may be links).
    """
    kinds: Counter[str] = Counter()
    links = []
    for path in where.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(where).parts)
        if path not in images and path.is_file():
            kinds["hidden" if hidden else path.suffix.lower() or "without a suffix"] += 1
        elif path.is_symlink() and path.is_dir() and path.parent != where and not hidden:
            links.append(path.relative_to(where).as_posix())
    named = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
    notes = [f"{kinds.total():,} files in {where.name} are left out ({named})."] if kinds else []
    if links:
        count = f"{len(links):,}, {min(links)} for one"
        notes.append(f"Linked folders in {where.name} are left out: {count}. Copy them there.")
    return tuple(notes)


__all__ = ["read_folders"]
