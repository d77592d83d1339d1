"""Where films come from: files and folders, cameras, addresses; they are opened by PyAV."""

import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..files import walk
from ..images import LINKED, is_folder, left_out_sentence
from ..packages import require

if TYPE_CHECKING:
    from av.container import InputContainer

# What a folder is searched for. A file that is named itself may be called anything.
SUFFIXES = {
    ".3gp",
    ".asf",
    ".avi",
    ".flv",
    ".gif",
    ".m2ts",
    ".m4v",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpeg",
    ".mpg",
    ".mts",
} | {
    *(".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
}
# What a local file may be, by FFmpeg's names. FFmpeg would take a text for a film of letters, and follow the addresses
# and paths that a playlist holds. The formats of sound are here for the sake of a clear error.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpeg,mpegts,mpegvideo,flv,live_flv,asf,ogg,mxf,h264,hevc,m4v,ivf,nut,"
    "yuv4mpegpipe,dv,rm,wtv,apng,av1,obu,vc1,mjpeg,mp3,wav,flac,aac,aiff,amr,caf"
)
# Seconds that a camera or an address has for opening, and for the next piece of data.
PATIENCE = 15.0


def find_films(
    path: Path, skip: Collection[Path] = (), on_left_out: Callable[[str], object] = lambda _: None
) -> list[Path]:
    """
    Return the films of a folder and of the folders in it, sorted by path; a path of a file is returned as it is.

    Args:
        path: a file or a folder.
        skip: folders in it not to look into (those that outputs are written to).
        on_left_out: called with a sentence about linked folders, which are not looked into, and about each folder in it
            that cannot be read.

    Raises:
        InputError: the folder holds no film.
    """
    if not is_folder(path):
        return [path]
    found: list[Path] = []
    problems: list[OSError] = []
    linked = 0
    for files, beside in walk(path, skip, (".",), problems.append):
        linked += beside
        found += [film for film in files if film.suffix.lower() in SUFFIXES and film.is_file()]
    for problem in problems:
        on_left_out(f"{problem.filename} cannot be read: {problem.strerror}")
    left_out = left_out_sentence({LINKED: linked})
    if not found:
        reason = f" ({left_out})" if linked else ""
        raise InputError(f"{path} is a folder without films{reason}. Give a film, or a folder that holds some.")
    if linked:
        on_left_out(f"in {path}, {left_out}")
    return sorted(found)


def is_stream(source: str | os.PathLike[str] | int) -> bool:
    """Return whether a source is a camera or an address rather than a file."""
    if isinstance(source, int):
        return True
    text = os.fspath(source)
    return "://" in text or (text.isdecimal() and not Path(text).exists())


def open_source(source: str | os.PathLike[str] | int) -> tuple[str, "InputContainer"]:
    """Return the name of a source and PyAV's container of it."""
    require("av", "films", extra="video")
    import av

    if isinstance(source, bool) or not isinstance(source, (str, os.PathLike, int)):
        raise InputError(f"source={source!r} must be a path, the number of a camera or an address")
    name = str(source) if isinstance(source, int) else os.fspath(source)
    options: dict[str, Any] = {}
    if not is_stream(source):
        _check_file(Path(name))
        # A path with a colon in it is not an address: "file:" keeps FFmpeg from taking it for one.
        where = f"file:{name}"
        options = {"container_options": {"format_whitelist": FORMATS, "protocol_whitelist": "file"}}
    elif "://" in name:
        where, options = name, {"timeout": PATIENCE}
    else:
        where, options = _camera(int(name))
        name = f"camera {name}"
    try:
        return name, av.open(where, mode="r", **options)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if name.startswith("camera "):
            reason = f"{where} does not exist" if isinstance(error, FileNotFoundError) else reason_of(error)
            raise InputError(
                f"{name} cannot be opened: {reason}. Connect it, close what else uses it, or give another number."
            ) from error
        if is_stream(source):
            raise InputError(f"{name} cannot be opened: {reason_of(error)}. Check that it is there.") from error
        raise InputError(
            f"{name} cannot be read as a film: {reason_of(error)}. Give a whole film of a common format."
        ) from error


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder. Give the path of a film.")
        if not path.exists():
            raise InputError(f"{path} does not exist. Check the path.")
        if not path.is_file():
            raise InputError(f"{path} is not a regular file. Give the path of a film.")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty. Save or copy the film again.")
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def _camera(number: int) -> tuple[str, dict[str, Any]]:
    """Return how FFmpeg calls a camera on this system."""
    if sys.platform == "darwin":
        return str(number), {"format": "avfoundation", "timeout": PATIENCE, "options": {"framerate": "30"}}
    if sys.platform.startswith("linux"):
        return f"/dev/video{number}", {"format": "v4l2", "timeout": PATIENCE}
    raise InputError(f"source={number} must be a file or an address: cameras have no numbers on this system")


def reason_of(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip().rstrip(".").lower()


__all__ = ["FORMATS", "SUFFIXES", "find_films", "is_stream", "open_source", "reason_of"]
