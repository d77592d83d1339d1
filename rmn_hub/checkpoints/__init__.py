"""The checkpoint that the package brings along, and what every checkpoint is identified by: its weights' hash."""

from pathlib import Path

from ..files import file_hash
from ..packages import data_folder

BUNDLED_CHECKPOINT = str(data_folder(__name__, "rmn-fer2013"))
# The weights of a checkpoint, and the list of their files where they are in several.
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


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


__all__ = ["BUNDLED_CHECKPOINT", "INDEX", "WEIGHTS", "has_weights", "weights_hash"]
