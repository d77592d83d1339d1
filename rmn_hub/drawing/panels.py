"""
Panels of one face or of a group: probabilities, attention maps, and probabilities over time.

`X(...)` returns a PIL image, `X_figure(...)` a matplotlib `Figure`. pyplot does not register the figures: nothing has
to be closed, no backend is chosen, and functions may be called from several threads at once.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ..attention import attention_of, overlay, place
from ..errors import InputError
from ..results import Attention, FaceExpression
from .palette import label_of, near_expressions, numbers_of
from .photo import annotate
from .sheet import DPI, Sheet, as_image


def annotate_figure(
    image: Any, faces: Iterable[FaceExpression], *, stage: int | None = None, enlarge: bool = True
) -> Figure:
    """Draw [`annotate`] as a figure of the image's own size."""
    drawn = annotate(image, faces, stage=stage, enlarge=enlarge)
    sheet = Sheet(drawn.width / DPI, drawn.height / DPI)
    axes = sheet.axes(0, 0, sheet.width, sheet.height)
    axes.imshow(np.asarray(drawn), interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    return sheet.figure


def probability_chart_figure(expression: FaceExpression, theme: str = "light") -> Figure:
    """
    Draw the probabilities of one face as bars, in the fixed order, each with its percentage.

    Args:
        expression: the face with its probabilities.
        theme: `"light"` or `"dark"`.
    """
    count = len(expression.probabilities)
    sheet = Sheet(5.2, 0.62 + 0.32 * count, theme, title=_heading(expression))
    sheet.bars(0.2, 0.54, 4.85, 0.32 * count, expression.probabilities, size=11)
    return sheet.figure


def attention_panel_figure(expression: FaceExpression, theme: str = "light") -> Figure:
    """
    Draw what the masks do to one face: the crop and its probabilities, each stage's attention map over the face, and
    the strength of each stage's features before and after masking (figure 1.14 of the authors' report, for every
    stage).

    Args:
        expression: a face with its attention maps.
        theme: `"light"` or `"dark"`.

    Raises:
        InputError: the face has no attention maps.
    """
    attention = attention_of(expression)
    stages = len(attention.maps)
    tile, gap, edge, head, chart, turned = 1.6, 0.14, 0.2, 0.82, 2.35, 0.55
    row, start = tile + gap, edge + chart + turned
    sheet = Sheet(start + stages * row - gap + edge, head + 3 * row + 0.3, theme, title=_heading(expression))

    sheet.face(edge + (chart - tile) / 2, head, tile, attention.crop)
    sheet.bars(edge, head + row, chart, 0.36 * len(expression.probabilities), expression.probabilities, size=8.5)
    for number, text in enumerate(("attention map", "features before", "features after")):
        sheet.text(start - 0.2, head + number * row + tile / 2, text, 9.5, muted=True, rotation=90, ha="center")
    for stage, attention_map in enumerate(attention.maps):
        x = start + stage * row
        sheet.text(x, head - 0.15, f"stage {stage + 1}", 10.5, weight="bold")
        sheet.text(x + tile, head - 0.15, _size_of(attention_map), 9, muted=True, ha="right")
        sheet.face(x, head, tile, overlay(_smooth(attention.crop), attention_map))
        for number, features in enumerate((attention.before[stage], attention.after[stage]), start=1):
            axes = sheet.axes(x, head + number * row, tile, tile)
            axes.imshow(place(features, 192, 192), cmap="inferno", vmin=0, vmax=1, aspect="auto")
    below = head + 3 * row + 0.03
    sheet.color_key(start + 0.95, below, "map:  least", "most, for each stage")
    sheet.color_key(start + 4.35, below, "features:  none", "strongest, for each stage")
    return sheet.figure


def group_panel_figure(faces: Iterable[FaceExpression], theme: str = "light") -> Figure:
    """
    Draw the faces of an image, one to a row: crop, each stage's attention map over the face, below it the strength of
    the stage's features before and after masking (on one scale), and the probabilities. Many faces are laid out in
    several columns, filled from top to bottom in the order of `faces`, each with its number.

    Args:
        faces: an `ImageResult`, or any faces with their attention maps.
        theme: `"light"` or `"dark"`.

    Raises:
        InputError: there is no face, or one without attention maps.
    """
    faces = tuple(faces)
    if not faces:
        raise InputError("faces must hold at least one face")
    attentions = [attention_of(face) for face in faces]
    stages = max(len(attention.maps) for attention in attentions)
    tile, gap, edge, head, chart = 1.15, 0.1, 0.2, 0.42, 2.5
    small = 0.45 * tile
    block_width, block_height = (1 + stages) * (tile + gap) + chart + 0.4, tile + small + 0.6
    rows = math.ceil(len(faces) / max(1, round(math.sqrt(len(faces) / 3))))
    columns = math.ceil(len(faces) / rows)
    below = head + rows * block_height
    sheet = Sheet(columns * block_width - 0.4 + 2 * edge, below + 0.3, theme)
    for column in range(columns):
        for stage, attention_map in enumerate(max(attentions, key=lambda attention: len(attention.maps)).maps):
            x = edge + column * block_width + (stage + 1) * (tile + gap) + tile / 2
            sheet.text(x, 0.25, f"stage {stage + 1}, {_size_of(attention_map)}", 8.5, muted=True, ha="center")
    for position, (number, face, attention) in enumerate(zip(numbers_of(faces), faces, attentions)):
        x, y = edge + (position // rows) * block_width, head + (position % rows) * block_height
        sheet.text(x, y + 0.14, f"{number}.  {_heading(face)}", 10.5, weight="bold")
        sheet.face(x, y + 0.3, tile, attention.crop)
        middle = y + 0.3 + tile + 0.07
        for line, text in enumerate(("features before", "and after")):
            sheet.text(x + tile, middle + small / 2 + (line - 0.5) * 0.16, text, 8, muted=True, ha="right")
        for stage, attention_map in enumerate(attention.maps, start=1):
            sheet.face(x + stage * (tile + gap), y + 0.3, tile, overlay(_smooth(attention.crop), attention_map))
        # One image for all: every part of a figure costs more than the last one.
        strip = _feature_strip(attention, *(round(length * DPI) for length in (small, tile, tile + gap)))
        axes = sheet.axes(x + tile + gap, middle, strip.shape[1] / DPI, small)
        axes.imshow(strip, cmap="inferno", vmin=0, vmax=1, aspect="auto")
        sheet.bars(x + (1 + stages) * (tile + gap), y + 0.3, chart, tile + 0.07 + small, face.probabilities, size=8)
    sheet.color_key(edge + 0.95, below, "map:  least", "most, for each stage")
    sheet.color_key(edge + 4.35, below, "features:  none", "strongest, for each stage")
    return sheet.figure


probability_chart = as_image(probability_chart_figure)
attention_panel = as_image(attention_panel_figure)
group_panel = as_image(group_panel_figure)


def _heading(face: FaceExpression) -> str:
    """Return `happy 93%`, or `angry? 41%, uncertain: angry or sad`."""
    if not face.uncertain:
        return label_of(face)
    near = near_expressions(face)
    return f"{label_of(face)}, uncertain" + (f": {' or '.join(near)}" if len(near) > 1 else "")


def _size_of(attention_map: np.ndarray) -> str:
    """Return the size of a map in words."""
    return f"{attention_map.shape[1]} x {attention_map.shape[0]} px"


def _smooth(crop: np.ndarray, size: int = 192) -> np.ndarray:
    """Return a crop at a size at which a map over it looks smooth."""
    face = Image.fromarray(crop)
    scale = size / max(face.size)
    width, height = (max(1, round(scale * side)) for side in face.size)
    return np.asarray(face.resize((width, height), Image.Resampling.BICUBIC))


def _feature_strip(attention: Attention, side: int, tile: int, step: int) -> np.ndarray:
    """Return features before and after masking at the two ends of each stage's tile, and NaN (no colour) between."""
    strip = np.full((side, (len(attention.maps) - 1) * step + tile), np.nan, np.float32)
    for stage, pair in enumerate(zip(attention.before, attention.after)):
        for start, features in zip((stage * step, stage * step + tile - side), pair):
            strip[:, start : start + side] = place(features, side, side)
    return strip


__all__ = [
    "annotate_figure",
    "attention_panel",
    "attention_panel_figure",
    "group_panel",
    "group_panel_figure",
    "probability_chart",
    "probability_chart_figure",
]
