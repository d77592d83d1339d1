"""The command line: arguments in, one call, readable output. Every command imports what it needs when it runs."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from ..results import ImageResult
from .shared import _UNCERTAIN, _printable, fail, failing_on_bad_input, main, warn

# A progress bar says nothing about a handful of files that take a second.
PROGRESS_FROM = 10


@main.command()
def predict(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Pictures, and folders of them (recursive).")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")] = False,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a table with one row per face.")] = None,
    annotate: Annotated[Path | None, typer.Option(metavar="DIR", help="Write each picture with its faces.")] = None,
    attention: Annotated[Path | None, typer.Option(metavar="DIR", help="Write each picture's attention maps.")] = None,
    faces_only: Annotated[bool, typer.Option("--faces-only", help="Each picture is a face: no detection.")] = False,
    checkpoint: Annotated[str | None, typer.Option(help="Folder or Hub id. The bundled one when not given.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... The GPU when there is one.")] = None,
    min_face: Annotated[
        int | None,
        typer.Option(min=12, help="Smallest face in pixels. 40 when not given, more on photos above 2560 pixels."),
    ] = None,
    min_confidence: Annotated[
        float, typer.Option(min=0, max=1, help="Below this probability an answer is marked uncertain.")
    ] = 0.0,
) -> None:
    """
    Finds the faces of pictures and says which expression each one shows.

    Exit code: 0, or 1 when some of several pictures could not be read, or 2 when none could or the usage was wrong.
    """
    from transformers.utils.logging import disable_progress_bar

    from .. import BUNDLED_CHECKPOINT
    from ..errors import InputError
    from ..images import find_images, is_folder, load_image
    from ..recognizer import ExpressionRecognizer
    from ..tables import to_csv

    if annotate or attention:
        from ..drawing.panels import attention_panel, group_panel
        from ..drawing.photo import annotate as draw

    bad = good = 0

    def skip(error: InputError) -> None:
        nonlocal bad
        bad += 1
        warn(str(error))

    # Where the pictures come from, and for each the name that its outputs get below their folder.
    names: dict[Path, Path] = {}
    outputs = [folder for folder in (annotate, attention) if folder is not None]
    for path in dict.fromkeys(paths):
        try:
            found = find_images(path, skip=outputs, on_error=skip)
        except InputError as error:
            skip(error)
            continue
        for file in found:
            names.setdefault(file, file.relative_to(path) if is_folder(path) else Path(file.name))
    if not names:
        raise typer.Exit(2)
    taken: set[str] = set()
    annotated = _output_paths(annotate, names, "", taken) if annotate else {}
    maps = _output_paths(attention, names, "-attention", taken) if attention else {}
    # Not Path.resolve: of a link that leads to itself it raises.
    overwritten = set(map(os.path.realpath, names)) & set(
        map(os.path.realpath, [*annotated.values(), *maps.values(), *([csv] if csv else [])])
    )
    if overwritten:
        fail(f"the output would overwrite the input {min(overwritten)}: choose another folder for it")
    if csv and (is_folder(csv) or not is_folder(csv.absolute().parent)):
        fail(f"--csv {csv} cannot be written: give a file in a folder that exists")

    disable_progress_bar()  # of loading a checkpoint, which is no matter of the pictures
    with failing_on_bad_input():
        recognizer = ExpressionRecognizer.from_pretrained(
            checkpoint or BUNDLED_CHECKPOINT, device=device, min_face=min_face, min_confidence=min_confidence
        )
        # A bar and long lines of JSON would disturb each other on one terminal.
        bar = len(names) >= PROGRESS_FROM and sys.stderr.isatty() and not (json and sys.stdout.isatty())
        stream = recognizer.stream(
            _progress(names) if bar else names, faces_only=faces_only, attention=attention is not None, on_error=skip
        )
    labels = [name + _UNCERTAIN if min_confidence else name for name in recognizer.expressions]
    show = _write_json if json else _table_printer([str(file) for file in names], labels)

    def results() -> Iterator["ImageResult"]:
        nonlocal good
        for result in stream:
            good += 1
            file = Path(result.source)
            if annotate:
                _save(draw(load_image(file).image, result), annotated[file])
            if attention and result.faces:
                _save(attention_panel(result[0]) if len(result) == 1 else group_panel(result), maps[file])
            show(result)
            yield result
        if not good:
            # Raised in here so that no table of nothing is left behind.
            raise typer.Exit(2)

    with failing_on_bad_input():
        if csv:
            try:
                to_csv(results(), csv)
            except BrokenPipeError:
                raise
            except OSError as error:
                fail(f"--csv {csv} cannot be written: {error.strerror or error}")
        else:
            for _ in results():
                pass
    if bad:
        warn(f"{bad} of {good + bad} inputs could not be used")
        raise typer.Exit(1)


def _write_json(result: "ImageResult") -> None:
    from ..tables import to_json_lines

    sys.stdout.write(to_json_lines(result))
    sys.stdout.flush()


def _output_paths(folder: Path, names: dict[Path, Path], ending: str, taken: set[str]) -> dict[Path, Path]:
    """
    For each input a path of its own below `folder`: two inputs with one name do not overwrite each other, nor does one
    kind of output the other (`taken` are the paths of both).
    """
    paths: dict[Path, Path] = {}
    for file, name in names.items():
        # A photo stays a JPEG: as a PNG it would be ten times as large.
        suffix = name.suffix if name.suffix.lower() in (".jpg", ".jpeg") else ".png"
        number, target = 1, folder / name.with_name(name.stem + ending + suffix)
        while os.path.realpath(target).casefold() in taken:
            number += 1
            target = folder / name.with_name(f"{name.stem}-{number}{ending}{suffix}")
        taken.add(os.path.realpath(target).casefold())
        paths[file] = target
    return paths


def _save(picture: Any, path: Path) -> None:
    """Writes a PIL picture beside `path` and renames it."""
    from ..files import replacing

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            picture.save(beside, **({"quality": 92} if path.suffix.lower() != ".png" else {}))
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror or error}")


def _progress(files: Any) -> Any:
    """The same files, with a progress bar on stderr that goes when they are through."""
    from rich.console import Console
    from rich.progress import track

    return track(files, description="Pictures", console=Console(stderr=True), transient=True)


def _table_printer(sources: list[str], labels: list[str]) -> Any:
    """
    A function that prints a result as rows of one table. The widths are known from the start, so rows come as soon
    as their picture is done and nothing is kept.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    label_width = max(map(len, ["Expression", *labels]))
    rest = 42 + label_width  # the other columns with the gaps between them
    longest = max(len(_printable(source)) for source in sources)
    # Nobody's terminal to fit into when the output goes to a file or a pipe.
    width = max(12, min(longest, console.width - rest)) if console.is_terminal else max(12, longest)
    if not console.is_terminal:
        console = Console(highlight=False, width=width + rest)
    header = True

    def table() -> "Table":
        nonlocal header
        rows = Table(box=None, show_header=header, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        rows.add_column("Picture", width=width, overflow="fold")
        rows.add_column("Face", width=4, justify="right")
        rows.add_column("Expression", width=label_width)
        rows.add_column("Probability", width=11, justify="right")
        rows.add_column("Box", width=19)
        header = False
        return rows

    def show(result: "ImageResult") -> None:
        rows = table()
        source = Text(_printable(result.source))
        for number, face in enumerate(result.faces, start=1):
            x0, y0, x1, y1 = (round(value) for value in face.box)
            name = face.expression + (_UNCERTAIN if face.uncertain else "")
            rows.add_row(
                source if number == 1 else "",
                str(number),
                Text(name, style="dim" if face.uncertain else ""),
                f"{face.probability:.1%}",
                f"{x0} {y0} {x1} {y1}",
            )
        if not result.faces:
            rows.add_row(source, "-", "no face", "", "")
        console.print(rows)
        if result.message:
            console.print(Text(f"  {result.message}", style="dim"), soft_wrap=True)

    return show
