"""
Every picture of the project: annotated photos, probability charts, attention panels, and the figures of an evaluation.

`annotate` and `X(...)` answer with a PIL image, `X_figure(...)` with a matplotlib `Figure`. No figure is known to
pyplot: nothing has to be closed, no backend is chosen, and all of it may be called from several threads at once.
Expressions keep their order and their colours everywhere, and no picture says anything by colour alone.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from ..attention import attention_of, overlay, place
from ..expressions import EXPRESSIONS
from ..results import Attention, FaceExpression
from .palette import FAMILY, color_of, label_of
from .photo import annotate
from .sheet import DPI, _as_image, _name_width, _Sheet


def annotate_figure(
    image: Any, faces: Iterable[FaceExpression], *, stage: int | None = None, enlarge: bool = True
) -> Figure:
    """`annotate` as a figure of the picture's own size."""
    picture = annotate(image, faces, stage=stage, enlarge=enlarge)
    sheet = _Sheet(picture.width / DPI, picture.height / DPI)
    axes = sheet.axes(0, 0, sheet.width, sheet.height)
    axes.imshow(np.asarray(picture), interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    return sheet.figure


def probability_chart_figure(expression: FaceExpression, theme: str = "light") -> Figure:
    """
    The probabilities of one face as bars, in the fixed order, each with its percentage.

    Args:
        expression: the face's expression.
        theme: `"light"` or `"dark"`.
    """
    count = len(expression.probabilities)
    sheet = _Sheet(5.2, 0.62 + 0.32 * count, theme, title=_heading(expression))
    sheet.bars(0.2, 0.54, 4.85, 0.32 * count, expression, size=11)
    return sheet.figure


def attention_panel_figure(expression: FaceExpression, theme: str = "light") -> Figure:
    """
    What the masks do to one face: the crop and its probabilities, each stage's attention map over the face, and the
    strength of each stage's features before and after masking (figure 1.14 of the authors' report, for every stage).

    Args:
        expression: an expression with its attention maps.
        theme: `"light"` or `"dark"`.

    Raises:
        ValueError: the expression has no attention maps.
    """
    attention = attention_of(expression)
    stages = len(attention.maps)
    tile, gap, edge, head, chart, turned = 1.6, 0.14, 0.2, 0.82, 2.35, 0.55
    row, start = tile + gap, edge + chart + turned
    sheet = _Sheet(start + stages * row - gap + edge, head + 3 * row + 0.3, theme, title=_heading(expression))

    sheet.face(edge + (chart - tile) / 2, head, tile, attention.crop)
    sheet.bars(edge, head + row, chart, 0.36 * len(expression.probabilities), expression, size=8.5)
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
    The faces of a picture, one to a row: crop, each stage's attention map over the face, below it the strength of the
    stage's features before and after masking (on one scale), and the probabilities. Many faces are laid out in several
    columns, filled from top to bottom in the order of `faces`.

    Args:
        faces: a `ImageResult`, or any expressions with their attention maps.
        theme: `"light"` or `"dark"`.

    Raises:
        ValueError: there is no face, or one without attention maps.
    """
    faces = tuple(faces)
    if not faces:
        raise ValueError("there is no face to show: give at least one")
    attentions = [attention_of(face) for face in faces]
    stages = max(len(attention.maps) for attention in attentions)
    tile, gap, edge, head, chart = 1.15, 0.1, 0.2, 0.42, 2.5
    small = 0.45 * tile
    block_width, block_height = (1 + stages) * (tile + gap) + chart + 0.4, tile + small + 0.6
    rows = math.ceil(len(faces) / max(1, round(math.sqrt(len(faces) / 3))))
    columns = math.ceil(len(faces) / rows)
    sheet = _Sheet(columns * block_width - 0.4 + 2 * edge, head + rows * block_height, theme)
    for column in range(columns):
        for stage, attention_map in enumerate(max(attentions, key=lambda attention: len(attention.maps)).maps):
            x = edge + column * block_width + (stage + 1) * (tile + gap) + tile / 2
            sheet.text(x, 0.25, f"stage {stage + 1}, {_size_of(attention_map)}", 8.5, muted=True, ha="center")
    for number, (face, attention) in enumerate(zip(faces, attentions)):
        x, y = edge + (number // rows) * block_width, head + (number % rows) * block_height
        sheet.text(x, y + 0.14, f"{number + 1}.  {_heading(face)}", 10.5, weight="bold")
        sheet.face(x, y + 0.3, tile, attention.crop)
        below = y + 0.3 + tile + 0.07
        for line, text in enumerate(("features before", "and after")):
            sheet.text(x + tile, below + small / 2 + (line - 0.5) * 0.16, text, 8, muted=True, ha="right")
        for stage, attention_map in enumerate(attention.maps, start=1):
            sheet.face(x + stage * (tile + gap), y + 0.3, tile, overlay(_smooth(attention.crop), attention_map))
        # One picture for all: every part of a figure costs more than the last one.
        strip = _feature_strip(attention, *(round(length * DPI) for length in (small, tile, tile + gap)))
        axes = sheet.axes(x + tile + gap, below, strip.shape[1] / DPI, small)
        axes.imshow(strip, cmap="inferno", vmin=0, vmax=1, aspect="auto")
        sheet.bars(x + (1 + stages) * (tile + gap), y + 0.3, chart, tile + 0.07 + small, face, size=8)
    return sheet.figure


def timeline_figure(
    seconds: Sequence[float],
    probabilities: np.ndarray,
    names: Sequence[str] = EXPRESSIONS,
    title: str | None = None,
    theme: str = "light",
) -> Figure:
    """
    The probabilities of one face over time: for each expression a strip from 0 to 100%, with its mean and maximum.

    Args:
        seconds: time of each moment, increasing.
        probabilities: `(moments, N)` in 0..1; NaN where the face was not there, which leaves a gap.
        names: of the N expressions.
        title: above the strips.
        theme: `"light"` or `"dark"`.

    Raises:
        ValueError: no moment, shapes that do not fit, or times that do not increase.
    """
    seconds, values = np.asarray(seconds, dtype=float), np.asarray(probabilities, dtype=float)
    if not len(seconds) or values.shape != (len(seconds), len(names)):
        raise ValueError(f"probabilities of shape {values.shape} do not fit {len(seconds)} moments, {len(names)} names")
    if (np.diff(seconds) <= 0).any():
        raise ValueError("seconds must increase from moment to moment")
    head, strip, margin, right = 0.4 + 0.35 * (title is not None), 0.46, _name_width(names, 10) + 0.3, 1.3
    row = strip + 0.1
    sheet = _Sheet(9.3, head + len(names) * row + 0.55, theme, title)
    sheet.text(sheet.width - right + 0.5, head - 0.17, "mean", 9, muted=True, ha="right")
    sheet.text(sheet.width - 0.2, head - 0.17, "highest", 9, muted=True, ha="right")
    for index, name in enumerate(names):
        y = head + index * row
        axes = sheet.axes(margin, y, sheet.width - margin - right, strip)
        axes.set_facecolor(to_rgba(sheet.theme.line, 0.35))
        axes.fill_between(seconds, values[:, index], color=color_of(name), linewidth=0)
        axes.plot(seconds, values[:, index], color=color_of(name), linewidth=1.2)
        axes.set(xlim=(seconds[0], max(seconds[-1], seconds[0] + 1e-3)), ylim=(0, 1))
        sheet.text(margin - 0.1, y + strip / 2, name, 10, ha="right")
        seen = values[np.isfinite(values[:, index]), index]
        for x, value in ((sheet.width - right + 0.5, seen.mean), (sheet.width - 0.2, seen.max)):
            text = f"{value():.0%}" if len(seen) else "-"
            sheet.text(x, y + strip / 2, text, 9.5, ha="right")
        axes.xaxis.set_major_locator(MaxNLocator(10))
        if index < len(names) - 1:
            axes.set_xticklabels([])
        else:
            axes.set_xlabel("seconds", color=sheet.theme.muted, size=10, family=FAMILY)
    return sheet.figure


probability_chart = _as_image(probability_chart_figure)
attention_panel = _as_image(attention_panel_figure)
group_panel = _as_image(group_panel_figure)
timeline = _as_image(timeline_figure)


def _heading(expression: FaceExpression) -> str:
    return label_of(expression) + (", uncertain" if expression.uncertain else "")


def _size_of(attention_map: np.ndarray) -> str:
    return f"{attention_map.shape[1]} x {attention_map.shape[0]} px"


def _smooth(crop: np.ndarray, size: int = 192) -> Image.Image:
    """A crop at a size at which a map over it looks smooth."""
    face = Image.fromarray(crop)
    scale = size / max(face.size)
    return face.resize([max(1, round(scale * side)) for side in face.size], Image.Resampling.BICUBIC)


def _feature_strip(attention: Attention, side: int, tile: int, step: int) -> np.ndarray:
    """Features before and after masking at the two ends of a tile per stage; NaN, which has no colour, in between."""
    strip = np.full((side, (len(attention.maps) - 1) * step + tile), np.nan, np.float32)
    for stage, pair in enumerate(zip(attention.before, attention.after)):
        for start, features in zip((stage * step, stage * step + tile - side), pair):
            strip[:, start : start + side] = place(features, side, side)
    return strip
