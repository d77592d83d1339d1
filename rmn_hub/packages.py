"""Optional packages: what needs one asks for it here, so that a missing one is the same sentence everywhere."""

import importlib

from .errors import MissingPackageError


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


__all__ = ["require"]
