"""What `predict` is given: files, folders, standard input and pipes, each with the name that its outputs get."""

import os
import re
import stat
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError

STDIN = "-"
# More than any photo's file; a pipe has no size to check before it is read.
MAX_PIPE_BYTES = 500_000_000
VIDEO_SUFFIXES = {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"} | {
    *(".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
}


@dataclass(frozen=True)
class Input:
    """
    One image of a command line.

    Args:
        name: its path as given or found, or `-` for standard input: what tables and messages call it.
        output: the path that its outputs get below their folder, but for the suffix.
    """

    name: str
    output: Path

    def read(self, max_pixels: int) -> Any:
        """
        Return what the recognizer takes: the path of a file, or the decoded image of standard input or a pipe.

        Args:
            max_pixels: most pixels that an image may have.

        Raises:
            InputError: the pipe does not hold an image.
        """
        if self.name == STDIN:
            if sys.stdin is None or sys.stdin.isatty():
                raise InputError(f"{STDIN} needs an image on standard input: pipe one to this command")
            data = sys.stdin.buffer.read(MAX_PIPE_BYTES + 1)
        elif _is_pipe(Path(self.name)):
            with Path(self.name).open("rb") as file:
                data = file.read(MAX_PIPE_BYTES + 1)
        else:
            return Path(self.name)
        if len(data) > MAX_PIPE_BYTES:
            raise InputError(f"{self.name} has more than {MAX_PIPE_BYTES // 1_000_000} MB: give one image")
        from ..images import load_image

        return load_image(data, self.name, max_pixels=max_pixels).image


def find_inputs(
    words: Sequence[str],
    outputs: Collection[Path],
    on_error: Callable[[InputError], None],
    on_left_out: Callable[[str], None],
) -> dict[str, Input]:
    """
    Return the images of a command line by name, in order, each once.

    Args:
        words: files, folders (searched with the folders in them), and `-` for standard input.
        outputs: folders that are written to, which are not searched.
        on_error: called for each word that cannot be used.
        on_left_out: called with a sentence about the files of a folder that are not images.
    """
    from ..images import find_images, is_folder, left_out_sentence

    found: dict[str, Input] = {}
    for word in dict.fromkeys(words):
        path = Path(word)
        try:
            if word == STDIN:
                files = [path]
            else:
                _check_kind(word)
                others: list[Mapping[str, int]] = []
                files = find_images(path, skip=outputs, on_error=on_error, on_left_out=others.append)
                for counts in others:
                    videos = "; give videos to `rmn-hub video`" if VIDEO_SUFFIXES & set(counts) else ""
                    on_left_out(f"in {word}, {left_out_sentence(counts)}{videos}")
        except InputError as error:
            on_error(error)
            continue
        for file in files:
            output = Path("stdin") if word == STDIN else Path(file.name)
            found.setdefault(str(file), Input(str(file), file.relative_to(path) if is_folder(path) else output))
    return found


def _check_kind(word: str) -> None:
    """Raise `InputError` for what is not an image but has another way to be given."""
    if re.match(r"[a-z][a-z0-9+.-]*://", word, re.IGNORECASE):
        raise InputError(f"{word} is an address: download it first, as in `curl -L ADDRESS | rmn-hub predict -`")
    if Path(word).suffix.lower() in VIDEO_SUFFIXES and os.path.isfile(word):  # noqa: PTH113 (no error for odd names)
        raise InputError(f"{word} is a video: give it to `rmn-hub video`")


def _is_pipe(path: Path) -> bool:
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except (OSError, ValueError):
        return False
