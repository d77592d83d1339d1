"""What `predict` writes: tables, JSON lines, CSV and Parquet, and images at paths that overwrite nothing."""

import contextlib
import io
import os
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

from ..errors import InputError
from ..files import replacing
from .inputs import VIDEO_SUFFIXES, Input
from .shared import printable

if TYPE_CHECKING:
    from ..results import FaceExpression, ImageResult

# The columns of the table beside the names and the expressions, with the gaps between them.
_OTHER_COLUMNS = 42


def output_paths(folder: Path, inputs: Mapping[str, Input], ending: str, taken: set[str]) -> dict[str, Path]:
    """
    Return for each input a path of its own below `folder`.

    Two inputs of one name do not overwrite each other, nor does one kind of output the other.

    Args:
        folder: where the outputs go.
        inputs: the inputs by name.
        ending: what the file's name ends with, before its suffix.
        taken: the paths that are given away already; the new ones are added.
    """
    paths: dict[str, Path] = {}
    for name, item in inputs.items():
        wanted = item.output
        # A photo stays a JPEG: as a PNG it would be ten times as large.
        suffix = wanted.suffix if wanted.suffix.lower() in (".jpg", ".jpeg") else ".png"
        number, target = 1, folder / wanted.with_name(wanted.stem + ending + suffix)
        while os.path.realpath(target).casefold() in taken:
            number += 1
            target = folder / wanted.with_name(f"{wanted.stem}-{number}{ending}{suffix}")
        taken.add(os.path.realpath(target).casefold())
        paths[name] = target
    return paths


def check_folders(folders: Mapping[str, Path | None]) -> None:
    """
    Check that what files are written into can be folders.

    Args:
        folders: by option; `None` where it is not given.

    Raises:
        InputError: there or above it is a file, the name is that of an image or a film, or nothing can be written.
    """
    from ..images import SUFFIXES, is_folder

    for option, path in folders.items():
        if path is None:
            continue
        existing = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
        is_name_of_file = existing != path and path.suffix.lower() in SUFFIXES | VIDEO_SUFFIXES
        if is_name_of_file or not is_folder(existing):
            raise InputError(f"{option} {path} must be a folder: files are written into it under names of their own")
        if not os.access(existing, os.W_OK):
            raise InputError(f"{option} {path} cannot be written: permission denied")


def check_image(path: Path) -> None:
    """
    Check before the work begins that an image can be written in the format that a path's suffix names.

    Raises:
        InputError: it cannot.
    """
    from PIL import Image

    try:
        Image.new("RGB", (16, 16)).save(io.BytesIO(), Image.registered_extensions()[path.suffix.lower()])
    except (KeyError, OSError, ValueError) as error:
        raise InputError(f"{path} must end in .png, .jpg or another suffix of an image that can be written") from error


def check_outputs(inputs: Iterable[str], images: Iterable[Path], table: Path | None) -> None:
    """
    Check before the work begins that nothing given is overwritten and that the table can be written.

    Raises:
        InputError: an output is an input, or the table's folder does not exist.
    """
    from ..images import is_folder

    # Not Path.resolve: of a link that leads to itself it raises.
    written = set(map(os.path.realpath, [*images, *([table] if table else [])]))
    if overwritten := written & set(map(os.path.realpath, inputs)):
        raise InputError(f"the output would overwrite the input {min(overwritten)}: choose another folder for it")
    if table and (is_folder(table) or not is_folder(table.absolute().parent)):
        raise InputError(f"--csv {table} cannot be written: give a file in a folder that exists")


def save_image(image: Any, path: Path) -> None:
    """
    Write a PIL image, whole or not at all, with its colour profile.

    Raises:
        InputError: the file cannot be written.
    """
    options = {} if path.suffix.lower() == ".png" else {"quality": 92}
    if profile := image.info.get("icc_profile"):
        options["icc_profile"] = profile
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            image.save(beside, **options)
    except (OSError, ValueError) as error:  # a suffix that Pillow does not write is a ValueError
        raise InputError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from error


def shortened(text: str, width: int) -> str:
    """
    Return a text that takes at most `width` cells of a terminal (a Chinese character takes two), with its middle left
    out: the end of a path names the file.
    """
    from rich.cells import cell_len

    def beginning(characters: str, cells: int) -> str:
        taken = list(accumulate(map(cell_len, characters)))
        return characters[: bisect_right(taken, cells)]

    if cell_len(text) <= width:
        return text
    tail = (width - 1) * 2 // 3
    return f"{beginning(text, width - 1 - tail)}…{beginning(text[::-1], tail)[::-1]}"


# Each writer takes one result after the other.
class JsonLines:
    """Write each result as a line of JSON to stdout."""

    def __call__(self, result: "ImageResult") -> None:
        from ..tables import to_json_lines

        sys.stdout.write(to_json_lines(result))
        sys.stdout.flush()


def csv_stdout() -> TextIO:
    """Return stdout as it takes CSV, whose lines end as they are written: Windows would end them twice."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(newline="")
    return sys.stdout


class CsvRows:
    """Write the rows of each result to a text file as soon as it is there. `begun` is true from the first one on."""

    def __init__(self, file: IO[str], name: str, expressions: Sequence[str]) -> None:
        self.file, self.name, self.expressions = file, name, expressions
        self.begun = False

    def __call__(self, result: "ImageResult") -> None:
        from ..tables import to_csv

        rows = io.StringIO(newline="")
        to_csv(result, rows, expressions=self.expressions)
        header, _, rest = rows.getvalue().partition("\r\n")
        try:
            self.file.write(rest if self.begun else f"{header}\r\n{rest}")
            self.file.flush()
        except OSError as error:
            if self.file is sys.stdout:
                raise
            raise InputError(_not_written(self.name, error)) from error
        self.begun = True


class _NoRows(Exception):
    """Raised to drop a table that an early end has left empty."""


@contextlib.contextmanager
def csv_file(path: Path, expressions: Sequence[str]) -> Iterator[CsvRows]:
    """
    Yield a writer to a new file beside `path`, which takes the name `path` in the end: after an interrupt or an error
    too, with the rows so far, unless there are none.

    Raises:
        InputError: the file cannot be written.
    """
    early: BaseException | None = None
    try:
        with replacing(path) as beside:
            with beside.open("w", encoding="utf-8", newline="") as file:
                rows = CsvRows(file, str(path), expressions)
                try:
                    yield rows
                except BaseException as error:
                    early = error
            if early is not None and not rows.begun:
                raise _NoRows
    except _NoRows:
        pass
    except OSError as error:
        raise InputError(_not_written(path, error)) from error
    if early is not None:
        raise early


def _not_written(path: str | Path, error: OSError) -> str:
    return f"--csv {path} cannot be written: {error.strerror or error}"


class Parquet:
    """Gather the results, and write them to stdout as Parquet in the end: such a file cannot grow row by row."""

    def __init__(self, expressions: Sequence[str]) -> None:
        self.expressions = expressions
        self.results: list[ImageResult] = []

    @staticmethod
    def check() -> None:
        """
        Check before the work begins that the file can be written in the end.

        Raises:
            MissingPackageError: pandas or pyarrow is not installed.
        """
        from ..packages import require

        for package in ("pandas", "pyarrow"):
            require(package, "Parquet files", extra="video")

    def __call__(self, result: "ImageResult") -> None:
        from dataclasses import replace

        # No pixels: the crop and the maps of a face take a hundred times what its row takes.
        faces = tuple(replace(face, attention=None, features=None) for face in result.faces)
        self.results.append(replace(result, image=None, faces=faces))

    def close(self) -> None:
        """Write the file, unless there is nothing to write."""
        from ..tables import to_frame

        if not self.results:
            return
        data = io.BytesIO()
        to_frame(self.results, expressions=self.expressions).to_parquet(data)
        sys.stdout.buffer.write(data.getvalue())
        sys.stdout.buffer.flush()


class Table:
    """
    Print each result as rows of one table. Its widths are known from the start, so rows come as soon as their image is
    done and nothing is kept.

    Args:
        names: the names of all images.
        expressions: all that there are.
        uncertain: whether some may be marked as uncertain.
    """

    def __init__(self, names: Sequence[str], expressions: Sequence[str], uncertain: bool) -> None:
        from rich.cells import cell_len
        from rich.console import Console

        self.console = Console(highlight=False)
        lengths = sorted(map(cell_len, [*expressions, ""]))
        longest_label = sum(lengths[-2:]) + len(" or ?") if uncertain else lengths[-1]
        self.label_width = max(len("Expression"), longest_label)
        rest = _OTHER_COLUMNS + self.label_width
        longest = max(cell_len(printable(name)) for name in names)
        if self.console.is_terminal:
            self.name_width = max(12, min(longest, self.console.width - rest))
        else:
            # There is no terminal to fit into when the output goes to a file or a pipe.
            self.name_width = max(12, longest)
            self.console = Console(highlight=False, width=self.name_width + rest)
        self.begun = False

    def __call__(self, result: "ImageResult") -> None:
        from rich.table import Table
        from rich.text import Text

        rows = Table(box=None, show_header=not self.begun, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        rows.add_column("Image", width=self.name_width, overflow="fold")
        rows.add_column("Face", width=4, justify="right")
        rows.add_column("Expression", width=self.label_width)
        rows.add_column("Probability", width=11, justify="right")
        rows.add_column("Box", width=19)
        self.begun = True
        name = shortened(printable(result.source), self.name_width)
        if not (self.console.encoding or "").lower().startswith("utf"):
            name = name.replace("…", "~")
        for face in result.faces:
            rows.add_row(
                Text(name if face is result.faces[0] else ""),
                str(face.index),
                Text(label(face), style="dim" if face.uncertain else ""),
                f"{face.probability:.1%}",
                " ".join(map(str, inside(face, result.width, result.height))),
            )
        if not result.faces:
            rows.add_row(Text(name), "-", "no face", "", "")
        self.console.print(rows)


def label(face: "FaceExpression") -> str:
    """Return the expression of a face; of an uncertain one with a question mark, and both where two are near."""
    from ..drawing.palette import near_expressions

    return f"{' or '.join(near_expressions(face))}?" if face.uncertain else face.expression


def inside(face: "FaceExpression", width: int, height: int) -> list[int]:
    """Return the part of a face's box that lies inside its image, in whole pixels."""
    x0, y0, x1, y1 = (round(value) for value in face.box)
    return [max(0, x0), max(0, y0), min(width, x1), min(height, y1)]


Writer = Callable[["ImageResult"], None]
