"""Boxes that a caller or a detector hands over: checked before anything is cut out by them."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

from .errors import InputError
from .images import MAX_PIXELS, shown
from .results import Face

# A crop is a square: of a strip of 10 x 1,000,000 pixels it would have a terabyte. The largest of a photo's faces fits.
MAX_CROP_PIXELS = 2 * MAX_PIXELS


def iterable(name: str, value: Any) -> Iterable[Any]:
    """
    Return the value of an argument that must be a list, or any other iterable but text.

    Raises:
        InputError: it cannot be iterated over.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise InputError(f"{name}={shown(value)} must be a list")
    return value


def check_crops(faces: Sequence[Face], margin: float, source: str) -> None:
    """
    Check that the square around each face can be cut out.

    Raises:
        InputError: it would have more than `MAX_CROP_PIXELS` pixels.
    """
    for x0, y0, x1, y1 in (face.box for face in faces):
        if ((1 + margin) * max(x1 - x0, y1 - y0)) ** 2 > MAX_CROP_PIXELS:
            raise InputError(
                f"{x1 - x0:.0f} x {y1 - y0:.0f} pixels of {shown(source)} are too many for the square around a "
                "face: give the crop or the box of one face"
            )


def checked_faces(boxes: Any, width: int, height: int, what: str) -> list[Face]:
    """
    Return faces for a caller's or a detector's boxes, each with an area and its centre inside the image.

    Raises:
        InputError: a box is not one, or cannot belong to this image; it is an error of the argument, not of the image.
    """
    what = shown(what, 100)
    faces = [_checked_face(item, what) for item in iterable(what, boxes)]
    if faces and all(max(face.box) <= 1 for face in faces):
        raise InputError(f"{what} lie in 0..1: give pixels, that is x times {width} and y times {height}")
    for face in faces:
        x0, y0, x1, y1 = face.box
        # Such a box was made for another image, or another scale of it; its crop would be mostly invented.
        outside = not (0 <= x0 + x1 <= 2 * width and 0 <= y0 + y1 <= 2 * height)
        if outside or max(x1 - x0, y1 - y0) > 2 * max(width, height):
            raise InputError(f"{what}: {face.box} lies outside the image, which has {width} x {height} pixels")
    return faces


def _checked_face(item: Any, what: str) -> Face:
    face = item if isinstance(item, Face) else None
    try:
        box = _numbers(face.box if face else item, 4)
        points = face.landmarks if face else None
        landmarks = (
            None if points is None else tuple(cast("tuple[float, float]", _numbers(point, 2)) for point in points)
        )
        score = None if face is None or face.score is None else _numbers([face.score], 1)[0]
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{what}: {shown(repr(item))} must be four finite numbers (x0, y0, x1, y1), or a Face of such numbers"
        ) from error
    x0, y0, x1, y1 = box
    if not (x0 < x1 and y0 < y1):
        raise InputError(f"{what}: {shown(repr(box))} has no area: give (x0, y0, x1, y1) with x0 < x1 and y0 < y1")
    return Face((x0, y0, x1, y1), landmarks, score)


def _numbers(values: Any, count: int) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != count or not all(map(math.isfinite, numbers)) or isinstance(values, (str, bytes)):
        raise ValueError(f"not {count} finite numbers")
    return numbers


__all__ = ["MAX_CROP_PIXELS", "check_crops", "checked_faces", "iterable"]
