"""Recognizers in Ray's actors: each loads the weights once, on a core or its share of a GPU, and is restarted."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..checkpoints import BUNDLED_CHECKPOINT
from ..errors import CheckpointError, InputError, RMNError
from ..files import file_hash
from ..images import is_folder, shown
from ..packages import require
from ..recognizer import ExpressionRecognizer
from .output import Output
from .rows import table
from .sources import Shard, opened, read_shard

if TYPE_CHECKING:
    import ray.data

# One checkpoint, or the members of an ensemble.
Checkpoints: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
# Columns of a Ray dataset that are looked for, when none is named.
IMAGE_NAMES = ("bytes", "image", "img", "path")


def names_of(checkpoint: Checkpoints) -> tuple[str, ...]:
    """Return the folders and Hub ids of one checkpoint or several."""
    several = [checkpoint] if isinstance(checkpoint, (str, os.PathLike)) else checkpoint
    return tuple(os.fspath(each) for each in several)


@dataclass(frozen=True)
class Loading:
    """
    How an actor gets its recognizer.

    Args:
        checkpoints: folders or Hub ids, which every machine of the cluster must reach; several are an ensemble.
        options: what `ExpressionRecognizer.from_pretrained` takes.
        hashes: the hash that each folder must have, where that is checked.
    """

    checkpoints: tuple[str, ...]
    options: dict[str, Any]
    hashes: tuple[str, ...] = ()

    def __call__(self, **changes: Any) -> ExpressionRecognizer:
        """
        Return the recognizer.

        Raises:
            InputError: it cannot be loaded here, or its files are not those of the machine that began.
        """
        for checkpoint, expected in zip(self.checkpoints, self.hashes):
            if is_folder(Path(checkpoint)) and content_hash(checkpoint) != expected:
                raise CheckpointError(
                    f"The checkpoint {checkpoint} differs between the machines of the cluster. Copy it to all of them."
                )
        return ExpressionRecognizer.from_pretrained(self.checkpoints, **(self.options | changes))


def content_hash(folder: str) -> str:
    """Return a hash of the files in a checkpoint's folder that its results depend on."""
    names = ("config.json", "preprocessor_config.json")
    files = [path for path in Path(folder).rglob("*") if path.name in names or path.suffix in (".onnx", ".safetensors")]
    hashes = [f"{path.relative_to(folder).as_posix()} {file_hash(path)}" for path in sorted(files)]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


class _Actor:
    """An actor's recognizer, or why there is none: Ray wraps what a constructor raises beyond recognition."""

    def __init__(self, loading: Loading, faces_only: bool) -> None:
        self.faces_only = faces_only
        self.recognizer: ExpressionRecognizer | None = None
        try:
            self.recognizer = loading()
        except RMNError as error:
            self.error = error
        except Exception as error:  # Ray would start such an actor again without end
            self.error = RMNError(f"The recognizer cannot be loaded in a worker: {type(error).__name__}: {error}.")

    def rows(self, images: Iterator[Any], names: list[str] | None = None) -> Any:
        """
        Return the table of the images.

        Raises:
            RMNError: the recognizer could not be loaded.
        """
        if self.recognizer is None:
            raise self.error
        results: Any = self.recognizer.stream(images, faces_only=self.faces_only, on_error="keep")
        if names is not None:
            results = (replace(result, source=name) for name, result in zip(names, results))
        # Without their images: the table is made when all of them are there.
        return table((replace(result, image=None) for result in results), self.recognizer.expressions)


class ShardActor(_Actor):
    """Recognizes shards and writes each to its file."""

    def __init__(self, loading: Loading, faces_only: bool, out: str) -> None:
        super().__init__(loading, faces_only)
        self.out = out

    def __call__(self, shards: Any) -> dict[str, list[Any]]:
        """Return the numbers of the shards of a pyarrow table, with an error for one that could not be written."""
        done: dict[str, list[Any]] = {"index": [], "images": [], "error": []}
        for shard in map(Shard.from_dict, shards.to_pylist()):
            images, error = 0, ""
            try:
                output = Output(self.out)
                output.attempt(shard.index)
                rows = self.rows(read_shard(shard))
                output.write(shard.index, rows)
                output.done(shard.index)
                images = shard.images or len(set(rows["source"].to_pylist()))
            except RMNError as failure:
                error = str(failure)
            except Exception as failure:  # Ray would make a traceback of it
                error = f"Shard {shard.index} failed in a worker: {type(failure).__name__}: {shown(failure, 200)}."
            for name, value in (("index", shard.index), ("images", images), ("error", error)):
                done[name].append(value)
        return done


class RowActor(_Actor):
    """Recognizes the images of a Ray dataset."""

    def __init__(self, loading: Loading, faces_only: bool, image: str | None, name: str | None) -> None:
        super().__init__(loading, faces_only)
        self.image, self.name = image, name

    def __call__(self, batch: dict[str, Any]) -> Any:
        """
        Return a pyarrow table with the rows of a batch.

        Raises:
            InputError: a column is missing.
            RMNError: the recognizer could not be loaded.
        """
        image = self.image or next((name for name in IMAGE_NAMES if name in batch), None)
        if image is None or image not in batch:
            raise InputError(f"image={image!r} must be a column of images: there are {', '.join(batch)}")
        cells = list(batch[image])
        name = self.name or ("path" if "path" in batch else None)
        if name is not None and name not in batch:
            raise InputError(f"name={name!r} must be a column: there are {', '.join(batch)}")
        names = list(map(_name_in, cells)) if name is None else [str(value) for value in batch[name]]
        where = Path.cwd()
        images = (
            opened(name, cell, where) if isinstance(cell, (str, bytes, dict)) else cell
            for name, cell in zip(names, cells)
        )
        return self.rows(images, names)


def _name_in(cell: Any) -> str:
    path = cell.get("path") if isinstance(cell, dict) else cell
    if not isinstance(path, str):
        raise InputError("name=None must be a column with names: there are images without a path")
    return path


def recognize(
    dataset: "ray.data.Dataset",
    *,
    image: str | None = None,
    name: str | None = None,
    checkpoint: Checkpoints = BUNDLED_CHECKPOINT,
    workers: int | None = None,
    device: str | None = None,
    faces_only: bool = False,
    images_at_once: int = 64,
    **settings: Any,
) -> "ray.data.Dataset":
    """
    Map a Ray dataset of images to one with a row per face, and one for each image without faces or that failed.

    Take `ray.data.read_binary_files(folder, include_paths=True)` for a folder: Ray's own `read_images` stops at the
    first damaged file. Ray must have been started (`ray.init`) as you want it.

    Args:
        dataset: rows with an image each: the bytes of a file, `{"bytes", "path"}` as `datasets` writes it, a path, an
            address, or an array `H x W x 3`.
        image: its column; the first of `IMAGE_NAMES` that there is when not given.
        name: the column with what `source` will be. When not given, that is the column `path` where there is one, else
            the path in the image's own cell; images without either need a name.
        checkpoint: a folder or a Hub id, which every machine must reach; several are an ensemble.
        workers: number of actors; one for each core or GPU of the cluster when not given.
        device: `"cpu"` or `"cuda"`; the GPUs where the cluster has some when not given.
        faces_only: every image is a face already.
        images_at_once: images that an actor gets together.
        **settings: of `ExpressionRecognizer.from_pretrained`.

    Raises:
        InputError: a setting is out of range, or the checkpoint cannot be loaded. Ray raises its own error, with that
            of the actor in it, where a column is missing.
        MissingPackageError: Ray is not installed.
    """
    require("ray", "datasets of Ray", extra="cluster")
    loading = Loading(names_of(checkpoint), {"threads": 1, **settings})
    loading(device="cpu")  # what is wrong with the settings is raised here, and not by every actor
    share = Share.of(workers, device)
    loading = replace(loading, options={**loading.options, "device": share.device})
    arguments = (loading, faces_only, image, name)
    return share.map(dataset, RowActor, arguments, batch_size=images_at_once, batch_format="numpy")


@dataclass(frozen=True)
class Share:
    """
    What each actor has of the cluster.

    Args:
        workers: number of actors.
        device: `"cpu"` or `"cuda"`.
        gpus: GPUs for each actor.
    """

    workers: int
    device: str
    gpus: float

    @classmethod
    def of(cls, workers: int | None, device: str | None) -> "Share":
        """
        Return the share of each of `workers` actors in the cluster that this process has joined.

        Raises:
            InputError: the cluster has not as much.
        """
        import ray

        resources = ray.cluster_resources()
        cores, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        device = device or ("cuda" if gpus else "cpu")
        if device not in ("cpu", "cuda"):
            raise InputError(f"device={device!r} must be 'cpu' or 'cuda': Ray chooses which GPU an actor has")
        if device == "cuda" and not gpus:
            raise InputError("device='cuda' must be 'cpu': the cluster has no GPU")
        most = cores if device == "cpu" else min(cores, gpus)
        workers = most if workers is None else workers
        if not 1 <= workers <= cores:
            raise InputError(f"workers={workers} must be in 1..{cores}, the cores of the cluster")
        return cls(workers, device, min(1.0, gpus / workers) if device == "cuda" else 0.0)

    def map(
        self, dataset: Any, actor: type, arguments: tuple[Any, ...], *, ahead: int | None = None, **batches: Any
    ) -> Any:
        """Return the dataset mapped by actors of a class, each with up to `ahead` batches given to it at once."""
        import ray.data

        return dataset.map_batches(
            actor,
            fn_constructor_args=arguments,
            compute=ray.data.ActorPoolStrategy(size=self.workers, max_tasks_in_flight_per_actor=ahead),
            num_cpus=1,
            num_gpus=self.gpus or None,
            **batches,
        )


__all__ = ["Checkpoints", "Loading", "RowActor", "ShardActor", "Share", "content_hash", "names_of", "recognize"]
