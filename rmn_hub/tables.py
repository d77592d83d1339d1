"""Results as tables: flat records, CSV, JSON lines, pandas frames, supervision's detections."""

import csv
import json
import os
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .expressions import EXPRESSIONS
from .files import replacing
from .results import LANDMARKS, Face, FaceExpression, ImageResult

if TYPE_CHECKING:
    import pandas
    import supervision

# One result, or any iterable of results.
Results: TypeAlias = ImageResult | FaceExpression | Face | Iterable[ImageResult | FaceExpression | Face]


def to_records(results: Results) -> list[dict[str, Any]]:
    """
    Return one flat dictionary per face.

    Args:
        results: one result, or any iterable of results, expressions or faces (of one kind).

    Returns:
        For a face of a result: `source`, `width`, `height`, `face` (its number in the image, from 1), `x0`, `y0`,
        `x1`, `y1`, `score`, `expression`, `probability`, `uncertain`, one column per expression with its probability,
        and `left_eye_x`, `left_eye_y`, ... for the five landmarks. An expression by itself has no `source`, `width`
        and `height`, and a face by itself only its box, score and landmarks. An image without faces has no row. What
        is not known is `None`.
    """
    return list(_records(results))


def to_csv(results: Results, path_or_file: str | os.PathLike[str] | IO[str]) -> None:
    """
    Write the rows of `to_records` as CSV with a header line, row by row, so `results` may be a generator.

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
    """Return one line of JSON, with its newline, per result, expression or face, as `rmn-hub predict --json` does."""
    return "".join(json.dumps(item.to_dict(), allow_nan=False) + "\n" for item in _as_items(results))


def to_frame(results: Results) -> "pandas.DataFrame":
    """
    Return the rows of `to_records` as a pandas frame; without any face it has all columns and no row.

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


def to_supervision(result: ImageResult) -> "supervision.Detections":
    """
    Return the faces of one result as supervision's `Detections`; see [`ImageResult.to_supervision`].

    Raises:
        ImportError: supervision is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        raise ImportError("detections need supervision: install it with `pip install supervision`") from error
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


def _records(results: Results) -> Iterator[dict[str, Any]]:
    for item in _as_items(results):
        if isinstance(item, ImageResult):
            image = {"source": item.source, "width": int(item.width), "height": int(item.height)}
            for face in item.faces:
                yield image | _face_record(face)
        else:
            yield _face_record(item)


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


def _columns() -> list[str]:
    """Return the columns of a table without rows, which has no record to take them from."""
    nobody = FaceExpression(box=(0, 0, 0, 0), expression="", probability=0, probabilities=dict.fromkeys(EXPRESSIONS, 0))
    return list(to_records(ImageResult("", 0, 0, (nobody,)))[0])


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


__all__ = ["to_csv", "to_frame", "to_json_lines", "to_records", "to_supervision"]
