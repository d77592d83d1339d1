"""The three networks of MTCNN behind one protocol: numpy in, numpy out, in onnxruntime or in torch."""

import importlib.util
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from ..errors import InputError
from ..packages import data_folder
from ..sessions import OnnxSession

# Written by `rmn_hub.export.mtcnn`.
FOLDER = data_folder("rmn_hub.detection", "onnx")

Runtime = Literal["auto", "onnx", "torch"]


class CascadeNetworks(Protocol):
    """
    P-Net, R-Net and O-Net (Zhang et al., 2016, figure 2). Pixel values are float32 in -1..1.

    Offsets move the four coordinates of a box, in parts of its side. Scores are probabilities of a face in 0..1.

    Attributes:
        level_pixels: most pixels of levels that P-Net gets at once.
    """

    level_pixels: int

    def propose(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Run P-Net over `(N, 3, H, W)`, height and width of at least 12: a window of 12 x 12 pixels at every second one.

        Returns:
            offsets `(N, 4, h, w)` and scores `(N, h, w)`.
        """
        ...

    def refine(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Run R-Net on crops `(N, 3, 24, 24)`.

        Returns:
            offsets `(N, 4)` and scores `(N,)`.
        """
        ...

    def output(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Run O-Net on crops `(N, 3, 48, 48)`.

        Returns:
            offsets `(N, 4)`, landmarks `(N, 10)` (five x and then five y, in parts of the crop) and scores `(N,)`.
        """
        ...


class OnnxNetworks:
    """
    The networks in onnxruntime, from the ONNX files of this package. See [`CascadeNetworks`] and [`OnnxSession`].

    One thread works on a call: with two, a photo took as long (38 ms of 38) and a third more of CPU time, where two
    calls at once took 21 ms a photo.

    Args:
        providers: onnxruntime's execution providers; the CPU when `None`.
    """

    # A core's cache holds the features of so many pixels. P-Net takes two thirds longer for each of 480 x 640 than for
    # each of 60 x 640, and R-Net a third longer for each of 256 crops than for each of 32.
    level_pixels = 48_000
    _CROP_PIXELS = 32 * 24 * 24

    def __init__(self, providers: Sequence[str] | None = None) -> None:
        self._pnet, self._rnet, self._onet = (
            OnnxSession(FOLDER / name, threads=1, providers=providers)
            for name in ("pnet.onnx", "rnet.onnx", "onet.onnx")
        )

    def propose(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run P-Net."""
        offsets, scores = self._pnet.run({"pixels": pixels})
        return offsets, scores

    def refine(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run R-Net."""
        offsets, scores = self._on_crops(self._rnet, crops)
        return offsets, scores

    def output(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Run O-Net."""
        offsets, landmarks, scores = self._on_crops(self._onet, crops)
        return offsets, landmarks, scores

    def _on_crops(self, session: OnnxSession, crops: np.ndarray) -> list[np.ndarray]:
        at_once = self._CROP_PIXELS // crops.shape[-1] ** 2
        # One batch even where there are no crops: its outputs are the empty arrays that are due.
        starts = range(0, max(1, len(crops)), at_once)
        batches = [session.run({"pixels": crops[start : start + at_once]}) for start in starts]
        return [np.concatenate(outputs) for outputs in zip(*batches)]


def load_networks(runtime: Runtime = "auto", device: str = "cpu") -> CascadeNetworks:
    """
    Return the networks in a runtime.

    Args:
        runtime: `"onnx"`, `"torch"`, or `"auto"`: onnxruntime on the CPU where it is installed, torch otherwise.
        device: where torch runs them: `"cpu"`, `"cuda"`, `"cuda:1"`, ...

    Raises:
        InputError: the runtime does not exist, is not installed, or does not run on the device.
    """
    if runtime not in ("auto", "onnx", "torch"):
        raise InputError(f"runtime={runtime!r} must be 'auto', 'onnx' or 'torch'")
    if runtime == "onnx" and device != "cpu":
        raise InputError(f"device={device!r} must be 'cpu' with runtime='onnx': give runtime='torch' for a GPU")
    if runtime == "onnx" or (runtime == "auto" and device == "cpu" and importlib.util.find_spec("onnxruntime")):
        return OnnxNetworks()
    from .torch_networks import TorchNetworks

    return TorchNetworks(device)


__all__ = ["FOLDER", "CascadeNetworks", "OnnxNetworks", "Runtime", "load_networks"]
