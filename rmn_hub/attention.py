"""Where the network looked: masks to attention maps, features before and after masking, and the maps' faithfulness."""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .modeling_rmn import RMNModel, RMNOutput
from .results import Attention

# A map whose values differ by less than this share of the largest one holds only rounding errors.
FLAT = 1e-5
# z of a two-sided 95% interval of a normal distribution.
_Z = 1.959964


def reduce_mask(mask: Tensor, features: Tensor) -> Tensor:
    """
    One mask as a map: how far masking moves the features of each place,

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


def normalize(maps: Tensor) -> Tensor:
    """
    Each map of `(batch, H, W)` stretched to 0..1. A flat one (`FLAT`), or one that is not finite, becomes zeros.
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    spread = high - low
    stretched = (maps - low) / spread
    usable = (spread > FLAT * torch.maximum(high.abs(), low.abs())) & spread.isfinite()
    return torch.where(usable, stretched, torch.zeros_like(stretched))


@torch.inference_mode()
def attention_maps(outputs: RMNOutput) -> tuple[Tensor, ...]:
    """
    The attention maps of a batch: each stage's mask by `reduce_mask`, then by `normalize`.

    Args:
        outputs: of a model called with `output_masks=True` and `output_hidden_states=True`.

    Returns:
        per stage, float32 `(batch, H, W)` in 0..1 on the model's device.

    Raises:
        ValueError: the outputs hold no masks or no hidden states.
    """
    if not outputs.masks or not outputs.hidden_states:
        raise ValueError(
            "the outputs hold no masks to show: call the model with output_masks=True and output_hidden_states=True, "
            "and take a checkpoint whose masks are on"
        )
    # hidden_states are t1, b1, t2, b2, ...: every other one is before masking.
    return tuple(
        normalize(reduce_mask(mask, features)) for mask, features in zip(outputs.masks, outputs.hidden_states[::2])
    )


@torch.inference_mode()
def attention_from_outputs(outputs: RMNOutput, crops: Sequence[np.ndarray]) -> list[Attention]:
    """
    What there is to show of each face of a batch.

    `before` and `after` are the channel mean of the features' absolute values before and after masking (figure 1.14 of
    the authors' report shows both for the third stage), divided by the larger maximum of the two. A place that is
    twice as bright in `after` is twice as strong, and black is no features at all.

    Args:
        outputs: of a model called with `output_masks=True` and `output_hidden_states=True`.
        crops: the faces' crops in the batch's order, uint8 `H x W x 3` RGB, as they were cut from the photo.

    Returns:
        one `Attention` per face.

    Raises:
        ValueError: the outputs hold no masks or no hidden states, or there is not one crop for each face.
    """
    maps = [stage.cpu().numpy() for stage in attention_maps(outputs)]
    if len(crops) != len(maps[0]):
        raise ValueError(
            f"there are {len(maps[0])} faces in the outputs but {len(crops)} crops: give one for each face"
        )
    before, after = [], []
    for unmasked, masked in zip(outputs.hidden_states[::2], outputs.hidden_states[1::2]):
        pair = torch.stack([unmasked.float().abs().mean(1), masked.float().abs().mean(1)])
        pair = (pair / pair.amax((0, 2, 3), keepdim=True).clamp_min(1e-12)).cpu().numpy()
        before.append(pair[0])
        after.append(pair[1])
    # Copies: one face that is kept must not keep its whole batch in memory.
    return [
        Attention(
            maps=tuple(stage[face].copy() for stage in maps),
            before=tuple(stage[face].copy() for stage in before),
            after=tuple(stage[face].copy() for stage in after),
            crop=np.asarray(crop),
        )
        for face, crop in enumerate(crops)
    ]


# Maps over faces


@functools.lru_cache(maxsize=64)
def _placement(cells: int, pixels: int) -> np.ndarray:
    """
    Weights `(pixels, cells)`, float32, that stretch a line of a map over the same line of its face.

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
    A map, or features before or after a mask, stretched over its face: what is at a pixel belongs to that pixel.

    Args:
        attention_map: float32 `H x W`, one stage of an `Attention`.
        width: of the picture that it goes over, in pixels.
        height: likewise.

    Returns:
        float32 `height x width`, within the range of the map.
    """
    values = np.asarray(attention_map, np.float32)
    placed = _placement(values.shape[0], height) @ values @ _placement(values.shape[1], width).T
    return placed.clip(values.min(), values.max())  # a cubic curve overshoots a little


@functools.cache
def _colors() -> np.ndarray:
    """256 colours, uint8 `(256, 3)`, from dark to light, which colour-blind people can tell apart too."""
    import matplotlib

    return (matplotlib.colormaps["inferno"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def overlay(crop: np.ndarray, attention_map: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """
    A map in colour over its face: from black (least) over violet and orange to yellow (most).

    Args:
        crop: the face, uint8 `H x W x 3` RGB or `H x W` grey.
        attention_map: one stage's map, float32 in 0..1, of any size.
        alpha: how much of the colours, 0..1: 0 is the crop as it is, 1 the map alone.

    Returns:
        uint8 `H x W x 3` of the crop's size.

    Raises:
        ValueError: `alpha` lies outside 0..1, or the crop is no uint8 picture.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha} must lie in 0..1")
    crop = np.asarray(crop)
    if crop.dtype != np.uint8 or crop.ndim not in (2, 3):
        raise ValueError(f"the crop is {crop.dtype} of shape {crop.shape}: give uint8, H x W x 3 or H x W")
    face = Image.fromarray(crop).convert("RGB")
    placed = place(attention_map, *face.size)
    colors = _colors()[(placed.clip(0, 1) * 255).round().astype(np.uint8)]
    # The network sees grey, and colours of the skin would mix with those of the map.
    shown = Image.blend(face, face.convert("L").convert("RGB"), min(1.0, 2 * alpha))
    return np.asarray(Image.blend(shown, Image.fromarray(colors), alpha))


# Faithfulness


@dataclass(frozen=True)
class Mean:
    """
    A mean over faces.

    Args:
        mean: the mean.
        interval: its 95% interval (normal approximation).
    """

    mean: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, values: np.ndarray) -> "Mean":
        """The mean of one value per face, floats `(N,)`. One face tells nothing of others: its interval is infinite."""
        mean = float(values.mean())
        half = _Z * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.inf
        return cls(mean, (mean - half, mean + half))


@dataclass(frozen=True)
class Removal:
    """
    What it did to remove one share of every face: drops in the predicted expression's probability, in -1..1.

    Args:
        stage: 1..4, the stage whose maps ranked the places.
        fraction: the share of the face that was removed, in 0..1.
        map: drop when the places are removed that the stage's map ranks highest.
        random: drop when as many places are removed at random, the mean of all draws.
        features: drop when the places are removed where the stage's features are strongest before masking: what the
            map would be if the mask were the same everywhere.
        map_minus_random: the first less the second. Faces are paired, so its interval is narrower than theirs suggest.
        map_minus_features: the first less the third, likewise.
    """

    stage: int
    fraction: float
    map: Mean
    random: Mean
    features: Mean
    map_minus_random: Mean
    map_minus_features: Mean


@dataclass(frozen=True)
class Faithfulness:
    """
    How faithful attention maps are over a set of faces (see [`faithfulness`]).

    Args:
        faces: how many there were.
        probability: mean probability of the predicted expression on the whole faces, 0..1: what drops are drops from.
        blocks: blocks per side of the grid in which places are removed.
        draws: random removals per face and fraction.
        seed: of those.
        removals: one per stage and fraction.
    """

    faces: int
    probability: float
    blocks: int
    draws: int
    seed: int
    removals: tuple[Removal, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as dictionaries, lists and numbers, ready for JSON."""
        values = asdict(self)
        values["removals"] = list(values["removals"])
        for removal in values["removals"]:
            for value in removal.values():
                if isinstance(value, dict):
                    value["interval"] = list(value["interval"])
        return values


@torch.inference_mode()
def faithfulness(
    model: RMNModel,
    batches: Iterable[Tensor],
    *,
    fractions: Sequence[float] = (0.1, 0.2, 0.3),
    draws: int = 3,
    blocks: int = 8,
    seed: int = 0,
) -> Faithfulness:
    """
    Whether the network needs what its attention maps show. Each face is laid out in a grid of `blocks x blocks` equal
    blocks. The blocks that a stage's map ranks highest are removed, and for comparison as many blocks of the same grid
    at random; both times, the probability of the expression that was predicted on the whole face drops by something. A
    map is faithful when its drop is clearly the larger one ("deletion" of Petsiuk et al., "RISE", BMVC 2018, with
    blocks instead of pixels, so that the maps of 3 x 3 and of 24 x 24 are asked the same question).

    A removed block gets the mean of its own face's pixels. Black or white would be a strong new pattern by itself, and
    so would the mean of all faces on a dark or bright one; this leaves the face's brightness as it is.

    Ties in a map are broken at random, so a map that shows nothing is as good as random removal, not better or worse.

    Args:
        model: in evaluation mode, plain or from `for_inference()`, with masks.
        batches: `pixel_values` `(batch, 3, S, S)` each, on the model's device.
        fractions: shares of the face to remove, each more than 0 and less than 1.
        draws: random removals per face and fraction.
        blocks: blocks per side; at most S.
        seed: of the random removals. The answer depends on it, but not on the size of the batches.

    Returns:
        mean drops side by side, with 95% intervals of the mean over faces (normal approximation).

    Raises:
        ValueError: fewer than two faces, no masks, or fractions, draws or blocks that cannot work.
    """
    if not fractions or not all(0 < fraction < 1 for fraction in fractions):
        raise ValueError(f"fractions={tuple(fractions)} must each be more than 0 and less than 1")
    if draws < 1 or blocks < 2:
        raise ValueError(f"draws={draws} must be at least 1 and blocks={blocks} at least 2")
    counts = [max(1, round(fraction * blocks**2)) for fraction in fractions]
    generator = torch.Generator().manual_seed(seed)
    whole, all_drops = [], []
    for pixel_values in batches:
        size = pixel_values.shape[-1]
        if pixel_values.shape[-2] != size or size < blocks:
            raise ValueError(
                f"pixel_values are {tuple(pixel_values.shape)}: faces must be square, at least {blocks} pixels wide"
            )
        outputs = model(pixel_values, output_masks=True, output_hidden_states=True)
        probabilities = outputs.logits.float().softmax(-1)
        predicted = probabilities.argmax(-1, keepdim=True)
        # For each face its own random numbers in the same order, whatever the batch.
        chance = torch.rand(len(pixel_values), draws + 1, blocks**2, generator=generator).to(pixel_values.device)
        features = [normalize(stage.float().square().mean(1)) for stage in outputs.hidden_states[::2]]
        # Every way to rank the blocks: by map, by features, at random. Chance decides between equals.
        ranks = [_block_means(stage, blocks) + 1e-6 * chance[:, -1] for stage in (*attention_maps(outputs), *features)]
        ranks += chance[:, :-1].unbind(1)
        fill = pixel_values.mean((1, 2, 3), keepdim=True)
        drops = []
        for rank in ranks:
            order = rank.argsort(dim=1, descending=True)
            for count in counts:
                removed = torch.zeros_like(rank, dtype=torch.bool).scatter_(1, order[:, :count], True)
                left = model(torch.where(_block_pixels(removed, blocks, size), fill, pixel_values)).logits
                drops.append((probabilities - left.float().softmax(-1)).gather(1, predicted))
        whole.append(probabilities.gather(1, predicted)[:, 0].cpu())
        all_drops.append(torch.cat(drops, dim=1).cpu())
    if sum(map(len, whole)) < 2:
        raise ValueError("faithfulness is a mean over faces: give at least two")
    # (ways to rank, fractions, faces)
    drops = torch.cat(all_drops).double().T.unflatten(0, (-1, len(counts))).numpy()
    stages = (len(drops) - draws) // 2
    by_map, by_features, by_chance = drops[:stages], drops[stages:-draws], drops[-draws:].mean(0)
    removals = tuple(
        Removal(
            stage=stage + 1,
            fraction=float(fraction),
            map=Mean.of(by_map[stage, index]),
            random=Mean.of(by_chance[index]),
            features=Mean.of(by_features[stage, index]),
            map_minus_random=Mean.of(by_map[stage, index] - by_chance[index]),
            map_minus_features=Mean.of(by_map[stage, index] - by_features[stage, index]),
        )
        for stage in range(stages)
        for index, fraction in enumerate(fractions)
    )
    return Faithfulness(
        faces=drops.shape[-1],
        probability=float(torch.cat(whole).double().mean()),
        blocks=blocks,
        draws=draws,
        seed=seed,
        removals=removals,
    )


def _block_means(maps: Tensor, blocks: int) -> Tensor:
    """Maps `(batch, H, W)`, placed over their faces, as the means of the blocks `(batch, blocks^2)`."""
    # Eight points of each block will do for its mean.
    rows, columns = (
        torch.tensor(_placement(cells, 8 * blocks).reshape(blocks, 8, cells).mean(1), device=maps.device)
        for cells in maps.shape[1:]
    )
    return (rows @ maps @ columns.T).flatten(1)


def _block_pixels(removed: Tensor, blocks: int, size: int) -> Tensor:
    """Blocks `(batch, blocks^2)` as pixels `(batch, 1, size, size)`."""
    index = torch.arange(size, device=removed.device) * blocks // size
    return removed.view(-1, 1, blocks, blocks)[:, :, index][:, :, :, index]


__all__ = [
    "Faithfulness",
    "Mean",
    "Removal",
    "attention_from_outputs",
    "attention_maps",
    "faithfulness",
    "normalize",
    "overlay",
    "place",
    "reduce_mask",
]
