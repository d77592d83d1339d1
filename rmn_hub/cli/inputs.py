"""What `predict` is given: files, folders, addresses, standard input; each with the name that its outputs get."""

import io
import os
import re
import stat
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError

STDIN = "-"
# More than any photo's file; a pipe has no size to check before it is read, and an address may be wrong about it.
MAX_PIPE_BYTES = 500_000_000
# Seconds that a server may be silent.
PATIENCE = 20.0
VIDEO_SUFFIXES = {".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"} | {
    *(".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
}


@dataclass(frozen=True)
class Input:
    """
    One image of a command line.

    Args:
        name: its path as given or found, its address, or `-` for standard input: what tables and messages call it.
        output: the path that its outputs get below their folder, but for the suffix.
    """

    name: str
    output: Path

    def read(self) -> "Path | NamedBytes":
        """
        Return what the recognizer takes: the path of a file, or the bytes of anything else.

        Raises:
            InputError: the pipe cannot be read or is too long, or the address cannot be downloaded.
        """
        try:
            if self.name == STDIN:
                if sys.stdin is None or sys.stdin.isatty():
                    raise InputError(f"{STDIN} needs an image on standard input: pipe one to this command")
                data = sys.stdin.buffer.read(MAX_PIPE_BYTES + 1)
            elif _is_web(self.name):
                data = _downloaded(self.name)
            elif _is_pipe(Path(self.name)):
                with Path(self.name).open("rb") as file:
                    data = file.read(MAX_PIPE_BYTES + 1)
            else:
                return Path(self.name)
        except OSError as error:
            raise InputError(f"{self.name} cannot be read: {error.strerror or error}") from error
        if len(data) > MAX_PIPE_BYTES:
            raise InputError(f"{self.name} has more than {MAX_PIPE_BYTES // 1_000_000} MB: give one image")
        return NamedBytes(data, self.name)


class NamedBytes(io.BytesIO):
    """The bytes of an image file that has no path: the recognizer reads it as it reads a file, under its `name`."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


def find_inputs(
    words: Sequence[str],
    outputs: Collection[Path],
    on_error: Callable[[InputError], None],
    on_left_out: Callable[[str], None],
) -> dict[str, Input]:
    """
    Return the images of a command line by name, in order, each once.

    Args:
        words: files, folders (searched with the folders in them), addresses of images at http or https, and `-` for
            standard input.
        outputs: folders that are written to, which are not searched.
        on_error: called for each word that cannot be used.
        on_left_out: called with a sentence about the files of a folder that are not images.
    """
    from ..images import find_images, is_folder

    found: dict[str, Input] = {}
    for word in dict.fromkeys(words):
        path = Path(word)
        if _is_web(word):
            found.setdefault(word, Input(word, _file_of(word)))
            continue
        try:
            if word == STDIN:
                files = [path]
            else:
                _check_kind(word)
                others: list[Mapping[str, int]] = []
                files = find_images(path, skip=outputs, on_error=on_error, on_left_out=others.append)
                for counts in others:
                    on_left_out(left_out_of(word, counts))
        except InputError as error:
            on_error(error)
            continue
        for file in files:
            output = Path("stdin") if word == STDIN else Path(file.name)
            found.setdefault(str(file), Input(str(file), file.relative_to(path) if is_folder(path) else output))
    return found


def left_out_of(word: str, counts: Mapping[str, int]) -> str:
    """Return the sentence on what was left out of a folder, of which `find_images` has given the counts."""
    from ..images import left_out_sentence

    videos = "; give videos to `rmn-hub video`" if VIDEO_SUFFIXES & set(counts) else ""
    return f"in {word}, {left_out_sentence(counts)}{videos}"


def _check_kind(word: str) -> None:
    """Raise `InputError` for what is not an image but has another way to be given."""
    if re.match(r"[a-z][a-z0-9+.-]*://", word, re.IGNORECASE):
        raise InputError(f"{word} is an address that cannot be opened: give one at http or https, or a file")
    if Path(word).suffix.lower() in VIDEO_SUFFIXES and os.path.isfile(word):  # noqa: PTH113 (no error for odd names)
        raise InputError(f"{word} is a video: give it to `rmn-hub video`")


def _is_pipe(path: Path) -> bool:
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def _is_web(word: str) -> bool:
    return word.lower().startswith(("http://", "https://"))


def _file_of(address: str) -> Path:
    """Return the name that the outputs of an address get: what a browser would save it as."""
    from urllib.parse import unquote, urlsplit

    try:
        name = Path(unquote(urlsplit(address).path)).name
    except ValueError:  # an address that cannot be read gets its sentence when it is opened
        name = ""
    return Path(name.replace("\0", "") or "image")


def _downloaded(address: str) -> bytes:
    """
    Return what lies at an address, at most one byte more than `MAX_PIPE_BYTES`.

    Raises:
        InputError: the server cannot be reached, refuses, or breaks off.
    """
    from http.client import HTTPException
    from string import punctuation
    from urllib.parse import quote, urlsplit
    from urllib.request import Request, urlopen

    try:
        parts = urlsplit(address)
        # What is quoted already stays so; the host has its own form for other characters.
        path, query = (quote(part, safe=punctuation) for part in (parts.path, parts.query))
        with urlopen(
            Request(parts._replace(path=path, query=query).geturl(), headers={"User-Agent": "rmn-hub"}),
            timeout=PATIENCE,
        ) as response:
            return response.read(MAX_PIPE_BYTES + 1)
    except (OSError, ValueError, HTTPException) as error:
        reason = str(getattr(error, "reason", None) or error)
        raise InputError(f"{address} cannot be downloaded: {reason}. Check the address.") from error
