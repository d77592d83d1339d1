"""
What a batch is made from: image files, parquet files of images, or tars, cut into numbered shards.

A source is local, or any address that fsspec opens (`s3://`, `gs://`, `hf://`, `https://`, ...). The order of its
images depends on their names alone, so that the shards are the same at every start.
"""

import codecs
import concurrent.futures
import contextlib
import hashlib
import os
import tarfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

from ..data.columns import IMAGE_COLUMNS, stored_image
from ..errors import InputError
from ..images import LINKED, SUFFIXES, find_images, is_folder, shown
from .fetching import Reading, Stores, fetch
from .places import Place, failing_as, is_address, place_of, without_query

Kind: TypeAlias = Literal["images", "parquet", "tar"]

PARQUET_SUFFIXES = (".parquet",)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
LIST_SUFFIXES = (".txt", ".lst", ".list")
# Images of an address that are fetched ahead, at once: a store takes 20 to 100 ms for one.
AHEAD = 16
# Bytes of a parquet file that are read together. Without it, a whole row group is: all of most files.
BUFFER = 1 << 20
FORMS = (
    "a folder or a glob of images, of parquet files or of tars, one of these files, or a text file with one path or "
    "address a line"
)


@dataclass(frozen=True)
class Shard:
    """
    A numbered part of a source.

    Args:
        index: its number, from 0.
        kind: what `names` are.
        names: paths or addresses of images; for the other kinds, that of one file.
        start: the first row of a parquet file.
        stop: the row behind the last one.
        images: its number of images; 0 where only reading the file shows it (a tar).
    """

    index: int
    kind: Kind
    names: tuple[str, ...]
    start: int = 0
    stop: int = 0
    images: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the values as a row of a Ray dataset."""
        return asdict(self) | {"names": list(self.names)}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> "Shard":
        """Return the shard of such a row."""
        return cls(**(row | {"names": tuple(row["names"])}))


@dataclass(frozen=True)
class Source:
    """
    The files of a source, in their order.

    Args:
        kind: what they are.
        names: their paths, which are absolute, or addresses.
        rows: for parquet files, the number of rows of each.
        left_out: the other files where images were found, and linked folders, as `find_images` counts them.
    """

    kind: Kind
    names: tuple[str, ...]
    rows: tuple[int, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def images(self) -> int | None:
        """The number of images, or `None` where only reading shows it."""
        return {"images": len(self.names), "parquet": sum(self.rows), "tar": None}[self.kind]

    def digest(self) -> str:
        """Return a hash of the names, their order and their rows."""
        digest = hashlib.sha256()
        for name in (*self.names, *map(str, self.rows)):
            digest.update(name.encode("utf-8", "surrogateescape") + b"\n")
        return digest.hexdigest()

    def shards(self, size: int) -> list[Shard]:
        """Return the parts, of `size` images at most; a tar, which can be read from its beginning alone, is one."""
        parts: list[dict[str, Any]] = []
        if self.kind == "images":
            for start in range(0, len(self.names), size):
                names = self.names[start : start + size]
                parts.append({"names": names, "images": len(names)})
        elif self.kind == "tar":
            parts = [{"names": (name,)} for name in self.names]
        else:
            for name, rows in zip(self.names, self.rows):
                for start in range(0, rows, size):
                    stop = min(start + size, rows)
                    parts.append({"names": (name,), "start": start, "stop": stop, "images": stop - start})
        return [Shard(index, self.kind, **part) for index, part in enumerate(parts)]


def find_source(source: str, out: str | None = None) -> Source:
    """
    Look a source up.

    Args:
        source: a folder (searched with the folders in it), a glob, a file with a list (`LIST_SUFFIXES`), parquet files
            with an image column as `datasets` writes it, or tars (webdataset); local, or an address.
        out: the absolute path or the address of a folder to leave out: where the batch writes.

    Raises:
        InputError: it does not exist, cannot be read, or holds none of these.
        MissingPackageError: the package is missing that opens such an address.
    """
    if not source:
        raise InputError(f"source={source!r} must be {FORMS}")
    left_out: Counter[str] = Counter()
    names = _listed(source, out, left_out)
    kinds = {_kind_of(name) for name in names}
    if len(kinds) > 1:
        raise InputError(
            f"source={shown(source)!r} must hold files of one kind, not {', '.join(sorted(kinds))}: give a glob"
        )
    kind = kinds.pop()
    rows: tuple[int, ...] = ()
    if kind == "parquet":
        with concurrent.futures.ThreadPoolExecutor(AHEAD) as pool:
            rows = tuple(pool.map(_row_count, names))
    found = Source(kind, tuple(names), rows, dict(left_out.most_common()))
    if found.images == 0:
        raise InputError(f"source={shown(source)!r} must hold at least one image")
    return found


def read_shard(shard: Shard) -> Iterator[Any]:
    """
    Yield the images of a shard, each in a form that a recognizer takes, under its own name.

    Images of files are named by path or address, those in a parquet file `FILE#ROW` and those in a tar `FILE#MEMBER`.
    An image that cannot be read is yielded all the same: the recognizer makes a row with the reason of it.

    Raises:
        InputError: a parquet file cannot be read, or the store of the images or of the tar is gone.
    """
    if shard.kind == "images":
        yield from _files(shard.names)
    elif shard.kind == "tar":
        yield from _members(shard.names[0])
    else:
        yield from _rows(shard.names[0], shard.start, shard.stop)


@dataclass(frozen=True)
class Stored:
    """
    An image that is not a file of its own, in the form of a file that is open for reading bytes.

    Args:
        name: what it is called in results and messages.
        data: its bytes, or the reason why there are none.
    """

    name: str
    data: bytes | OSError

    def read(self) -> bytes:
        """
        Return the bytes of the image.

        Raises:
            OSError: there are none.
        """
        if isinstance(self.data, OSError):
            raise self.data
        return self.data


def opened(name: str, value: Any, where: Path, stores: Stores | None = None) -> Any:
    """
    Return an image cell of a table in the form that a recognizer takes, under a name.

    Args:
        name: what to call it.
        value: `{"bytes", "path"}` as `datasets` writes it, or bytes alone, or a path or an address alone.
        where: the table's file or folder, from which relative paths are read.
        stores: note there what came of an address.

    Raises:
        InputError: the store of the address is gone.
    """
    path = value.get("path") if isinstance(value, dict) and not value.get("bytes") else value
    if isinstance(path, str) and is_address(path):
        data = fetch(path)
        if stores is not None:
            stores.add(path, data)
        return Stored(name, data)
    try:
        image = stored_image(value, where, name)
    except InputError as error:
        return Stored(name, OSError(str(error)))
    return Stored(name, image) if isinstance(image, bytes) else image


def _listed(source: str, out: str | None, left_out: Counter[str]) -> list[str]:
    """Return the files of a source, each once, sorted unless the user listed them, and count those left out."""
    if is_address(source):
        return _listed_at(source, out, left_out)
    path = Path(source)
    if is_folder(path):
        return _in_folder(path, out, left_out)
    if not os.path.lexists(source) and any(mark in source for mark in "*?["):
        place = place_of(os.path.abspath(source))  # noqa: PTH100 - a glob is no path
        return _of_one_folder(place, place.glob(), source, out, left_out)
    if not os.path.lexists(source):
        raise InputError(f"source={shown(source)!r} must exist: give {FORMS}")
    if _ends(source, LIST_SUFFIXES):
        return _lines(source)
    return [str(path.absolute())]


def _listed_at(source: str, out: str | None, left_out: Counter[str]) -> list[str]:
    place = place_of(source)
    if any(mark in without_query(source).partition("://")[2] for mark in "*["):
        return _of_one_folder(place, place.glob(), source, out, left_out)
    if _ends(source, LIST_SUFFIXES):
        return _lines(source)
    if _ends(source, (*PARQUET_SUFFIXES, *TAR_SUFFIXES, *SUFFIXES)):
        return [source]
    return _of_one_folder(place, place.find(), source, out, left_out)


def _in_folder(folder: Path, out: str | None, left_out: Counter[str]) -> list[str]:
    """Return the images of a local folder; where it has none, its parquet files or tars."""
    try:
        skip = [] if out is None or is_address(out) else [Path(out)]
        found = find_images(folder.absolute(), skip, on_left_out=left_out.update)
        return [str(path) for path in found]
    except InputError as error:
        if isinstance(error.__cause__, OSError):
            raise
        place = place_of(str(folder.absolute()))
        try:
            return _of_one_folder(place, place.find(), str(folder), out, left_out)
        except InputError:
            raise error from None


def _of_one_folder(
    place: Place, found: Iterable[str], source: str, out: str | None, left_out: Counter[str]
) -> list[str]:
    """
    Return the images among the files that were found; where there are none, the parquet files or the tars. Hidden
    files, and those in hidden folders, are left out: of a glob, where a wildcard stands for such a name.
    """
    files: dict[Kind, list[str]] = {"images": [], "parquet": [], "tar": []}
    others: list[str] = []
    # The batch's own files are parquet files of numbers, which a start that goes on would find.
    own = None if out is None else place_of(out)
    for name in found:
        hidden = any(part.startswith((".", "__")) for part in place.below(name))
        if hidden or (own is not None and own.holds(name)):
            continue
        kind = _kind_of(name)
        if kind != "images" or _ends(name, tuple(SUFFIXES)):
            files[kind].append(name)
        else:
            others.append(name)
    linked = {name for name in others if place.is_local and is_folder(Path(name))}
    left_out.update(LINKED for _ in linked)
    if files["images"]:
        others = [*(name for name in others if name not in linked), *files["parquet"], *files["tar"]]
        left_out.update(PurePosixPath(without_query(name)).suffix.lower() for name in others)
    for names in files.values():
        if names:
            return sorted(names)
    raise InputError(f"source={shown(source)!r} must hold images: give {FORMS}")


def _lines(source: str) -> list[str]:
    """Return the paths and addresses in a text file, one a line; relative paths are taken from the current folder."""
    text = place_of(source).read().removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    names = [line.rstrip("\r") for line in text.split("\n") if line.strip()]
    if not names:
        raise InputError(f"source={shown(source)!r} must hold one path or address a line: it is empty")
    return list(dict.fromkeys(name if is_address(name) else os.path.abspath(name) for name in names))  # noqa: PTH100


def _kind_of(name: str) -> Kind:
    return "parquet" if _ends(name, PARQUET_SUFFIXES) else "tar" if _ends(name, TAR_SUFFIXES) else "images"


def _ends(name: str, suffixes: tuple[str, ...]) -> bool:
    return without_query(name).lower().endswith(suffixes)


def _files(names: tuple[str, ...]) -> Iterator[Any]:
    """Yield paths as they are, and the images of addresses, which are fetched ahead of their turn."""
    waiting: deque[tuple[str, concurrent.futures.Future[bytes | OSError] | None]] = deque()
    stores = Stores()
    with concurrent.futures.ThreadPoolExecutor(AHEAD, thread_name_prefix="rmn_hub-fetch") as pool:
        following = iter(names)
        while True:
            while len(waiting) < AHEAD and (name := next(following, None)) is not None:
                waiting.append((name, pool.submit(fetch, name) if is_address(name) else None))
            if not waiting:
                break
            name, future = waiting.popleft()
            if future is None:
                yield Path(name)
                continue
            data = future.result()
            stores.add(name, data)
            yield Stored(name, data)
    stores.check()


def _members(name: str) -> Iterator[Any]:
    """Yield the images in a tar, in their order; a tar that breaks off ends with an image that has the reason."""
    try:
        file = place_of(name).open()
    except InputError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise  # the store or the network may be gone
        yield Stored(name, FileNotFoundError("there is no such file"))
        return
    reading: Any = Reading(name, file)
    try:
        with file, tarfile.open(fileobj=reading, mode="r|*") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                hidden = any(part.startswith((".", "__")) and part not in (".", "..") for part in path.parts)
                if not member.isfile() or hidden or path.suffix.lower() not in SUFFIXES:
                    continue
                content = tar.extractfile(member)
                yield Stored(f"{name}#{member.name}", content.read() if content else b"")
    except (tarfile.TarError, EOFError, OSError) as error:  # what decompresses raises an OSError, too
        yield Stored(name, OSError(f"the tar is damaged ({shown(error)})"))


def _row_count(name: str) -> int:
    with _parquet(name) as file:
        _image_column(file.schema_arrow.names, name)
        return file.metadata.num_rows


def _rows(name: str, start: int, stop: int) -> Iterator[Any]:
    """Yield the images in rows of a parquet file."""
    stores = Stores()
    with _parquet(name) as file:
        for row, cell in _cells(file, _image_column(file.schema_arrow.names, name), start, stop):
            yield opened(f"{name}#{row}", cell.as_py(), Path(name), stores)
    stores.check()


def _cells(file: Any, column: str, start: int, stop: int) -> Iterator[tuple[int, Any]]:
    """Yield numbered cells of a column; of the row groups with these rows, what comes after the last is not read."""
    first = 0
    for group in range(file.num_row_groups):
        last = first + file.metadata.row_group(group).num_rows
        row = first
        if last > start:
            for batch in file.iter_batches(AHEAD, row_groups=[group], columns=[column]):
                for cell in batch.column(0):
                    if row >= stop:
                        return
                    if row >= start:
                        yield row, cell
                    row += 1
        first = last
        if first >= stop:
            return


@contextlib.contextmanager
def _parquet(name: str) -> Iterator[Any]:
    from pyarrow import parquet

    with failing_as(f"{shown(name)} cannot be read as parquet"):
        file = place_of(name).open()
        with file, parquet.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER) as opened_file:
            yield opened_file


def _image_column(names: Iterable[str], file: str) -> str:
    own = {name.lower(): name for name in reversed(list(names))}
    for column in IMAGE_COLUMNS:
        if column in own:
            return own[column]
    raise InputError(f"{shown(file)} must have a column of images ({', '.join(IMAGE_COLUMNS)}), not {', '.join(own)}")


__all__ = ["Shard", "Source", "Stored", "find_source", "opened", "read_shard"]
