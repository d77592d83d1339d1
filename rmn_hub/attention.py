"""Attention maps: masks reduced to one value per place, and these values laid over the pixels of their face."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .errors import InputError
from .results import Attention, FaceExpression

if TYPE_CHECKING:
    from torch import Tensor

    from .model.modeling_rmn import RMNOutput

# A map whose values differ by less than this share of the largest one holds only rounding errors.
FLAT = 1e-5


def reduce_mask(mask: "Tensor", features: "Tensor") -> "Tensor":
    """
    Reduce a mask to a map of how far masking moves the features of each place,

        map = sqrt(mean_c (m_c t_c)^2),

    which is the distance |b - t| between the features after and before masking (b = (1 + m) * t, equation 1 of the
    paper), as a root mean square over the channels. Bright is where the mask changes most.

    Why not something simpler: the channel mean of a channel-softmax mask is the constant 1/C, which shows nothing, and
    that of a sigmoid mask counts channels that are silent at a place, where the mask has nothing to act on. Here both
    kinds of masks count for what they do. The mean of the mask weighted by |t|, a relative gain, was tried too: places
    that the last mask strengthens by the largest share are those with the weakest features, so that map pointed away
    from what the network uses. The squares let the channels stand out that the mask chooses; with absolute values the
    map of an even softmax mask would be hardly more than the strength of the features.

    Strong features do make a place bright: an even mask would show them alone. `faithfulness` therefore compares with
    them as well.

    Args:
        mask: m, `(batch, C, H, W)` in 0..1.
        features: t, the stage's features before masking, of the same shape.

    Returns:
        float32 `(batch, H, W)`, 0 or more, in the unit of the features.
    """
    return (mask.float() * features.float()).square().mean(1).sqrt()


def normalize(maps: np.ndarray) -> np.ndarray:
    """
    Stretch each map of `(batch, H, W)` to 0..1, in float32. A flat one (see `FLAT`), or one that is not finite, becomes
    zeros.
    """
    maps = np.asarray(maps, np.float32)
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        spread = high - low
        usable = (spread > FLAT * np.maximum(abs(high), abs(low))) & np.isfinite(spread)
        return np.where(usable, (maps - low) / spread, np.float32(0))


def attention_maps(outputs: "RMNOutput") -> "tuple[Tensor, ...]":
    """
    Reduce each stage's mask of a batch by `reduce_mask`.

    Args:
        outputs: of a model called with `output_masks=True` and `output_hidden_states=True`.

    Returns:
        Per stage, float32 `(batch, H, W)`, 0 or more, on the model's device.

    Raises:
        InputError: the outputs hold no masks or no hidden states.
    """
    if not outputs.masks or not outputs.hidden_states:
        raise InputError(
            "the outputs hold no masks: call the model with output_masks=True and output_hidden_states=True, and take "
            "a checkpoint whose masks are on"
        )
    # hidden_states are t1, b1, t2, b2, ...: every other one is before masking.
    return tuple(reduce_mask(mask, features) for mask, features in zip(outputs.masks, outputs.hidden_states[::2]))


def attention_of_faces(
    maps: Sequence[np.ndarray],
    before: Sequence[np.ndarray],
    after: Sequence[np.ndarray],
    crops: Sequence[np.ndarray],
    turned: Sequence[float] | None = None,
    margins: Sequence[float] | None = None,
) -> list[Attention]:
    """
    Return what there is to show of each face of a batch.

    `before` and `after` of the result are divided by the larger maximum of the two, per face and stage (figure 1.14 of
    the authors' report shows both for the third stage). A place that is twice as bright in `after` is twice as strong,
    and black is no features at all.

    Args:
        maps: per stage, float32 `(batch, H, W)`, as [`reduce_mask`] and every engine return them.
        before: per stage, float32 `(batch, H, W)`: channel mean of the absolute features before masking.
        after: per stage, the same after masking.
        crops: the crops in the batch's order, uint8 `H x W x 3` RGB, as they were cut from the image.
        turned: by how many degrees each was turned clockwise; none was when not given.
        margins: how much longer the longer side of each is than that of the face's box; 0 when not given.

    Raises:
        InputError: there are no maps, or there is not one crop for each face.
    """
    if not maps or not len(maps) == len(before) == len(after):
        raise InputError("maps, before and after must have one array for each stage: ask the engine for attention")
    if len(crops) != len(maps[0]):
        raise InputError(f"crops has {len(crops)} entries but must have one for each of the {len(maps[0])} faces")
    maps = [normalize(stage) for stage in maps]
    scales = [
        np.maximum(np.maximum(unmasked, masked).max((1, 2), keepdims=True), np.float32(1e-12))
        for unmasked, masked in zip(before, after)
    ]
    before = [stage / scale for stage, scale in zip(before, scales)]
    after = [stage / scale for stage, scale in zip(after, scales)]
    none = [0.0] * len(crops)
    # Copies: one face that is kept must not keep its whole batch in memory.
    return [
        Attention(
            maps=tuple(stage[face].copy() for stage in maps),
            before=tuple(stage[face].copy() for stage in before),
            after=tuple(stage[face].copy() for stage in after),
            crop=np.asarray(crop),
            turned=degrees,
            margin=margin,
        )
        for face, (crop, degrees, margin) in enumerate(zip(crops, turned or none, margins or none))
    ]


@functools.lru_cache(maxsize=64)
def placement(cells: int, pixels: int) -> np.ndarray:
    """
    Return weights `(pixels, cells)`, float32, that stretch a line of a map over the same line of its face.

    Every convolution of stride 2 looks at pixel 2i and around it, so cell i of n sees the face around i / n of its
    width, the left (or upper) edge of the tile that a plain resize would give it, not its middle. That is half a tile:
    8 of 48 pixels in the last stage, from the eyes to the cheeks. Gradients through the network agree.

    In between, the curve is smooth and goes through every cell's value (Keys' cubic convolution).
    """
    position = np.clip((np.arange(pixels) + 0.5) * cells / pixels, 0, cells - 1)
    left = np.floor(position)
    weights = np.zeros((pixels, cells), np.float32)
    for offset in (-1, 0, 1, 2):
        distance = np.abs(position - left - offset)
        near = 1.5 * distance**3 - 2.5 * distance**2 + 1
        far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        # The outermost cells' values go on beyond them.
        cell = np.clip(left + offset, 0, cells - 1).astype(int)
        np.add.at(weights, (np.arange(pixels), cell), np.where(distance <= 1, near, far))
    weights.flags.writeable = False
    return weights


def place(attention_map: np.ndarray, width: int, height: int) -> np.ndarray:
    """
    Stretch a map, or features before or after a mask, over its face: what is at a pixel belongs to that pixel.

    Args:
        attention_map: float32 `H x W`, one stage of an `Attention`.
        width: width in pixels of the image that the map goes over.
        height: height of that image.

    Returns:
        float32 `height x width`, within the range of the map.
    """
    values = np.asarray(attention_map, np.float32)
    placed = placement(values.shape[0], height) @ values @ placement(values.shape[1], width).T
    return placed.clip(values.min(), values.max())  # a cubic curve overshoots a little


@functools.cache
def heat_colors() -> np.ndarray:
    """Return 256 colours, uint8 `(256, 3)`, from dark to light, which colour-blind people can tell apart too."""
    import matplotlib

    return (matplotlib.colormaps["inferno"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def overlay(crop: np.ndarray, attention_map: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """
    Lay a map in colour over its face: from black (least) over violet and orange to yellow (most).

    Args:
        crop: the face, uint8 `H x W x 3` RGB or `H x W` grey.
        attention_map: one stage's map, float32 in 0..1, of any size.
        alpha: how much of the colours, 0..1: 0 is the crop as it is, 1 the map alone.

    Returns:
        uint8 `H x W x 3` of the crop's size.

    Raises:
        InputError: `alpha` lies outside 0..1, or the crop is not an image in uint8.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha={alpha} must be in 0..1")
    crop = np.asarray(crop)
    if crop.dtype != np.uint8 or crop.ndim not in (2, 3):
        raise InputError(f"crop of {crop.dtype} and shape {crop.shape} must be uint8, H x W x 3 or H x W")
    face = Image.fromarray(crop).convert("RGB")
    placed = place(attention_map, *face.size)
    colors = heat_colors()[(placed.clip(0, 1) * 255).round().astype(np.uint8)]
    # The network sees grey, and colours of the skin would mix with those of the map.
    shown = Image.blend(face, face.convert("L").convert("RGB"), min(1.0, 2 * alpha))
    return np.asarray(Image.blend(shown, Image.fromarray(colors), alpha))


def attention_of(expression: FaceExpression) -> Attention:
    """
    Return the attention of a face.

    Raises:
        InputError: the face was recognized without `attention=True`.
    """
    if expression.attention is None:
        raise InputError("this face has no attention maps: call the recognizer with attention=True")
    return expression.attention


__all__ = [
    "attention_maps",
    "attention_of",
    "attention_of_faces",
    "heat_colors",
    "normalize",
    "overlay",
    "place",
    "placement",
    "reduce_mask",
]
