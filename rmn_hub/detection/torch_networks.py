"""P-Net, R-Net and O-Net in torch, with the weights that come with facenet-pytorch, which is not imported."""

import importlib.util
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError


class ConvPReLU(nn.Sequential):
    """A convolution without padding, and a PReLU with one slope for each channel."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, kernel_size)
        self.activation = nn.PReLU(out_channels)


class PNet(nn.Module):
    """The first network, fully convolutional: 12 x 12 pixels to one score, at every second pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvPReLU(3, 10, 3), nn.MaxPool2d(2, 2, ceil_mode=True), ConvPReLU(10, 16, 3), ConvPReLU(16, 32, 3)
        )
        self.face = nn.Conv2d(32, 2, 1)
        self.offsets = nn.Conv2d(32, 4, 1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(pixels)
        return self.offsets(features), _score(self.face(features))


class CropNet(nn.Module):
    """
    What R-Net and O-Net have in common: convolutions with max-pools between them, a dense layer, two heads.

    Args:
        convolutions: output channels and kernel size of each.
        pools: kernel size of the max-pool of stride 2 after each convolution but the last.
        pixels: what the convolutions leave of a crop, height times width.
        dense: outputs of the dense layer.
    """

    def __init__(self, convolutions: Sequence[tuple[int, int]], pools: Sequence[int], pixels: int, dense: int) -> None:
        super().__init__()
        self.features = nn.Sequential()
        channels = 3
        for (width, kernel), pool in zip_longest(convolutions, pools):
            self.features.append(ConvPReLU(channels, width, kernel))
            if pool:
                self.features.append(nn.MaxPool2d(pool, 2, ceil_mode=True))
            channels = width
        self.dense = nn.Sequential(nn.Linear(channels * pixels, dense), nn.PReLU(dense))
        self.face = nn.Linear(dense, 2)
        self.offsets = nn.Linear(dense, 4)


class RNet(CropNet):
    """The second network: 24 x 24 pixels."""

    def __init__(self) -> None:
        super().__init__(convolutions=((28, 3), (48, 3), (64, 2)), pools=(3, 3), pixels=9, dense=128)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.dense(_columns_first(self.features(pixels)))
        return self.offsets(features), _score(self.face(features))


class ONet(CropNet):
    """The third network: 48 x 48 pixels."""

    def __init__(self) -> None:
        super().__init__(convolutions=((32, 3), (64, 3), (64, 3), (128, 2)), pools=(3, 3, 2), pixels=9, dense=256)
        self.landmarks = nn.Linear(256, 10)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.dense(_columns_first(self.features(pixels)))
        return self.offsets(features), self.landmarks(features), _score(self.face(features))


def _columns_first(features: Tensor) -> Tensor:
    """Flatten `(N, C, H, W)` column by column, as the original networks did in another framework."""
    return features.permute(0, 3, 2, 1).flatten(1)


def _score(logits: Tensor) -> Tensor:
    """Return the softmax's second of two classes, which is a sigmoid of their difference."""
    return (logits[:, 1] - logits[:, 0]).sigmoid()


class TorchNetworks:
    """
    The networks in torch; see `networks.CascadeNetworks`.

    Args:
        device: where they run.

    Raises:
        InputError: facenet-pytorch is not installed.
    """

    level_pixels = 500_000  # enough for a GPU

    def __init__(self, device: str = "cpu") -> None:
        self._device = torch.device(device)
        self._networks = [
            network.to(self._device).to(memory_format=torch.channels_last) for network in pretrained_networks()
        ]

    def propose(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run P-Net."""
        offsets, scores = self._run(0, pixels)
        return offsets, scores

    def refine(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run R-Net."""
        offsets, scores = self._run(1, crops)
        return offsets, scores

    def output(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Run O-Net."""
        offsets, landmarks, scores = self._run(2, crops)
        return offsets, landmarks, scores

    @torch.inference_mode()
    def _run(self, network: int, pixels: np.ndarray) -> list[np.ndarray]:
        # The caller's autocast would move boxes, or fail: numpy has no bfloat16.
        with torch.autocast(self._device.type, enabled=False):
            tensor = torch.from_numpy(pixels).to(self._device).contiguous(memory_format=torch.channels_last)
            return [output.cpu().numpy() for output in self._networks[network](tensor)]


def pretrained_networks() -> tuple[PNet, RNet, ONet]:
    """
    Return the three networks with facenet-pytorch's weights, for inference.

    Raises:
        InputError: facenet-pytorch is not installed.
    """
    package = importlib.util.find_spec("facenet_pytorch")
    if package is None or not package.submodule_search_locations:
        raise InputError("MTCNN's weights are missing: facenet-pytorch is not installed. Install it with pip.")
    folder = Path(package.submodule_search_locations[0]) / "data"
    with torch.device("cpu"):  # whatever the caller's default is
        networks = PNet().float(), RNet().float(), ONet().float()
    network: PNet | RNet | ONet
    for network in networks:
        file = folder / f"{type(network).__name__.lower()}.pt"
        weights = torch.load(file, map_location="cpu", weights_only=True)
        # Both have the layers in the same order, but the two heads may stand the other way round.
        heads = {"4_1": "face", "4_2": "offsets", "5_1": "face", "5_2": "offsets"}
        if isinstance(network, ONet):
            heads = {"6_1": "face", "6_2": "offsets", "6_3": "landmarks"}
        named = {}
        body = [name for name in network.state_dict() if name.startswith(("features", "dense"))]
        for name, tensor in weights.items():
            layer, _, part = name.rpartition(".")
            head = next((ours for theirs, ours in heads.items() if layer.endswith(theirs)), None)
            named[f"{head}.{part}" if head else body.pop(0)] = tensor
        network.load_state_dict(named)
        network.eval().requires_grad_(False)
    return networks


__all__ = ["ConvPReLU", "ONet", "PNet", "RNet", "TorchNetworks", "pretrained_networks"]
