"""The annotated image: a photo with the box and the label of every face."""

import io
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageDraw

from ..attention import attention_of, overlay
from ..errors import InputError
from ..images import MAX_PIXELS, load_image
from ..results import FaceExpression, ImageResult
from ..turning import turn
from .labels import Label, clipped, font, label_faces
from .palette import color_of, ink_on

# An image whose longer side is less than this many pixels is enlarged: no readable label fits on it ...
MIN_ANNOTATED = 320
# ... and one with a crowd of faces goes on growing until there is room for all labels, but not beyond this.
MAX_ENLARGED = 1280


def annotate(
    image: Any,
    faces: Iterable[FaceExpression],
    *,
    stage: int | None = None,
    enlarge: bool = True,
    numbers: bool | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """
    Draw the faces of an image: a box in the colour of the expression, and a label with the expression and its
    percentage. An uncertain face has a dashed box, a hollow label and a question mark; where there is room for it, its
    label names the two nearest expressions (`angry or sad?`).

    Labels stay within the image, off each other and off other faces. They lie beside their own face; where there is no
    room, further away with a line to it; and in a crowd without any room inside its box, as small as need be. A face
    too small even for that gets its number alone, or its box alone. (Faces whose boxes overlap may have to share their
    place.)

    Args:
        image: the image, in any form that [`load_image`] takes; boxes are in pixels of the upright image, or,
            with an `ImageResult`, of an image of the result's size.
        faces: an `ImageResult`, or any expressions.
        stage: 1, 2, ... lays that stage's attention map over each face; the faces must have their attention maps.
        enlarge: whether an image becomes a whole number of times larger when its longer side is below
            `MIN_ANNOTATED`, or when a small one has no room for all labels. `False` keeps the size, for frames of a
            video.
        numbers: whether labels begin with the number of the face (see `palette.numbers_of`). When `None`, they do if
            there are several faces.
        max_pixels: as [`load_image`] takes it.

    Returns:
        A new RGB image in sRGB; the colours of an image with another ICC profile are converted.

    Raises:
        InputError: the image cannot be read.
        InputError: `stage` is given and a face has no such attention map.
    """
    loaded = load_image(image, max_pixels=max_pixels)
    drawn = loaded.image.copy()  # an image that was upright RGB already is the caller's own
    # A huge JPEG is decoded at half its size, and a result may be of the image before it was made smaller.
    whole = faces if isinstance(faces, ImageResult) and not faces.failed else loaded
    x_scale, y_scale = drawn.width / whole.width, drawn.height / whole.height
    faces = tuple(face if x_scale == y_scale == 1 else face.scaled(x_scale, y_scale) for face in faces)
    if stage is not None:
        for face in faces:
            _lay_over(drawn, face, stage)
    drawn = to_srgb(drawn)
    numbers = len(faces) > 1 if numbers is None else numbers
    factor = max(1, math.ceil(MIN_ANNOTATED / max(drawn.size))) if enlarge else 1
    while True:
        width, height = factor * drawn.width, factor * drawn.height
        boxes = [clipped([factor * value for value in face.box], width, height) for face in faces]
        labels = label_faces(faces, boxes, width, height, numbers)
        if None not in labels or not enlarge or (factor + 1) * max(drawn.size) > MAX_ENLARGED:
            break
        factor += 1
    if factor > 1:
        drawn = drawn.resize((width, height), Image.Resampling.BICUBIC)
    if None in labels and numbers:
        labels = label_faces(faces, boxes, width, height, numbers, alone=True)
    typical = float(np.median([box[2] - box[0] for box in boxes])) if boxes else 0.0
    thickness = max(2, round(min(max(drawn.size) / 300, 0.035 * typical)))

    draw = ImageDraw.Draw(drawn)
    for face, label in zip(faces, labels):
        if label is not None and label.pointer is not None:
            draw.line(label.pointer, fill=ink_on(color_of(face.expression)), width=thickness + 2)
            draw.line(label.pointer, fill=color_of(face.expression), width=thickness)
    for face, box in zip(faces, boxes):
        _draw_box(draw, box, color_of(face.expression), thickness, dashed=face.uncertain)
    for face, label in zip(faces, labels):
        if label is not None:
            _draw_label(draw, label, color_of(face.expression), thickness, hollow=face.uncertain)
    return drawn


def to_srgb(image: Image.Image) -> Image.Image:
    """
    Return an RGB image in sRGB.

    Args:
        image: RGB, with or without an ICC profile in its `info`.

    Returns:
        The image itself where it has no profile, else a new image without one whose pixels are converted to sRGB.
        Pixels stay as they are where the profile is damaged, or where it describes another colour space (grey, CMYK)
        that the image was decoded from.
    """
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        is_rgb = own.profile.xcolor_space.strip() == "RGB"
        converted = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB")) if is_rgb else image.copy()
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        converted = image.copy()
    if converted is None:  # with inPlace only
        return image
    converted.info.pop("icc_profile", None)
    return converted


def _draw_label(draw: ImageDraw.ImageDraw, label: Label, color: str, thickness: int, hollow: bool) -> None:
    """Draw a label: filled with the colour, or, when hollow, white with an edge of it."""
    x0, y0, x1, y1 = label.box
    fill = "#ffffff" if hollow else color
    edge = max(1, thickness // 2) if hollow else 0
    draw.rounded_rectangle((x0, y0, x1 - 1, y1 - 1), radius=label.pad, fill=fill, outline=color, width=edge)
    bold = font(label.size)
    for number, line in enumerate(label.lines):
        top = y0 + label.pad // 2 + number * sum(bold.getmetrics())
        draw.text((x0 + label.pad, top), line, font=bold, fill=ink_on(fill))


def _draw_box(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], color: str, thickness: int, dashed: bool
) -> None:
    """Draw a frame with an edge, dark or light, that lets it be seen on every background."""
    # Pillow counts the last pixel in.
    x0, y0, x1, y1 = box[0], box[1], box[2] - 1, box[3] - 1
    if not dashed:
        draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=ink_on(color), width=thickness + 2)
        draw.rectangle((x0, y0, x1, y1), outline=color, width=thickness)
        return
    dashes = []
    for start, end, upright in ((x0, x1, False), (y0, y1, True)):
        # An odd number of parts: dashes meet in the corners.
        parts = max(3, 2 * round((end - start) / (8 * thickness)) + 1)
        marks = np.linspace(start, end, parts + 1).round().astype(int)
        for first, last in zip(marks[:-1:2], marks[1::2]):
            if upright:
                dashes += [(x0, first, x0 + thickness - 1, last), (x1 - thickness + 1, first, x1, last)]
            else:
                dashes += [(first, y0, last, y0 + thickness - 1), (first, y1 - thickness + 1, last, y1)]
    for left, top, right, bottom in dashes:
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), fill=ink_on(color))
    for dash in dashes:
        draw.rectangle(dash, fill=color)


def _lay_over(image: Image.Image, face: FaceExpression, stage: int) -> None:
    """Lay a stage's map over a face, within its box. A crop that was turned upright is turned back."""
    attention = attention_of(face)
    if not 1 <= stage <= len(attention.maps):
        raise InputError(f"stage={stage} must be 1 to {len(attention.maps)}")
    crop = Image.fromarray(attention.crop)
    x0, y0, x1, y1 = face.box
    # The crop may come from another size of the image: a huge JPEG is decoded at half its size by one of the two.
    scale = max(1, round((1 + attention.margin) * max(x1 - x0, y1 - y0))) / max(crop.size)
    if scale != 1:
        crop = crop.resize([max(1, round(scale * side)) for side in crop.size], Image.Resampling.BICUBIC)
    shown = Image.fromarray(overlay(np.asarray(crop), attention.maps[stage - 1]))
    quarter = 90 * round(attention.turned / 90)
    shown = turn(shown, -quarter % 360)
    # The corners of a square that is turned by less show nothing.
    mask = Image.new("L", shown.size, 255)
    if attention.turned != quarter:
        shown, mask = (one.rotate(attention.turned - quarter, Image.Resampling.BILINEAR) for one in (shown, mask))
    # The crop and the box have the same centre.
    left, top = round((x0 + x1 - shown.width) / 2), round((y0 + y1 - shown.height) / 2)
    inside = clipped(face.box, *image.size)
    part = (inside[0] - left, inside[1] - top, inside[2] - left, inside[3] - top)
    image.paste(shown.crop(part), inside[:2], mask.crop(part))


__all__ = ["MAX_ENLARGED", "MIN_ANNOTATED", "annotate", "to_srgb"]
