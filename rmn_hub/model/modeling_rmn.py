"""
The Residual Masking Network of Pham, Vu and Tran, "Facial Expression Recognition Using Residual Masking Network" (ICPR
2020), as a transformers model: its outputs, what all its forms have in common, and the forms: classifier, network
without a head, backbone. The layers are in `layers_rmn`.
"""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.backbone_utils import BackboneMixin, filter_output_hidden_states
from transformers.modeling_outputs import BackboneOutput, BaseModelOutputWithPoolingAndNoAttention, ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_rmn import AUTO_MAP, RMNConfig
from .layers_rmn import (
    INITIALIZED,
    RMNConvLayer,
    RMNEmbeddings,
    RMNMaskingBlock,
    RMNStage,
    RMNUpLayer,
    init_weights,
)

Trunk = TypeVar("Trunk", bound="RMNTrunk")


@dataclass
class RMNOutput(ModelOutput):
    """
    Hold what [`RMNForImageClassification`] computes.

    Args:
        loss (`torch.FloatTensor` of shape `()`, with `labels`): cross-entropy, or the loss of `config.problem_type`.
        logits (`torch.FloatTensor` of shape `(batch, num_labels)`): scores before the softmax.
        masks (`tuple(torch.FloatTensor)`, with `output_masks`): one mask m per stage, of its features' shape
            `(batch, C, H, W)`, with values in 0..1; empty with the masks off.
        hidden_states (`tuple(torch.FloatTensor)`, with `output_hidden_states`): two tensors `(batch, C, H, W)` per
            stage, its features t before masking and b after it: `(t1, b1, t2, b2, t3, b3, t4, b4)`. Figure 1.14 of the
            authors' report shows t3 and b3. With the masks off, b is t.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    masks: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class RMNBaseModelOutput(BaseModelOutputWithPoolingAndNoAttention):
    """
    Hold what [`RMNBaseModel`] computes.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch, C, H, W)`): features of the last stage after masking.
        pooler_output (`torch.FloatTensor` of shape `(batch, C)`): their mean over the places, the face's embedding, of
            which the classifier makes its logits.
        hidden_states (`tuple(torch.FloatTensor)`, with `output_hidden_states`): as in [`RMNOutput`].
        masks (`tuple(torch.FloatTensor)`, with `output_masks`): one mask per stage, as in [`RMNOutput`].
    """

    masks: tuple[Tensor, ...] | None = None


@dataclass
class RMNBackboneOutput(BackboneOutput):
    """
    Hold what [`RMNBackbone`] computes.

    Args:
        feature_maps (`tuple(torch.FloatTensor)`): one tensor `(batch, C, H, W)` for each of `out_features`: the stem's
            features, or a stage's after masking.
        masks (`tuple(torch.FloatTensor)`, with `output_masks`): one mask per stage, as in [`RMNOutput`].
        hidden_states (`tuple(torch.FloatTensor)`, with `output_hidden_states`): the feature maps of the stem and of
            every stage.
    """

    masks: tuple[Tensor, ...] | None = None


class RMNPreTrainedModel(PreTrainedModel):
    """The settings that transformers reads from every form of the network, and its initial weights."""

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

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, INITIALIZED):
            init_weights(module, self.config.initializer_range)
        else:
            super()._init_weights(module)  # a subclass may have any layer

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """Return one grey image of the configured size, as `pixel_values`."""
        size = self.config.image_size
        return {"pixel_values": torch.full((1, self.config.num_channels, size, size), 0.5)}


def _fold(layer: RMNConvLayer | RMNUpLayer) -> None:
    """Put a layer's BatchNorm into its convolution, whose output channels it scales and shifts."""
    convolution, norm = layer.convolution, layer.normalization
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    transposed = isinstance(convolution, nn.ConvTranspose2d)
    convolution.weight, convolution.bias = nn.utils.fusion.fuse_conv_bn_weights(
        convolution.weight, convolution.bias, *statistics, transpose=transposed
    )
    layer.normalization = nn.Identity()


class RMNTrunk(RMNPreTrainedModel):
    """
    The stem, and the stages with their masking blocks: what the classifier and the backbone have in common.

    With t = T(x) a stage's features and m = M(t) their mask, the next stage sees b = (1 + m) * t (equation 1 of the
    paper).
    """

    _is_folded = False

    def __init__(self, config: RMNConfig) -> None:
        super().__init__(config)
        config.validate()  # settings that were assigned later have not been checked yet
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

    def run_stage(self, index: int, hidden_state: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return t, m (`None` with the masks off) and b of stage `index` + 1, each `(batch, C, H, W)`."""
        features = self.stages[index](hidden_state)
        if not self.masking_blocks:
            return features, None, features
        mask = self.masking_blocks[index](features).to(features.device)  # device_map may split here
        # (1 + m) * t without a tensor for 1 + m.
        return features, mask, torch.addcmul(features, mask, features)

    def run_stages(
        self, pixel_values: Tensor, output_masks: bool | None, output_hidden_states: bool | None
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
        """Return the last stage's b, and on request (or the configuration's) all masks and all t and b, else `None`."""
        keeps_masks = self._switch(output_masks, "output_masks")
        keeps_features = self._switch(output_hidden_states, "output_hidden_states")
        masks: tuple[Tensor, ...] = ()
        hidden_states: tuple[Tensor, ...] = ()
        hidden_state = self.embedder(pixel_values)
        for index in range(len(self.stages)):
            features, mask, hidden_state = self.run_stage(index, hidden_state)
            if keeps_masks and mask is not None:
                masks = (*masks, mask)
            if keeps_features:
                hidden_states = (*hidden_states, features, hidden_state)
        return hidden_state, masks if keeps_masks else None, hidden_states if keeps_features else None

    def for_inference(self: Trunk) -> Trunk:
        """
        Return a copy for fast inference: in evaluation mode, every BatchNorm folded into its convolution, weights in
        channels_last order and without gradients. A model that is folded already is returned as it is.

        The outputs are the same but for rounding, about 1e-6 in float32. A folded model cannot be saved.
        """
        if self._is_folded:
            return self
        # A new model instead of copy.deepcopy, which takes 29 s where every tensor's copy is looked at (ZeroGPU).
        with torch.device("meta"):
            model = type(self)(copy.deepcopy(self.config))
        model.load_state_dict({name: tensor.clone() for name, tensor in self.state_dict().items()}, assign=True)
        for module in model.modules():
            if isinstance(module, (RMNConvLayer, RMNUpLayer)):
                _fold(module)
        model._is_folded = True
        return model.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """
        Save configuration, weights and code, as [`~transformers.PreTrainedModel.save_pretrained`] does. Auto classes
        load the folder, or what is pushed of it, with `trust_remote_code=True` where this package is missing. Of a
        subclass, its own file is saved, if it has one.

        Raises:
            ValueError: the model is folded: its weights no longer fit the configuration.
        """
        if self._is_folded:
            raise ValueError("A folded model cannot be saved. Save the model that `for_inference` was called on.")
        self.config.__dict__.pop("auto_map", None)  # of the checkpoint that it comes from
        if type(self).__module__ == __name__:  # of a subclass, transformers carries and names another file
            self.config.auto_map = dict(AUTO_MAP)
        super().save_pretrained(*args, **kwargs)

    def _switch(self, value: bool | None, name: str) -> bool:
        """
        Return a switch of `forward`: as given, or as the configuration has it.

        Raises:
            ValueError: it is something else, such as the layers that some of transformers' models let one choose.
        """
        if value not in (None, True, False):
            raise ValueError(f"`{name}`={value!r} must be True or False")
        return bool(getattr(self.config, name, False) if value is None else value)


class RMNForImageClassification(RMNTrunk):
    """
    The Residual Masking Network: the stages, global average pooling, dropout and a linear layer that makes the logits.

    `RMNModel` is another name of this class. Elsewhere in transformers a `...Model` has no head. Here
    `RMNModel.from_pretrained("org/rmn-fer2013")` is the promised way to the classifier. New checkpoints name the class
    `RMNForImageClassification` in `architectures` and `auto_map`. The network without its head is [`RMNBaseModel`],
    which `AutoModel` loads, and its stages [`RMNBackbone`].

    Args:
        config ([`RMNConfig`]): sizes; the default is the original network.

    Example:
        >>> from rmn_hub import BUNDLED_CHECKPOINT, RMNImageProcessor, RMNModel
        >>> model = RMNModel.from_pretrained(BUNDLED_CHECKPOINT)
        >>> processor = RMNImageProcessor.from_pretrained(BUNDLED_CHECKPOINT)
        >>> outputs = model(**processor(crop, return_tensors="pt"), output_masks=True)  # doctest: +SKIP
        >>> probabilities = outputs.logits.softmax(-1)  # doctest: +SKIP
    """

    _auto_class = "AutoModelForImageClassification"

    def __init__(self, config: RMNConfig) -> None:
        super().__init__(config)
        self.pooler = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_sizes[-1], config.num_labels)
        # transformers would take it from the name of the class, which a subclass chooses.
        self.loss_type = "ForImageClassification"
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_masks: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> RMNOutput | tuple[Any, ...]:
        """
        Compute the logits, and on request the loss, the masks and the stages' features.

        Args:
            pixel_values: floats `(batch, num_channels, height, width)` in 0..1, as [`RMNImageProcessor`] makes them.
            labels: class numbers `(batch,)` for the loss, or probabilities `(batch, num_labels)` for soft targets: both
                make a cross-entropy. With one label, or `config.problem_type` `"regression"` or
                `"multi_label_classification"`, they are what transformers' classifiers take.
            output_masks: whether to return the masks of all stages; when not given, as the configuration has it.
            output_hidden_states: whether to return each stage's features before and after masking; when not given, as
                the configuration has it.
            return_dict: whether to return an [`RMNOutput`] (the default) or a tuple of its parts.
            kwargs: passed on to the loss.

        Raises:
            ValueError: `pixel_values` have another shape, or are too small to be masked.
        """
        hidden_state, masks, hidden_states = self.run_stages(pixel_values, output_masks, output_hidden_states)
        logits = self.classifier(self.dropout(self.pooler(hidden_state).flatten(1)))
        loss = None if labels is None else self._loss(logits, labels, **kwargs)
        outputs = RMNOutput(loss=loss, logits=logits, masks=masks, hidden_states=hidden_states)
        return outputs if self._switch(return_dict, "return_dict") else outputs.to_tuple()

    def _loss(self, logits: Tensor, labels: Tensor, **kwargs: Any) -> Tensor:
        kinds = (None, "single_label_classification")
        if labels.shape == logits.shape and self.config.num_labels > 1 and self.config.problem_type in kinds:
            # transformers' loss would take soft targets for the labels of a multi-label problem.
            return nn.functional.cross_entropy(logits.float(), labels.to(logits.device, torch.float))
        return self.loss_function(labels, logits, self.config, **kwargs)


# The name that README and the bundled checkpoint (`architectures`) use; see the class.
RMNModel = RMNForImageClassification


class RMNBaseModel(RMNTrunk):
    """
    The network without its head: the embedding of a face, what `AutoModel` and `pipeline("image-feature-extraction")`
    load. Called with `pool=True`, the pipeline returns the embedding, else the features of which it is the mean.

    Loads a classifier's checkpoint as it is.

    Example:
        >>> from rmn_hub import BUNDLED_CHECKPOINT, RMNBaseModel
        >>> model = RMNBaseModel.from_pretrained(BUNDLED_CHECKPOINT)
        >>> model(torch.rand(1, 3, 48, 48)).pooler_output.shape
        torch.Size([1, 256])
    """

    _auto_class = "AutoModel"
    # The head of a classifier's checkpoint.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^classifier\."]

    def __init__(self, config: RMNConfig) -> None:
        super().__init__(config)
        self.pooler = nn.AdaptiveAvgPool2d(1)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        output_masks: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> RMNBaseModelOutput | tuple[Any, ...]:
        """Compute the last stage's features and their mean. Args are those of [`RMNForImageClassification.forward`]."""
        hidden_state, masks, hidden_states = self.run_stages(pixel_values, output_masks, output_hidden_states)
        outputs = RMNBaseModelOutput(hidden_state, self.pooler(hidden_state).flatten(1), hidden_states, masks=masks)
        return outputs if self._switch(return_dict, "return_dict") else outputs.to_tuple()


class RMNBackbone(BackboneMixin, RMNTrunk):
    """
    The stages without a head: their features after masking, for other heads.

    Loads a classifier's checkpoint as it is. `out_features` of the configuration chooses among `"stem"`, `"stage1"`,
    `"stage2"`, ...; the last stage when not given.

    Example:
        >>> from rmn_hub import BUNDLED_CHECKPOINT, RMNBackbone
        >>> backbone = RMNBackbone.from_pretrained(BUNDLED_CHECKPOINT, out_features=["stage2", "stage4"])
        >>> [tuple(features.shape) for features in backbone(torch.rand(1, 3, 48, 48)).feature_maps]
        [(1, 64, 6, 6), (1, 256, 2, 2)]
    """

    _auto_class = "AutoBackbone"
    has_attentions = False
    # The head of a classifier's checkpoint.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^classifier\."]

    def __init__(self, config: RMNConfig) -> None:
        super().__init__(config)
        self.num_features = [config.embedding_size, *config.hidden_sizes]
        self.post_init()

    @can_return_tuple
    @filter_output_hidden_states
    def forward(
        self,
        pixel_values: Tensor,
        *,  # the decorators look at keywords only
        output_masks: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> RMNBackboneOutput:
        """
        Compute the feature maps of `out_features`.

        Args are those of [`RMNForImageClassification.forward`]. `output_hidden_states` adds the feature maps of the
        stem and of all stages.
        """
        output_masks = self._switch(output_masks, "output_masks")
        masks: tuple[Tensor, ...] = ()
        hidden_state = self.embedder(pixel_values)
        hidden_states: tuple[Tensor, ...] = (hidden_state,)
        for index in range(len(self.stages)):
            _, mask, hidden_state = self.run_stage(index, hidden_state)
            hidden_states = (*hidden_states, hidden_state)
            if output_masks and mask is not None:
                masks = (*masks, mask)
        feature_maps = tuple(hidden_states[self.stage_names.index(name)] for name in self.out_features)
        return RMNBackboneOutput(feature_maps, hidden_states, masks=masks if output_masks else None)


__all__ = [
    "RMNBackbone",
    "RMNBackboneOutput",
    "RMNBaseModel",
    "RMNBaseModelOutput",
    "RMNForImageClassification",
    "RMNModel",
    "RMNOutput",
    "RMNPreTrainedModel",
]
