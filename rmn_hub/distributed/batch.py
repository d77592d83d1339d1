"""
A batch: every image of a source, in shards, each written to its file when it is whole.

A shard's file appears at once or not at all, under a name that depends on its number alone. So a batch that was stopped
in any way goes on with the shards that have no file, and no row is ever there twice.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoints import BUNDLED_CHECKPOINT
from ..errors import InputError
from ..images import is_folder, shown
from ..packages import VERSION
from ..progress import Progress, silent
from .actors import Checkpoints, Loading, ShardActor, Share, content_hash, names_of
from .output import RUN, Output
from .session import connected
from .sources import Shard, Source, find_source
from .summary import Summary, summarize

SHARD_SIZE = 500
# Settings of the recognizer that its rows depend on, which a second start must repeat.
LASTING = ("min_face", "threshold", "max_faces", "margin", "min_confidence", "max_pixels", "upright", "views")
# What finds the checkpoint on the Hub.
FINDING = ("revision", "cache_dir", "local_files_only", "token")


def recognize_batch(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    checkpoint: Checkpoints = BUNDLED_CHECKPOINT,
    address: str | None = None,
    workers: int | None = None,
    shard_size: int | None = None,
    device: str | None = None,
    faces_only: bool = False,
    progress: Progress = silent,
    on_left_out: Callable[[Mapping[str, int]], object] | None = None,
    **settings: Any,
) -> Summary:
    """
    Recognize the expressions of all images of a source, and write a row per face to parquet files.

    An image without faces, or one that cannot be used, has a row, too: `tables.to_records` documents the columns. Where
    `out` holds a part of the same batch, the finished shards are skipped. The number of workers, the device, the engine
    and the batch size may differ from start to start.

    Args:
        source: a folder (searched with the folders in it), a glob, a text file with a path or address a line, parquet
            files with an image column, or tars (webdataset); local, or any address that fsspec opens.
        out: the folder for `shard-000000.parquet`, ..., and `_run.json`; or an address. All machines must reach it.
        checkpoint: a folder or a Hub id, which all machines must reach; several are an ensemble.
        address: of a Ray cluster that is joined (`"auto"`, `"HOST:6379"`); Ray is started on this machine when not
            given, and ended.
        workers: processes that recognize, one core each; one for each core or GPU when not given. More workers than
            GPUs share them.
        shard_size: images of a shard; `SHARD_SIZE`, or what the batch began with, when not given. A tar is one shard.
        device: `"cpu"` or `"cuda"`; the GPUs where the cluster has some when not given.
        faces_only: every image is a face already.
        progress: called with the images of every shard that is finished, and first with those that were there before;
            for tars, whose images nobody has counted, with the number of tars.
        on_left_out: called, as `images.find_images` calls it, with the number of files by suffix that the source has
            beside images, and of linked folders, when there are any.
        **settings: of `ExpressionRecognizer.from_pretrained`.

    Returns:
        The numbers of the whole batch, counted from its files.

    Raises:
        InputError: an argument is wrong, `out` holds something else, or a shard cannot be read or written. What is
            finished stays.
        RMNError: Ray ended the batch.
        MissingPackageError: Ray or a package for an address is not installed.
    """
    if shard_size is not None and shard_size < 1:
        raise InputError(f"shard_size={shard_size} must be at least 1")
    output = Output(_absolute(os.fspath(out)))
    begun = output.document()
    if begun is None and not output.is_empty():
        raise InputError(f"out={shown(output.out)!r} must be empty, or hold a batch that was begun: it has no {RUN}")
    found = find_source(os.fspath(source), output.out)
    if found.left_out and on_left_out is not None:
        on_left_out(found.left_out)
    loading = _loading(names_of(checkpoint), settings)
    if shard_size is None:
        shard_size = begun.get("shard_size") if begun else SHARD_SIZE
    document = {
        "rmn_hub": VERSION,
        "source": os.fspath(source),
        "images": found.images,
        "shard_size": shard_size,
        "source_sha256": found.digest(),
        "checkpoint": ", ".join(names_of(checkpoint)),
        "checkpoint_hash": ", ".join(loading.hashes),
        "settings": {name: settings.get(name) for name in LASTING} | {"faces_only": faces_only},
    }
    if begun is not None:
        _check_same(begun, document, output)
    batch = _Batch(found, output, found.shards(int(shard_size or SHARD_SIZE)), loading, faces_only, progress)
    waiting = batch.waiting()
    if begun is None:
        output.prepare()
        output.begin(document)
    if waiting:
        output.tidy(finished=False)
        with connected(address, workers if device != "cuda" else None):
            batch.run(waiting, Share.of(workers, device))
        output.tidy(finished=True)
    return summarize(output.out)


@dataclass(frozen=True)
class _Batch:
    source: Source
    output: Output
    shards: list[Shard]
    loading: Loading
    faces_only: bool
    progress: Progress

    def waiting(self) -> list[Shard]:
        """Return the shards that have no file yet, and report the others as done."""
        done = set(self.output.files())
        finished = [shard for shard in self.shards if shard.index in done]
        self._report(sum(shard.images for shard in finished), len(finished))
        return [shard for shard in self.shards if shard.index not in done]

    def run(self, waiting: list[Shard], share: Share) -> None:
        """
        Recognize shards, as many at once as there are workers.

        Raises:
            InputError: a shard cannot be read or written, or the recognizer cannot be loaded.
        """
        import ray.data

        share = replace(share, workers=min(share.workers, len(waiting)))
        loading = replace(self.loading, options={**self.loading.options, "device": share.device})
        # A block for each shard: Ray hands them out one by one, as actors are free.
        shards = ray.data.from_items([shard.to_dict() for shard in waiting], override_num_blocks=len(waiting))
        arguments = (loading, self.faces_only, self.output.out)
        # One at a time: a shard that waits for its actor could be done by one that is idle.
        done = share.map(shards, ShardActor, arguments, ahead=1, batch_size=1, batch_format="pyarrow")
        for rows in done.iter_batches(batch_size=None, prefetch_batches=0, batch_format="numpy"):
            for images, error in zip(rows["images"], rows["error"]):
                if error:
                    raise InputError(str(error))
                self._report(int(images), 1)

    def _report(self, images: int, shards: int) -> None:
        if self.source.images is None:
            self.progress("tars", shards, len(self.shards))
        else:
            self.progress("images", images, self.source.images)


def _loading(names: tuple[str, ...], settings: dict[str, Any]) -> Loading:
    """
    Return how the actors load the recognizer: from the commit that the Hub has now, or folders with these files.

    Raises:
        InputError: a checkpoint or a setting cannot be used.
    """
    options = {"threads": 1, **settings}
    checkpoints, hashes = [], []
    for name in names:
        if is_folder(Path(name)):
            # A machine of the cluster has another current folder. The bundled checkpoint is where rmn_hub is there.
            checkpoints.append(name if name == BUNDLED_CHECKPOINT else _absolute(name))
            hashes.append(content_hash(name))
        else:
            from ..hub.files import find

            where = {name: settings[name] for name in FINDING if name in settings}
            checkpoints.append(name)
            hashes.append(find(name, onnx=True, **where).name)  # the commit
            if len(names) == 1:
                options["revision"] = hashes[0]
    loading = Loading(tuple(checkpoints), options, tuple(hashes))
    # Once here, on the CPU, which every machine has: a mistake is then one sentence before Ray starts.
    loading(device="cpu")
    return loading


def _check_same(begun: dict[str, Any], now: dict[str, Any], output: Output) -> None:
    """
    Compare a second start with the first.

    Raises:
        InputError: a setting, the source or the checkpoint is another one.
    """
    before, after = begun.get("settings"), now["settings"]
    differing = [name for name in after if not isinstance(before, dict) or before.get(name) != after[name]]
    differing += [name for name in ("shard_size", "checkpoint_hash", "source_sha256") if begun.get(name) != now[name]]
    if not differing:
        return
    names = {"checkpoint_hash": "checkpoint", "source_sha256": "source"}
    first = differing[0]
    was, is_now = (begun.get(names.get(first, first)), now.get(names.get(first, first)))
    if first in after:
        was, is_now = (before or {}).get(first) if isinstance(before, dict) else None, after[first]
    if was == is_now:
        was, is_now = begun.get(first), now[first]
    if first == "source_sha256":
        reason = f"its list of images has changed (it had {begun.get('images')}, now {now['images']})"
    else:
        reason = f"its first start had {shown(was)}, not {shown(is_now)}"
    raise InputError(
        f"{names.get(first, first)} must be what the batch in {shown(output.out)} began with: {reason}. "
        "Choose another OUT, or start with what it began with."
    )


def _absolute(name: str) -> str:
    from .places import is_address

    return name if is_address(name) else os.path.abspath(name)  # noqa: PTH100 - without following links


__all__ = ["SHARD_SIZE", "recognize_batch"]
