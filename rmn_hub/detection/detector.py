"""detection.detector"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from ..results import Box, Face

if TYPE_CHECKING:
    pass


# Side of the crop against the longer side of MTCNN's box, minus 1. Measured by scripts/measure_margin.py on 800 of
# FER2013's PublicTest, which are faces as RMN knows them: the picture is 0.950 times as wide as the longer side of the
# box that MTCNN finds in it (median; quartiles 0.875 and 1.036). Its centre lies 0.015 to the right of the box's and
# 0.002 below it, too little to move the crop. FER2013's landmarks, laid over those of 526 faces in the wild, say 0.946,
# 0.016 and -0.011.
MARGIN = -0.05


@runtime_checkable
class FaceDetector(Protocol):
    """Anything that finds faces."""

    def detect(self, images: Sequence[Image.Image]) -> list[list[Face]]:
        """The faces of each of some upright RGB pictures (which may differ in size), in any order."""
        ...


def crop_face(image: Image.Image, box: Box, margin: float = MARGIN) -> Image.Image:
    """
    The square around a box, as RMN wants its face: centred on the box, its side `1 + margin` times the box's longer
    side, rounded to whole pixels. Nothing is scaled or distorted; where the square leaves the picture, the picture's
    border is repeated.

    Args:
        image: the upright picture.
        box: `(x0, y0, x1, y1)` in its pixels.
        margin: how much wider the square is than the box's longer side.

    Raises:
        ValueError: the box has no area, or the square does not touch the picture.
    """
    x0, y0, x1, y1 = box
    if not (x1 > x0 and y1 > y0):
        raise ValueError(f"box {box} has no area: give (x0, y0, x1, y1) with x0 < x1 and y0 < y1")
    side = max(1, round((1 + margin) * max(x1 - x0, y1 - y0)))
    left, top = round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2)
    inside = (max(left, 0), max(top, 0), min(left + side, image.width), min(top + side, image.height))
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise ValueError(f"box {box} lies outside the picture of {image.width} x {image.height} pixels")
    crop = image.crop(inside)
    if crop.size == (side, side):
        return crop
    pixels = np.asarray(crop)
    before = (inside[1] - top, inside[0] - left)
    after = (top + side - inside[3], left + side - inside[2])
    border = [(before[0], after[0]), (before[1], after[1])] + [(0, 0)] * (pixels.ndim - 2)
    return Image.fromarray(np.pad(pixels, border, mode="edge"))


__all__ = ["MARGIN", "FaceDetector", "crop_face"]
