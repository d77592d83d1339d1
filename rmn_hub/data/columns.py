"""Sets with an image and a label column: parquet files, and what the `datasets` library saved to disk."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, MissingPackageError
from ..expressions import EXPRESSIONS
from ..packages import require
from .faces import (
    OFFICIAL_COUNTS,
    UNSPLIT,
    FaceImages,
    LazyImages,
    Parts,
    StoredImage,
    checked_labels,
    checked_votes,
    class_index,
    concatenate,
    split_role,
)

IMAGE_COLUMNS = ("image", "img", "picture", "face", "photo")
LABEL_COLUMNS = ("label", "labels", "emotion", "expression", "class", "target")
VOTES_COLUMN = "ferplus_votes"
NUMBERED = (
    f"The labels are numbers without names, read as {', '.join(f'{i} {name}' for i, name in enumerate(EXPRESSIONS))}."
)


def read_parquet_files(where: Path, files: list[Path]) -> Parts:
    """Open parquet files as one set, whose splits their names or their folders' names give."""
    parts: dict[str, list[Path]] = {}
    for path in files:
        # train.parquet, train-00000-of-00002.parquet, or train/0000.parquet
        stem = re.sub(r"-\d+-of-\d+$", "", path.stem)
        if split_role(stem) is None and split_role(path.parent.name) is not None and path.parent != where.parent:
            stem = path.parent.name
        parts.setdefault(stem, []).append(path)
    if not any(split_role(name) for name in parts):
        parts = {UNSPLIT: files}
    return {name: partial(_read_parquet, paths) for name, paths in parts.items()}


def read_saved(where: Path) -> Parts:
    """
    Open a set that the `datasets` library saved to disk.

    Raises:
        InputError: the library is missing, or the folder holds something else.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingPackageError(
            f"{where} was saved by the datasets library: install it to read it (pip install datasets)"
        ) from error
    try:
        saved = datasets.load_from_disk(str(where))
    except Exception as error:  # whatever pyarrow, json and the library itself raise on files of other content
        raise InputError(
            f"{where} cannot be read as a set saved by the datasets library: {_one_line(error)}"
        ) from error
    splits = dict(saved) if isinstance(saved, datasets.DatasetDict) else {UNSPLIT: saved}

    def read(name: str) -> FaceImages:
        part = splits[name]
        image, label, votes = _columns(part.column_names, where)
        try:
            rows = part.cast_column(image, datasets.Image(decode=False))
        except (ValueError, TypeError) as error:
            raise InputError(f"the column {image} of {where} does not hold images: {_one_line(error)}") from error
        # The library leaves the rows on the disk until one is asked for.
        faces = _faces(
            partial(_row_of, rows, image),
            [f"row {row} of {name or where.name}" for row in range(len(part))],
            where,
            labels=list(part[label]),
            class_names=getattr(part.features[label], "names", None),
            votes=list(part[votes]) if votes else None,
        )
        return _without_doubt(faces)

    return {name: partial(read, name) for name in splits}


def _read_parquet(paths: Sequence[Path]) -> FaceImages:
    parts = []
    for path in paths:
        try:
            parts.append(_read_parquet_file(path))
        except InputError:
            raise
        except Exception as error:  # on damaged files, pyarrow raises nearly everything
            raise InputError(f"{path} cannot be read as parquet: {_one_line(error)}") from error
    return _without_doubt(concatenate(parts))


def _read_parquet_file(path: Path) -> FaceImages:
    require("pyarrow", "Parquet files", extra="train")
    from pyarrow import parquet as arrow_parquet

    with arrow_parquet.ParquetFile(path) as file:
        image, label, votes = _columns(file.schema_arrow.names, path)
        class_names = _class_names(file.schema_arrow.metadata or {}, label, path)
        table = file.read([name for name in (image, label, votes) if name])
    return _faces(
        partial(_cell_of, table[image]),
        _paths(table[image]) or [f"row {row} of {path.name}" for row in range(len(table))],
        path,
        labels=table[label].to_pylist(),
        class_names=class_names,
        votes=table[votes].to_pylist() if votes else None,
    )


def _faces(
    cell: Callable[[int], Any],
    names: list[str],
    where: Path,
    *,
    labels: Sequence[Any],
    class_names: list[str] | None,
    votes: Sequence[Any] | None,
) -> FaceImages:
    """Return the faces of those names, whose image cells `cell` fetches by their row."""
    indices = checked_labels(labels, class_names, where)
    numbered = class_names is None and any(class_index(label) is None for label in set(map(str, labels)))
    return FaceImages(
        images=LazyImages(partial(_image_of, cell, where), len(names)),
        labels=indices,
        votes=None if votes is None else checked_votes(votes, where),
        names=names,
        notes=(NUMBERED,) if numbered else (),
    )


def _without_doubt(faces: FaceImages) -> FaceImages:
    """Return the faces without the note on numbers, where they are a split of FER2013, whose order it is."""
    if tuple(np.bincount(faces.labels, minlength=len(EXPRESSIONS)).tolist()) not in OFFICIAL_COUNTS.values():
        return faces
    return replace(faces, notes=tuple(note for note in faces.notes if note != NUMBERED))


def _columns(names: Sequence[str], where: Path) -> tuple[str, str, str | None]:
    """Return the names of the image, the label and the votes column."""
    own: dict[str, list[str]] = {}
    for name in names:
        own.setdefault(name.lower(), []).append(name)
    image = next((name for name in IMAGE_COLUMNS if name in own), None)
    label = next((name for name in LABEL_COLUMNS if name in own), None)
    if image is None or label is None:
        raise InputError(f"{where} must have an image and a label column, not {', '.join(names)}")
    for name in (image, label, VOTES_COLUMN):
        if len(own.get(name, ())) > 1:
            raise InputError(f"{where} has the column {name} {len(own[name])} times: remove all but one")
    return own[image][0], own[label][0], own[VOTES_COLUMN][0] if VOTES_COLUMN in own else None


def _class_names(metadata: dict[bytes, bytes], label: str, path: Path) -> list[str] | None:
    """Return the names of the labels, where the `datasets` library left them in a parquet file."""
    if b"huggingface" not in metadata:
        return None
    try:
        names = json.loads(metadata[b"huggingface"]).get("info", {}).get("features", {}).get(label, {}).get("names")
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise TypeError("the names of the labels are not a list of words")
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(
            f"the metadata of {path} are not what the datasets library writes ({_one_line(error)}): write the file "
            "again without the key huggingface"
        ) from error
    return names


def _paths(column: Any) -> list[str] | None:
    """Return the file names in a column of `{"bytes", "path"}`, where every row has one."""
    from pyarrow import compute, types

    if not types.is_struct(column.type) or "path" not in [field.name for field in column.type]:
        return None
    paths = compute.struct_field(column, "path").to_pylist()
    return paths if all(isinstance(path, str) and path for path in paths) else None


def _row_of(rows: Any, column: str, index: int) -> Any:
    return rows[index][column]


def _cell_of(column: Any, index: int) -> Any:
    return column[index].as_py()


def _image_of(cell: Callable[[int], Any], where: Path, row: int) -> StoredImage:
    """Return the image in a row."""
    try:
        value = cell(row)
    except Exception as error:  # see _read_parquet
        raise InputError(f"row {row} of {where} cannot be read: {_one_line(error)}") from error
    return stored_image(value, where, f"row {row} of {where}")


def stored_image(value: Any, where: Path, name: str) -> StoredImage:
    """
    Return what an image cell holds, as `datasets` writes it: `{"bytes", "path"}`, or bytes alone, or a path alone.

    Args:
        value: the cell.
        where: the file or folder of the table, from which paths are taken.
        name: what to call the image.

    Raises:
        InputError: it holds something else.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return (where if where.is_dir() else where.parent) / value
    raise InputError(f"{name} holds no image: give an encoded image or a path")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


__all__ = ["IMAGE_COLUMNS", "read_parquet_files", "read_saved", "stored_image"]
