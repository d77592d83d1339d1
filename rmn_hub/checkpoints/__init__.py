"""The checkpoint that the package brings along, and what every checkpoint is identified by: its weights' hash."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..files import file_hash
from ..packages import data_folder

BUNDLED_CHECKPOINT = str(data_folder(__name__, "rmn-fer2013"))
CONFIG = "config.json"
# The weights of a checkpoint, and the list of their files where they are in several.
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
COPY = "Copy or download it again"


def has_weights(folder: Path) -> bool:
    """Return whether a checkpoint's folder holds weights. One that was exported may hold its ONNX file alone."""
    return any((folder / name).is_file() for name in (WEIGHTS, INDEX))


def weights_hash(folder: Path) -> str:
    """
    Return the SHA-256 of a checkpoint's weights; where they are in several files, that of the files' hashes in order.

    Raises:
        OSError: there are no weights, or they cannot be read.
        CheckpointError: a file of several is missing, or their index is damaged.
    """
    files = weight_files(folder)
    if files == [WEIGHTS]:
        return file_hash(folder / WEIGHTS)
    # Not of the index, which other weights of the same shapes leave as it is.
    try:
        hashes = [file_hash(folder / file) for file in files]
    except OSError as error:
        raise failure(folder, f"its weights cannot be read ({error})", COPY) from error
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def weight_files(folder: Path, name: str | os.PathLike[str] | None = None) -> list[str]:
    """
    Return the names of the files of a checkpoint's weights.

    Args:
        folder: where they are.
        name: the checkpoint as the caller gave it; the folder when not given.

    Raises:
        CheckpointError: their index is damaged.
    """
    several = (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file()
    return shards(name or folder, folder / INDEX) if several else [WEIGHTS]


def failure(name: str | os.PathLike[str], reason: str, remedy: str) -> CheckpointError:
    """Return the error of a checkpoint that cannot be loaded, from a reason and a remedy without their full stops."""
    return CheckpointError(f"The checkpoint {os.fspath(name)} cannot be loaded: {reason}. {remedy}.")


def read_json(name: str | os.PathLike[str], path: Path) -> dict[str, Any]:
    """
    Return the dictionary in a JSON file of a checkpoint.

    Args:
        name: the checkpoint as the caller gave it.
        path: the file.

    Raises:
        CheckpointError: the file cannot be read or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise failure(name, f"its {path.name} cannot be read ({error.strerror or error})", COPY) from error
    except (ValueError, RecursionError) as error:
        raise failure(name, f"its {path.name} is damaged", COPY) from error
    if not isinstance(content, dict):
        raise failure(name, f"its {path.name} is damaged", COPY)
    return content


def shards(name: str | os.PathLike[str], index: Path) -> list[str]:
    """
    Return the names of the weights' files that an index lists.

    Raises:
        CheckpointError: it lists none, or files in other folders.
    """
    try:
        names = sorted(set(read_json(name, index)["weight_map"].values()))
        # Files beside the index only: a name with a path in it could lead anywhere.
        if names and all(Path(shard).name == shard for shard in names):
            return names
    except (KeyError, TypeError, AttributeError):
        pass
    raise failure(name, f"its {INDEX} lists no files", COPY)


__all__ = [
    "BUNDLED_CHECKPOINT",
    "CONFIG",
    "COPY",
    "INDEX",
    "WEIGHTS",
    "failure",
    "has_weights",
    "read_json",
    "shards",
    "weight_files",
    "weights_hash",
]
