"""The long table of a film: one row for each face of each frame, as records, a pandas frame, CSV or Parquet."""

import contextlib
import csv
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from ..errors import InputError
from ..expressions import EXPRESSIONS
from ..files import readable, replacing
from ..packages import require
from ..results import FaceExpression
from ..tables import to_records as image_records
from .results import FrameResult

if TYPE_CHECKING:
    import pandas

# Rows of a Parquet file that are kept until they are written together.
ROWS_TOGETHER = 4096


def to_records(
    result: FrameResult, *, every_image: bool = False, expressions: Sequence[str] = EXPRESSIONS
) -> list[dict[str, Any]]:
    """
    Return one flat dictionary for each face of a frame.

    Args:
        result: the frame's result.
        every_image: whether a frame without faces has a row, too, with its `source`, `frame` and `time` only.
        expressions: the names of the probabilities where there is no face.

    Returns:
        `source`, `frame` (its number, from 0), `time` in seconds, `track` (the identity of the face), `face` (its
        number in the frame, from 1), `x0`, `y0`, `x1`, `y1`, `score`, `expression`, `probability`, `uncertain`, a
        column for each expression with its (smoothed) probability, and `left_eye_x`, `left_eye_y`, ... for the five
        landmarks.
    """
    records = []
    for record in image_records(result, every_image=every_image, expressions=expressions):
        record = {name: value for name, value in record.items() if name not in ("source", "width", "height")}
        track = record.pop("track_id", None)
        source = readable(result.source)
        records.append({"source": source, "frame": result.index, "time": result.time, "track": track, **record})
    return records


def to_df(
    results: Iterable[FrameResult], expressions: Sequence[str] = EXPRESSIONS, *, every_image: bool = False
) -> "pandas.DataFrame":
    """
    Return the long table of a film as a pandas frame; without any face it has all columns and no row.

    Args:
        results: of a film, such as `recognizer.video(path)`.
        expressions: the names of the probabilities where no frame has a face.
        every_image: as in `to_records`.

    Raises:
        MissingPackageError: pandas is not installed.
    """
    require("pandas", "frames", extra="video")
    import pandas

    records: list[dict[str, Any]] = []
    for result in results:
        records += to_records(result, every_image=every_image, expressions=expressions)
    # The first face names the columns: a frame without any has those of `expressions`.
    first = next((record for record in records if record["face"] is not None), records[0] if records else None)
    return pandas.DataFrame(records, columns=list(first) if first else columns_of(expressions))


class TableWriter:
    """
    A file that grows frame by frame and appears in the end. Used as a context manager.

    After an exception, or with `early` set, it appears with the rows so far; without any, what was there before stays.

    Args:
        path: of the new file.
        expressions: the names of the probabilities.

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], expressions: Sequence[str] = EXPRESSIONS) -> None:
        self.path = Path(path)
        self.early = self.filled = False
        self._columns = columns_of(expressions)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "TableWriter":
        try:
            self._open(self._stack.enter_context(replacing(self.path)))
        except BaseException as error:
            self._drop(error)
            if isinstance(error, OSError):
                raise self._failed(error) from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._close()
            if self.filled or not (kind or self.early):
                self._stack.close()
        except BaseException as failure:
            self._drop(failure)
            if isinstance(failure, OSError):
                raise self._failed(failure) from failure
            raise
        self._drop(error or KeyboardInterrupt())

    def _drop(self, error: BaseException) -> None:
        """Remove the new file, unless it has appeared already."""
        self._stack.__exit__(type(error), error, error.__traceback__)

    def write(self, result: FrameResult) -> None:
        """
        Write the faces of a frame.

        Raises:
            InputError: the file cannot be written.
        """
        try:
            self.filled = self._write(result) or self.filled
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> InputError:
        return InputError(f"{self.path} cannot be written: {error.strerror or error}")

    def _open(self, path: Path) -> None:
        raise NotImplementedError

    def _write(self, result: FrameResult) -> bool:
        """Write a frame; return whether there was a row to write."""
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError


class CSVWriter(TableWriter):
    """The long table as CSV."""

    def _open(self, path: Path) -> None:
        self._begin(path.open("w", encoding="utf-8", newline=""))

    def _begin(self, file: IO[str]) -> None:
        self._file = file
        self._rows = csv.DictWriter(file, self._columns)
        self._rows.writeheader()

    def _write(self, result: FrameResult) -> bool:
        self._rows.writerows(to_records(result))
        return len(result) > 0

    def _close(self) -> None:
        self._file.close()


class JSONWriter(TableWriter):
    """A line of JSON for each frame, also for frames without faces."""

    def _open(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def _write(self, result: FrameResult) -> bool:
        self._file.write(json.dumps(result.to_dict(), allow_nan=False) + "\n")
        return True

    def _close(self) -> None:
        self._file.close()


class ParquetWriter(TableWriter):
    """The long table as Parquet, written in groups of `ROWS_TOGETHER` rows."""

    def _open(self, path: Path) -> None:
        require("pyarrow", "Parquet files", extra="video")
        import pyarrow
        import pyarrow.parquet

        whole, texts = ("frame", "track", "face"), ("source", "expression")
        kinds = dict.fromkeys(whole, pyarrow.int64()) | dict.fromkeys(texts, pyarrow.string())
        kinds["uncertain"] = pyarrow.bool_()
        self._schema = pyarrow.schema([(name, kinds.get(name, pyarrow.float64())) for name in self._columns])
        self._table = pyarrow.Table
        self._file = pyarrow.parquet.ParquetWriter(str(path), self._schema)
        self._waiting: list[dict[str, Any]] = []

    def _write(self, result: FrameResult) -> bool:
        self._waiting += to_records(result)
        if len(self._waiting) >= ROWS_TOGETHER:
            self._flush()
        return len(result) > 0

    def _flush(self) -> None:
        self._file.write_table(self._table.from_pylist(self._waiting, self._schema))
        self._waiting = []

    def _close(self) -> None:
        self._flush()
        self._file.close()


def columns_of(expressions: Sequence[str]) -> list[str]:
    """Return the columns of a table without rows."""
    face = FaceExpression(
        box=(0, 0, 0, 0), expression="", probability=0, probabilities=dict.fromkeys(expressions, 0.0), track_id=1
    )
    return list(to_records(FrameResult(source="", width=0, height=0, faces=(face,)))[0])


__all__ = ["CSVWriter", "JSONWriter", "ParquetWriter", "TableWriter", "columns_of", "to_df", "to_records"]
