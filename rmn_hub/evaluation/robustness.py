"""
Robustness: `rmn-hub evaluate --robustness`. What a checkpoint is worth when the image is not as it should be.

Each face is changed in one way at a time, and the network predicts the changed faces, seen once and in several views
(see `engines.views`). Two numbers measure the effect: the accuracy, and the share of faces whose predicted expression
is another one than on the unchanged face, right or wrong. Some changes a viewer hardly sees (mirrored, JPEG at quality
75, a box shifted by 5%): these ought to change nothing. Others take information away, and show how gracefully the
network fails.

A face of a set is a crop without the image around it. A shifted, scaled or tilted box shows what lies outside of it as
the crop's edge, repeated.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from ..data.faces import FaceImages
from ..engines.engine import Engine
from ..engines.ensemble import Processor
from ..engines.views import VIEWS, averaged, check_views
from ..engines.views import run as run_views
from ..progress import Progress, silent
from ..results import MIN_CONFIDENCE
from .batches import pixel_batches
from .metrics import accuracy

# Changes a face: an RGB image and a generator of random numbers of its own to an RGB image.
Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def blur(image: Image.Image, _: np.random.Generator, share: float = 0.02) -> Image.Image:
    """Blur with a Gaussian whose standard deviation is a share of the face's width: 0.02 is 1 of 48 pixels."""
    return image.filter(ImageFilter.GaussianBlur(share * image.width))


def noise(image: Image.Image, random: np.random.Generator, deviation: float = 15.0) -> Image.Image:
    """Add the same Gaussian noise to all channels, with a standard deviation in grey levels of 255."""
    pixels = np.asarray(image, np.float32)
    added = random.normal(0, deviation, pixels.shape[:2]).astype(np.float32)[:, :, None]
    return Image.fromarray(np.clip(np.rint(pixels + added), 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, _: np.random.Generator, quality: int = 75) -> Image.Image:
    """Save as JPEG and read again."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def brightness(image: Image.Image, _: np.random.Generator, factor: float = 0.4) -> Image.Image:
    """Multiply all pixels, cut off at 255."""
    return ImageEnhance.Brightness(image).enhance(factor)


def contrast(image: Image.Image, _: np.random.Generator, factor: float = 0.4) -> Image.Image:
    """Multiply the differences from the mean grey."""
    return ImageEnhance.Contrast(image).enhance(factor)


def small(image: Image.Image, _: np.random.Generator, side: int = 24) -> Image.Image:
    """Reduce to `side x side` pixels, as a small face of a photo is."""
    return image.resize((side, side), Image.Resampling.BOX)


def tilt(image: Image.Image, random: np.random.Generator, degrees: float = 10.0) -> Image.Image:
    """Turn the head to the left or to the right, by chance."""
    return _framed(
        image, lambda padded: padded.rotate(float(random.choice([-degrees, degrees])), Image.Resampling.BICUBIC)
    )


def mirror(image: Image.Image, _: np.random.Generator) -> Image.Image:
    """Mirror left and right."""
    return ImageOps.mirror(image)


def shift(image: Image.Image, random: np.random.Generator, share: float = 0.05) -> Image.Image:
    """Move the box by a share of its width in a random direction."""
    angle = random.uniform(0, 2 * np.pi)
    x, y = share * image.width * np.cos(angle), share * image.height * np.sin(angle)
    return _window(image, x, y, 1.0)


def scale(image: Image.Image, _: np.random.Generator, factor: float = 1.1) -> Image.Image:
    """Make the box wider (the face smaller) or narrower around the same centre."""
    return _window(image, 0.0, 0.0, factor)


def cover(image: Image.Image, _: np.random.Generator, top: float = 0.25, bottom: float = 0.47) -> Image.Image:
    """Cover the rows from `top` to `bottom` (shares of the height) with the face's mean colour."""
    covered = image.copy()
    mean = tuple(round(value) for value in np.asarray(image).reshape(-1, 3).mean(0))
    covered.paste(mean, (0, round(top * image.height), image.width, round(bottom * image.height)))
    return covered


# Rows of the eyes and of the mouth, as shares of the height, in the mean face of FER2013's PublicTest.
EYES, MOUTH = (0.25, 0.47), (0.68, 0.9)
CHANGES: dict[str, Change] = {
    "mirrored": mirror,
    "JPEG quality 75": partial(jpeg, quality=75),
    "JPEG quality 30": partial(jpeg, quality=30),
    "box shifted 5%": partial(shift, share=0.05),
    "box shifted 10%": partial(shift, share=0.1),
    "box 10% wider": partial(scale, factor=1.1),
    "box 10% narrower": partial(scale, factor=0.9),
    "tilted 10 degrees": partial(tilt, degrees=10.0),
    "tilted 20 degrees": partial(tilt, degrees=20.0),
    "tilted 30 degrees": partial(tilt, degrees=30.0),
    "blurred": blur,
    "noise": noise,
    "dark": partial(brightness, factor=0.4),
    "bright": partial(brightness, factor=1.8),
    "low contrast": partial(contrast, factor=0.4),
    "24 pixels": small,
    "eyes covered": partial(cover, top=EYES[0], bottom=EYES[1]),
    "mouth covered": partial(cover, top=MOUTH[0], bottom=MOUTH[1]),
}


@dataclass(frozen=True)
class _Changed:
    """Faces, changed when it is their turn. Each face has random numbers of its own, whatever the batch."""

    faces: FaceImages
    change: Change
    seed: int

    def __iter__(self) -> Iterator[Image.Image]:
        for index, face in enumerate(self.faces):
            yield self.change(face.convert("RGB"), np.random.default_rng((self.seed, index)))


def robustness(
    engine: Engine,
    processor: Processor,
    faces: FaceImages,
    *,
    views: int = VIEWS,
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """
    Return accuracy and share of changed expressions under each of `CHANGES`.

    Args:
        engine: the network.
        processor: the image processing that belongs to it.
        faces: the faces.
        views: views that are averaged, beside the single one.
        batch_size: faces at once.
        seed: of noise, directions and tilts.
        progress: called for every batch.

    Returns:
        `seed`, `faces`, `views`, and `changes`: for `unchanged` and each change a row with its name (`change`),
        `accuracy` in 0..1 with its 95% `interval`, `changed`, the share of faces in 0..1 whose expression is another
        one than unchanged, and `changed_certain`, the share of those that are so and certain (50%) before and after.
        These are of the single view; `averaged` holds the same numbers of all views.

    Raises:
        InputError: there are no such views.
    """
    views = check_views(views)
    total = len(faces) * (1 + len(CHANGES))
    unchanged: list[np.ndarray] = []
    rows = []
    changes: dict[str, Change] = {"unchanged": lambda image, _: image, **CHANGES}
    for name, change in changes.items():
        logits = []
        for pixel_values in pixel_batches(processor, _Changed(faces, change, seed), batch_size):
            logits.append(run_views(engine, pixel_values, views)[1])
            progress("measuring robustness", len(pixel_values), total)
        together = np.concatenate(logits, axis=1)
        predicted = [averaged(together[:1]), averaged(together)]
        unchanged = unchanged or predicted
        single, several = (_row(*pair, faces.labels) for pair in zip(predicted, unchanged))
        rows.append({"change": name, **single, "averaged": several})
    return {"seed": seed, "faces": len(faces), "views": views, "changes": rows}


def _row(probabilities: np.ndarray, unchanged: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    measured = accuracy(probabilities, labels)
    changed = probabilities.argmax(1) != unchanged.argmax(1)
    certain = np.minimum(probabilities.max(1), unchanged.max(1)) >= MIN_CONFIDENCE
    return {
        "accuracy": measured["accuracy"],
        "interval": measured["interval"],
        "changed": float(changed.mean()),
        "changed_certain": float((changed & certain).mean()),
    }


def _framed(image: Image.Image, change: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Change an image whose edge is repeated around it by its own size, and cut its place out again."""
    width, height = image.size
    padded = Image.fromarray(np.pad(np.asarray(image), ((height, height), (width, width), (0, 0)), "edge"))
    return change(padded).crop((width, height, 2 * width, 2 * height))


def _window(image: Image.Image, x: float, y: float, factor: float) -> Image.Image:
    """Return what a box shows that is moved by `(x, y)` pixels and `factor` times as wide, at the image's own size."""
    width, height = image.size
    left, top = x + width * (1 - factor) / 2, y + height * (1 - factor) / 2
    padded = np.pad(np.asarray(image), ((height, height), (width, width), (0, 0)), "edge")
    box = (width + left, height + top, width + left + factor * width, height + top + factor * height)
    return Image.fromarray(padded).resize(image.size, Image.Resampling.BILINEAR, box=box)


__all__ = ["CHANGES", "Change", "robustness"]
