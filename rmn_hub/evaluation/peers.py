"""
Peers: the networks inside other packages, scored on the very same faces. `rmn-hub evaluate --peer fer`.

A peer is an engine with its image processing, as a checkpoint is, and gets the faces as they are stored: its own
detector and its own crop have no part in it. Its package is not imported, only the file of the network in it is read.
"""

import contextlib
import importlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np

from ..engines.engine import EngineOutput
from ..engines.pixels import PixelProcessor
from ..errors import InputError, MissingPackageError
from ..expressions import EXPRESSIONS
from ..packages import require

PEERS = ("fer",)
_TINY = 1e-12  # keeps the logarithm of a probability finite


class FerEngine:
    """
    Run the network inside the package `fer`: mini-Xception (Arriaga et al., "Real-time convolutional neural networks
    for emotion and gender classification", 2017), 64 px, grey, with the quantized weights that `fer` uses by default.
    Its classes are `EXPRESSIONS` in their order. It is not safe to call from several threads at once.

    Attributes:
        file: the file of the network.
        version: of the package.

    Raises:
        MissingPackageError: `fer` or the interpreter of its file is not installed.
    """

    name = "fer"
    expressions: tuple[str, ...] = EXPRESSIONS
    image_size = 64
    has_masks = False

    def __init__(self) -> None:
        require("ai_edge_litert.interpreter", "scores of fer's network", extra="peers")
        self.file, self.version = _find("fer", ".tflite")
        interpreter: Any = importlib.import_module("ai_edge_litert.interpreter").Interpreter
        self._network = interpreter(model_path=str(self.file))
        self._input = self._network.get_input_details()[0]["index"]
        self._output = self._network.get_output_details()[0]["index"]
        self._batch = 0

    @property
    def processor(self) -> PixelProcessor:
        """The image processing that belongs to the network: grey, 64 px, -1..1."""
        half = (0.5, 0.5, 0.5)
        return PixelProcessor(height=self.image_size, width=self.image_size, mean=half, std=half)

    def __call__(self, pixel_values: np.ndarray, *, attention: bool = False) -> EngineOutput:
        """Return the logarithms of the probabilities as logits, and no maps; see [`rmn_hub.engines.engine.Engine`]."""
        grey = np.ascontiguousarray(pixel_values[:, 0, :, :, None], np.float32)
        if len(grey) != self._batch:
            self._network.resize_tensor_input(self._input, grey.shape)
            self._network.allocate_tensors()
            self._batch = len(grey)
        self._network.set_tensor(self._input, grey)
        self._network.invoke()
        probabilities = self._network.get_tensor(self._output)
        return EngineOutput(np.log(np.maximum(probabilities, _TINY)))


def peer(name: str) -> FerEngine:
    """
    Return the network of another package.

    Raises:
        InputError: there is no such peer.
        MissingPackageError: its package is not installed.
    """
    if name not in PEERS:
        raise InputError(f"peer={name!r} must be one of {', '.join(PEERS)}")
    return FerEngine()


def installed_peers() -> list[FerEngine]:
    """Return the networks of the other packages that are installed."""
    found = []
    for name in PEERS:
        with contextlib.suppress(MissingPackageError):
            found.append(peer(name))
    return found


def _find(package: str, suffix: str) -> tuple[Path, str]:
    """Return a file of an installed package and the package's version, without importing it."""
    try:
        installed = distribution(package)
    except PackageNotFoundError as error:
        raise MissingPackageError(
            f"scores of {package}'s network need {package}: install it with `pip install --no-deps {package}`, which "
            "leaves out what it needs beside its network"
        ) from error
    for file in installed.files or ():
        if file.suffix == suffix:
            return Path(str(file.locate())), installed.version
    raise InputError(f"{package} {installed.version} has no {suffix} file: give another version of it")


__all__ = ["PEERS", "FerEngine", "installed_peers", "peer"]
