"""What every way from a picture to expressions answers with: `Face`, `Expression`, `Result`, and tables of them."""

import contextlib
import csv
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .configuration_rmn import EXPRESSIONS

if TYPE_CHECKING:
    import pandas

Box = tuple[float, float, float, float]
Point = tuple[float, float]

# The order in which MTCNN gives its five points. Left and right are the viewer's.
LANDMARKS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")


class InputError(ValueError):
    """An input that cannot be used. `str(error)` is one sentence for its user: what is wrong, and what to do."""


@dataclass(frozen=True)
class Face:
    """
    One face of a picture.

    Args:
        box: `(x0, y0, x1, y1)` in pixels of the upright picture (EXIF rotation applied), x to the right and y down.
        landmarks: the five points `LANDMARKS` as `(x, y)` in the same pixels, or `None` where nobody looked for them.
        score: the detector's score in 0..1, or `None` where no detector was asked.
    """

    box: Box
    landmarks: tuple[Point, ...] | None = None
    score: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The face in lists, numbers and `None` only, ready for JSON."""
        return {
            "box": [float(value) for value in self.box],
            "landmarks": None if self.landmarks is None else [[float(x), float(y)] for x, y in self.landmarks],
            "score": None if self.score is None else float(self.score),
        }


@dataclass(frozen=True, eq=False)
class Attention:
    """
    Where the network looked on one face, stage by stage (made by `rmn_hub.attention`).

    Args:
        maps: the attention map of each stage, float32 `H x W` in 0..1, normalised per stage and of the mask's own size.
        before: per stage, float32 `H x W` in 0..1: the strength of the stage's features before masking.
        after: per stage, the same after masking, on the scale of `before`.
        crop: the crop as it was cut from the photo, `H x W x 3` uint8 RGB.
    """

    maps: tuple[np.ndarray, ...] = field(repr=False)
    before: tuple[np.ndarray, ...] = field(repr=False)
    after: tuple[np.ndarray, ...] = field(repr=False)
    crop: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Expression:
    """
    What the network sees in one face.

    Args:
        face: where the face is.
        expression: the most probable expression.
        probability: its probability in 0..1.
        probabilities: the probability of every expression by name, in the checkpoint's class order; they sum to 1.
        uncertain: whether `probability` lies below the `min_confidence` that was asked for.
        attention: the attention maps, when they were asked for.
    """

    face: Face
    expression: str
    probability: float
    probabilities: dict[str, float] = field(hash=False)
    uncertain: bool = False
    attention: Attention | None = field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The face's dictionary and the expression's values, ready for JSON. Attention maps are left out."""
        return {
            **self.face.to_dict(),
            "expression": self.expression,
            "probability": float(self.probability),
            "probabilities": {name: float(value) for name, value in self.probabilities.items()},
            "uncertain": bool(self.uncertain),
        }


@dataclass(frozen=True)
class Result:
    """
    All faces of one picture, from left to right. It has a length, an index and an iteration: those of `faces`.

    Args:
        source: the path of the picture, or `"image 3"` for the third of a list of pictures without one.
        width: width of the upright picture in pixels.
        height: its height in pixels.
        faces: one `Expression` per face, sorted by the left edge of its box; empty when no face was found.
        message: a sentence when there is something to say (no face was found, only the first frame was read).
    """

    source: str
    width: int
    height: int
    faces: tuple[Expression, ...] = ()
    message: str | None = None

    def __len__(self) -> int:
        return len(self.faces)

    def __iter__(self) -> Iterator[Expression]:
        return iter(self.faces)

    def __getitem__(self, index: int) -> Expression:
        return self.faces[index]

    def to_dict(self) -> dict[str, Any]:
        """The picture as a line of `rmn-hub predict --json` has it; `message` is there only when there is one."""
        line: dict[str, Any] = {
            "source": self.source,
            "width": int(self.width),
            "height": int(self.height),
            "faces": [face.to_dict() for face in self.faces],
        }
        if self.message is not None:
            line["message"] = self.message
        return line


# One of them, or any iterable of them.
Results: TypeAlias = Result | Expression | Face | Iterable[Result | Expression | Face]


def to_records(results: Results) -> list[dict[str, Any]]:
    """
    One flat dictionary per face, for tables.

    Args:
        results: one result, or any iterable of results, expressions or faces (of one kind).

    Returns:
        For a face of a result: `source`, `width`, `height`, `face` (its number in the picture, from 0), `x0`, `y0`,
        `x1`, `y1`, `score`, `expression`, `probability`, `uncertain`, one column per expression with its probability,
        and `left_eye_x`, `left_eye_y`, ... for the five landmarks. An expression by itself has no `source`, `width`,
        `height` and `face`, and a face by itself only its box, score and landmarks. A picture without faces has no
        row. What is not known is `None`.
    """
    return list(_records(results))


def to_csv(results: Results, path_or_file: str | os.PathLike[str] | IO[str]) -> None:
    """
    Writes the rows of `to_records` as CSV with a header line, row by row, so `results` may be a generator.

    Args:
        results: as `to_records` takes them.
        path_or_file: a path (UTF-8; the file appears only when it is complete) or a file opened for text with
            `newline=""`.
    """
    if hasattr(path_or_file, "write"):
        _write_csv(results, path_or_file)
    else:
        with replacing(path_or_file) as beside, beside.open("w", encoding="utf-8", newline="") as file:
            _write_csv(results, file)


def to_json_lines(results: Results) -> str:
    """
    One line of JSON, with its newline, per result (as `rmn-hub predict --json` prints it), expression or face.
    """
    return "".join(json.dumps(item.to_dict(), allow_nan=False) + "\n" for item in _as_items(results))


def to_frame(results: Results) -> "pandas.DataFrame":
    """
    The rows of `to_records` as a pandas frame; without any face it has all columns and no row.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "a frame needs pandas: install it with `pip install pandas`, or use to_records or to_csv"
        ) from error
    records = to_records(results)
    return pandas.DataFrame(records, columns=None if records else _columns())


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """
    Yields a new path beside `path` to write to, and renames it to `path` when the block ends well. When it does not,
    the new file is removed and `path` stays as it was: whatever happens, nobody sees half a file. Where `path` is a
    link, the file that it leads to is replaced; what is no file (`/dev/stdout`) is written to as it is.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        yield path
        return
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    # Not a file of `tempfile`: those are readable by their owner only, and would stay so.
    beside = path.with_name(f".{path.stem[:40]}-{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        yield beside
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _as_items(results: Results) -> Iterable[Result | Expression | Face]:
    return [results] if isinstance(results, (Result, Expression, Face)) else results


def _records(results: Results) -> Iterator[dict[str, Any]]:
    for item in _as_items(results):
        if isinstance(item, Result):
            for number, face in enumerate(item.faces):
                picture = {"source": item.source, "width": int(item.width), "height": int(item.height), "face": number}
                yield {**picture, **_face_record(face)}
        else:
            yield _face_record(item)


def _face_record(item: Expression | Face) -> dict[str, Any]:
    values = item.to_dict()
    record = dict(zip(("x0", "y0", "x1", "y1"), values.pop("box")))
    points = values.pop("landmarks") or [[None, None]] * len(LANDMARKS)
    probabilities = values.pop("probabilities", {})
    record |= values | probabilities
    for name, (x, y) in zip(LANDMARKS, points):
        record |= {f"{name}_x": x, f"{name}_y": y}
    return record


def _columns() -> list[str]:
    """The columns of a table without rows, which has no record to take them from."""
    nobody = Expression(Face((0.0, 0.0, 0.0, 0.0)), "", 0.0, dict.fromkeys(EXPRESSIONS, 0.0))
    return list(to_records(Result("", 0, 0, (nobody,)))[0])


def _write_csv(results: Results, file: IO[str]) -> None:
    writer = None
    for record in _records(results):
        if writer is None:
            writer = csv.DictWriter(file, list(record))
            writer.writeheader()
        # A file name may hold bytes that are no UTF-8 (Python keeps them as surrogates, which no file takes).
        if "source" in record:
            record["source"] = record["source"].encode("utf-8", "backslashreplace").decode("utf-8")
        writer.writerow(record)
    if writer is None:
        csv.writer(file).writerow(_columns())


__all__ = [
    "LANDMARKS",
    "Attention",
    "Box",
    "Expression",
    "Face",
    "InputError",
    "Point",
    "Result",
    "replacing",
    "to_csv",
    "to_frame",
    "to_json_lines",
    "to_records",
]
