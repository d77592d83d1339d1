"""Crops to pixel values with numpy and Pillow alone: the steps of `RMNImageProcessor`, bit for bit."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import CheckpointError, InputError

CONFIG = "preprocessor_config.json"
# The longest side that pixel values may have: a checkpoint must not be able to ask for all memory.
MAX_SIDE = 4096
# Steps of transformers' image processors that RMN's networks have never seen.
_UNSUPPORTED = ("do_center_crop", "do_pad")


@dataclass(frozen=True)
class PixelProcessor:
    """
    Turn face crops into pixel values: luma (ITU-R 601, rounded to 8 bits), resize with antialiasing, three equal
    channels, times 1/255, mean and standard deviation where the checkpoint asks for them.

    `RMNImageProcessor` does the same for transformers and imports torch; a test holds the two equal bit for bit.

    Args:
        height: height of the pixel values in pixels.
        width: their width in pixels.
        do_grayscale: whether to reduce colours to luma before resizing.
        do_resize: whether to resize at all; without it all crops must be of one size.
        resample: Pillow's number of the resize's filter; 2 is bilinear.
        rescale_factor: what 8-bit values are multiplied by, or `None` for values that stay in 0..255.
        mean: per channel, subtracted after the scaling, or `None` without normalisation.
        std: per channel, divided by after the subtraction, or `None` without normalisation.
    """

    height: int = 224
    width: int = 224
    do_grayscale: bool = True
    do_resize: bool = True
    resample: int = Image.Resampling.BILINEAR
    rescale_factor: float | None = 1 / 255
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> "PixelProcessor":
        """
        Read the settings from the `preprocessor_config.json` of a checkpoint's folder.

        Raises:
            CheckpointError: the file is missing or damaged, or a setting in it cannot be followed.
        """
        path = Path(folder) / CONFIG
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}. Copy it there again.") from error
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged: it does not hold JSON. Copy or download it again.") from error
        return cls.from_settings(settings, str(path))

    @classmethod
    def from_settings(cls, settings: Any, name: str = CONFIG) -> "PixelProcessor":
        """
        Take the settings as `preprocessor_config.json` holds them; those that are missing have their usual values.

        Args:
            settings: the file's dictionary, or an image processor's `to_dict()`.
            name: what messages call it.

        Raises:
            CheckpointError: a setting cannot be followed.
        """
        if not isinstance(settings, Mapping):
            raise CheckpointError(f"{name} is damaged: it holds no settings. Copy or download it again.")

        def given(key: str, default: Any) -> Any:
            value = settings.get(key)
            return default if value is None else value

        def refuse(key: str, constraint: str) -> CheckpointError:
            return CheckpointError(f"{key}={str(settings[key])[:80]} in {name} must be {constraint}")

        flags = ("do_convert_rgb", "do_grayscale", "do_resize", "do_rescale", "do_normalize", *_UNSUPPORTED)
        for key in flags:
            if settings.get(key) not in (None, True, False):
                raise refuse(key, "true or false")
        for key in _UNSUPPORTED:
            if settings.get(key):
                raise refuse(key, "false: the crop is the whole face")
        size = given("size", {"height": 224, "width": 224})
        sides: list[Any] = (
            [size.get(side) for side in ("height", "width")] if isinstance(size, Mapping) else [size, size]
        )
        if not all(_is_number(side) and side == int(side) and 1 <= side <= MAX_SIDE for side in sides):
            raise refuse("size", f"a height and a width in 1..{MAX_SIDE} pixels")
        resample = given("resample", Image.Resampling.BILINEAR)
        if not _is_number(resample) or resample not in list(Image.Resampling):
            raise refuse("resample", f"one of Pillow's filters {', '.join(str(int(f)) for f in Image.Resampling)}")
        factor = given("rescale_factor", 1 / 255)
        if not _is_number(factor):
            raise refuse("rescale_factor", "a finite number")
        moments: dict[str, tuple[float, float, float] | None] = {"image_mean": None, "image_std": None}
        if settings.get("do_normalize"):
            for key in moments:
                given_values: Any = settings.get(key)
                values = [given_values] * 3 if _is_number(given_values) else given_values
                numbers = isinstance(values, Sequence) and len(values) == 3 and all(map(_is_number, values))
                if not numbers or (key == "image_std" and 0 in values):
                    what = "three finite numbers" + (" other than 0" if key == "image_std" else "")
                    raise refuse(key, what) if key in settings else CheckpointError(f"{name} has no {key}: give {what}")
                moments[key] = (float(values[0]), float(values[1]), float(values[2]))
        return cls(
            height=int(sides[0]),
            width=int(sides[1]),
            do_grayscale=bool(given("do_grayscale", True)),
            do_resize=bool(given("do_resize", True)),
            resample=int(resample),
            rescale_factor=float(factor) if given("do_rescale", True) else None,
            mean=moments["image_mean"],
            std=moments["image_std"],
        )

    def __call__(self, crops: Sequence[Image.Image]) -> np.ndarray:
        """
        Return the pixel values of N crops, float32 `(N, 3, height, width)`.

        Args:
            crops: PIL images of the modes RGB or L, as `rmn_hub.images` makes them, at least one.

        Raises:
            InputError: there are no crops, a crop has another mode, or crops of several sizes are not resized.
        """
        planes = [self._planes(crop) for crop in crops]
        if len({plane.shape for plane in planes}) != 1:
            raise InputError("crops must be at least one, and of one size where the checkpoint does not resize them")
        batch = np.stack(planes)
        # In double precision and then rounded, as transformers does it.
        values = batch.astype(np.float32)
        if self.rescale_factor is not None:
            values = (batch.astype(np.float64) * self.rescale_factor).astype(np.float32)
        if values.shape[1] == 1:
            values = np.repeat(values, 3, axis=1)
        if self.mean is not None and self.std is not None:
            mean, std = (np.array(moment, np.float32)[:, None, None] for moment in (self.mean, self.std))
            values = (values - mean) / std
        return values

    def _planes(self, crop: Image.Image) -> np.ndarray:
        """Return a crop resized, uint8 `(1, H, W)` or `(3, H, W)`."""
        if crop.mode not in ("RGB", "L"):
            raise InputError(f"a crop of mode {crop.mode} must be RGB or L: convert it first")
        if self.do_grayscale:
            # Before the resize: the other order differs by up to 2/255.
            crop = crop.convert("L")
        if self.do_resize:
            crop = crop.resize((self.width, self.height), Image.Resampling(self.resample))
        pixels = np.asarray(crop)
        return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def mapped(pixel_values: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return pixel values, a network's or an ensemble's, with a change of their arrays `(N, 3, S, S)`."""
    if pixel_values.dtype.names is None:
        return np.ascontiguousarray(change(pixel_values))
    # A record per face: the last axis of the array itself is that of the faces.
    records = np.empty_like(pixel_values)
    for name in pixel_values.dtype.names:
        records[name] = change(pixel_values[name])
    return records


def mirrored(pixel_values: np.ndarray) -> np.ndarray:
    """Return pixel values, a network's or an ensemble's, with left and right exchanged."""
    return mapped(pixel_values, lambda values: values[..., ::-1])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9


__all__ = ["CONFIG", "MAX_SIDE", "PixelProcessor", "mapped", "mirrored"]
