"""The folder that a batch fills: a parquet file for each shard, written whole, and `_run.json`."""

import contextlib
import json
import re
import uuid
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import naming_failures, replacing, write_json
from ..images import shown
from .places import Place, failing_as, place_of

RUN = "_run.json"  # readers of parquet folders leave out names that begin with an underscore
# Ray starts an actor that died and its shard again, without end; an image that takes all memory would keep it busy.
ATTEMPTS = 3


class Output:
    """
    The files of a batch.

    Args:
        out: a local folder, or an address that fsspec opens. Every machine of the cluster must reach it.

    Raises:
        InputError: it cannot be opened.
        MissingPackageError: the package is missing that opens such an address.
    """

    def __init__(self, out: str) -> None:
        self.out = out.rstrip("/") or out
        self._place: Place = place_of(self.out)

    def prepare(self) -> None:
        """
        Make the folder.

        Raises:
            InputError: the system does not let it, or a file has its name.
        """
        with failing_as(f"out={shown(self.out)!r} cannot be made"):
            self._place.filesystem.makedirs(self._place.path, exist_ok=True)

    def document(self) -> dict[str, Any] | None:
        """
        Return what `_run.json` holds, or `None` where there is none.

        Raises:
            InputError: it cannot be read.
        """
        try:
            document = json.loads(self._place.filesystem.cat_file(self._path(RUN)))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # each file system has errors of its own
            raise InputError(
                f"{shown(self._path(RUN))} cannot be read: {shown(error, 200)}. Choose another OUT."
            ) from (error)
        if not isinstance(document, dict):
            raise InputError(f"{shown(self._path(RUN))} was not written by a batch: choose another OUT")
        return document

    def begin(self, document: dict[str, Any]) -> None:
        """Write `_run.json`, whole or not at all."""
        if self._place.is_local:
            write_json(Path(self._path(RUN)), document)
            return
        with failing_as(f"{shown(self.out)} cannot be written"):
            self._place.filesystem.pipe_file(self._path(RUN), json.dumps(document, indent=2).encode())

    def files(self) -> dict[int, str]:
        """Return the finished shards: their files' paths in the file system, by number."""
        with failing_as(f"out={shown(self.out)!r} cannot be read"):
            # Not from the cache of fsspec: other processes write here.
            self._place.filesystem.invalidate_cache()
            paths = self._names()
        found = {}
        for path in sorted(paths):
            if match := re.fullmatch(r"shard-(\d+)\.parquet", path.rsplit("/", 1)[-1]):
                found[int(match[1])] = path
        return found

    def is_empty(self) -> bool:
        """Return whether the folder holds nothing, or does not exist."""
        with failing_as(f"out={shown(self.out)!r} cannot be read"):
            return not self._names()

    def open(self, path: str) -> Any:
        """Return an open file of the folder."""
        with failing_as(f"{shown(path)} cannot be read"):
            return self._place.filesystem.open(path, "rb")

    def write(self, index: int, table: Any) -> None:
        """
        Write the rows of a shard, whole or not at all.

        Raises:
            InputError: they cannot be written.
        """
        from pyarrow import parquet

        path = self._path(f"shard-{index:06d}.parquet")
        if self._place.is_local:
            with naming_failures(path), replacing(path) as beside:
                parquet.write_table(table, beside, compression="zstd")
            return
        filesystem = self._place.filesystem
        beside_path = self._path(f".shard-{index:06d}-{uuid.uuid4().hex[:12]}.parquet")
        with failing_as(f"{shown(path)} cannot be written"):
            with filesystem.open(beside_path, "wb") as file:
                parquet.write_table(table, file, compression="zstd")
            filesystem.mv(beside_path, path)

    def attempt(self, index: int) -> None:
        """
        Note that a process begins with a shard, in a file that `done` removes.

        Raises:
            InputError: `ATTEMPTS` processes have begun with it and have not come back.
        """
        filesystem = self._place.filesystem
        with failing_as(f"{shown(self.out)} cannot be written"):
            for path in self._attempts(index):
                if not filesystem.exists(path):
                    filesystem.touch(path)
                    return
        raise InputError(
            f"shard {index} has ended its process {ATTEMPTS} times, most likely for want of memory: start again with "
            "fewer workers"
        )

    def done(self, index: int) -> None:
        """Forget the attempts at a shard."""
        with contextlib.suppress(Exception):  # nothing depends on it
            for path in filter(self._place.filesystem.exists, self._attempts(index)):
                self._place.filesystem.rm_file(path)

    def tidy(self, *, finished: bool) -> None:
        """
        Remove what killed processes left behind.

        Args:
            finished: whether every shard is there. Before, only attempts are removed: a half-written file may be that
                of another start at the same time, which does no harm.
        """
        kinds = r"(attempt-\d|[0-9a-f]{12}\.parquet)" if finished else r"attempt-\d"
        with contextlib.suppress(Exception):  # nothing depends on it
            for path in self._names():
                if re.fullmatch(rf"\.shard-\d+-{kinds}", path.rsplit("/", 1)[-1]):
                    self._place.filesystem.rm_file(path)

    def _attempts(self, index: int) -> list[str]:
        return [self._path(f".shard-{index:06d}-attempt-{number}") for number in range(1, ATTEMPTS + 1)]

    def _names(self) -> list[str]:
        try:
            return self._place.filesystem.ls(self._place.path, detail=False)
        except FileNotFoundError:
            return []

    def _path(self, name: str) -> str:
        return f"{self._place.path.rstrip('/')}/{name}"


__all__ = ["RUN", "Output"]
