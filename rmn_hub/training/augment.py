"""Batch augmentation on the training device: one affine grid does crop, flip, rotation, scale and resize at once."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


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
        mixup: alpha of the Beta distribution of mixup (Zhang et al., 2018); 0 is off. Read by the training loop,
            which also mixes the labels.
    """

    rotation: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    erasing: float = 0.0
    mixup: float = 0.0


def augment(images: Tensor, flip: Tensor, size: int, how: Augmentation, generator: torch.Generator) -> Tensor:
    """
    Augments a batch of grey faces and resizes it.

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

    angle = uniform(-how.rotation, how.rotation) * (math.pi / 180)
    zoom = 1 / (1 + uniform(-how.scale, how.scale))
    mirror = 1 - 2 * flip.to(zoom.dtype)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    # The grid runs from -1 to 1: a shift of the whole size is 2.
    shift_x, shift_y = uniform(-2 * how.shift, 2 * how.shift), uniform(-2 * how.shift, 2 * how.shift)
    theta = torch.stack([cos * mirror, -sin, shift_x, sin * mirror, cos, shift_y], dim=1).view(batch, 2, 3)
    grid = F.affine_grid(theta, [batch, 1, size, size], align_corners=False)
    faces = F.grid_sample(
        images.unsqueeze(1).float() / 255, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )

    def column(values: Tensor) -> Tensor:
        return values.view(batch, 1, 1, 1)

    if how.gamma:
        exponent = (1 + how.gamma) ** uniform(-1, 1)
        faces = faces.clamp(min=1e-4) ** column(exponent)
    if how.contrast or how.brightness:
        mean = faces.mean(dim=(1, 2, 3), keepdim=True)
        factor, offset = uniform(-how.contrast, how.contrast) + 1, uniform(-how.brightness, how.brightness)
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


def mix(faces: Tensor, targets: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """
    Mixup (Zhang et al., 2018): every face and its target blended with another of the batch, at one Beta(alpha, alpha)
    share per batch. Returns faces and targets of the same shapes; targets are probabilities `(batch, classes)`.
    """
    # Two gammas of the CPU generator make the Beta draw: the device's generators cannot.
    seed = int(torch.randint(2**31, (1,), generator=generator, device=faces.device))
    draws = torch._standard_gamma(torch.full((2,), float(alpha)), generator=torch.Generator().manual_seed(seed))
    share = float(draws[0] / draws.sum().clamp(min=1e-12))
    order = torch.randperm(faces.shape[0], generator=generator, device=faces.device)
    return faces.lerp(faces[order], share), targets.lerp(targets[order], share)
