"""`rmn-hub video`: a film in; a table, an annotated film, a timeline and a summary of its faces out."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import (
    FACES,
    Checkpoints,
    EngineName,
    LocalFilesOnly,
    Margin,
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
    OptionalJsonFile,
    examples,
    fail,
    failing_on_bad_input,
    main,
    no_media,
    no_stdout,
    no_stdout_no_media,
    printable,
    warn,
)

if TYPE_CHECKING:
    from PIL import Image

    from ..recognizer import ExpressionRecognizer
    from ..video.frames import Film
    from ..video.results import FrameResult
    from ..video.timeline import Timeline
    from .film_outputs import Target

OUTPUT, FRAMES = "Output", "Frames"
# The stage whose attention maps are laid over the faces, where there are so many: the third, as in the authors' report.
STAGE = 3


@dataclass
class _Run:
    """What is done with every film, and what has been done so far."""

    recognizer: "ExpressionRecognizer"
    settings: dict[str, Any]
    attention: bool
    start: float
    end: float | None
    writers: "list[Callable[[FrameResult], None]]"
    quiet: bool
    window: "_Window | None"
    stop: threading.Event
    frames: int = 0
    bad: int = 0
    written: list[Path] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)


@main.command(
    cls=OptionalJsonFile,
    rich_help_panel=USE,
    epilog=examples(
        "rmn-hub video film.mp4 --output faces.mp4 --csv faces.csv --timeline faces.png",
        "rmn-hub video film.mp4 --start 60 --end 90 --every 5 --json",
        "rmn-hub video 0 --show",
    ),
)
def video(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A film, a folder of films, the number of a camera, or an address."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILM",
            callback=no_stdout,
            rich_help_panel=OUTPUT,
            help="Write the film with its faces and its sound.",
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            callback=no_media,
            rich_help_panel=OUTPUT,
            help="Write a table: a row for each face of each frame; - for stdout.",
        ),
    ] = None,
    json: Annotated[
        str | None,
        typer.Option(
            metavar="[FILE]",
            callback=no_media,
            rich_help_panel=OUTPUT,
            help="Write a line for each frame; without FILE to stdout.",
        ),
    ] = None,
    parquet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", callback=no_stdout_no_media, rich_help_panel=OUTPUT, help="Write the table as Parquet."
        ),
    ] = None,
    timeline: Annotated[
        Path | None,
        typer.Option(
            metavar="PNG",
            callback=no_stdout,
            rich_help_panel=OUTPUT,
            help="Draw the probabilities over time, a row for each face.",
        ),
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            callback=no_stdout,
            rich_help_panel=OUTPUT,
            help="Write summary.json (for each face its times, seconds of each expression and mean probabilities) and "
            "the best crop of each face.",
        ),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", rich_help_panel=OUTPUT, help="Show the film in a window meanwhile.")
    ] = False,
    attention: Annotated[
        bool, typer.Option("--attention", rich_help_panel=OUTPUT, help="Lay the attention maps over the faces.")
    ] = False,
    start: Annotated[float, typer.Option(min=0, rich_help_panel=FRAMES, help="Seconds to begin at.")] = 0.0,
    end: Annotated[float | None, typer.Option(min=0, rich_help_panel=FRAMES, help="Seconds to end at.")] = None,
    every: Annotated[int, typer.Option(min=1, rich_help_panel=FRAMES, help="Take every n-th frame only.")] = 1,
    smooth: Annotated[
        float,
        typer.Option(
            min=0,
            rich_help_panel=FRAMES,
            help="Time constant of the smoothing in seconds. With 0, every frame is an image of its own.",
        ),
    ] = 0.4,
    min_face: MinFace = None,
    threshold: Threshold = None,
    max_faces: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=FACES, help="Follow at most this many faces, the largest.")
    ] = None,
    margin: Margin = None,
    min_confidence: MinConfidence = None,
    checkpoint: Checkpoints = None,
    revision: Revision = None,
    local_files_only: LocalFilesOnly = False,
    engine: EngineName = None,
    device: Device = None,
    upright: Upright = None,
    views: Views = None,
) -> None:
    """
    Follow the faces of a film and predict what they show when.

    Without another output, a table of the faces is printed. Ctrl-C ends the work early and keeps what is done. Exit
    code: 0, 1 when some of several films could not be read, 2 when none could or the usage was wrong.
    """
    from ..errors import InputError
    from ..images import is_folder
    from ..packages import require
    from ..video.sources import find_films, is_stream
    from .film_outputs import check_outputs, table_writers, targets_of
    from .outputs import JsonLines, check_folders

    lines = None if json is None else Path(json)
    if lines == csv == STDOUT:
        fail("--csv - and --json cannot both go to stdout: give one of them a file")
    needed: list[tuple[str, str, str | None]] = [("av", "films", "video")]
    needed += [("pyarrow", "Parquet files", "video")] if parquet else []
    needed += [("matplotlib", "attention maps and timelines", None)] if attention or timeline else []
    with failing_on_bad_input(extra="video"), _stoppable() as stop, contextlib.ExitStack() as stack:
        for package, purpose, extra in needed:
            require(package, purpose, extra=extra)
        several = not is_stream(source) and is_folder(Path(source))
        folder = Path(source) if several else None
        folders = {"--summary": summary} | ({"--output": output, "--timeline": timeline} if several else {})
        skip = [path for path in folders.values() if path]
        films = [Path(source)] if is_stream(source) else find_films(Path(source), skip, warn)
        check_folders(folders)
        targets = targets_of(films, folder, output, timeline, summary)
        tables = [path for path in (csv, lines, parquet) if path and path != STDOUT]
        check_outputs(films, tables, targets)
        settings = {
            "device": device,
            "engine": engine,
            "min_face": min_face,
            "threshold": threshold,
            "margin": margin,
            "min_confidence": min_confidence,
            "upright": upright,
            "views": views,
        }
        recognizer = load(checkpoint, revision, local_files_only, settings)
        recognizer.stream([], attention=attention)  # refuses a network without masks now, not at the first face
        opened = [stack.enter_context(writer) for writer in table_writers(csv, lines, parquet, recognizer.expressions)]
        writers: list[Callable[[FrameResult], None]] = [writer.write for writer in opened]
        writers += [JsonLines()] if lines == STDOUT else []
        window = stack.enter_context(_Window()) if show else None
        following = {"every": every, "smooth": smooth, "max_faces": max_faces}
        quiet = STDOUT in (csv, lines)
        run = _Run(recognizer, following, attention, start, end, writers, quiet, window, stop)
        for film, target in zip(films, targets):
            if stop.is_set():
                break
            try:
                _process(run, source if is_stream(source) else film, target)
            except InputError as error:
                if not several:
                    raise
                run.bad += 1
                warn(str(error))
        if run.bad == len(films):
            # Raised in here so that no empty table is left behind.
            raise typer.Exit(2)
        stopped = stop.is_set() and not (window and window.closed)
        for writer in opened:
            writer.early = stopped
        tables = [writer.path for writer in opened if writer.path != STDOUT and (writer.filled or not stopped)]
    written = [*run.written, *tables]
    seconds = time.monotonic() - run.started
    wrote = f"; wrote {', '.join(map(str, written))}" if written else ""
    warn(f"{run.frames} frames in {seconds:.1f} s ({run.frames / max(seconds, 1e-3):.1f} frames a second){wrote}")
    if stopped:
        raise typer.Exit(130)
    if run.bad:
        raise typer.Exit(1)


def _process(run: _Run, source: "str | Path", target: "Target") -> None:
    """Take one film through everything that was asked for."""
    from ..drawing.photo import annotate
    from ..video.frames import Film
    from ..video.recognize import analyse, session_for
    from ..video.timeline import Timeline
    from ..video.writing import FilmWriter

    timeline = Timeline()
    result: FrameResult | None = None
    before: float | None = None
    with contextlib.ExitStack() as stack:
        film = stack.enter_context(
            Film(
                int(source) if isinstance(source, str) and source.isdecimal() else source,
                start=run.start,
                end=run.end,
                sound=target.film is not None,
            )
        )
        session = session_for(film, run.recognizer, **run.settings)
        writer = stack.enter_context(FilmWriter(target.film, film)) if target.film else None
        progress = stack.enter_context(_progress(film, quiet=run.quiet))
        for frame, new in analyse(film, session, every=run.settings["every"], attention=run.attention):
            if new is not None:
                result = new
                run.frames += 1
                for write in run.writers:
                    write(result)
                timeline.add(result, frame.image)
            if result is not None and (writer or run.window):
                maps = [len(face.attention.maps) for face in result if face.attention is not None]
                stage = min(STAGE, *maps) if maps else None
                drawn = annotate(frame.image, result, stage=stage, enlarge=False, numbers=True)
                if writer:
                    writer.write(drawn, frame.time)
                if run.window:
                    run.window.show(drawn, run.stop)
            # Each frame lasts as long as the one before it.
            timeline.end = frame.time + (0.0 if before is None else frame.time - before)
            before = frame.time
            progress(frame.time - film.start)
            if run.stop.is_set():
                break
    if film.message:
        warn(film.message)
    run.written += [target.film] if target.film else []
    run.written += target.write(film.name, timeline)
    if not run.quiet:
        _print_tracks(film.name, timeline)


def _print_tracks(name: str, timeline: "Timeline") -> None:
    """Print a row for each face of a film."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    console.print(Text(printable(name), style="bold"), soft_wrap=True)
    if not timeline.tracks:
        console.print("no face")
        return
    rows = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("Face", "From", "To", "Seen"):
        rows.add_column(column, justify="right")
    rows.add_column("Expressions, by the seconds for which each is the most probable one")
    for track in timeline.tracks:
        longest = sorted(track.seconds.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{expression} {seconds:.1f} s" for expression, seconds in longest if seconds >= 0.05)
        rows.add_row(
            str(track.id),
            f"{track.first:.2f} s",
            f"{track.last:.2f} s",
            f"{sum(track.seconds.values()):.1f} s",
            Text(shown or track.expression),
        )
    console.print(rows)


@contextlib.contextmanager
def _progress(film: "Film", quiet: bool) -> Iterator[Any]:
    """Yield a function of the seconds done, behind a bar with frames a second and the time left, on a terminal only."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}")]
    columns += [TimeRemainingColumn() if film.duration else TimeElapsedColumn()]
    # A bar and long lines of JSON would disturb each other on one terminal.
    off = not sys.stderr.isatty() or (quiet and sys.stdout.isatty())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=off) as progress:
        name = printable(Path(film.name).name)
        task = progress.add_task(name, total=film.duration or None, rate="")
        started, frames = time.monotonic(), 0

        def report(seconds: float) -> None:
            nonlocal frames
            frames += 1
            rate = frames / max(time.monotonic() - started, 1e-3)
            progress.update(task, completed=seconds, rate=f"{rate:.1f} frames/s")

        yield report


@contextlib.contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets, so that the frame at hand is finished; the second one interrupts."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    signals = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:  # as `nohup` has it
        signals.append(hangup)
    before = [signal.signal(number, handle) for number in signals]
    try:
        yield stop
    finally:
        for number, handler in zip(signals, before):
            signal.signal(number, handler)


class _Window:
    """A window that shows one image after the other; closing it ends the work."""

    def __init__(self) -> None:
        self.closed = False

    def __enter__(self) -> "_Window":
        from ..errors import InputError

        try:
            import tkinter

            self._root = tkinter.Tk()
        except Exception as error:  # tkinter is not there, or has no display
            raise InputError(f"show=True needs a display: {error}") from error
        self._root.title("rmn-hub")
        self._label = tkinter.Label(self._root)
        self._label.pack()
        self._root.protocol("WM_DELETE_WINDOW", self._close)
        return self

    def __exit__(self, *_: object) -> None:
        if not self.closed:
            self._root.destroy()

    def _close(self) -> None:
        self.closed = True
        self._root.destroy()

    def show(self, image: "Image.Image", stop: threading.Event) -> None:
        """Show an image; once the window is closed, set `stop`."""
        from PIL import ImageTk

        if not self.closed:
            # Kept, or tkinter would show nothing.
            self._shown = ImageTk.PhotoImage(image, master=self._root)
            self._label.configure(image=self._shown)
            self._root.update()
        if self.closed:
            stop.set()


__all__ = ["video"]
