"""data.sources"""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..expressions import EXPRESSIONS
from .faces import (
    FER_SIZE,
    FERPLUS_VOTES,
    ROLES,
    FaceImages,
    FaceSet,
    StoredImage,
    class_index,
    concatenate,
    differences,
    split_role,
    squashed,
)

_ALL = "all"
_UNSPLIT = ""
_HELD_OUT = 0.1
_SPLIT_SEED = 2013
_PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif"})
_IMAGE_COLUMNS = ("image", "img", "picture", "face", "photo")
_LABEL_COLUMNS = ("label", "labels", "emotion", "expression", "class", "target")


@dataclass
class _Source:
    """A set before one of its splits is read: how to read each, by its own name (`""` when it has none)."""

    where: Path
    parts: dict[str, Callable[[], FaceImages]]
    notes: list[str] = field(default_factory=list)


def load_faces(data: str | Path, split: str, size: int = FER_SIZE) -> FaceSet:
    """
    Reads one split of a set of labelled faces into memory, grey and square.

    Args:
        data: file or folder in one of the forms that this module lists.
        split: `"train"`, `"public_test"` or `"private_test"`, one of their other names, a split's own name, or `"all"`.
        size: height and width of the images in pixels.

    Raises:
        InputError: there is no such set or split, a class is unknown, a label or a picture is broken.
    """
    if size < 1:
        raise InputError(f"size={size} must be at least 1 pixel")
    return load_face_images(data, split).reduced(size)


def load_face_images(data: str | Path, split: str) -> FaceImages:
    """
    Finds the faces of one split and reads their labels, but leaves the pictures as they are stored; see [`load_faces`].

    Raises:
        InputError: there is no such set or split, a class is unknown, a label is broken.
    """
    source = _open(Path(data))
    faces, notes = _choose(source, split)
    if not len(faces):
        raise InputError(f"{data} has no faces in its split {split!r}")
    wrong = np.flatnonzero((faces.labels < 0) | (faces.labels >= len(EXPRESSIONS)))
    if len(wrong):
        raise InputError(
            f"{faces.names[wrong[0]]} in {data} has the label {faces.labels[wrong[0]]}: "
            f"labels are 0 to {len(EXPRESSIONS) - 1} ({', '.join(EXPRESSIONS)})"
        )
    return replace(faces, notes=(*source.notes, *notes, *differences(faces, split)))


def has_split(data: str | Path, role: str) -> bool:
    """Whether a set has a split of its own for a role (`"train"`, `"public_test"`, `"private_test"`)."""
    return _find(_open(Path(data)).parts, role) is not None


def _find(parts: dict[str, Callable[[], FaceImages]], role: str) -> Callable[[], FaceImages] | None:
    own = {squashed(name): part for name, part in parts.items()}
    return next((own[name] for name in ROLES[role] if name in own), None)


def _choose(source: _Source, split: str) -> tuple[FaceImages, list[str]]:
    """The faces of a split, and what had to be done for it."""
    parts, role = source.parts, split_role(split)
    if squashed(split) == _ALL and _ALL not in parts:
        return concatenate([part() for part in parts.values()]), []
    if _UNSPLIT in parts and role is not None:
        faces = parts[_UNSPLIT]()
        test, rest = _hold_out(faces.labels, np.arange(len(faces)), _HELD_OUT)
        chosen, train = _hold_out(faces.labels, rest, _HELD_OUT / (1 - _HELD_OUT))
        indices = {"train": train, "public_test": chosen, "private_test": test}[role]
        return faces.take(indices), [
            f"The set has no splits: 80% of its {len(faces):,} faces are for training, 10% to choose on (public_test) "
            "and 10% to score on (private_test), drawn per expression with a fixed seed."
        ]
    if role in ("train", "public_test") and _find(parts, "public_test") is None and _find(parts, "train") is not None:
        faces = _find(parts, "train")()
        chosen, train = _hold_out(faces.labels, np.arange(len(faces)), _HELD_OUT)
        return faces.take(train if role == "train" else chosen), [
            f"The set has no split to choose on (public_test): 10% of its {len(faces):,} training faces, drawn per "
            "expression with a fixed seed, are held out for it."
        ]
    for name, part in parts.items():
        if name and squashed(name) == squashed(split):
            return part(), []
    part = _find(parts, role) if role else None
    if part is None:
        own = [name for name in parts if name] or list(ROLES)
        raise InputError(f"{source.where} has no split {split!r}: choose {', '.join(own)} or {_ALL}")
    return part(), []


def _hold_out(labels: np.ndarray, indices: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Splits indices per label into a held-out part of at least one face (of two) and the rest, both ascending."""
    rng = np.random.default_rng(_SPLIT_SEED)
    held: list[np.ndarray] = []
    for label in range(len(EXPRESSIONS)):
        of_label = indices[labels[indices] == label]
        count = min(max(1, round(fraction * len(of_label))), len(of_label) - 1) if len(of_label) else 0
        held.append(rng.permutation(of_label)[:count])
    out = np.sort(np.concatenate(held))
    return out, np.setdiff1d(indices, out)


# Finding out what a path is
def _open(where: Path) -> _Source:
    if not where.exists():
        raise InputError(f"there is no file or folder {where}")
    if where.is_file():
        if where.suffix.lower() == ".csv":
            return _open_csv(where)
        if where.suffix.lower() == ".parquet":
            return _open_parquet(where, [where])
        raise InputError(f"{where} is not a set of faces: give a .csv or .parquet file, or a folder")
    if (where / "dataset_dict.json").exists() or (where / "state.json").exists():
        return _open_saved(where)
    files = sorted(where.glob("*.parquet")) or sorted(where.glob("*/*.parquet")) or sorted(where.glob("*/*/*.parquet"))
    if files:
        return _open_parquet(where, files)
    tables = [path for path in sorted(where.glob("*.csv")) if "pixels" in _csv_header(path)]
    if tables:
        # Kaggle's archive has the challenge's train.csv and test.csv beside the table with everything.
        return _open_csv(next((path for path in tables if "usage" in _csv_header(path)), tables[0]))
    return _open_folders(where)


# Kaggle's CSV
def _csv_header(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        return [name.strip().lower() for name in next(csv.reader(file), [])]


def _open_csv(path: Path) -> _Source:
    from pyarrow import ArrowInvalid
    from pyarrow import csv as arrow_csv

    header = _csv_header(path)
    if "emotion" not in header or "pixels" not in header:
        raise InputError(f"{path} has the columns {', '.join(header)}: it needs emotion and pixels (and Usage)")
    try:
        table = arrow_csv.read_csv(path, arrow_csv.ReadOptions(column_names=header, skip_rows=1))
    except ArrowInvalid as error:
        raise InputError(f"{path} cannot be read as a table: {error}") from error
    votes, notes = _read_votes(path.with_name("fer2013new.csv"), len(table))
    if "usage" not in header:
        usages = np.full(len(table), path.stem if split_role(path.stem) else _UNSPLIT)
    else:
        usages = np.array([str(usage).strip() for usage in table["usage"].to_pylist()], dtype=str)

    def read(name: str) -> FaceImages:
        rows = np.flatnonzero(usages == name)
        pixels = table["pixels"]
        labels = table["emotion"].take(rows).to_pylist()
        try:
            numbers = np.array([int(label) for label in labels], np.int64)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"the column emotion of {path} must hold the numbers 0 to {len(EXPRESSIONS) - 1}"
            ) from error
        return FaceImages(
            images=[_parse_pixels(pixels[row].as_py(), path, row) for row in rows.tolist()],
            labels=numbers,
            votes=None if votes is None else votes[rows],
            names=[f"row {row}" for row in rows],
        )

    # dict.fromkeys keeps the order in which the splits appear.
    return _Source(path, {name: partial(read, name) for name in dict.fromkeys(usages.tolist())}, notes)


def _parse_pixels(text: str | None, path: Path, row: int) -> np.ndarray:
    text = (text or "").strip()
    try:
        values = np.fromstring(text, dtype=np.int32, sep=" ")
    except ValueError:
        values = np.empty(0, np.int32)
    side = int(len(values) ** 0.5)
    # Older numpy stops at the first thing that is no number and says nothing: hence the count of the gaps.
    complete = side > 0 and side * side == len(values) == text.count(" ") + 1
    if not complete or values.min() < 0 or values.max() > 255:
        raise InputError(
            f"row {row} of {path} does not hold a face: pixels must be {FER_SIZE} x {FER_SIZE} numbers of 0 to 255"
        )
    return values.astype(np.uint8).reshape(side, side)


def _read_votes(path: Path, rows: int) -> tuple[np.ndarray | None, list[str]]:
    """FER+ votes of every row of FER2013's table, when their file lies beside it."""
    if not path.exists():
        return None, []
    with path.open(newline="", encoding="utf-8") as file:
        table = list(csv.reader(file))
    try:
        votes = np.array([line[-len(FERPLUS_VOTES) :] for line in table[1:]], np.float32)
    except ValueError as error:
        raise InputError(f"{path} is not FER+'s table of {len(FERPLUS_VOTES)} votes per row") from error
    if votes.shape != (rows, len(FERPLUS_VOTES)):
        return None, [
            f"{path.name} has {len(votes):,} rows where the faces have {rows:,}: its FER+ votes are left out."
        ]
    return votes, []


# Parquet
def _open_parquet(where: Path, files: list[Path]) -> _Source:
    parts: dict[str, list[Path]] = {}
    for path in files:
        # train.parquet, train-00000-of-00002.parquet, or train/0000.parquet
        stem = re.sub(r"-\d+-of-\d+$", "", path.stem)
        if split_role(stem) is None and split_role(path.parent.name) is not None and path.parent != where.parent:
            stem = path.parent.name
        parts.setdefault(stem, []).append(path)
    if not any(split_role(name) for name in parts):
        parts = {_UNSPLIT: files}
    return _Source(where, {name: partial(_read_parquet, paths) for name, paths in parts.items()})


def _read_parquet(paths: list[Path]) -> FaceImages:
    from pyarrow import ArrowInvalid
    from pyarrow import parquet as arrow_parquet

    parts = []
    for path in paths:
        try:
            table = arrow_parquet.read_table(path)
        except (ArrowInvalid, OSError) as error:
            raise InputError(f"{path} cannot be read as parquet: {error}") from error
        features = (
            json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        )
        columns = {name.lower(): name for name in table.column_names}
        image = next((columns[name] for name in _IMAGE_COLUMNS if name in columns), None)
        label = next((columns[name] for name in _LABEL_COLUMNS if name in columns), None)
        if image is None or label is None:
            raise InputError(f"{path} has the columns {', '.join(table.column_names)}: it needs image and label")
        cells = table[image].to_pylist()
        votes = None
        if "ferplus_votes" in columns:
            votes = np.array(table[columns["ferplus_votes"]].to_pylist(), np.float32)
        parts.append(
            FaceImages(
                images=[_picture(cell, path, row) for row, cell in enumerate(cells)],
                labels=_labels(table[label].to_pylist(), features.get(label, {}).get("names"), path),
                votes=votes,
                names=[_cell_name(cell) or f"{path.name} row {row}" for row, cell in enumerate(cells)],
            )
        )
    return concatenate(parts)


def _picture(cell: object, path: Path, row: int) -> StoredImage:
    """An image cell as `datasets` writes it: `{"bytes", "path"}`, or bytes alone, or a path alone."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return cell
    if isinstance(cell, str):
        return path.parent / cell
    raise InputError(f"row {row} of {path} has no picture")


def _cell_name(cell: object) -> str | None:
    return cell.get("path") if isinstance(cell, dict) else None


def _labels(values: list[int | str | None], names: list[str] | None, where: Path) -> np.ndarray:
    """Labels as indices into EXPRESSIONS; numbers without names are taken to be in that order."""
    own: dict[int | str | None, int | None] = {}
    for value in set(values):
        if isinstance(value, str):
            own[value] = class_index(value)
        elif value is not None and names is not None:
            own[value] = class_index(names[value]) if 0 <= value < len(names) else None
        elif value is not None and 0 <= value < len(EXPRESSIONS):
            own[value] = int(value)
        else:
            own[value] = None
    unknown = sorted(
        str(value if names is None or value is None else _name(names, value)) for value in own if own[value] is None
    )
    if unknown:
        raise InputError(_unknown_classes(where, unknown))
    return np.array([own[value] for value in values], np.int64)


def _name(names: list[str], value: int | str) -> int | str:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


def _unknown_classes(where: Path, unknown: list[str]) -> str:
    return (
        f"{where} has faces of the class {', '.join(unknown)}, which is none of the seven expressions "
        f"({', '.join(EXPRESSIONS)}): rename it or leave its faces out"
    )


# A set saved by `datasets`
def _open_saved(where: Path) -> _Source:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"{where} was saved by the datasets library: install it to read it (pip install datasets)"
        ) from error
    saved = datasets.load_from_disk(str(where))
    splits = dict(saved) if isinstance(saved, datasets.DatasetDict) else {_UNSPLIT: saved}

    def read(name: str) -> FaceImages:
        part = splits[name]
        columns = {column.lower(): column for column in part.column_names}
        image = next((columns[column] for column in _IMAGE_COLUMNS if column in columns), None)
        label = next((columns[column] for column in _LABEL_COLUMNS if column in columns), None)
        if image is None or label is None:
            raise InputError(f"{where} has the columns {', '.join(part.column_names)}: it needs image and label")
        cells = part.cast_column(image, datasets.Image(decode=False))[image]
        cells = [cells[row] for row in range(len(part))]
        return FaceImages(
            images=[_picture(cell, where, row) for row, cell in enumerate(cells)],
            labels=_labels(list(part[label]), getattr(part.features[label], "names", None), where),
            votes=np.array(list(part["ferplus_votes"]), np.float32) if "ferplus_votes" in part.column_names else None,
            names=[_cell_name(cell) or f"{name or where.name} row {row}" for row, cell in enumerate(cells)],
        )

    return _Source(where, {name: partial(read, name) for name in splits})


# A folder per expression
def _open_folders(where: Path) -> _Source:
    folders = _folders(where)
    while len(folders) == 1 and split_role(folders[0].name) is None and class_index(folders[0].name) is None:
        folders = _folders(folders[0])  # an archive's only folder
    splits = [folder for folder in folders if split_role(folder.name)]
    if not splits:
        if not any(class_index(folder.name) is not None for folder in folders):
            raise InputError(
                f"{where} is not a set of faces: it needs parquet or CSV files, or a folder for each expression "
                f"({', '.join(EXPRESSIONS)}), below train, val and test if it has these splits"
            )
        return _Source(where, {_UNSPLIT: partial(_read_folders, folders, where)})

    parts: dict[str, Callable[[], FaceImages]] = {}
    for folder in splits:
        faces = _read_folders(_folders(folder), folder)
        # Kaggle's picture folders put both tests into one: their files are called PublicTest_... and PrivateTest_...
        usages = np.array([_usage(name) for name in faces.names])
        if split_role(folder.name) == "private_test" and set(usages) == {"PublicTest", "PrivateTest"}:
            for usage in ("PublicTest", "PrivateTest"):
                parts[usage] = partial(faces.take, np.flatnonzero(usages == usage))
        else:
            parts[folder.name] = partial(faces.take, np.arange(len(faces)))
    return _Source(where, parts)


def _usage(name: str) -> str:
    return re.split(r"[_-]", Path(name).name, maxsplit=1)[0]


def _folders(where: Path) -> list[Path]:
    return sorted(path for path in where.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def _read_folders(folders: list[Path], where: Path) -> FaceImages:
    pictures: list[Path] = []
    labels: list[int] = []
    unknown: list[str] = []
    for folder in folders:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PICTURE_SUFFIXES)
        label = class_index(folder.name)
        if label is not None:
            pictures += files
            labels += [label] * len(files)
        elif files:
            unknown.append(folder.name)
    if unknown:
        raise InputError(_unknown_classes(where, unknown))
    return FaceImages(
        images=pictures,
        labels=np.array(labels, np.int64),
        votes=None,
        names=[path.relative_to(where).as_posix() for path in pictures],
    )
