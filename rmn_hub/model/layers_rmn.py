"""
The layers of the Residual Masking Network, in reading order: convolution with normalisation, residual blocks, stem,
stage, masking block.
"""

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_rmn import RMNConfig


def _at_least_float32() -> torch.dtype:
    """Return the dtype of batch normalisation, for which half precision is too coarse: the default's or float32."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


class RMNConvLayer(nn.Module):
    """Convolution without bias, batch normalisation and, unless it is switched off, ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, activation: bool = True
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=False
        )
        self.normalization: nn.Module = nn.BatchNorm2d(out_channels, dtype=_at_least_float32())
        self.activation = nn.ReLU() if activation else nn.Identity()

    def forward(self, hidden_state: Tensor) -> Tensor:
        hidden_state = self.convolution(hidden_state)
        if self.training and hidden_state.shape.numel() == hidden_state.shape[1] and self.normalization.training:
            raise ValueError(
                "`pixel_values` of one image must be larger in training: its features have shrunk to 1 x 1 pixel, of "
                "which batch normalisation has no variance. Give at least 2 images, or larger ones."
            )
        return self.activation(self.normalization(hidden_state))


class RMNUpLayer(nn.Module):
    """Transposed 2x2 convolution of stride 2, batch normalisation and ReLU: doubles height and width."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        # The bias has no effect before a BatchNorm; it is here because the original's checkpoints carry it.
        self.convolution = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
        self.normalization: nn.Module = nn.BatchNorm2d(out_channels, dtype=_at_least_float32())
        self.activation = nn.ReLU()

    def forward(self, hidden_state: Tensor) -> Tensor:
        return self.activation(self.normalization(self.convolution(hidden_state)))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Return the other way through a residual block: a 1x1 convolution where the shape changes."""
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    return RMNConvLayer(in_channels, out_channels, kernel_size=1, stride=stride, activation=False)


class RMNBasicLayer(nn.Module):
    """Residual block of two 3x3 convolutions (He et al., 2016, figure 5 left); `out_activation` is the last ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, out_activation: bool = True) -> None:
        super().__init__()
        self.shortcut = _shortcut(in_channels, out_channels, stride)
        self.layer = nn.Sequential(
            RMNConvLayer(in_channels, out_channels, stride=stride),
            RMNConvLayer(out_channels, out_channels, activation=False),
        )
        self.activation = nn.ReLU() if out_activation else nn.Identity()

    def forward(self, hidden_state: Tensor) -> Tensor:
        return self.activation(self.layer(hidden_state) + self.shortcut(hidden_state))


class RMNBottleneckLayer(nn.Module):
    """Residual block of 1x1, 3x3 and 1x1 convolutions at a quarter of the width (He et al., 2016, figure 5 right)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        inner = out_channels // 4
        self.shortcut = _shortcut(in_channels, out_channels, stride)
        self.layer = nn.Sequential(
            RMNConvLayer(in_channels, inner, kernel_size=1),
            RMNConvLayer(inner, inner, stride=stride),
            RMNConvLayer(inner, out_channels, kernel_size=1, activation=False),
        )
        self.activation = nn.ReLU()

    def forward(self, hidden_state: Tensor) -> Tensor:
        return self.activation(self.layer(hidden_state) + self.shortcut(hidden_state))


class RMNEmbeddings(nn.Module):
    """The stem: pixels to the first features."""

    def __init__(self, config: RMNConfig) -> None:
        super().__init__()
        self.num_channels = config.num_channels
        self.pooler: nn.Module
        if config.stem == "imagenet":
            self.embedder = RMNConvLayer(config.num_channels, config.embedding_size, kernel_size=7, stride=2)
            self.pooler = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        else:
            self.embedder = RMNConvLayer(config.num_channels, config.embedding_size, stride=config.stem_stride)
            self.pooler = nn.Identity()

    def forward(self, pixel_values: Tensor) -> Tensor:
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.num_channels:
            raise ValueError(
                f"`pixel_values` of shape {tuple(pixel_values.shape)} must have the shape "
                f"(batch, num_channels={self.num_channels}, height, width)"
            )
        # The processor makes float32, whatever the network's dtype is.
        return self.pooler(self.embedder(pixel_values.to(self.embedder.convolution.weight.dtype)))


class RMNStage(nn.Module):
    """T of the paper: the residual blocks of one stage, the first of which may halve height and width."""

    def __init__(self, config: RMNConfig, in_channels: int, out_channels: int, stride: int, depth: int) -> None:
        super().__init__()
        layer = RMNBottleneckLayer if config.layer_type == "bottleneck" else RMNBasicLayer
        self.layers = nn.Sequential(
            layer(in_channels, out_channels, stride=stride),
            *[layer(out_channels, out_channels) for _ in range(depth - 1)],
        )

    def forward(self, hidden_state: Tensor) -> Tensor:
        return self.layers(hidden_state)


class RMNMaskingBlock(nn.Module):
    """
    M of the paper: a U-Net of residual blocks that maps a stage's features to a mask of the same shape (section III-B
    and figure 3).

    A block of depth d has d encoder blocks with a 2x2 max-pool between them, d - 1 decoder blocks, each after a 2x2
    transposed convolution and the concatenation with the encoder's features of that size, and one block back to the
    stage's width. Encoder block i is `channels * 2**i * mask_ratio` wide.
    """

    def __init__(self, channels: int, depth: int, mask_ratio: float, mask_activation: str) -> None:
        super().__init__()
        # Multiples of 8: vector units like them. Ratio 1 is the original's 2C, 4C, 8C, ... exactly.
        widths = [max(8, int(channels * 2**level * mask_ratio + 4) // 8 * 8) for level in range(1, depth + 1)]
        if mask_ratio == 1:
            widths = [channels * 2**level for level in range(1, depth + 1)]
        self.mask_activation = mask_activation
        self.down_layers = nn.ModuleList(
            RMNBasicLayer(in_width, width) for in_width, width in zip([channels, *widths], widths)
        )
        self.pooler = nn.MaxPool2d(kernel_size=2)
        # Deepest first: the order in which they run.
        self.up_samplers = nn.ModuleList(RMNUpLayer(widths[i + 1], widths[i]) for i in reversed(range(depth - 1)))
        self.up_layers = nn.ModuleList(RMNBasicLayer(2 * widths[i], widths[i]) for i in reversed(range(depth - 1)))
        # The original's softmax follows the block's ReLU. A sigmoid there would be 0.5 at least: it takes the sum
        # before the ReLU, so that a mask has its whole range 0..1.
        self.out_layer = RMNBasicLayer(widths[0], channels, out_activation=mask_activation == "softmax")

    def forward(self, hidden_state: Tensor) -> Tensor:
        height, width = hidden_state.shape[-2:]
        halvings = len(self.up_samplers)
        if height < 2**halvings or width < 2**halvings:
            raise ValueError(
                f"`pixel_values` must be larger: a stage's features of {height} x {width} pixels cannot be halved "
                f"{halvings} times by their masking block"
            )
        skips: list[Tensor] = []
        for level, layer in enumerate(self.down_layers):
            hidden_state = layer(self.pooler(hidden_state) if level else hidden_state)
            skips.append(hidden_state)
        skips.pop()  # the bottleneck is no skip
        for up_sampler, layer in zip(self.up_samplers, self.up_layers):
            skip = skips.pop()
            hidden_state = up_sampler(hidden_state)
            if hidden_state.shape[-2:] != skip.shape[-2:]:
                # Max-pooling dropped the last row or column of an odd size.
                rows = skip.shape[-2] - hidden_state.shape[-2]
                columns = skip.shape[-1] - hidden_state.shape[-1]
                hidden_state = nn.functional.pad(hidden_state, (0, columns, 0, rows), mode="replicate")
            hidden_state = layer(torch.cat([hidden_state, skip], dim=1))
        hidden_state = self.out_layer(hidden_state)
        return hidden_state.sigmoid() if self.mask_activation == "sigmoid" else hidden_state.softmax(dim=1)


# The layers that have initial weights of their own here; others have transformers'.
INITIALIZED = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.Linear)


@torch.no_grad()
def init_weights(module: nn.Module, deviation: float) -> None:
    """
    Give a layer its initial weights: He et al., 2015, for convolutions, and small normal ones for the classifier.

    Args:
        module: one of `INITIALIZED`; another stays as it is.
        deviation: standard deviation of a linear layer's weights.
    """
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        # For a transposed convolution this counts its input channels; BatchNorm sets the scale.
        init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        if module.affine:
            init.ones_(module.weight)
            init.zeros_(module.bias)
        if module.track_running_stats:
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
    elif isinstance(module, nn.Linear):
        init.normal_(module.weight, mean=0.0, std=deviation)
        if module.bias is not None:
            init.zeros_(module.bias)


__all__ = [
    "INITIALIZED",
    "RMNBasicLayer",
    "RMNBottleneckLayer",
    "RMNConvLayer",
    "RMNEmbeddings",
    "RMNMaskingBlock",
    "RMNStage",
    "RMNUpLayer",
    "init_weights",
]
