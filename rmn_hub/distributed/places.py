"""Files at a path or an address, through fsspec: one sentence for whatever its file systems raise."""

import contextlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

import fsspec

from ..errors import InputError, MissingPackageError, RMNError
from ..images import shown


@dataclass(frozen=True)
class Place:
    """
    A file, a folder or a glob.

    Args:
        name: its path or address, as the user gave it.
        filesystem: fsspec's file system that it lies in.
        path: its path there.
    """

    name: str
    filesystem: Any
    path: str

    @property
    def is_local(self) -> bool:
        """Whether it is a path of this machine."""
        return "file" in (self.filesystem.protocol, *self.filesystem.protocol)

    def find(self) -> list[str]:
        """Return all files below the folder."""
        return [self._named(path) for path in self._call(self.filesystem.find)]

    def glob(self) -> list[str]:
        """Return the files that match the glob."""
        found = self._call(self.filesystem.glob, detail=True)
        return [self._named(path) for path, details in found.items() if details.get("type") != "directory"]

    def below(self, name: str) -> tuple[str, ...]:
        """Return the parts of a found file's name that the folder's path, or the fixed beginning of a glob, lacks."""
        parts, own = PurePosixPath(name).parts, PurePosixPath(self._named(self.path)).parts
        common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(parts, own)))
        return parts[common:]

    def holds(self, name: str) -> bool:
        """Return whether a found file's name is that of one in this folder, or in a folder of it."""
        return name.startswith(self._named(self.path).rstrip("/") + "/")

    def read(self) -> bytes:
        """Return the bytes of the file."""
        return self._call(self.filesystem.cat_file)

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Return the open file."""
        return self._call(self.filesystem.open, mode=mode)

    def _call(self, function: Any, **options: Any) -> Any:
        with failing_as(f"{shown(self.name)} cannot be read"):
            return function(self.path, **options)

    def _named(self, path: str) -> str:
        return path if self.is_local else self.filesystem.unstrip_protocol(path)


def is_address(name: str) -> bool:
    """Return whether a name is an address (`s3://bucket/a.jpg`) and not a path."""
    return re.match(r"[a-z][a-z0-9+.-]*(://|::)", name, re.IGNORECASE) is not None


def without_query(name: str) -> str:
    """
    Return an address at http or https without what follows its path (`?download=true`, a signature, a fragment), where
    its suffix is; and any other name as it is, since files may have these marks in their names.
    """
    return re.split("[?#]", name, maxsplit=1)[0] if re.match("https?://", name) else name


def place_of(name: str) -> Place:
    """
    Return where a path or an address leads.

    Raises:
        InputError: fsspec does not know such addresses, or refuses this one.
        MissingPackageError: the package is missing that opens them.
    """
    with failing_as(f"{shown(name)} cannot be opened"):
        filesystem, path = fsspec.url_to_fs(name)
    return Place(name, filesystem, path)


@contextlib.contextmanager
def failing_as(what: str) -> Iterator[None]:
    """
    Run a block that calls a file system.

    Raises:
        InputError: the block failed, as `what` states, and why.
        MissingPackageError: the block needs a package that is missing.
    """
    try:
        yield
    except (RMNError, GeneratorExit):
        raise
    except ImportError as error:
        raise MissingPackageError(f"{what}: {_reason(error)}") from error
    except FileNotFoundError as error:
        raise InputError(f"{what}: it does not exist. Check the path or the address.") from error
    except Exception as error:  # each file system has errors of its own
        raise InputError(f"{what}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    text = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
    return shown(text, 300)


__all__ = ["Place", "failing_as", "is_address", "place_of", "without_query"]
