"""The bytes at addresses, and whether a store that they are fetched from is gone."""

import time
from typing import IO, TypeGuard

from ..errors import InputError
from ..images import shown
from .places import place_of

ATTEMPTS = 3
# HTTP's statuses below 500 with which a server asks to come again.
LATER = (408, 425, 429)
# So many addresses of which none can be reached end a batch, and after so many a store is tried again. Fewer may be
# those of a host that is gone for good: they are rows, or a list that ends with them could never be finished.
MANY = 16


def fetch(name: str) -> bytes | OSError:
    """Return the bytes at an address, or the error: a `ConnectionError` where it may be there another time."""
    try:
        place = place_of(name)
    except InputError as error:
        return OSError(str(error))
    for attempt in range(ATTEMPTS):
        try:
            return place.filesystem.cat_file(place.path)
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            return type(error)("there is no such file" if isinstance(error, FileNotFoundError) else str(error))
        except Exception as error:  # each file system has errors of its own
            if 400 <= getattr(error, "status", 0) < 500 and error.status not in LATER:  # type: ignore[attr-defined]
                return OSError(f"the server refuses it: {' '.join(str(error).split())}")
            reason = ConnectionError(_with_type(error))
            if attempt + 1 < ATTEMPTS:
                time.sleep(0.5 * 2**attempt)
    return reason


class Stores:
    """
    The stores that images are fetched from, and whether one of them is gone.

    Rows of failures would hide that, and the next start would keep them. One address may be refused or lost, and a host
    may be gone for good, whose images are failures: so the last address with which the same store was there is tried
    again, after every `MANY` that were lost since then, and in the end.
    """

    def __init__(self) -> None:
        self._there: dict[str, str] = {}
        self._lost: dict[str, list[tuple[str, OSError]]] = {}

    def add(self, name: str, data: bytes | OSError) -> None:
        """
        Note what `fetch` returned for an address.

        Raises:
            InputError: its store is gone.
        """
        store = "/".join(name.split("/", 3)[:3])
        if not _is_lost(data):
            self._there[store] = name
            self._lost.pop(store, None)
            return
        lost = self._lost.setdefault(store, [])
        lost.append((name, data))
        if len(lost) % MANY == 0:
            self._check(store)

    def check(self) -> None:
        """
        Try again the stores whose last addresses were lost.

        Raises:
            InputError: one is gone, or all are.
        """
        for store in self._lost:
            self._check(store)
        lost = [each for several in self._lost.values() for each in several]
        if len(lost) >= MANY and not self._there:
            raise _gone(*lost[-1])

    def _check(self, store: str) -> None:
        if store in self._there and _is_lost(fetch(self._there[store])):
            raise _gone(*self._lost[store][-1])


def _is_lost(data: bytes | OSError) -> TypeGuard[OSError]:
    """Return whether an image may be there all the same, for a network, a store or a user's rights that come back."""
    return isinstance(data, (ConnectionError, PermissionError))


def _with_type(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _gone(name: str, reason: OSError) -> InputError:
    return InputError(f"{shown(name)} cannot be fetched: {shown(reason, 200)}. Start again when it can be, to go on.")


class Reading:
    """An open file for `tarfile`, which would take an error of the store for one of the tar."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self.name, self.file = name, file

    def read(self, size: int) -> bytes:
        """
        Return the next bytes.

        Raises:
            InputError: the store or the network is gone.
        """
        try:
            return self.file.read(size)
        except Exception as error:  # each file system has errors of its own
            raise _gone(self.name, OSError(_with_type(error))) from error


__all__ = ["MANY", "Reading", "Stores", "fetch"]
