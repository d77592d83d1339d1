"""The protocol of detectors, and the square that is cut around a face."""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from ..errors import InputError
from ..results import Box, Face
from ..turning import turn

# Side of the crop against the longer side of MTCNN's box, minus 1. Measured by scripts/measure_margin.py on 800 of
# FER2013's PublicTest, which are faces as RMN was trained on them: the image is 0.950 times as wide as the longer side
# of the box that MTCNN finds in it (median; quartiles 0.875 and 1.036). Its centre lies 0.015 to the right of the box's
# and 0.002 below it, too little to move the crop. FER2013's landmarks, laid over those of 526 faces in the wild, give
# 0.946, 0.016 and -0.011.
MARGIN = -0.05


@runtime_checkable
class FaceDetector(Protocol):
    """
    Anything that finds faces. [`ExpressionRecognizer`] takes it as `detector`.

    Attributes:
        margin: how much wider the square crop is than the longer side of this detector's box: the side is `1 + margin`
            times the box's longer side. It belongs to the detector because detectors draw boxes differently around the
            same face. `scripts/measure_margin.py` measures it; a box from brow to chin and from ear to ear needs 0.
        threads: how many threads may call `detect` at the same time. A detector without it gets several images of a
            folder together, in one call.
        detect_larger: like `detect`, a quicker search that may miss small faces. Where there is one, it chooses the
            turn of an image that may lie on its side.

    Example: a detector that finds one face in the middle of every image.

        >>> from rmn_hub import ExpressionRecognizer, Face
        >>> class MiddleDetector:
        ...     margin = 0.1
        ...
        ...     def detect(self, images):
        ...         def middle(width, height):
        ...             return (width / 4, height / 4, width * 3 / 4, height * 3 / 4)
        ...
        ...         return [[Face(middle(*image.size), score=1.0)] for image in images]
        >>> recognizer = ExpressionRecognizer.from_pretrained(detector=MiddleDetector())
        >>> [face.box for face in recognizer(Image.new("RGB", (80, 120)))]
        [(20.0, 30.0, 60.0, 90.0)]
    """

    margin: float

    def detect(self, images: Sequence[Image.Image]) -> list[list[Face]]:
        """
        Return the faces of each image, in any order.

        Args:
            images: upright RGB images, which may differ in size.

        Returns:
            one list for each image, empty where it shows no face. Boxes and landmarks are in pixels of the image.
        """
        ...


def crop_box(box: Box, margin: float = MARGIN) -> Box:
    """
    Return the square that is cut around a box: centred on it, its side `1 + margin` times the box's longer side.

    [`crop_face`] rounds it to whole pixels. The square may leave the image.
    """
    x0, y0, x1, y1 = box
    half = (1 + margin) * max(x1 - x0, y1 - y0) / 2
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return x - half, y - half, x + half, y + half


def crop_face(image: Image.Image, box: Box, margin: float = MARGIN, turned: float = 0.0) -> Image.Image:
    """
    Return the square around a box, rounded to whole pixels, as RMN wants its face.

    Nothing is scaled or distorted. Where the square leaves the image, the border of the image is repeated.

    Args:
        image: the upright image.
        box: `(x0, y0, x1, y1)` in its pixels.
        margin: how much wider the square is than the box's longer side.
        turned: by how many degrees what the square shows is turned clockwise around its centre; quarter turns change no
            pixel.

    Raises:
        InputError: the box has no area, or the square does not touch the image.
    """
    x0, y0, x1, y1 = box
    if not (x1 > x0 and y1 > y0):
        raise InputError(f"box={box!r} must be (x0, y0, x1, y1) with x0 < x1 and y0 < y1")
    side = max(1, round((1 + margin) * max(x1 - x0, y1 - y0)))
    left, top = round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2)
    if not (left < image.width and top < image.height and left + side > 0 and top + side > 0):
        raise InputError(f"box={box!r} must touch the image of {image.width} x {image.height} pixels")
    quarter = 90 * round(turned / 90)
    if turned == quarter:
        return turn(_square(image, left, top, side), quarter % 360)
    # A square that holds this one however it is turned.
    more = math.ceil((math.sqrt(2) - 1) / 2 * side)
    around = turn(_square(image, left - more, top - more, side + 2 * more), quarter % 360)
    # What `around.rotate(quarter - turned)` has in its middle: half of its pixels would be thrown away.
    angle, middle = math.radians(turned - quarter), around.width / 2
    cosine, sine = math.cos(angle), math.sin(angle)
    x = middle + (cosine + sine) * (more - middle)
    y = middle + (cosine - sine) * (more - middle)
    matrix = (cosine, sine, x, -sine, cosine, y)
    return around.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)


def _square(image: Image.Image, left: int, top: int, side: int) -> Image.Image:
    """Return a square that touches the image. Where it leaves it, the border is repeated."""
    inside = (max(left, 0), max(top, 0), min(left + side, image.width), min(top + side, image.height))
    crop = image.crop(inside)
    if crop.size == (side, side):
        return crop
    pixels = np.asarray(crop)
    before = (inside[1] - top, inside[0] - left)
    after = (top + side - inside[3], left + side - inside[2])
    border = [(before[0], after[0]), (before[1], after[1])] + [(0, 0)] * (pixels.ndim - 2)
    return Image.fromarray(np.pad(pixels, border, mode="edge"))


__all__ = ["MARGIN", "FaceDetector", "crop_box", "crop_face"]
