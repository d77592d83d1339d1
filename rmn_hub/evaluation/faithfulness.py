"""Faithfulness: whether the network needs the places that its maps show. `rmn-hub evaluate --faithfulness`."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..attention import attention_maps, normalize, placement
from ..errors import InputError
from ..model.modeling_rmn import RMNModel
from .metrics import Mean


@dataclass(frozen=True)
class Removal:
    """
    The effect of removing one share of every face: drops in the predicted expression's probability, in -1..1.

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
        """Return the same as dictionaries, lists and numbers, ready for JSON."""
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
    Measure whether the network needs what its attention maps show.

    Each face is laid out in a grid of `blocks x blocks` equal blocks. The blocks that a stage's map ranks highest are
    removed, and for comparison as many blocks of the same grid at random; both times, the probability of the expression
    that was predicted on the whole face drops by something. A map is faithful when its drop is clearly the larger one
    ("deletion" of Petsiuk et al., "RISE", BMVC 2018, with blocks instead of pixels, so that maps of 3 x 3 and of
    24 x 24 undergo the same test).

    A removed block gets the mean of its own face's pixels. Black or white would be a strong new pattern by itself, and
    so would the mean of all faces on a dark or bright one; this leaves the face's brightness as it is.

    Ties in a map are broken at random, so a map that shows nothing is as good as random removal, not better or worse.

    Args:
        model: in evaluation mode, plain or from `for_inference()`, with masks.
        batches: `pixel_values` `(batch, 3, S, S)` each, on the model's device.
        fractions: shares of the face to remove, each more than 0 and less than 1.
        draws: random removals per face and fraction.
        blocks: blocks per side; at most S.
        seed: of the random removals. The numbers depend on it, but not on the size of the batches.

    Returns:
        mean drops side by side, with 95% intervals of the mean over faces (normal approximation).

    Raises:
        InputError: fewer than two faces, no masks, or fractions, draws or blocks that cannot work.
    """
    if not fractions or not all(0 < fraction < 1 for fraction in fractions):
        raise InputError(f"fractions={tuple(fractions)} must each be more than 0 and less than 1")
    if draws < 1 or blocks < 2:
        raise InputError(f"draws={draws} must be at least 1 and blocks={blocks} at least 2")
    counts = [max(1, round(fraction * blocks**2)) for fraction in fractions]
    generator = torch.Generator().manual_seed(seed)
    whole, all_drops = [], []
    for pixel_values in batches:
        size = pixel_values.shape[-1]
        if pixel_values.shape[-2] != size or size < blocks:
            raise InputError(
                f"pixel_values of shape {tuple(pixel_values.shape)} must be square and at least {blocks} pixels wide"
            )
        outputs = model(pixel_values, output_masks=True, output_hidden_states=True)
        probabilities = outputs.logits.float().softmax(-1)
        predicted = probabilities.argmax(-1, keepdim=True)
        # For each face its own random numbers in the same order, whatever the batch.
        chance = torch.rand(len(pixel_values), draws + 1, blocks**2, generator=generator).to(pixel_values.device)
        features = [stage.float().square().mean(1) for stage in outputs.hidden_states[::2]]
        # Every way to rank the blocks: by map, by features, at random. Chance decides between equals.
        stages = [_normalized(stage) for stage in (*attention_maps(outputs), *features)]
        ranks = [_block_means(stage, blocks) + 1e-6 * chance[:, -1] for stage in stages]
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
        raise InputError("batches must hold at least two faces, because faithfulness is a mean over faces")
    # (ways to rank, fractions, faces)
    drops = torch.cat(all_drops).double().T.unflatten(0, (-1, len(counts))).numpy()
    count = (len(drops) - draws) // 2
    by_map, by_features, by_chance = drops[:count], drops[count:-draws], drops[-draws:].mean(0)
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
        for stage in range(count)
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


def _normalized(maps: Tensor) -> Tensor:
    return torch.from_numpy(normalize(maps.cpu().numpy())).to(maps.device)


def _block_means(maps: Tensor, blocks: int) -> Tensor:
    """Return maps `(batch, H, W)`, placed over their faces, as the means of the blocks `(batch, blocks^2)`."""
    # Eight points of each block will do for its mean.
    rows, columns = (
        torch.tensor(placement(cells, 8 * blocks).reshape(blocks, 8, cells).mean(1), device=maps.device)
        for cells in maps.shape[1:]
    )
    return (rows @ maps @ columns.T).flatten(1)


def _block_pixels(removed: Tensor, blocks: int, size: int) -> Tensor:
    """Return blocks `(batch, blocks^2)` as pixels `(batch, 1, size, size)`."""
    index = torch.arange(size, device=removed.device) * blocks // size
    return removed.view(-1, 1, blocks, blocks)[:, :, index][:, :, :, index]


__all__ = ["Faithfulness", "Removal", "faithfulness"]
