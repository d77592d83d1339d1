"""FER2013 as Kaggle has it: one table of labels and pixels, with FER+'s votes in a second one beside it."""

import codecs
import csv
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import InputError
from .faces import FER_SIZE, FERPLUS_VOTES, UNSPLIT, FaceImages, Parts, checked_labels, checked_votes, split_role

VOTES_FILE = "fer2013new.csv"
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_DELIMITERS = (",", ";", "\t")


def csv_columns(path: Path) -> list[str]:
    """Return the names in the first row of a CSV file, in lower case and without spaces around them."""
    encoding = _encoding(path)
    return _header(path, encoding, _delimiter(path, encoding))


def read_csv(path: Path) -> Parts:
    """
    Open Kaggle's table. Spreadsheets' encodings and separators are recognised: UTF-8, UTF-16 or Windows-1252, and
    commas, semicolons or tabs.

    Raises:
        InputError: the file is not such a table; a part that is read has a row without a face or with another label.
    """
    from pyarrow import ArrowException
    from pyarrow import csv as arrow_csv

    encoding = _encoding(path)
    delimiter = _delimiter(path, encoding)
    header = _header(path, encoding, delimiter)
    for name in ("emotion", "pixels"):
        if name not in header:
            raise InputError(f"{path} must have the columns emotion and pixels (and Usage), not {', '.join(header)}")
    for name in ("emotion", "pixels", "usage"):
        if header.count(name) > 1:
            raise InputError(f"{path} has the column {name} {header.count(name)} times: remove all but one")
    wanted = [name for name in ("emotion", "pixels", "usage") if name in header]
    # Columns that are not needed may be called alike.
    unique = [name if name in wanted else f"{name}#{place}" for place, name in enumerate(header)]
    try:
        table = arrow_csv.read_csv(
            path,
            # A block must hold a whole row: 64 MB are enough for any face.
            arrow_csv.ReadOptions(column_names=unique, skip_rows=1, encoding=encoding, block_size=1 << 26),
            arrow_csv.ParseOptions(delimiter=delimiter),
            arrow_csv.ConvertOptions(include_columns=wanted, column_types=dict.fromkeys(wanted, "string")),
        )
    except (ArrowException, ValueError, LookupError) as error:
        raise InputError(f"{path} cannot be read as a table: {' '.join(str(error).split())}") from error
    votes, notes = _read_votes(path.with_name(VOTES_FILE), len(table))
    if "usage" not in header:
        usages = np.full(len(table), path.stem if split_role(path.stem) else UNSPLIT)
    else:
        usages = np.array([(usage or "").strip() for usage in table["usage"].to_pylist()], dtype=str)

    def read(name: str) -> FaceImages:
        rows = np.flatnonzero(usages == name)
        pixels = table["pixels"]
        return FaceImages(
            images=[_parse_pixels(pixels[row].as_py(), path, row) for row in rows.tolist()],
            labels=checked_labels(table["emotion"].take(rows).to_pylist(), None, path, rows),
            votes=None if votes is None else votes[rows],
            names=[f"row {row} of {path.name}" for row in rows],
            notes=notes,
        )

    # dict.fromkeys keeps the order in which the splits appear.
    return {name: partial(read, name) for name in dict.fromkeys(usages.tolist())}


def _encoding(path: Path) -> str:
    """Return the encoding of a text file, as far as its bytes give it away."""
    with path.open("rb") as file:
        start = file.read(4096)
        for mark, encoding in _BYTE_ORDER_MARKS:
            if start.startswith(mark):
                return encoding
        if start.count(b"\0") > len(start) // 4:  # every second byte of ASCII text in UTF-16
            return "utf-16-be" if start[:1] == b"\0" else "utf-16-le"
        decoder = codecs.getincrementaldecoder("utf-8")()
        file.seek(0)
        try:
            while block := file.read(1 << 20):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8"


def _delimiter(path: Path, encoding: str) -> str:
    with path.open(encoding=encoding, errors="replace") as file:
        line = file.readline(1 << 16)
    return max(_DELIMITERS, key=line.count)


def _header(path: Path, encoding: str, delimiter: str) -> list[str]:
    with path.open(newline="", encoding=encoding, errors="replace") as file:
        try:
            return [name.strip().lower() for name in next(csv.reader(file, delimiter=delimiter), [])]
        except csv.Error:
            return []


def _parse_pixels(text: str | None, path: Path, row: int) -> np.ndarray:
    text = (text or "").strip()
    try:
        values = np.fromstring(text, dtype=np.int64, sep=" ")
    except ValueError:
        values = np.empty(0, np.int64)
    side = int(len(values) ** 0.5)
    # Older numpy stops in silence at the first word that is not a number: hence the count of the gaps.
    complete = side > 0 and side * side == len(values) == text.count(" ") + 1
    if not complete or values.min() < 0 or values.max() > 255:
        raise InputError(
            f"row {row} of {path} does not hold a face: pixels must be {FER_SIZE} x {FER_SIZE} numbers of 0 to 255"
        )
    return values.astype(np.uint8).reshape(side, side)


def _read_votes(path: Path, rows: int) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return the FER+ votes of every row of FER2013's table, when their file lies beside it, and notes on them."""
    if not path.exists():
        return None, ()
    encoding = _encoding(path)
    try:
        with path.open(newline="", encoding=encoding, errors="replace") as file:
            table = list(csv.reader(file, delimiter=_delimiter(path, encoding)))[1:]
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as a table: {error}") from error
    table = [line for line in table if line]
    if len(table) != rows:
        return None, (f"{path.name} has {len(table):,} rows, but the faces {rows:,}: its FER+ votes are left out.",)
    return checked_votes([line[-len(FERPLUS_VOTES) :] for line in table], path), ()


__all__ = ["csv_columns", "read_csv"]
