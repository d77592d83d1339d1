"""Configuration of the Residual Masking Network (RMN)."""

import math
import os
from collections.abc import Iterable
from numbers import Integral
from typing import Any

MINIMUM_TRANSFORMERS = "5.4"

try:
    from huggingface_hub.dataclasses import strict
    from huggingface_hub.errors import StrictDataclassFieldValidationError
    from transformers import PreTrainedConfig
    from transformers.backbone_utils import BackboneConfigMixin
except ImportError as error:  # this file also runs where no package checks its requirements
    import transformers

    raise ImportError(
        f"The Residual Masking Network needs transformers {MINIMUM_TRANSFORMERS} or newer, not "
        f"{transformers.__version__}: pip install -U 'transformers>={MINIMUM_TRANSFORMERS}'"
    ) from error

# Where transformers' Auto classes find the code of a checkpoint where rmn_hub is not installed: in files beside it.
AUTO_MAP = {
    "AutoConfig": "configuration_rmn.RMNConfig",
    "AutoModel": "modeling_rmn.RMNBaseModel",
    "AutoModelForImageClassification": "modeling_rmn.RMNForImageClassification",
    "AutoBackbone": "modeling_rmn.RMNBackbone",
}
# FER2013's class order (Goodfellow et al., 2013). A copy of `rmn_hub.expressions`: this file travels alone to the Hub.
EXPRESSIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
STEMS = ("imagenet", "small")
LAYER_TYPES = ("basic", "bottleneck")
MASK_ACTIVATIONS = ("softmax", "sigmoid")
PROBLEM_TYPES = (None, "regression", "single_label_classification", "multi_label_classification")
# A mask block halves its input until its bottleneck is as near as it gets to this many pixels: the original goes
# from 56, 28, 14 and 7 pixels to 7 (section III-B of the paper), a 48-pixel network from 24, 12 and 6 to 6.
BOTTLENECK_SIZE = 6.5
MAX_AUTO_MASK_DEPTH = 4


@strict
class RMNConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Hold the settings of an [`RMNModel`]. The defaults are the original network of Pham, Vu and Tran, "Facial Expression
    Recognition Using Residual Masking Network" (ICPR 2020): a ResNet34 with a masking block after each of its four
    stages.

    Args:
        num_channels (`int`, defaults to 3): channels of `pixel_values`.
        image_size (`int`, defaults to 224): height and width of `pixel_values` in pixels. It is what the image
            processor resizes to and what `mask_depths="auto"` is computed from; the network itself takes other sizes.
        stem (`str`, defaults to `"imagenet"`): `"imagenet"` is a 7x7 convolution of stride 2 and a 3x3 max-pool of
            stride 2; `"small"` is one 3x3 convolution of stride `stem_stride`, for faces of about 48 pixels.
        stem_stride (`int`, defaults to 2): stride of the `"small"` stem, 1 or 2. The `"imagenet"` stem ignores it.
        embedding_size (`int`, defaults to 64): channels after the stem.
        hidden_sizes (`tuple[int, ...]`, defaults to `(64, 128, 256, 512)`): channels of each stage.
        depths (`tuple[int, ...]`, defaults to `(3, 4, 6, 3)`): residual blocks of each stage.
        layer_type (`str`, defaults to `"basic"`): residual block of the stages, `"basic"` or `"bottleneck"`. The masks
            always use basic blocks, as in the original.
        mask_depths (`tuple[int, ...]`, `"auto"` or `None`, defaults to `(4, 3, 2, 1)`): levels of each stage's masking
            block (1 is two residual blocks without pooling). `"auto"` chooses them from the stages' spatial sizes so
            that the bottleneck is about 6 to 7 pixels wide. `None` switches the masks off, which leaves a plain ResNet.
        mask_ratio (`float`, defaults to 1.0): inner width of the masking blocks against the original's, greater than 0.
        mask_activation (`str`, defaults to `"softmax"`): `"softmax"` over the channels, as the original has it: a mask
            sums to 1 over its channels at every place. `"sigmoid"`: every value of a mask lies in 0..1 by itself.
        dropout (`float`, defaults to 0.4): dropout probability before the classifier, 0 <= dropout < 1.
        initializer_range (`float`, defaults to 0.01): standard deviation of the classifier's initial weights.
        output_masks (`bool`, defaults to `False`): whether the outputs have the masks where `forward` is not told.
        kwargs: transformers' common settings. The labels are FER2013's seven unless `num_labels`, `id2label` or
            `label2id` is given; one of `id2label` and `label2id` is enough. `out_features` or `out_indices` choose the
            feature maps of an [`RMNBackbone`] among `"stem"`, `"stage1"`, `"stage2"`, ...

    Raises:
        huggingface_hub.errors.StrictDataclassError: a setting that cannot work, or has the wrong type; the message
            names the setting. (A subclass of it wraps the `ValueError` or `TypeError`.)

    Example:
        >>> from rmn_hub import RMNConfig, RMNModel
        >>> RMNConfig().mask_depths
        (4, 3, 2, 1)
        >>> small = RMNConfig(image_size=48, stem="small", hidden_sizes=(24, 48, 96, 192), depths=(2, 2, 2, 2),
        ...                   embedding_size=24, mask_depths="auto", mask_ratio=0.25)
        >>> small.resolved_mask_depths()
        (3, 2, 1, 1)
    """

    model_type = "rmn"
    # `save_pretrained` carries this file along, or a subclass's.
    _auto_class = "AutoConfig"
    # Trainer's evaluation leaves them out: `compute_metrics` takes the logits alone.
    keys_to_ignore_at_inference = ["masks", "hidden_states"]  # noqa: RUF012 - annotated, it would be a setting

    num_channels: int = 3
    image_size: int = 224
    stem: str = "imagenet"
    stem_stride: int = 2
    embedding_size: int = 64
    hidden_sizes: list[int] | tuple[int, ...] = (64, 128, 256, 512)
    depths: list[int] | tuple[int, ...] = (3, 4, 6, 3)
    layer_type: str = "basic"
    mask_depths: list[int] | tuple[int, ...] | str | None = (4, 3, 2, 1)
    mask_ratio: float | int = 1.0
    mask_activation: str = "softmax"
    dropout: float | int = 0.4
    initializer_range: float | int = 0.01
    output_masks: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        # JSON has only lists: a configuration that was saved and loaded must equal the one it came from.
        self.hidden_sizes = tuple(self.hidden_sizes)
        self.depths = tuple(self.depths)
        if isinstance(self.mask_depths, list):
            self.mask_depths = tuple(self.mask_depths)
        self.id2label: dict[int, str]
        self.label2id: dict[str, int]
        self._check_labels(kwargs.get("num_labels"))
        # transformers' default are two labels, and it does not make one of the two mappings from the other.
        if self.id2label is None and self.label2id is not None:
            self.id2label = {index: name for name, index in self.label2id.items()}
        elif self.id2label is None and kwargs.get("num_labels") is None:
            kwargs.pop("num_labels", None)
            self.id2label = dict(enumerate(EXPRESSIONS))
        if self.id2label is not None and self.label2id is None:
            self.label2id = {name: int(index) for index, name in self.id2label.items()}
        self.stage_names = ["stem", *(f"stage{number}" for number in range(1, len(self.depths) + 1))]
        self.set_output_features_output_indices(
            out_features=kwargs.pop("out_features", None), out_indices=kwargs.pop("out_indices", None)
        )
        super().__post_init__(**kwargs)

    def __setattr__(self, key: str, value: Any) -> None:
        # `from_pretrained` assigns its `id2label` after construction; transformers' tutorials write {"0": name}.
        if key == "id2label" and isinstance(value, dict) and all(str(index).isdecimal() for index in value):
            value = {int(index): name for index, name in value.items()}
        super().__setattr__(key, value)

    def _check_labels(self, num_labels: Any) -> None:
        """Check what transformers would fail on before the other checks run, without naming the setting."""

        def numbers(values: Iterable[Any]) -> bool:
            return all(str(value).isdecimal() for value in values)

        id2label, label2id = self.id2label, self.label2id
        if not (num_labels is None or isinstance(num_labels, Integral)):
            name, reason = "num_labels", f"`num_labels`={num_labels!r} must be a whole number"
        elif not (id2label is None or (isinstance(id2label, dict) and numbers(id2label))):
            name, reason = "id2label", f"`id2label`={id2label!r} must be a dictionary from class numbers to names"
        elif not (label2id is None or (isinstance(label2id, dict) and numbers(label2id.values()))):
            name, reason = "label2id", f"`label2id`={label2id!r} must be a dictionary from names to class numbers"
        else:
            return
        cause = TypeError(reason)
        raise StrictDataclassFieldValidationError(name, cause) from cause

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        Return the content of a checkpoint's `config.json`, and the arguments that were not used.

        Transformers calls this in every `from_pretrained`. Of another architecture's checkpoint it would make a network
        of random weights, with a warning.

        Raises:
            OSError: there is no configuration.
            ValueError: it is another architecture's.
        """
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        model_type = config_dict.get("model_type") if isinstance(config_dict, dict) else None
        if model_type is None:
            raise OSError(f"{pretrained_model_name_or_path} has no config.json with a model_type. Give a checkpoint.")
        # A subclass with a `model_type` of its own may start from an RMN.
        if model_type not in {getattr(base, "model_type", None) for base in cls.__mro__} - {""}:
            raise ValueError(
                f"{pretrained_model_name_or_path} has model_type={model_type!r}, not {cls.model_type!r}. Give the "
                "checkpoint of an RMN, or load this one with transformers' Auto classes."
            )
        return config_dict, kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """
        Return the configuration of a dictionary, with `kwargs` in the place of its own settings.

        Of `id2label` and `label2id` one is enough here, too: the dictionary's other one would not fit it.
        """
        id2label, label2id = kwargs.get("id2label"), kwargs.get("label2id")
        if isinstance(id2label, dict) and label2id is None and all(str(index).isdecimal() for index in id2label):
            kwargs["label2id"] = {name: int(index) for index, name in id2label.items()}
        elif isinstance(label2id, dict) and id2label is None:
            kwargs["id2label"] = {index: name for name, index in label2id.items()}
        return super().from_dict(config_dict, **kwargs)

    # The checks run in the order of their names.
    def validate_counts(self) -> None:
        """Check that sizes and widths are positive, and that there is one number for each stage."""
        for name in ("num_channels", "image_size", "embedding_size", "num_labels"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}`={getattr(self, name)} must be at least 1")
        for name in ("hidden_sizes", "depths"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(f"`{name}`={getattr(self, name)} must hold one number of at least 1 for each stage")
        if len(self.hidden_sizes) != len(self.depths):
            raise ValueError(f"`hidden_sizes`={self.hidden_sizes} must be as long as `depths`={self.depths}")
        if self.layer_type == "bottleneck" and any(size % 4 for size in self.hidden_sizes):
            raise ValueError(f"`hidden_sizes`={self.hidden_sizes} must be multiples of 4 for `layer_type`='bottleneck'")

    def validate_choices(self) -> None:
        """Check that named choices exist and that ratios are in range."""
        for name, choices in (
            ("stem", STEMS),
            ("layer_type", LAYER_TYPES),
            ("mask_activation", MASK_ACTIVATIONS),
            ("problem_type", PROBLEM_TYPES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}`={getattr(self, name)!r} must be one of {', '.join(map(str, choices))}")
        if self.stem_stride not in (1, 2):
            raise ValueError(f"`stem_stride`={self.stem_stride} must be 1 or 2")
        if not 0 < self.mask_ratio < math.inf:
            raise ValueError(f"`mask_ratio`={self.mask_ratio} must be a finite number greater than 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout`={self.dropout} must be at least 0 and less than 1")
        if not 0 < self.initializer_range < math.inf:
            raise ValueError(f"`initializer_range`={self.initializer_range} must be a finite number greater than 0")
        if sorted(self.id2label) != list(range(len(self.id2label))):
            raise ValueError(f"`id2label`={self.id2label} must name each class from 0 up without a gap")
        if len(set(self.id2label.values())) < len(self.id2label):
            raise ValueError(f"`id2label`={self.id2label} must give each class a name of its own")

    def validate_mask_depths(self) -> None:
        """Check that there is one depth for each stage, and that the stage is large enough to be halved that often."""
        if self.mask_depths is None or self.mask_depths == "auto":
            return
        if isinstance(self.mask_depths, str):
            raise ValueError(f"`mask_depths`={self.mask_depths!r} must be one depth per stage, 'auto' or None")
        if len(self.mask_depths) != len(self.depths):
            raise ValueError(f"`mask_depths`={self.mask_depths} must be as long as `depths`={self.depths}")
        if min(self.mask_depths) < 1:
            raise ValueError(f"`mask_depths`={self.mask_depths} must be at least 1. None switches the masks off.")
        for stage, (size, depth) in enumerate(zip(self.stage_sizes(), self.mask_depths), start=1):
            if size < 2 ** (depth - 1):
                raise ValueError(
                    f"`mask_depths`={self.mask_depths} must suit `image_size`={self.image_size}: stage {stage} has "
                    f"{size} x {size} pixels and cannot be halved {depth - 1} times"
                )

    def stage_sizes(self) -> tuple[int, ...]:
        """Return height (and width) in pixels of every stage's features for an input of `image_size` pixels."""
        size = self.image_size
        strides = (2, 2) if self.stem == "imagenet" else (self.stem_stride,)
        for stride in strides:
            size = (size - 1) // stride + 1
        sizes = [size]
        for _ in self.depths[1:]:
            size = (size - 1) // 2 + 1
            sizes.append(size)
        return tuple(sizes)

    def resolved_mask_depths(self) -> tuple[int, ...] | None:
        """Return the masking blocks' depths with `"auto"` worked out: one per stage, or `None` with the masks off."""
        if not isinstance(self.mask_depths, str):
            return None if self.mask_depths is None else tuple(self.mask_depths)
        halvings = (round(math.log2(size / BOTTLENECK_SIZE)) for size in self.stage_sizes())
        return tuple(min(MAX_AUTO_MASK_DEPTH, 1 + max(0, count)) for count in halvings)


__all__ = ["AUTO_MAP", "EXPRESSIONS", "MINIMUM_TRANSFORMERS", "RMNConfig"]
