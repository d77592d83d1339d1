"""
ResAttNet56: the Residual Attention Network of Wang et al., "Residual Attention Network for Image Classification" (CVPR
2017), Attention-56 of their table 2, as a transformers model. One of the networks that the RMN is compared with.

In reading order: residual unit, mask branch, attention module, network.
"""

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from ..expressions import EXPRESSIONS
from ..model.layers_rmn import init_weights

# The mask branches of the original halve 56, 28 and 14 pixels until 7 are left.
BOTTLENECK_SIZE = 7


@strict
class ResAttNetConfig(PreTrainedConfig):
    """
    Hold the settings of a [`ResAttNetForImageClassification`]. The defaults are Attention-56.

    Args:
        num_channels (`int`, defaults to 3): channels of `pixel_values`.
        image_size (`int`, defaults to 224): height and width of `pixel_values` in pixels, from which the depths of the
            mask branches follow. The network itself takes any size.
        stem (`str`, defaults to `"imagenet"`): `"imagenet"` is a 7x7 convolution and a 3x3 max-pool, each of stride 2;
            `"small"` is one 3x3 convolution of stride 2, so that the masks of a face of 48 pixels have some to choose
            from: 24, 12 and 6 a side.
        embedding_size (`int`, defaults to 64): channels after the stem.
        hidden_sizes (`tuple[int, ...]`, defaults to `(256, 512, 1024, 2048)`): channels of the stages, multiples of 4.
            All but the last have an attention module; the last has three residual units.
        kwargs: transformers' common settings. The labels are FER2013's seven when no others are given.

    Raises:
        huggingface_hub.errors.StrictDataclassError: a setting that cannot work, or has the wrong type.
    """

    model_type = "resattnet"

    num_channels: int = 3
    image_size: int = 224
    stem: str = "imagenet"
    embedding_size: int = 64
    hidden_sizes: list[int] | tuple[int, ...] = (256, 512, 1024, 2048)

    def __post_init__(self, **kwargs: Any) -> None:
        self.hidden_sizes = tuple(self.hidden_sizes)  # JSON has only lists
        self.id2label: dict[int, str]
        self.label2id: dict[str, int]
        if self.id2label is None and kwargs.get("num_labels") is None:
            kwargs.pop("num_labels", None)
            self.id2label = dict(enumerate(EXPRESSIONS))
        if self.id2label is not None and self.label2id is None:
            self.label2id = {name: int(index) for index, name in self.id2label.items()}
        super().__post_init__(**kwargs)

    def validate_sizes(self) -> None:
        """Check that sizes and widths are positive and that the stem exists."""
        for name in ("num_channels", "image_size", "embedding_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}`={getattr(self, name)} must be at least 1")
        if len(self.hidden_sizes) < 2 or any(size < 4 or size % 4 for size in self.hidden_sizes):
            raise ValueError(f"`hidden_sizes`={self.hidden_sizes} must be at least two multiples of 4")
        if self.stem not in ("imagenet", "small"):
            raise ValueError(f"`stem`={self.stem!r} must be imagenet or small")

    def mask_depths(self) -> tuple[int, ...]:
        """Return how often the mask branch of each attention module halves its input: `(3, 2, 1)` at 224 pixels."""
        size = math.ceil(self.image_size / (4 if self.stem == "imagenet" else 2))
        depths = []
        for _ in self.hidden_sizes[:-1]:
            depths.append(max(1, round(math.log2(size / BOTTLENECK_SIZE))))
            size = math.ceil(size / 2)
        return tuple(depths)


class ResAttNetUnit(nn.Module):
    """Pre-activation bottleneck unit (He et al., "Identity mappings in deep residual networks", 2016)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        inner = out_channels // 4
        self.normalization = nn.BatchNorm2d(in_channels)
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, out_channels, 1, bias=False),
        )
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False) if changes else None

    def forward(self, hidden_state: Tensor) -> Tensor:
        activated = self.normalization(hidden_state).relu()
        if self.shortcut is not None:
            hidden_state = self.shortcut(activated)
        return hidden_state + self.layers(activated)


class ResAttNetMaskBranch(nn.Module):
    """
    The bottom-up top-down part of a mask branch (figure 2 of the paper), r = 1: halve, one unit, the next level inside
    with a unit as the skip around it, one unit, enlarge to the size before.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.pooler = nn.MaxPool2d(3, stride=2, padding=1)  # one pixel stays one
        self.first = ResAttNetUnit(channels, channels)
        self.inside = ResAttNetMaskBranch(channels, depth - 1) if depth > 1 else None
        self.skip = ResAttNetUnit(channels, channels) if depth > 1 else None
        self.last = ResAttNetUnit(channels, channels)

    def forward(self, hidden_state: Tensor) -> Tensor:
        size = hidden_state.shape[-2:]
        hidden_state = self.first(self.pooler(hidden_state))
        if self.inside is not None and self.skip is not None:
            hidden_state = self.inside(hidden_state) + self.skip(hidden_state)
        return nn.functional.interpolate(self.last(hidden_state), size, mode="bilinear", align_corners=False)


class ResAttNetModule(nn.Module):
    """An attention module with p = 1 and t = 2: one unit, (1 + M(x)) * T(x) of equation 1, one unit."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.first = ResAttNetUnit(channels, channels)
        self.trunk = nn.Sequential(ResAttNetUnit(channels, channels), ResAttNetUnit(channels, channels))
        self.mask_branch = ResAttNetMaskBranch(channels, depth)
        self.mask_head = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
        )
        self.last = ResAttNetUnit(channels, channels)

    def mask(self, hidden_state: Tensor) -> Tensor:
        """Return M(x) in 0..1, of the shape of x."""
        return self.mask_head(self.mask_branch(hidden_state)).sigmoid()

    def forward(self, hidden_state: Tensor) -> Tensor:
        hidden_state = self.first(hidden_state)
        return self.last((1 + self.mask(hidden_state)) * self.trunk(hidden_state))


class ResAttNetForImageClassification(PreTrainedModel):
    """
    The Residual Attention Network with a linear layer that makes the logits.

    Args:
        config ([`ResAttNetConfig`]): sizes.
    """

    config: ResAttNetConfig
    base_model_prefix = "resattnet"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    accepts_loss_kwargs = False

    def __init__(self, config: ResAttNetConfig) -> None:
        super().__init__(config)
        small = config.stem == "small"
        kernel, width = (3, config.embedding_size) if small else (7, config.embedding_size)
        self.stem = nn.Sequential(
            nn.Conv2d(config.num_channels, width, kernel, stride=2, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1),
        )
        stages: list[nn.Module] = []
        *sizes, last = config.hidden_sizes
        for number, (size, depth) in enumerate(zip(sizes, config.mask_depths())):
            unit = ResAttNetUnit(width, size, stride=2 if number else 1)
            stages.append(nn.Sequential(unit, ResAttNetModule(size, depth)))
            width = size
        units = [ResAttNetUnit(width, last, stride=2), *(ResAttNetUnit(last, last) for _ in range(2))]
        self.stages = nn.Sequential(*stages, nn.Sequential(*units))
        self.normalization = nn.BatchNorm2d(last)
        self.pooler = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        init_weights(module, deviation=0.01)

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, return_dict: bool | None = None, **kwargs: Any
    ) -> ImageClassifierOutput | tuple[Any, ...]:
        """
        Compute the logits, and the loss where there are labels.

        Args:
            pixel_values: floats `(batch, num_channels, height, width)` in 0..1.
            labels: class numbers `(batch,)`.
            return_dict: whether to return an `ImageClassifierOutput` (the default) or a tuple.
            kwargs: passed on to the loss.
        """
        hidden_state = self.normalization(self.stages(self.stem(pixel_values))).relu()
        logits = self.classifier(self.pooler(hidden_state).flatten(1))
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        outputs = ImageClassifierOutput(loss=loss, logits=logits)
        return outputs if return_dict or return_dict is None else outputs.to_tuple()


__all__ = ["ResAttNetConfig", "ResAttNetForImageClassification"]
