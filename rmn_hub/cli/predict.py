"""`rmn-hub predict`: the faces of images and their expressions."""

import contextlib
import enum
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import (
    BatchSize,
    Checkpoints,
    EngineName,
    FacesOnly,
    LocalFilesOnly,
    Margin,
    MaxFaces,
    MaxPixels,
    MinConfidence,
    MinFace,
    Revision,
    Threshold,
    Upright,
    Views,
    load,
)
from .shared import (
    STDOUT,
    USE,
    Device,
    counted,
    examples,
    fail,
    failing_on_bad_input,
    in_options,
    main,
    no_media,
    no_stdout,
    warn,
)

if TYPE_CHECKING:
    from ..errors import InputError
    from ..recognizer import ExpressionRecognizer
    from ..results import ImageResult
    from .inputs import Input
    from .outputs import Writer

OUTPUT = "Output"  # a panel of the help
# A progress bar does not help with a handful of files that take a second.
PROGRESS_FROM = 10


class Format(str, enum.Enum):
    """What goes to stdout."""

    table = "table"
    json = "json"
    csv = "csv"
    parquet = "parquet"


@dataclass
class Counts:
    """What a run has done so far: the numbers of its last line."""

    images: int = 0
    faces: int = 0
    unreadable: int = 0
    messages: set[str] = field(default_factory=set)
    started: float = field(default_factory=time.monotonic)

    def skip(self, error: "InputError") -> None:
        """Report an input that cannot be used, and count it."""
        self.unreadable += 1
        warn(str(error))

    def add(self, result: "ImageResult", quiet: bool = False) -> None:
        """Count a result; report its message, unless `quiet`, once in the run and not once for each image."""
        self.images += 1
        self.faces += len(result)
        if result.message and not quiet and result.message not in self.messages:
            self.messages.add(result.message)
            warn(result.message)

    def sentence(self, written: Iterable[object]) -> str:
        """Return the last line: `30 images, 45 faces, 2 unreadable; wrote out/ and out.csv in 21 s`."""
        parts = [counted(self.images, "image"), counted(self.faces, "face")]
        parts += [f"{self.unreadable} unreadable"] if self.unreadable else []
        files = [str(file) for file in written if file]
        wrote = f"; wrote {' and '.join(files)}" if files and self.images else ""
        seconds = time.monotonic() - self.started
        return f"{', '.join(parts)}{wrote} in {seconds:.{1 if seconds < 10 else 0}f} s"


@main.command(
    rich_help_panel=USE,
    epilog=examples(
        "rmn-hub predict photo.jpg holiday/ --annotate out/ --csv faces.csv",
        "rmn-hub predict face.png --faces-only --attention maps/",
        "rmn-hub predict https://HOST/photo.jpg --json",
        "cat photo.jpg | rmn-hub predict - --format csv",
    ),
)
def predict(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Images, folders (searched with the folders in them), http(s) addresses, - for standard input.",
        ),
    ],
    json: Annotated[
        bool, typer.Option("--json", rich_help_panel=OUTPUT, help="The same as --format json: one object a line.")
    ] = False,
    output_format: Annotated[
        Format, typer.Option("--format", rich_help_panel=OUTPUT, help="What is printed on stdout.")
    ] = Format.table,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            callback=no_media,
            rich_help_panel=OUTPUT,
            help="Write a table with one row per face; - for stdout.",
        ),
    ] = None,
    annotate: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", callback=no_stdout, rich_help_panel=OUTPUT, help="Write each image with its faces."
        ),
    ] = None,
    attention: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", callback=no_stdout, rich_help_panel=OUTPUT, help="Write each image's attention maps."
        ),
    ] = None,
    faces_only: FacesOnly = False,
    min_face: MinFace = None,
    threshold: Threshold = None,
    max_faces: MaxFaces = None,
    margin: Margin = None,
    min_confidence: MinConfidence = None,
    max_pixels: MaxPixels = None,
    checkpoint: Checkpoints = None,
    revision: Revision = None,
    local_files_only: LocalFilesOnly = False,
    engine: EngineName = None,
    device: Device = None,
    upright: Upright = None,
    views: Views = None,
    batch_size: BatchSize = None,
) -> None:
    """
    Find the faces of images and print the expression that each one shows.

    Exit code: 0; 1 when some of several images could not be read; 2 when none could, or the usage was wrong.
    """
    from .inputs import find_inputs
    from .outputs import Parquet, check_folders, check_outputs, output_paths

    shown = _format(output_format, json, csv)
    counts = Counts()
    folders = [folder for folder in (annotate, attention) if folder is not None]
    with failing_on_bad_input(needs=["matplotlib"] if attention else ()):
        inputs = find_inputs(paths, folders, counts.skip, warn)
        if not inputs:
            raise typer.Exit(2)
        taken: set[str] = set()
        annotated = output_paths(annotate, inputs, "", taken) if annotate else {}
        maps = output_paths(attention, inputs, "-attention", taken) if attention else {}
        table = None if shown is Format.csv else csv
        if shown is Format.parquet:
            Parquet.check()
        check_folders({"--annotate": annotate, "--attention": attention})
        check_outputs(inputs, [*annotated.values(), *maps.values()], table)

        settings = {
            "device": device,
            "engine": engine,
            "min_face": min_face,
            "threshold": threshold,
            "max_faces": max_faces,
            "margin": margin,
            "min_confidence": min_confidence,
            "upright": upright,
            "views": views,
            "max_pixels": max_pixels,
            "batch_size": batch_size,
        }
        recognizer = load(checkpoint, revision, local_files_only, settings)
        maps_wanted = attention is not None
        # Rows on the same terminal show the progress themselves.
        bar = len(inputs) >= PROGRESS_FROM and sys.stderr.isatty() and not sys.stdout.isatty()
        written: list[object] = [*(f"{folder}/" for folder in folders), *([table] if table else [])]
        with contextlib.ExitStack() as stack:
            writers = _writers(stack, shown, table, list(inputs), recognizer)
            results = _results(recognizer, inputs.values(), counts, faces_only, maps_wanted, bar)
            try:
                for result in results:
                    if annotated and not _annotate(result, annotated[result.source], recognizer.max_pixels, counts):
                        continue
                    if maps and result.faces:
                        _draw_maps(result, maps[result.source])
                    for write in writers:
                        write(result)
                    counts.add(result, quiet=shown is Format.json)
            except KeyboardInterrupt:
                warn(f"interrupted: {counts.sentence(written)}")
                raise
            if not counts.images:
                raise typer.Exit(2)  # in here, so that no table of nothing is left behind
    warn(counts.sentence(written))
    if counts.unreadable:
        raise typer.Exit(1)


def _format(chosen: Format, json: bool, csv: Path | None) -> Format:
    """Return what goes to stdout, where three options have a word in it."""
    asked = {Format.json} if json else set()
    asked |= {Format.csv} if csv == STDOUT else set()
    asked |= {chosen} if chosen is not Format.table else set()
    if len(asked) > 1:
        fail(f"{' and '.join(sorted(asked))} cannot both go to stdout: choose one of --json, --csv - and --format")
    return asked.pop() if asked else Format.table


def _results(
    recognizer: "ExpressionRecognizer",
    inputs: Iterable["Input"],
    counts: Counts,
    faces_only: bool,
    attention: bool,
    bar: bool,
) -> Iterator["ImageResult"]:
    """Yield the result of each input that can be used."""
    from ..errors import InputError

    def images() -> Iterator[Any]:
        for item in inputs:
            try:
                yield item.read()
            except InputError as error:
                counts.skip(error)

    source: Iterable[Any] = images()
    if bar:
        from rich.console import Console
        from rich.progress import track

        total = len(list(inputs))
        source = track(source, "Images", total, console=Console(stderr=True), transient=True)
    for result in recognizer.stream(source, faces_only=faces_only, attention=attention, on_error=counts.skip):
        message = in_options(result.message) if result.message else None
        yield replace(result, message=message)


def _annotate(result: "ImageResult", path: Path, max_pixels: int, counts: Counts) -> bool:
    """Write the image with its faces; return `False` for an input that can no longer be read."""
    from ..drawing.photo import annotate
    from ..errors import InputError
    from .outputs import save_image

    try:
        drawn = annotate(result.image, result, max_pixels=max_pixels)
    except InputError as error:
        counts.skip(error)
        return False
    save_image(drawn, path)
    return True


def _draw_maps(result: "ImageResult", path: Path) -> None:
    """Write the attention maps of an image's faces."""
    from ..drawing.panels import attention_panel, group_panel
    from .outputs import save_image

    save_image(attention_panel(result[0]) if len(result) == 1 else group_panel(result), path)


def _writers(
    stack: contextlib.ExitStack, shown: Format, table: Path | None, names: list[str], recognizer: "ExpressionRecognizer"
) -> list["Writer"]:
    """Return what each result is handed to; the stack closes files."""
    from . import outputs

    writers: list[Writer] = []
    if table is not None:
        writers.append(stack.enter_context(outputs.csv_file(table, recognizer.expressions)))
    if shown is Format.json:
        writers.append(outputs.JsonLines())
    elif shown is Format.csv:
        writers.append(outputs.CsvRows(outputs.csv_stdout(), "-", recognizer.expressions))
    elif shown is Format.parquet:
        parquet = outputs.Parquet(recognizer.expressions)
        stack.callback(parquet.close)
        writers.append(parquet)
    else:
        writers.append(outputs.Table(names, recognizer.expressions, uncertain=recognizer.min_confidence > 0))
    return writers
