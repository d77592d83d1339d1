"""
The networks by name: RMN, and the six that the paper compares and sums it with (its tables 1.1 to 1.3).

| name | what it is |
| --- | --- |
| `rmn` | the Residual Masking Network |
| `vgg19` | timm's `vgg19_bn`: from random weights the one without normalisation does not leave chance |
| `densenet121`, `resnet18`, `resnet34`, `resnet152` | timm's of these names |
| `cbam_resnet50` | timm's `resnet50` with CBAM (Woo et al., 2018) in each block |
| `resattnet56` | [`ResAttNetForImageClassification`] |

timm's networks are transformers' `TimmWrapperForImageClassification`, so that their checkpoints load wherever
transformers and timm are. Their stems stay ImageNet's, which no setting of timm's changes: at 48 pixels their stages
have 12, 6, 3 and 2 pixels a side. ResAttNet56 has the same stem unless `stem="small"` is given, which takes 1,112
instead of 309 million multiply-adds at 48 pixels: too many for a comparison on CPUs. Only VGG19's head, which is made
for 7 x 7 pixels, is an eighth as wide below 96 pixels: 35 million parameters instead of 140.

Weights are random. Nothing is downloaded, whatever a checkpoint's configuration asks for: only the architectures and
arguments of this table are made.
"""

import copy
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import InputError
from ..expressions import EXPRESSIONS
from ..model.configuration_rmn import RMNConfig
from ..model.modeling_rmn import RMNModel
from ..packages import require
from .resattnet import ResAttNetConfig, ResAttNetForImageClassification

Network: TypeAlias = PreTrainedModel

TIMM_WRAPPER = "timm_wrapper"
# What `config.json` calls them.
MODEL_TYPES = (RMNConfig.model_type, ResAttNetConfig.model_type, TIMM_WRAPPER)
# Images below this size, in pixels, are small: ImageNet's sizes would leave little of them.
SMALL = 96
# Architecture of timm, its arguments, and those for small images.
_TIMM: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "vgg19": ("vgg19_bn", {}, {"mlp_ratio": 0.125}),
    "densenet121": ("densenet121", {}, {}),
    "resnet18": ("resnet18", {}, {}),
    "resnet34": ("resnet34", {}, {}),
    "resnet152": ("resnet152", {}, {}),
    "cbam_resnet50": ("resnet50", {"block_args": {"attn_layer": "cbam"}}, {"block_args": {"attn_layer": "cbam"}}),
}
BASELINES = ("vgg19", "resattnet56", "densenet121", "resnet18", "resnet34", "resnet152", "cbam_resnet50")
NETWORKS = ("rmn", *BASELINES)


def network(name: str, image_size: int = 48, **settings: Any) -> Network:
    """
    Return a network with random weights, for the seven expressions.

    Args:
        name: one of `NETWORKS`.
        image_size: height and width of its `pixel_values` in pixels; networks take other sizes as well.
        settings: further fields of the configuration of `rmn` or `resattnet56`.

    Raises:
        InputError: there is no network of this name.
        MissingPackageError: timm is not installed.
    """
    if name not in NETWORKS:
        raise InputError(f"network={name!r} must be one of {', '.join(NETWORKS)}")
    if name == "rmn":
        return RMNModel(RMNConfig(**{"image_size": image_size, **settings}))
    if name == "resattnet56":
        return ResAttNetForImageClassification(ResAttNetConfig(**{"image_size": image_size, **settings}))
    require("timm", "networks of timm", extra="baselines")
    import timm
    from transformers import TimmWrapperConfig

    architecture, large, small = _TIMM[name]
    arguments = small if image_size < SMALL else large
    config = TimmWrapperConfig(
        architecture=architecture,
        model_args=arguments,
        id2label=dict(enumerate(EXPRESSIONS)),
        label2id={expression: index for index, expression in enumerate(EXPRESSIONS)},
        image_size=image_size,
        num_channels=3,
    )
    model = from_config(config)
    # transformers has drawn every weight from a normal distribution of deviation 0.02; timm's own is He's.
    own = timm.create_model(architecture, pretrained=False, num_classes=len(EXPRESSIONS), **arguments)
    model.timm_model.load_state_dict(own.state_dict())
    return model


def read_config(content: Mapping[str, Any]) -> PreTrainedConfig:
    """
    Return the configuration in a checkpoint's `config.json`.

    Args:
        content: what the file holds.

    Raises:
        ValueError: it is of none of these networks, or describes one that cannot be made.
        MissingPackageError: timm is needed and not installed.
    """
    kind = content.get("model_type")
    if kind == RMNConfig.model_type:
        return RMNConfig.from_dict(dict(content))
    if kind == ResAttNetConfig.model_type:
        return ResAttNetConfig.from_dict(content)
    if kind != TIMM_WRAPPER:
        raise ValueError(f"model_type={kind!r} must be one of {', '.join(MODEL_TYPES)}")
    require("timm", "networks of timm", extra="baselines")
    from transformers import TimmWrapperConfig

    config = TimmWrapperConfig.from_dict(dict(content))
    name_of(config)
    size = getattr(config, "image_size", None)
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(f"image_size={size!r} must be a whole number of at least 1")
    if getattr(config, "num_channels", 3) != 3:
        raise ValueError(f"num_channels={config.num_channels!r} must be 3")
    return config


def from_config(config: PreTrainedConfig) -> Network:
    """Return the network of a configuration that [`read_config`] or [`network`] has made."""
    if isinstance(config, RMNConfig):
        return RMNModel(config)
    if isinstance(config, ResAttNetConfig):
        return ResAttNetForImageClassification(config)
    from transformers import TimmWrapperForImageClassification

    return TimmWrapperForImageClassification(config)


def name_of(config: PreTrainedConfig) -> str:
    """
    Return the name of a configuration's network among `NETWORKS`.

    Raises:
        ValueError: it is another architecture of timm's, or has other arguments, which could load any file.
    """
    if isinstance(config, RMNConfig):
        return "rmn"
    if isinstance(config, ResAttNetConfig):
        return "resattnet56"
    arguments = config.model_args or {}
    for name, (architecture, *allowed) in _TIMM.items():
        if config.architecture == architecture and arguments in allowed:
            return name
    raise ValueError(
        f"architecture={config.architecture!r} with model_args={arguments} must be that of {', '.join(_TIMM)}"
    )


def for_inference(model: Network) -> Network:
    """
    Return a copy for fast inference: in evaluation mode, in channels_last order and without gradients. RMN's has every
    BatchNorm folded into its convolution, too.
    """
    if isinstance(model, RMNModel):
        return model.for_inference()
    return copy.deepcopy(model).requires_grad_(False).eval().to(memory_format=torch.channels_last)


def masking_blocks(model: Network) -> nn.ModuleList | tuple[()]:
    """Return the masking blocks of an RMN; other networks have none."""
    return getattr(model, "masking_blocks", ())


__all__ = [
    "BASELINES",
    "MODEL_TYPES",
    "NETWORKS",
    "Network",
    "for_inference",
    "from_config",
    "masking_blocks",
    "name_of",
    "network",
    "read_config",
]
