"""What `video` writes: tables, and for each film an annotated one, a timeline and a summary."""

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..files import write_json
from ..images import is_folder
from ..video.tables import CSVWriter, JSONWriter, ParquetWriter, TableWriter
from ..video.writing import SUFFIXES
from .outputs import check_image, csv_stdout, save_image
from .shared import STDOUT, printable

if TYPE_CHECKING:
    from ..video.results import FrameResult
    from ..video.timeline import Timeline


@dataclass
class Target:
    """The files of one film."""

    film: Path | None = None
    timeline: Path | None = None
    summary: Path | None = None

    def write(self, name: str, timeline: "Timeline") -> list[Path]:
        """Write the timeline and the summary; return what was written."""
        if self.timeline:
            save_image(timeline.draw(title=printable(Path(name).name)), self.timeline)
        if self.summary:
            begin, end = timeline.span
            older = _crops_in(self.summary)
            tracks = []
            for track in timeline.tracks:
                crop = f"track-{track.id}.jpg" if track.best else None
                if track.best:
                    save_image(track.best, self.summary / f"track-{track.id}.jpg")
                tracks.append({**track.to_dict(), "crop": crop})
            line = {"source": printable(name), "start": begin, "end": end, "tracks": tracks}
            write_json(self.summary / "summary.json", line)
            for name in older - {track["crop"] for track in tracks}:
                (self.summary / name).unlink(missing_ok=True)
        return [path for path in (self.timeline, self.summary) if path]


def _crops_in(summary: Path) -> set[str]:
    """Return the crops that an earlier summary names: of faces that the film may not have any more."""
    try:
        tracks = json.loads((summary / "summary.json").read_text(encoding="utf-8"))["tracks"]
        names = {str(track["crop"]) for track in tracks}
    except (OSError, ValueError, LookupError, TypeError):  # there is none, or it is another program's
        return set()
    return {name for name in names if re.fullmatch(r"track-\d+\.jpg", name)}


def targets_of(
    films: list[Path], folder: Path | None, output: Path | None, timeline: Path | None, summary: Path | None
) -> list[Target]:
    """Return where the outputs of each film go: to the files given, or for a folder of films, below the folders."""
    if folder is None:
        return [Target(output, timeline, summary)]
    targets, taken = [], set()
    for film in films:
        inside, number = film.relative_to(folder).with_suffix(""), 1
        name = inside
        while str(name).casefold() in taken:
            number += 1
            name = inside.with_name(f"{inside.name}-{number}")
        taken.add(str(name).casefold())
        targets.append(
            Target(
                output / name.with_name(f"{name.name}.mp4") if output else None,
                timeline / name.with_name(f"{name.name}.png") if timeline else None,
                summary / name if summary else None,
            )
        )
    for target in targets:
        for path in (target.film, target.timeline):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
    return targets


def check_outputs(films: list[Path], tables: list[Path], targets: list[Target]) -> None:
    """
    Check before the work begins that nothing given is overwritten and that every output can be written.

    Raises:
        InputError: an output is an input, two outputs are one file, an output's folder does not exist, or its suffix is
            of no format that can be written.
    """
    outputs = [*tables]
    outputs += [path for target in targets for path in (target.film, target.timeline) if path]
    inputs = set(map(os.path.realpath, films))
    names = [os.path.realpath(path) for path in outputs]
    for path, name in zip(outputs, names):
        if name in inputs:
            raise InputError(f"the output would overwrite the input {path}: choose another name for it")
        if names.count(name) > 1 and (path.is_file() or not path.exists()):
            raise InputError(f"{path} cannot be two outputs at once: choose another name for one of them")
        folder = path.absolute().parent
        place = folder if path.is_file() or not path.exists() else path  # a device is not replaced
        if is_folder(path) or not is_folder(folder) or not os.access(place, os.W_OK):
            raise InputError(f"{path} cannot be written: give a file in a folder that exists and can be written to")
    for target in targets:
        if target.film and target.film.suffix.lower() not in SUFFIXES:
            raise InputError(f"{target.film} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
        if target.timeline:
            check_image(target.timeline)


def table_writers(
    csv: Path | None, json: Path | None, parquet: Path | None, expressions: Sequence[str]
) -> list[TableWriter]:
    """Return the writers of the tables that are asked for, but for lines of JSON on stdout."""
    writers: list[TableWriter] = []
    if csv:
        writers.append(_CsvRows(csv, expressions) if csv == STDOUT else CSVWriter(csv, expressions))
    if json and json != STDOUT:
        writers.append(JSONWriter(json))
    return writers + ([ParquetWriter(parquet, expressions)] if parquet else [])


class _CsvRows(CSVWriter):
    """The long table as CSV on stdout, frame by frame."""

    begun = False

    def __enter__(self) -> "_CsvRows":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not (kind or self.early or self.begun):
            self._begin(csv_stdout())

    def write(self, result: "FrameResult") -> None:
        """Write the faces of a frame; the program's end reports a stdout that cannot be written to."""
        if not self.begun:
            self._begin(csv_stdout())
            self.begun = True
        self._write(result)
        sys.stdout.flush()
