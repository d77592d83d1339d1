"""Batch augmentation on the training device: one affine grid does crop, flip, rotation, scale and resize at once."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError

# The largest value of each field: beyond it a face is no longer one, or the grid turns inside out.
LIMITS = {
    "rotation": 180.0,
    "scale": 0.9,
    "shift": 1.0,
    "brightness": 1.0,
    "contrast": 1.0,
    "gamma": 10.0,
    "erasing": 1.0,
    "blur": 1.0,
    "jpeg": 1.0,
    "mixup": 100.0,
    "cutmix": 1.0,
    "strength": 10.0,
}
# The largest standard deviation of a blur, as a share of the width (1 of 48 pixels), and JPEG's qualities.
BLUR = 0.02
QUALITIES = (30, 95)


@dataclass(frozen=True)
class Augmentation:
    """
    How far a face may be changed. All ranges are symmetric around "unchanged" and drawn uniformly per image.

    Args:
        rotation: largest turn in degrees.
        scale: largest zoom, as a part of the size (0.1: 0.9 to 1.1 times).
        shift: largest shift, as a part of the size.
        brightness: largest addition to the grey values (which are in 0..1).
        contrast: largest change of the contrast around the image's mean (0.3: 0.7 to 1.3 times).
        gamma: largest change of the exponent of the grey values, as a factor (0.3: 1 / 1.3 to 1.3).
        erasing: probability that a rectangle of 2% to 20% of the area is replaced by noise (Zhong et al., 2020).
        blur: probability that a face is blurred by a Gaussian of up to `BLUR` of its width. Read by the training loop,
            for a student as well, whose teacher has seen the sharp face.
        jpeg: probability that a face has been saved as JPEG, at a quality in `QUALITIES`; as `blur`.
        mixup: alpha of the Beta distribution of mixup (Zhang et al., 2018); 0 is off. Read by the training loop,
            which also mixes labels and votes.
        cutmix: probability that a batch is mixed by a rectangle (CutMix: Yun et al., 2019) instead of by mixup; read by
            the training loop, too.
        strength: one factor on rotation, scale, shift, brightness, contrast and gamma, as the magnitude of RandAugment
            (Cubuk et al., 2020): members of an ensemble can differ by it alone.

    Raises:
        InputError: a value is not a number between 0 and the field's limit.
    """

    rotation: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    erasing: float = 0.0
    blur: float = 0.0
    jpeg: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    strength: float = 1.0

    def __post_init__(self) -> None:
        for item in fields(self):
            check_number(item.name, getattr(self, item.name), 0, LIMITS[item.name])

    def limit(self, name: str) -> float:
        """Return a range with `strength` on it, cut off at the field's limit."""
        return min(getattr(self, name) * self.strength, LIMITS[name])


def check_number(name: str, value: Any, low: float, high: float, *, whole: bool = False) -> None:
    """
    Check a setting of a recipe.

    Raises:
        InputError: `value` is not a finite number (with `whole`, an integer) in `low`..`high`.
    """
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        # YAML takes 1e-3 for a word: it wants the point.
        hint = " (in YAML: 1.0e-3, with the point)" if isinstance(value, str) and "e" in value.lower() else ""
        raise InputError(f"{name}={str(value)[:40]!r} must be {kind}{hint}")
    if not low <= value <= high:  # NaN comes here, too
        raise InputError(f"{name}={str(value)[:40]} must be {kind} from {low:g} to {high:g}")


def augment(images: Tensor, flip: Tensor, size: int, how: Augmentation, generator: torch.Generator) -> Tensor:
    """
    Augment a batch of grey faces and resize it.

    Args:
        images: uint8 `(batch, S, S)`, on any device.
        flip: bool `(batch,)`, which images to mirror.
        size: height and width of the result in pixels.
        how: ranges of the random changes.
        generator: source of the random numbers, on the images' device.

    Returns:
        Floats in 0..1, `(batch, 1, size, size)`.
    """
    batch, device = images.shape[0], images.device

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(batch, device=device, generator=generator) * (high - low) + low

    def symmetric(name: str) -> Tensor:
        return uniform(-how.limit(name), how.limit(name))

    angle = symmetric("rotation") * (math.pi / 180)
    zoom = 1 / (1 + symmetric("scale"))
    mirror = 1 - 2 * flip.to(zoom.dtype)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    # The grid runs from -1 to 1: a shift of the whole size is 2.
    shift_x, shift_y = 2 * symmetric("shift"), 2 * symmetric("shift")
    theta = torch.stack([cos * mirror, -sin, shift_x, sin * mirror, cos, shift_y], dim=1).view(batch, 2, 3)
    grid = F.affine_grid(theta, [batch, 1, size, size], align_corners=False)
    faces = F.grid_sample(
        images.unsqueeze(1).float() / 255, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )

    def column(values: Tensor) -> Tensor:
        return values.view(batch, 1, 1, 1)

    if how.gamma:
        exponent = (1 + how.limit("gamma")) ** uniform(-1, 1)
        faces = faces.clamp(min=1e-4) ** column(exponent)
    if how.contrast or how.brightness:
        mean = faces.mean(dim=(1, 2, 3), keepdim=True)
        factor, offset = symmetric("contrast") + 1, symmetric("brightness")
        faces = ((faces - mean) * column(factor) + mean + column(offset)).clamp(0, 1)
    if how.erasing:
        area, ratio = uniform(0.02, 0.2), torch.exp(uniform(math.log(0.3), -math.log(0.3)))
        half_height, half_width = (area * ratio).sqrt() / 2, (area / ratio).sqrt() / 2
        center_y, center_x = uniform(0, 1), uniform(0, 1)
        place = (torch.arange(size, device=device, dtype=faces.dtype) + 0.5) / size
        rows = (place - center_y[:, None]).abs() < half_height[:, None]
        columns = (place - center_x[:, None]).abs() < half_width[:, None]
        erased = rows[:, :, None] & columns[:, None, :] & (uniform(0, 1) < how.erasing)[:, None, None]
        noise = torch.rand(faces.shape, device=device, generator=generator)
        faces = torch.where(erased.unsqueeze(1), noise, faces)
    return faces


def degrade(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """
    Blur some faces of a batch and save some as JPEG: what a viewer hardly sees ought to change no prediction.

    Args:
        images: uint8 `(batch, S, S)`, on any device (from a GPU they make a trip to the CPU).
        how: see [`Augmentation`].
        generator: source of the random numbers, on the CPU.

    Returns:
        uint8 `(batch, S, S)` on the same device; `images` where `blur` and `jpeg` are off.
    """
    if not (how.blur or how.jpeg):
        return images
    chances = torch.rand(4, len(images), generator=generator).tolist()
    faces = images.cpu().numpy().copy()
    for index, (blur, deviation, jpeg, quality) in enumerate(zip(*chances)):
        if blur < how.blur:
            blurred = Image.fromarray(faces[index]).filter(
                ImageFilter.GaussianBlur(deviation * BLUR * len(faces[index]))
            )
            faces[index] = np.asarray(blurred)
        if jpeg < how.jpeg:
            low, high = QUALITIES
            file = io.BytesIO()
            Image.fromarray(faces[index]).save(file, "JPEG", quality=low + int(quality * (high - low + 1)))
            faces[index] = np.asarray(Image.open(file))
    return torch.from_numpy(faces).to(images.device)


def mix(
    faces: Tensor, targets: Sequence[Tensor], how: Augmentation, generator: torch.Generator
) -> tuple[Tensor, list[Tensor]]:
    """
    Mix every face of a batch with another one, and whatever belongs to the faces alike: by [`cutmix`] with the
    probability `how.cutmix`, else by [`mixup`] where `how.mixup` is on.

    Args:
        faces: `(batch, 1, size, size)`, on any device.
        targets: tensors `(batch, ...)` that belong to the faces: labels, votes.
        how: see [`Augmentation`].
        generator: source of the random numbers, on the CPU: a GPU would have to be waited for.
    """
    if how.cutmix and float(torch.rand((), generator=generator)) < how.cutmix:
        return cutmix(faces, targets, generator)
    if how.mixup:
        return mixup(faces, targets, how.mixup, generator)
    return faces, list(targets)


def mixup(
    faces: Tensor, targets: Sequence[Tensor], alpha: float, generator: torch.Generator
) -> tuple[Tensor, list[Tensor]]:
    """
    Blend every face and its targets with another of the batch, at one Beta(alpha, alpha) share per batch (Zhang et al.,
    "mixup", 2018).
    """
    # torch draws a Beta from its global generator only.
    seed = int(torch.randint(2**31, (), generator=generator))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    order = torch.randperm(faces.shape[0], generator=generator).to(faces.device)
    return faces.lerp(faces[order], share), [target.lerp(target[order], share) for target in targets]


def cutmix(faces: Tensor, targets: Sequence[Tensor], generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
    """
    Put a rectangle of another face of the batch into every face, the same rectangle in all, and mix the targets by its
    area (Yun et al., "CutMix", 2019, algorithm 1 with alpha 1).
    """
    height, width = faces.shape[-2:]
    area, center_y, center_x = torch.rand(3, generator=generator).tolist()
    half = 0.5 * math.sqrt(area)
    top, bottom = (round(min(max(center_y + side, 0), 1) * height) for side in (-half, half))
    left, right = (round(min(max(center_x + side, 0), 1) * width) for side in (-half, half))
    order = torch.randperm(faces.shape[0], generator=generator).to(faces.device)
    mixed = faces.clone()
    mixed[..., top:bottom, left:right] = faces[order][..., top:bottom, left:right]
    # What the border cut off the rectangle does not count.
    share = (bottom - top) * (right - left) / (height * width)
    return mixed, [target.lerp(target[order], share) for target in targets]


def resized(faces: Tensor, size: int) -> Tensor:
    """
    Return grey uint8 faces `(B, 1, S, S)` as floats in 0..1 `(B, 1, size, size)`, resized as the image processor does.
    """
    scaled = faces.float() / 255
    if faces.shape[-1] == size:
        return scaled
    return F.interpolate(scaled, (size, size), mode="bilinear", antialias=True, align_corners=False)


__all__ = ["Augmentation", "augment", "check_number", "cutmix", "degrade", "mix", "mixup", "resized"]
