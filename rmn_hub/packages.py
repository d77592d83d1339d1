"""Packages: the version of this one, and the same sentence everywhere for an optional one that is missing."""

import importlib
import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .errors import MissingPackageError

try:
    VERSION = version("rmn-hub")
except PackageNotFoundError:  # a checkout that is not installed
    VERSION = "0+unknown"


def require(package: str, purpose: str, *, extra: str | None = None, otherwise: str = "") -> None:
    """
    Import an optional package, so that the caller can import it, too.

    Args:
        package: its name, or that of a module of it.
        purpose: what needs it, as the subject of a sentence in the plural.
        extra: the extra of rmn-hub that brings it; the package is installed by its own name when not given.
        otherwise: what to do without it.

    Raises:
        MissingPackageError: it is not installed, or cannot be imported.
    """
    try:
        importlib.import_module(package)
    except ImportError as error:
        wanted = f"'rmn-hub[{extra}]'" if extra else package
        raise MissingPackageError(
            f"{purpose} need {package}: install it with `pip install {wanted}`{otherwise}"
        ) from error


def data_folder(package: str, name: str = "") -> Path:
    """
    Return a folder of data beside a package's modules.

    Where the package is imported from a zip file, the folder is unpacked into a temporary one, once in a process.

    Args:
        package: the imported package that holds the folder, by its full name.
        name: of the folder in it; the package's own folder when not given.
    """
    beside = Path(str(sys.modules[package].__file__)).parent / name
    return beside if beside.is_dir() else _unpacked(package, name)


def page_part(name: str) -> Path:
    """
    Return a file or a folder of the page: a wheel has it inside the package rmn_space, a checkout inside or beside it.

    Args:
        name: of the file or folder.

    Raises:
        MissingPackageError: it is not there.
    """
    package = importlib.util.find_spec("rmn_space")
    for place in map(Path, (package and package.submodule_search_locations) or ()):
        for parent in (place, place.parent):
            if (parent / name).exists():
                return parent / name
    raise MissingPackageError(f"rmn_space, the package of the page, has no {name} here: install rmn-hub again")


_unpacked_folders: dict[tuple[str, str], Any] = {}


def _unpacked(package: str, name: str) -> Path:
    from importlib.resources import files
    from tempfile import TemporaryDirectory

    if (package, name) not in _unpacked_folders:
        temporary = TemporaryDirectory(prefix="rmn-hub-")  # removed when the process ends
        _copy(files(package) / name if name else files(package), Path(temporary.name))
        _unpacked_folders[package, name] = temporary
    return Path(_unpacked_folders[package, name].name)


def _copy(source: Any, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for entry in source.iterdir():
        if entry.is_dir():
            _copy(entry, folder / entry.name)
        else:
            (folder / entry.name).write_bytes(entry.read_bytes())


__all__ = ["VERSION", "data_folder", "page_part", "require"]
