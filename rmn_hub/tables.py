"""Results as tables: flat records, CSV, JSON lines, pandas frames, supervision's detections."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .errors import InputError
from .expressions import EXPRESSIONS
from .files import readable, replacing
from .packages import require
from .results import LANDMARKS, Face, FaceExpression, ImageResult

if TYPE_CHECKING:
    import pandas
    import supervision

# One result, or any iterable of results.
Results: TypeAlias = ImageResult | FaceExpression | Face | Iterable[ImageResult | FaceExpression | Face]


def to_records(
    results: Results, *, every_image: bool = False, expressions: Sequence[str] = EXPRESSIONS
) -> list[dict[str, Any]]:
    """
    Return one flat dictionary per face.

    Args:
        results: one result, or any iterable of results, expressions or faces (of one kind).
        every_image: whether an image without faces, or one that could not be used, has a row too: its `source`, size
            and `message`, and `None` for the rest. The column `message` is there only then.
        expressions: the names of the probabilities where no face has any: the recognizer's `expressions`.

    Returns:
        For a face of a result: `source`, `width`, `height`, `face` (its number in the image, from 1), `x0`, `y0`,
        `x1`, `y1`, `score`, `expression`, `probability`, `uncertain`, one column per expression with its probability,
        and `left_eye_x`, `left_eye_y`, ... for the five landmarks. An expression by itself has no `source`, `width`
        and `height`, and a face by itself only its box, score and landmarks. What is not known is `None`.
    """
    records = list(_records(results, every_image))
    columns = next((list(record) for record in records if "x0" in record), _columns(every_image, expressions))
    return [record if "x0" in record else {column: record.get(column) for column in columns} for record in records]


def to_csv(
    results: Results,
    path_or_file: str | os.PathLike[str] | IO[str],
    *,
    every_image: bool = False,
    expressions: Sequence[str] = EXPRESSIONS,
) -> None:
    """
    Write the rows of `to_records` as CSV with a header line, row by row, so `results` may be a generator.

    Args:
        results: as `to_records` takes them.
        path_or_file: a path (UTF-8; the file appears only when it is complete) or a file opened for text with
            `newline=""`.
        every_image: as in `to_records`.
        expressions: likewise.

    Raises:
        InputError: the file cannot be written there.
    """
    write_csv(_records(results, every_image), _columns(every_image, expressions), path_or_file)


def write_csv(
    records: Iterable[dict[str, Any]], columns: Sequence[str], path_or_file: str | os.PathLike[str] | IO[str]
) -> None:
    """
    Write flat records as [`to_csv`] does.

    Args:
        records: the rows; the first with a face names the columns.
        columns: the columns of a table without faces.
        path_or_file: as `to_csv` takes it.

    Raises:
        InputError: the file cannot be written there.
    """
    if not isinstance(path_or_file, (str, os.PathLike)):
        _write_csv(records, columns, path_or_file)
        return
    try:
        with replacing(path_or_file) as beside, beside.open("w", encoding="utf-8", newline="") as file:
            _write_csv(records, columns, file)
    except OSError as error:
        raise InputError(f"{path_or_file} cannot be written: {error.strerror or error}") from error


def to_json_lines(results: Results) -> str:
    """Return one line of JSON, with its newline, per result, expression or face, as `rmn-hub predict --json` does."""
    return "".join(json.dumps(item.to_dict(), allow_nan=False) + "\n" for item in _as_items(results))


def to_frame(
    results: Results, *, every_image: bool = False, expressions: Sequence[str] = EXPRESSIONS
) -> "pandas.DataFrame":
    """
    Return the rows of `to_records` as a pandas frame. Without any row it has the same columns of the same types.

    Numbers stay numbers where a value is missing: whole ones are `Int64`, the others `float64` with NaN, `uncertain` is
    `boolean`.

    Args:
        results: as `to_records` takes them.
        every_image: as in `to_records`.
        expressions: likewise.

    Raises:
        MissingPackageError: pandas is not installed.
    """
    require("pandas", "frames", extra="video", otherwise=", or use to_records or to_csv")
    import pandas

    records = to_records(results, every_image=every_image, expressions=expressions)
    frame = pandas.DataFrame(records, columns=None if records else _columns(every_image, expressions))
    return frame.astype({column: _TYPES.get(column, "float64") for column in frame.columns})


def to_supervision(result: ImageResult) -> "supervision.Detections":
    """
    Return the faces of one result as supervision's `Detections`; see [`ImageResult.to_supervision`].

    Raises:
        MissingPackageError: supervision is not installed.
    """
    require("supervision", "detections")
    import supervision

    if not result.faces:
        return supervision.Detections.empty()
    tracked = all(face.track_id is not None for face in result.faces)
    return supervision.Detections(
        xyxy=np.array([face.box for face in result.faces], np.float32),
        confidence=np.array([face.probability for face in result.faces], np.float32),
        class_id=np.array([list(face.probabilities).index(face.expression) for face in result.faces]),
        tracker_id=np.array([face.track_id for face in result.faces]) if tracked else None,
        data={"class_name": np.array([face.expression for face in result.faces])},
    )


def _as_items(results: Results) -> Iterable[ImageResult | FaceExpression | Face]:
    return [results] if isinstance(results, (ImageResult, FaceExpression, Face)) else results


def _records(results: Results, every_image: bool) -> Iterator[dict[str, Any]]:
    for item in _as_items(results):
        if not isinstance(item, ImageResult):
            yield _face_record(item)
            continue
        image: dict[str, Any] = {"source": readable(item.source), "width": int(item.width), "height": int(item.height)}
        message = {"message": item.message and readable(item.message)} if every_image else {}
        for face in item.faces:
            yield image | _face_record(face) | message
        if every_image and not item.faces:
            yield image | message  # whoever reads it adds the other columns, once a face has named the expressions


def _face_record(item: FaceExpression | Face) -> dict[str, Any]:
    values = item.to_dict()
    record = {"face": values.pop("index")} if "index" in values else {}
    record |= dict(zip(("x0", "y0", "x1", "y1"), values.pop("box")))
    points = values.pop("landmarks") or [[None, None]] * len(LANDMARKS)
    probabilities = values.pop("probabilities", {})
    record |= values | probabilities
    for name, (x, y) in zip(LANDMARKS, points):
        record |= {f"{name}_x": x, f"{name}_y": y}
    return record


# Columns of frames that are not float64.
_TYPES = {
    **dict.fromkeys(("width", "height", "face", "track_id"), "Int64"),
    **dict.fromkeys(("source", "expression", "message"), "object"),
    "uncertain": "boolean",
}


def _columns(every_image: bool, expressions: Sequence[str]) -> list[str]:
    """Return the columns of a table without faces, which has no record to take them from."""
    probabilities = dict.fromkeys(expressions, 0.0)
    face = FaceExpression(box=(0, 0, 0, 0), expression="", probability=0, probabilities=probabilities)
    return list(next(_records(ImageResult("", 0, 0, (face,)), every_image)))


def _write_csv(records: Iterable[dict[str, Any]], columns: Sequence[str], file: IO[str]) -> None:
    writer: csv.DictWriter[str] = csv.DictWriter(file, [])
    waiting: list[dict[str, Any]] = []  # rows without a face, before the first face has named the columns
    for record in records:
        if not writer.fieldnames and "x0" not in record:
            waiting.append(record)
            continue
        if not writer.fieldnames:
            writer.fieldnames = list(record)
            writer.writeheader()
            writer.writerows(waiting)
        writer.writerow(record)
    if not writer.fieldnames:
        writer.fieldnames = columns
        writer.writeheader()
        writer.writerows(waiting)


__all__ = ["to_csv", "to_frame", "to_json_lines", "to_records", "to_supervision", "write_csv"]
