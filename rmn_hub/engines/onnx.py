"""The engine for onnxruntime: no torch, a start within a second, and several times torch's speed on a CPU."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints import CONFIG, failure, has_weights, read_json, weights_hash
from ..errors import CheckpointError, InputError
from ..sessions import OnnxSession
from .engine import EngineOutput, check_softmax

# Where a checkpoint has its ONNX file.
ONNX_FILE = "onnx/model.onnx"
_EXPORT = "Export it again with `rmn-hub export`"


class OnnxEngine:
    """
    Run an ONNX file of `rmn-hub export` in onnxruntime.

    An engine can be used from many threads at once, pickled, and used in processes made by fork or spawn: each process
    opens the file at its first call.

    Args:
        path: the ONNX file.
        threads: threads that work on one call; all cores when `None`.
        providers: onnxruntime's execution providers by name, the preferred one first; the CPU when `None`.

    Raises:
        CheckpointError: the file cannot be opened, or `rmn-hub export` did not write it.
        InputError: `threads` is out of range, or a provider does not exist here.
    """

    name = "onnx"
    device = "cpu"

    def __init__(
        self, path: str | os.PathLike[str], *, threads: int | None = None, providers: Sequence[str] | None = None
    ) -> None:
        self._session = OnnxSession(path, threads=threads, providers=providers)
        if not self._session.path.is_file():
            raise CheckpointError(f"{self._session.path} cannot be opened: there is no such file. {_EXPORT}.")
        metadata = self._session.metadata()
        try:
            self.expressions = tuple(str(name) for name in json.loads(metadata["classes"]))
            self.image_size = int(metadata["image_size"])
            self.has_masks = json.loads(metadata["has_masks"]) is True
            self.weights_hash = metadata["weights_sha256"]
            self._stages = int(metadata["stages"])
            # Files of earlier versions do not have them.
            self.has_features = "features" in self._session.outputs()
        except (KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path} cannot be used: its metadata are not an RMN's. {_EXPORT}.") from error
        check_softmax(len(self.expressions))

    @classmethod
    def from_checkpoint(
        cls,
        folder: str | os.PathLike[str],
        *,
        file: str = ONNX_FILE,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> "OnnxEngine":
        """
        Return the engine of a checkpoint's ONNX file, which must have been exported from the weights beside it.

        A folder without weights is taken as well: the ONNX file is all that the engine needs. Where there is a
        `config.json`, the classes have its names, as they have them in torch: the file has those of its export.

        Args:
            folder: the folder of the checkpoint.
            file: the ONNX file in it.
            threads: threads that work on one call; all cores when `None`.
            providers: onnxruntime's execution providers by name; the CPU when `None`.

        Raises:
            CheckpointError: there is no such file, it cannot be used, or it is of other weights or classes.
            InputError: `threads` is out of range, a provider does not exist here, or the network does not predict one
                of several classes.
        """
        folder = Path(folder)
        engine = cls(folder / file, threads=threads, providers=providers)
        if has_weights(folder) and weights_hash(folder) != engine.weights_hash:
            raise CheckpointError(
                f"{folder / file} cannot be used: it is not of the weights in {folder}. {_EXPORT}, or give "
                "engine='torch'."
            )
        if (folder / CONFIG).is_file():
            settings = read_json(folder, folder / CONFIG)
            check_softmax(len(engine.expressions), settings.get("problem_type"))
            names = _class_names(folder, settings)
            if len(names or engine.expressions) != len(engine.expressions):
                reason = f"its {CONFIG} names {len(names)} classes and its {file} has {len(engine.expressions)}"
                raise failure(folder, reason, f"Give the {CONFIG} that belongs to the weights")
            engine.expressions = names or engine.expressions
        return engine

    def __call__(self, pixel_values: np.ndarray, *, attention: bool = False, features: bool = False) -> EngineOutput:
        """
        Run the network; see [`Engine`].

        Raises:
            InputError: `pixel_values` have another shape, or `features` are asked of a file that has none.
        """
        side = self.image_size
        if pixel_values.ndim != 4 or len(pixel_values) < 1 or pixel_values.shape[1:] != (3, side, side):
            raise InputError(f"pixel_values of shape {pixel_values.shape} must be (N, 3, {side}, {side}), N at least 1")
        if features and not self.has_features:
            raise InputError(f"features=True must have a file with features: {self._session.path} has none. {_EXPORT}.")
        attention = attention and self.has_masks
        stages = range(1, self._stages + 1) if attention else ()
        names = ["logits", *(f"{kind}{stage}" for kind in ("map", "before", "after") for stage in stages)]
        names += ["features"] if features else []
        logits, *rest = self._session.run({"pixel_values": np.ascontiguousarray(pixel_values, np.float32)}, names)
        maps, before, after = (tuple(rest[kind * len(stages) :][: len(stages)]) for kind in range(3))
        return EngineOutput(logits, maps, before, after, rest[-1] if features else None)


def _class_names(folder: Path, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes in a checkpoint's `config.json`, in their order; empty where it has none."""
    id2label = settings.get("id2label") or {}
    try:
        numbered = {int(number): str(name) for number, name in id2label.items()}
        return tuple(numbered[number] for number in range(len(numbered)))
    except (AttributeError, ValueError, KeyError) as error:
        reason = f"id2label in its {CONFIG} does not name each class from 0 up"
        raise failure(folder, reason, f"Correct its {CONFIG}") from error


__all__ = ["ONNX_FILE", "OnnxEngine"]
