"""The checkpoint that the package brings along, and what every checkpoint is identified by: its weights' hash."""

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
    Return the SHA-256 of a checkpoint's weights, or of their index where they are in several files.

    Raises:
        OSError: there are no weights, or they cannot be read.
    """
    weights = folder / WEIGHTS
    return file_hash(weights if weights.is_file() else folder / INDEX)


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


__all__ = [
    "BUNDLED_CHECKPOINT",
    "CONFIG",
    "COPY",
    "INDEX",
    "WEIGHTS",
    "failure",
    "has_weights",
    "read_json",
    "weights_hash",
]
