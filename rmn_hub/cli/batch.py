"""`rmn-hub batch`: any number of images to parquet files, on every core and GPU, in as many starts as it takes."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from ..progress import Progress
from .inputs import left_out_of
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
)
from .shared import USE, Device, examples, failing_on_bad_input, main, no_stdout, warn

if TYPE_CHECKING:
    from ..distributed import Summary

WORK = "Work"
# How often a line of progress goes to a log, where there is no terminal to show a bar.
LINE_SECONDS = 60.0


@main.command(
    rich_help_panel=USE,
    epilog=examples(
        "rmn-hub batch photos/ faces/",
        "rmn-hub batch 's3://bucket/photos/*.tar' s3://bucket/faces --address auto",
        "rmn-hub batch list.txt faces/ --workers 8 --min-face 60",
    ),
)
def batch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder, a glob, a list (.txt, a path or address a line), parquet files of images, or tars "
            "(webdataset); local, or an address (s3, gs, hf, https, ...).",
        ),
    ],
    out: Annotated[
        str,
        typer.Argument(
            metavar="OUT", callback=no_stdout, help="Folder or address for parquet files. Start again to go on."
        ),
    ],
    address: Annotated[
        str | None,
        typer.Option(rich_help_panel=WORK, help="Ray cluster to join, as auto or HOST:6379; this machine otherwise."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=WORK, help="Processes, a core each; one per core or GPU when not given."),
    ] = None,
    shard_size: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=WORK, help="Images of a file of OUT; 500 when not given. A tar is one."),
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
    Find the expressions of any number of images, on all cores, GPUs and machines, and write them to parquet files.

    A row for each face, and one for each image without faces or that could not be used. Started again after it was
    stopped, it goes on; what is finished is never done twice.

    Exit code: 0; 1 when some of several images could not be read; 2 when none could, or the usage was wrong.
    """
    settings = {
        "engine": engine,
        "min_face": min_face,
        "threshold": threshold,
        "max_faces": max_faces,
        "margin": margin,
        "min_confidence": min_confidence,
        "max_pixels": max_pixels,
        "upright": upright,
        "views": views,
        "batch_size": batch_size,
        "revision": revision,
        "local_files_only": local_files_only or None,
    }
    started = time.monotonic()
    with failing_on_bad_input("cluster", needs=["ray", "pyarrow"]):
        from .. import BUNDLED_CHECKPOINT
        from ..distributed import recognize_batch

        try:
            with _own_stderr(), _progress() as progress:
                summary = recognize_batch(
                    source,
                    out,
                    checkpoint=checkpoint or BUNDLED_CHECKPOINT,
                    address=address,
                    workers=workers,
                    shard_size=shard_size,
                    device=device,
                    faces_only=faces_only,
                    progress=progress,
                    on_left_out=lambda counts: warn(left_out_of(source, counts)),
                    **{name: value for name, value in settings.items() if value is not None},
                )
        except (KeyboardInterrupt, SystemExit):
            warn(f"interrupted: finished files stay in {out}; start again to go on")
            raise
    _show(summary, out, time.monotonic() - started)
    if summary.failed:
        raise typer.Exit(1 if summary.failed < summary.images else 2)


@contextlib.contextmanager
def _own_stderr() -> Iterator[None]:
    """Leave stderr to this command alone: Ray's compiled part and its processes write to the same descriptor."""
    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError):  # an embedding program has replaced it
        yield
        return
    before, ours = sys.stderr, os.dup(descriptor)
    with open(ours, "w", encoding=before.encoding, errors="backslashreplace", buffering=1) as stream:  # noqa: PTH123
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 (a device)
            os.dup2(nowhere.fileno(), descriptor)
        sys.stderr = stream
        try:
            yield
        finally:
            sys.stderr = before
            os.dup2(ours, descriptor)


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """Yield a progress that shows images a second and the time left: a bar on a terminal, else a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    terminal = sys.stderr.isatty()
    counted = _Rate()
    with Bars(*columns, console=Console(stderr=True), transient=True, disable=not terminal) as bars:
        task: TaskID | None = None

        def report(description: str, more: int, total: int) -> None:
            nonlocal task
            first = task is None
            if task is None:
                task = bars.add_task(description, total=total, completed=more, rate="")
            counted.add(more, first)
            if not first:
                bars.update(task, advance=more, rate=counted.rate(description))
            if not terminal and counted.line_is_due(first, total):
                warn(counted.line(description, total))

        yield report


class _Rate:
    """How much is done, and how fast since this start."""

    def __init__(self) -> None:
        self.done = self.before = 0
        self.started = self.last_line = time.monotonic()

    def add(self, more: int, first: bool) -> None:
        self.done += more
        if first:
            self.before, self.started = more, time.monotonic()

    def speed(self) -> float:
        return (self.done - self.before) / max(time.monotonic() - self.started, 1e-6)

    def rate(self, description: str) -> str:
        return f"{self.speed():.3g} {description} a second"

    def line_is_due(self, first: bool, total: int) -> bool:
        if (first and not self.done) or not (first or time.monotonic() - self.last_line >= LINE_SECONDS):
            return False
        self.last_line = time.monotonic()
        return self.done < total

    def line(self, description: str, total: int) -> str:
        text = f"{self.done:,} of {total:,} {description}"
        if not (speed := self.speed()) or self.done == self.before:
            return f"{text} are finished already"
        minutes = round((total - self.done) / speed / 60)
        return f"{text}, {self.rate(description)}, {minutes // 60} h {minutes % 60:02} min left"


def _show(summary: "Summary", out: str, seconds: float) -> None:
    """Print the numbers of the batch."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("images", f"{summary.images:,}")
    table.add_row("faces", f"{summary.faces:,}")
    for expression, count in summary.expressions.items():
        table.add_row(f"  {expression}", f"{count:,}")
    table.add_row("images without faces", f"{summary.without_faces:,}")
    table.add_row("images that failed", f"{summary.failed:,}")
    for reason, count in summary.failures.items():
        table.add_row(f"  {reason}", f"{count:,}")
    console = Console(highlight=False, markup=False)
    console.print(table)
    warn(f"wrote {out} in {seconds:.{1 if seconds < 10 else 0}f} s")
