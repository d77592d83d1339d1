"""Packages: the version of this one, and the same sentence everywhere for an optional one that is missing."""

import importlib
from importlib.metadata import PackageNotFoundError, version

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


__all__ = ["VERSION", "require"]
