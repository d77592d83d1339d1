"""
MTCNN's three networks as the ONNX files that `rmn_hub.detection` carries.

    python -m rmn_hub.export.mtcnn

writes them again.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..detection.networks import FOLDER
from ..detection.torch_networks import ConvPReLU, pretrained_networks
from ..errors import RMNError
from ..files import replacing
from ..sessions import OnnxSession
from .graph import write_graph

# How far the outputs of a file may lie from torch's, on random pixels.
_TOLERANCE = 1e-4


class _ScaledConvPReLU(nn.Module):
    """
    A convolution and its PReLU of slope a, written as a * y + (1 - a) * relu(y).

    onnxruntime's PReLU leaves the memory layout that its convolutions share, and takes four times as long as P-Net's
    first convolution. ReLU and batch normalisation (which is here a factor for each channel) stay in that layout: P-Net
    takes half the time, O-Net two thirds.
    """

    def __init__(self, layer: ConvPReLU) -> None:
        super().__init__()
        self.convolution = layer.convolution
        slopes = layer.activation.weight.detach()
        self.linear, self.rectified = _factors(slopes), _factors(1 - slopes)

    def forward(self, features: Tensor) -> Tensor:
        features = self.convolution(features)
        return self.linear(features) + self.rectified(features.relu())


def _factors(values: Tensor) -> nn.BatchNorm2d:
    """Return a batch normalisation that multiplies each channel by its value."""
    normalization = nn.BatchNorm2d(len(values), eps=0.0).eval().requires_grad_(False)
    normalization.weight.copy_(values)
    return normalization


def export_mtcnn(folder: str | Path = FOLDER) -> list[Path]:
    """
    Write `pnet.onnx`, `rnet.onnx` and `onet.onnx` to a folder, and return their paths.

    The input of each is `pixels`, float32 `(N, 3, H, W)` in -1..1; the outputs are those of
    [`~rmn_hub.detection.networks.CascadeNetworks`], offsets first and scores last.

    Raises:
        InputError: facenet-pytorch is not installed.
        RMNError: an output of the file differs from torch's.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for network, size in zip(pretrained_networks(), (40, 24, 48)):
        name = type(network).__name__.lower()
        path = folder / f"{name}.onnx"
        free = {0: torch.export.Dim("batch")}
        if name == "pnet":
            free |= {2: torch.export.Dim("height", min=12), 3: torch.export.Dim("width", min=12)}
        pixels = torch.rand(2, 3, size, size + 4 * (name == "pnet"), generator=torch.Generator().manual_seed(0)) * 2 - 1
        expected = network(pixels)
        features = network.get_submodule("features")
        for place, layer in features.named_children():
            if isinstance(layer, ConvPReLU):
                setattr(features, place, _ScaledConvPReLU(layer))
        with replacing(path) as beside:
            write_graph(
                network,
                (pixels,),
                beside,
                free=(free,),
                input_names=["pixels"],
                output_names=["offsets", *(["landmarks"] if name == "onet" else []), "scores"],
            )
            for output, tensor in zip(OnnxSession(beside, threads=1).run({"pixels": pixels.numpy()}), expected):
                if not np.allclose(output, tensor.numpy(), rtol=0, atol=_TOLERANCE):
                    raise RMNError(f"{path} cannot be written: its outputs differ from torch's. Try another torch.")
        paths.append(path)
    return paths


if __name__ == "__main__":
    for written in export_mtcnn():
        print(written)
