"""Files that are never seen half-written, and their hashes."""

import contextlib
import errno
import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from .errors import InputError


def as_utf8(name: str) -> str:
    """
    Return a file's name with its bytes read as UTF-8, or as it is where they are not.

    Python keeps bytes that it cannot decode as surrogates: all but ASCII where the locale is C and UTF-8 mode is off.
    """
    try:
        return name if name.isascii() else os.fsencode(name).decode("utf-8")
    except UnicodeError:
        return name


def readable(name: str) -> str:
    """Return a file's name as text that every table takes: bytes that are not UTF-8 become escapes."""
    return as_utf8(name).encode("utf-8", "backslashreplace").decode("utf-8")


def walk(
    path: Path, skip: Collection[Path], hidden: tuple[str, ...], on_error: Callable[[OSError], object]
) -> Iterator[tuple[list[Path], int]]:
    """
    Yield the files of a folder and of each folder in it, and how many linked folders are beside them: those are not
    looked into. Hidden files are left out.

    Args:
        path: the folder.
        skip: folders not to look into.
        hidden: how the names of further folders begin that are not looked into.
        on_error: called for each folder that cannot be read.
    """
    skipped = set(map(os.path.realpath, skip))
    for folder, folders, files in os.walk(path, onerror=on_error):
        inside = [Path(folder) / name for name in folders if not name.startswith(hidden)]
        inside = [place for place in inside if os.path.realpath(place) not in skipped]
        folders[:] = [place.name for place in inside]
        linked = sum(place.is_symlink() for place in inside)
        yield [Path(folder) / name for name in files if not name.startswith(".")], linked


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """
    Yield a new path beside `path` to write to, and rename it to `path` when the block ends without an exception.

    After an exception the new file is removed and `path` stays as it was. Where `path` is a link, the file that it
    leads to is replaced. A device or a pipe (`/dev/stdout`) is written to directly.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        yield path
        return
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    # Not a file of `tempfile`: those are readable by their owner only, and would stay so.
    beside = path.with_name(f".{path.stem[:40]}-{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        yield beside
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def naming_failures(path: str | os.PathLike[str]) -> Iterator[None]:
    """
    Run a block that writes to `path`.

    Raises:
        InputError: the system does not let it.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def prepare_place(path: Path) -> None:
    """
    Make the folder of a file, before the long work whose result goes there.

    Raises:
        InputError: the file cannot be written there.
    """
    with naming_failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not path.exists():
            with tempfile.TemporaryFile(dir=path.parent):
                pass


def file_hash(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, document: dict[str, Any]) -> None:
    """
    Write a JSON file, whole or not at all.

    Raises:
        InputError: the file cannot be written there.
    """
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """
    Write a text file in UTF-8, whole or not at all.

    Raises:
        InputError: the file cannot be written there.
    """
    with naming_failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            beside.write_text(text, encoding="utf-8")


__all__ = ["file_hash", "naming_failures", "prepare_place", "replacing", "walk", "write_json", "write_text"]
