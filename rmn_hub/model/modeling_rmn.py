"""The Residual Masking Network (Pham, Vu, Tran, ICPR 2020) as a transformers model.

In reading order: convolution with normalisation, residual blocks, stem, stage, masking block, network.
"""

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub.errors import (
    StrictDataclassError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput
from transformers.utils import SAFE_WEIGHTS_NAME

from .configuration_rmn import RMNConfig


@dataclass
class RMNOutput(ModelOutput):
    """
    What an [`RMNModel`] answers.

    Args:
        loss (`torch.FloatTensor` of shape `()`, when `labels` were given): cross-entropy, or what
            `config.problem_type` says.
        logits (`torch.FloatTensor` of shape `(batch, num_labels)`): scores before the softmax.
        masks (`tuple(torch.FloatTensor)`, when asked for): one mask m per stage, of its features' shape
            `(batch, C, H, W)`, with values in 0..1; empty with the masks off.
        hidden_states (`tuple(torch.FloatTensor)`, when asked for): two tensors `(batch, C, H, W)` per stage, the
            stage's features t before masking and b after it: `(t1, b1, t2, b2, t3, b3, t4, b4)`. Figure 1.14 of the
            authors' report shows t3 and b3. With the masks off, b is t.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    masks: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None


# What `push_to_hub` says about weights that nobody has written a card for.
CARD = """---
library_name: transformers
pipeline_tag: image-classification
tags:
- facial-expression-recognition
- residual-masking-network
- rmn
---

# Residual Masking Network

A network for facial expressions after Pham, Vu and Tran, "Facial Expression Recognition Using Residual Masking Network"
(ICPR 2020): {millions:.1f} M parameters, for face crops of {size} x {size} pixels. It answers: {labels}.

No results are known for these weights: measure them before you rely on them. An expression is what a face shows, not
what a person feels.

```python
from rmn_hub import RMNImageProcessor, RMNModel

model = RMNModel.from_pretrained("this repository")
```
"""


class RMNConvLayer(nn.Module):
    """Convolution without bias, batch normalisation and, unless it is switched off, ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, activation: bool = True
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=False
        )
        self.normalization = nn.BatchNorm2d(out_channels, dtype=torch.float32)
        self.activation = nn.ReLU() if activation else nn.Identity()

    def forward(self, hidden_state: Tensor) -> Tensor:
        hidden_state = self.convolution(hidden_state)
        if self.training and hidden_state.shape.numel() == hidden_state.shape[1] and self.normalization.training:
            raise ValueError(
                "training on one image whose features have shrunk to 1 x 1 pixel leaves batch normalisation one value "
                "a channel: give a batch of at least 2 images, or larger ones"
            )
        return self.activation(self.normalization(hidden_state))


class RMNInferenceConv(nn.Module):
    """
    A convolution for inference alone, with the ReLU after it.

    On a CPU, torch brings a convolution's weights into oneDNN's layout anew on every call, which takes longer than the
    convolution itself where the features are small. Here the first call keeps them in that layout.
    """

    def __init__(self, convolution: nn.Conv2d, relu: bool) -> None:
        super().__init__()
        self.convolution = convolution
        self.relu = relu
        self._packed: Tensor | None = None

    def forward(self, hidden_state: Tensor) -> Tensor:
        if self._can_pack(hidden_state):
            convolution = self.convolution
            where = (convolution.padding, convolution.stride, convolution.dilation)
            if self._packed is None:
                self._packed = torch._C._nn.mkldnn_reorder_conv2d_weight(
                    convolution.weight.to_mkldnn(), *where, convolution.groups, hidden_state.shape
                )
            after = "relu" if self.relu else "none"
            return torch.ops.mkldnn._convolution_pointwise(
                hidden_state, self._packed, convolution.bias, *where, convolution.groups, after, [], ""
            )
        hidden_state = self.convolution(hidden_state)
        return hidden_state.relu_() if self.relu else hidden_state

    def _can_pack(self, hidden_state: Tensor) -> bool:
        return (
            hidden_state.device.type == "cpu"
            and hidden_state.dtype == self.convolution.weight.dtype == torch.float32
            and not (torch.is_grad_enabled() and hidden_state.requires_grad)  # oneDNN's layout has no gradients
            and not torch.compiler.is_compiling()
            and _has_packed_convolution()
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RMNInferenceConv":
        self._packed = None  # the weights move or change their type
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}


@lru_cache
def _has_packed_convolution() -> bool:
    # torch.compile's own freezing uses both; neither is documented.
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
    )


class RMNUpLayer(nn.Module):
    """Transposed 2x2 convolution of stride 2, batch normalisation and ReLU: doubles height and width."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        # The bias has no effect before a BatchNorm; it is here because the original's checkpoints carry it.
        self.convolution = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
        self.normalization = nn.BatchNorm2d(out_channels, dtype=torch.float32)
        self.activation = nn.ReLU()

    def forward(self, hidden_state: Tensor) -> Tensor:
        return self.activation(self.normalization(self.convolution(hidden_state)))


class RMNBasicLayer(nn.Module):
    """Residual block of two 3x3 convolutions (He et al., 2016, figure 5 left); `out_activation` is the last ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, out_activation: bool = True) -> None:
        super().__init__()
        self.shortcut = (
            RMNConvLayer(in_channels, out_channels, kernel_size=1, stride=stride, activation=False)
            if in_channels != out_channels or stride != 1
            else nn.Identity()
        )
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
        self.shortcut = (
            RMNConvLayer(in_channels, out_channels, kernel_size=1, stride=stride, activation=False)
            if in_channels != out_channels or stride != 1
            else nn.Identity()
        )
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
        if config.stem == "imagenet":
            self.embedder = RMNConvLayer(config.num_channels, config.embedding_size, kernel_size=7, stride=2)
            self.pooler = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        else:
            self.embedder = RMNConvLayer(config.num_channels, config.embedding_size, stride=config.stem_stride)
            self.pooler = nn.Identity()

    def forward(self, pixel_values: Tensor) -> Tensor:
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.num_channels:
            raise ValueError(
                f"pixel_values must have the shape (batch, {self.num_channels}, height, width), as the configuration's "
                f"num_channels says, but have {tuple(pixel_values.shape)}"
            )
        return self.pooler(self.embedder(pixel_values))


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
        # The original's softmax follows the block's ReLU. A sigmoid there could only answer 0.5..1: it takes the sum
        # before the ReLU, so that a mask has its whole range 0..1.
        self.out_layer = RMNBasicLayer(widths[0], channels, out_activation=mask_activation == "softmax")

    def forward(self, hidden_state: Tensor) -> Tensor:
        height, width = hidden_state.shape[-2:]
        halvings = len(self.up_samplers)
        if height < 2**halvings or width < 2**halvings:
            raise ValueError(
                f"pixel_values are too small: a stage's features of {height} x {width} pixels cannot be halved "
                f"{halvings} times by their mask, give larger ones"
            )
        skips: list[Tensor] = []
        for level, layer in enumerate(self.down_layers):
            hidden_state = layer(self.pooler(hidden_state) if level else hidden_state)
            skips.append(hidden_state)
        skips.pop()  # the bottleneck goes on by itself
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


@contextmanager
def _without_conversion_bot() -> Iterator[None]:
    """
    Where a Hub repository has no safetensors, transformers asks a bot to open a pull request with some. It cannot: it
    does not know RMN.
    """
    name = "DISABLE_SAFETENSORS_CONVERSION"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)  # another thread's load may have been as far before
        else:
            os.environ[name] = before


class RMNPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and saving."""

    config: RMNConfig
    base_model_prefix = "rmn"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    accepts_loss_kwargs = False
    # Recomputing a block would update its BatchNorm statistics a second time.
    supports_gradient_checkpointing = False
    # Running variances overflow in float16 and are coarse in bfloat16. The layers make them in float32, too.
    _keep_in_fp32_modules_strict: ClassVar[list[str]] = ["normalization"]
    # What adds or concatenates tensors of its own layers stays on one device.
    _no_split_modules: ClassVar[list[str]] = ["RMNBasicLayer", "RMNBottleneckLayer", "RMNMaskingBlock"]

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **kwargs: Any
    ) -> "RMNPreTrainedModel":
        """
        Loads a checkpoint from a local folder or the Hub, as [`~transformers.PreTrainedModel.from_pretrained`] does
        and with its arguments, but from safetensors only.

        Raises:
            OSError: the checkpoint is not there, cannot be reached, or is damaged; the message is one sentence.
            ValueError: the checkpoint is another architecture's, its configuration cannot work, or a pickle was asked
                for with `use_safetensors=False`.
            RuntimeError: tensors do not have the shapes that the configuration says.
        """
        if kwargs.get("use_safetensors") is False:
            raise ValueError("RMN loads safetensors only: turn an original pickle into it with `rmn-hub convert`")
        kwargs["use_safetensors"] = True
        try:
            with _without_conversion_bot():
                return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except (OSError, SafetensorError) as error:
            revision = kwargs.get("revision") or "main"
            from ..hub.checkpoint import loading_problem

            raise OSError(loading_problem(pretrained_model_name_or_path, revision, error)) from error
        except StrictDataclassError as error:
            reason = " ".join(str(error.__cause__ or error).split())
            raise ValueError(f"the configuration of {pretrained_model_name_or_path} cannot work: {reason}") from error
        except RuntimeError as error:
            if "ignore_mismatched_sizes" not in str(error):
                raise
            raise RuntimeError(
                f"tensors of {pretrained_model_name_or_path} have other shapes than its configuration says: give the "
                "configuration that belongs to them, or ignore_mismatched_sizes=True to start those afresh"
            ) from error

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            # He et al., 2015. (For a transposed convolution this counts its input channels; BatchNorm sets the scale.)
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
            init.zeros_(module.bias)

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """One grey picture of the configured size."""
        size = self.config.image_size
        return {"pixel_values": torch.full((1, self.config.num_channels, size, size), 0.5)}


class RMNModel(RMNPreTrainedModel):
    """
    The Residual Masking Network: a ResNet whose every stage is followed by a masking block. With t = T(x) the stage's
    features and m = M(t) their mask, the next stage sees b = (1 + m) * t (equation 1 of the paper). Global average
    pooling, dropout and a linear layer make the logits.

    Args:
        config ([`RMNConfig`]): sizes; the default is the original network.

    Example:
        >>> from rmn_hub import BUNDLED_CHECKPOINT, RMNImageProcessor, RMNModel
        >>> model = RMNModel.from_pretrained(BUNDLED_CHECKPOINT)
        >>> processor = RMNImageProcessor.from_pretrained(BUNDLED_CHECKPOINT)
        >>> outputs = model(**processor(crop, return_tensors="pt"), output_masks=True)  # doctest: +SKIP
        >>> probabilities = outputs.logits.softmax(-1)  # doctest: +SKIP
    """

    def __init__(self, config: RMNConfig) -> None:
        super().__init__(config)
        config.validate()  # what was assigned after it was made has not been looked at
        # The class name matches none of transformers' losses, which would choose the causal-LM loss.
        self.loss_type = "ForImageClassification"
        self.embedder = RMNEmbeddings(config)
        widths = [config.embedding_size, *config.hidden_sizes]
        self.stages = nn.ModuleList(
            RMNStage(config, widths[i], widths[i + 1], stride=2 if i else 1, depth=depth)
            for i, depth in enumerate(config.depths)
        )
        self.masking_blocks = nn.ModuleList(
            RMNMaskingBlock(channels, depth, config.mask_ratio, config.mask_activation)
            for channels, depth in zip(config.hidden_sizes, config.resolved_mask_depths() or ())
        )
        self.pooler = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_sizes[-1], config.num_labels)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_masks: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> RMNOutput | tuple[Tensor, ...]:
        """
        Args:
            pixel_values: floats `(batch, num_channels, height, width)` as [`RMNImageProcessor`] makes them, in 0..1.
            labels: class indices `(batch,)` for the loss, or probabilities `(batch, num_labels)` for soft targets: both
                make a cross-entropy. With one label, or `config.problem_type` `"regression"` or
                `"multi_label_classification"`, they are what transformers' classifiers take.
            output_masks: whether to return the masks of all stages (`config.output_masks`, off, when not given).
            output_hidden_states: whether to return each stage's features before and after masking.
            return_dict: a tuple of what was asked for instead of an [`RMNOutput`] when `False`.
            kwargs: passed on to the loss.

        Raises:
            ValueError: `pixel_values` that are not `(batch, num_channels, height, width)`, or too small to be masked.
        """
        return_dict = return_dict if return_dict is not None else self.config.return_dict
        if output_masks is None:
            output_masks = getattr(self.config, "output_masks", False)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states

        masks: tuple[Tensor, ...] = ()
        hidden_states: tuple[Tensor, ...] = ()
        hidden_state = self.embedder(pixel_values)
        for index, stage in enumerate(self.stages):
            features = hidden_state = stage(hidden_state)
            if self.masking_blocks:
                mask = self.masking_blocks[index](features).to(features.device)  # device_map may split here
                # (1 + m) * t without a tensor for 1 + m.
                hidden_state = torch.addcmul(features, mask, features)
                if output_masks:
                    masks = (*masks, mask)
            if output_hidden_states:
                hidden_states = (*hidden_states, features, hidden_state)
        logits = self.classifier(self.dropout(self.pooler(hidden_state).flatten(1)))

        loss = None
        if labels is not None:
            kinds = (None, "single_label_classification")
            if labels.shape == logits.shape and self.config.num_labels > 1 and self.config.problem_type in kinds:
                # transformers' loss would take soft targets for the labels of a multi-label problem.
                loss = nn.functional.cross_entropy(logits.float(), labels.to(logits.device, torch.float))
            else:
                loss = self.loss_function(labels, logits, self.config, **kwargs)

        if not return_dict:
            parts = (loss, logits, masks if output_masks else None, hidden_states if output_hidden_states else None)
            return tuple(part for part in parts if part is not None)
        return RMNOutput(
            loss=loss,
            logits=logits,
            masks=masks if output_masks else None,
            hidden_states=hidden_states if output_hidden_states else None,
        )

    def for_inference(self) -> "RMNModel":
        """
        A copy of this model for fast inference: evaluation mode, every BatchNorm folded into its convolution, weights
        in channels_last order and without gradients; on a CPU, also in oneDNN's own layout from the first call on,
        which takes their memory twice. Its answers equal this model's (in evaluation mode) within 1e-4; it takes the
        same arguments and cannot be trained or saved.
        """
        model = copy.deepcopy(self).eval().requires_grad_(False)
        for module in list(model.modules()):
            if isinstance(module, (RMNConvLayer, RMNUpLayer)) and isinstance(module.normalization, nn.BatchNorm2d):
                module.convolution = nn.utils.fusion.fuse_conv_bn_eval(
                    module.convolution, module.normalization, transpose=isinstance(module, RMNUpLayer)
                ).requires_grad_(False)
                module.normalization = nn.Identity()
                if isinstance(module, RMNConvLayer):
                    relu = isinstance(module.activation, nn.ReLU)
                    module.convolution = RMNInferenceConv(module.convolution, relu)
                    module.activation = nn.Identity()
        model._is_folded = True
        return model.to(memory_format=torch.channels_last)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """
        Saves configuration and weights, as [`~transformers.PreTrainedModel.save_pretrained`] does.

        Raises:
            ValueError: the model came from [`for_inference`]; the folded weights no longer fit the configuration.
        """
        if getattr(self, "_is_folded", False):
            raise ValueError("this model came from for_inference() and cannot be saved: save the model it was made of")
        super().save_pretrained(*args, **kwargs)

    def _upload_modified_files(self, working_dir: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """What `push_to_hub` ends with: our card goes up instead of transformers' automatic one."""
        readme = Path(working_dir) / "README.md"
        if "has been automatically generated" in readme.read_text(encoding="utf-8"):
            readme.write_text(self._card(), encoding="utf-8")
        return super()._upload_modified_files(working_dir, *args, **kwargs)

    def _card(self) -> str:
        """The card of the folder that the model was loaded from, as long as it has those weights, or a short one."""
        folder = Path(self.config.name_or_path or "-")
        if (folder / "README.md").is_file() and (folder / SAFE_WEIGHTS_NAME).is_file():
            saved, own = load_file(folder / SAFE_WEIGHTS_NAME), self.state_dict()
            if saved.keys() == own.keys() and all(tensor.equal(own[name].cpu()) for name, tensor in saved.items()):
                return (folder / "README.md").read_text(encoding="utf-8")
        names = [self.config.id2label[index] for index in range(self.config.num_labels)]
        return CARD.format(labels=", ".join(names), size=self.config.image_size, millions=self.num_parameters() / 1e6)


__all__ = ["RMNModel", "RMNOutput", "RMNPreTrainedModel"]
