"""
Every picture of the project: annotated photos, probability charts, attention panels, and the figures of an evaluation.

`annotate` and `X(...)` answer with a PIL image, `X_figure(...)` with a matplotlib `Figure`. No figure is known to
pyplot: nothing has to be closed, no backend is chosen, and all of it may be called from several threads at once.
Expressions keep their order and their colours everywhere, and no picture says anything by colour alone.
"""

import functools
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image, ImageDraw, ImageFont

from .attention import Faithfulness, overlay, place
from .configuration_rmn import EXPRESSIONS
from .images import load_image
from .results import Attention, Expression, Face

# Okabe and Ito's colours ("Color universal design", 2008), which colour-blind people can tell apart.
COLORS = dict(zip(EXPRESSIONS, ("#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#999999")))
# Their yellow is for expressions of checkpoints that have others than the seven.
OTHER_COLOR = "#F0E442"

# A picture whose longer side is less than this many pixels is enlarged: no readable label fits on it ...
MIN_ANNOTATED = 320
# ... and one with a crowd of faces goes on growing until there is room for all labels, but not beyond this.
MAX_ENLARGED = 1280
FAMILY = "DejaVu Sans"
DPI = 120

_drawing = threading.Lock()


@dataclass(frozen=True)
class Theme:
    """Colours of everything but the data."""

    background: str
    text: str
    muted: str
    line: str


THEMES = {
    "light": Theme(background="#ffffff", text="#1a1d21", muted="#5a6069", line="#d5d9de"),
    "dark": Theme(background="#14161a", text="#f1f3f5", muted="#a7aeb8", line="#3b4048"),
}


def color_of(expression: str) -> str:
    """The colour of an expression, `#RRGGBB`."""
    return COLORS.get(expression, OTHER_COLOR)


def ink_on(color: str) -> str:
    """Black or white, whichever can be read better on `#RRGGBB` (WCAG 2.2: relative luminance, at least 4.5 : 1)."""
    channels = [int(color[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # Where the contrast with white, 1.05 / (l + 0.05), is that with black, (l + 0.05) / 0.05.
    return "#000000" if luminance > math.sqrt(1.05 * 0.05) - 0.05 else "#ffffff"


def percent(probability: float) -> str:
    """A probability in words of a label: `93%`, but never 0% or 100%, which would claim certainty."""
    if probability < 0.01:
        return "<1%"
    return ">99%" if probability > 0.99 else f"{probability:.0%}"


def label_of(expression: Expression) -> str:
    """What a face is labelled with: `happy 93%`, and `happy? 41%` when the answer is uncertain."""
    return f"{expression.expression}{'?' if expression.uncertain else ''} {percent(expression.probability)}"


# The annotated photo


@dataclass(frozen=True)
class Label:
    """
    A label's place on a picture.

    Args:
        box: what it covers, `(x0, y0, x1, y1)` in whole pixels of the picture.
        lines: its text.
        size: of the font in pixels.
        pad: pixels between text and border.
        pointer: ends of the line from the label to its face, where they are not neighbours.
    """

    box: tuple[int, int, int, int]
    lines: tuple[str, ...]
    size: int
    pad: int
    pointer: tuple[tuple[int, int], tuple[int, int]] | None = None


def annotate(image: Any, faces: Iterable[Expression], *, stage: int | None = None, enlarge: bool = True) -> Image.Image:
    """
    A photo with its faces: a box in the expression's colour, and a label with the expression and its percentage. An
    uncertain answer has a dashed box, a hollow label and a question mark.

    Labels stay within the picture, off each other and off other faces. They lie beside their own face; where there is
    no room, further away with a line to it; and in a crowd without any room inside its box, as small as need be. (A
    face too small even for that has its box alone. Faces whose boxes overlap may have to share their place.)

    Args:
        image: the picture, in any form that [`load_image`] takes; boxes are in pixels of the upright picture.
        faces: a `Result`, or any expressions.
        stage: 1, 2, ... lays that stage's attention map over each face; the faces must have their attention maps.
        enlarge: whether a picture becomes a whole number of times larger when its longer side is below
            `MIN_ANNOTATED`, or when a small one has no room for all labels. `False` keeps the size, for frames of a
            video.

    Returns:
        a new RGB picture.

    Raises:
        InputError: the picture cannot be read.
        ValueError: `stage` is asked for and a face has no such attention map.
    """
    picture = load_image(image).image.copy()  # a picture that was upright RGB already is the caller's own
    faces = tuple(faces)
    if stage is not None:
        for face in faces:
            _lay_over(picture, face, stage)
    factor = max(1, math.ceil(MIN_ANNOTATED / max(picture.size))) if enlarge else 1
    texts = [label_of(face) for face in faces]
    while True:
        width, height = factor * picture.width, factor * picture.height
        boxes = [_clipped([factor * value for value in face.face.box], width, height) for face in faces]
        labels = place_labels(texts, boxes, width, height)
        if None not in labels or not enlarge or (factor + 1) * max(picture.size) > MAX_ENLARGED:
            break
        factor += 1
    if factor > 1:
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    typical = float(np.median([box[2] - box[0] for box in boxes])) if boxes else 0.0
    thickness = max(2, round(min(max(picture.size) / 300, 0.035 * typical)))

    draw = ImageDraw.Draw(picture)
    for face, label in zip(faces, labels):
        if label is not None and label.pointer is not None:
            draw.line(label.pointer, fill=ink_on(color_of(face.expression)), width=thickness + 2)
            draw.line(label.pointer, fill=color_of(face.expression), width=thickness)
    for face, box in zip(faces, boxes):
        _draw_box(draw, box, color_of(face.expression), thickness, dashed=face.uncertain)
    for face, label in zip(faces, labels):
        if label is not None:
            _draw_label(draw, label, color_of(face.expression), thickness, hollow=face.uncertain)
    return picture


def annotate_figure(
    image: Any, faces: Iterable[Expression], *, stage: int | None = None, enlarge: bool = True
) -> Figure:
    """`annotate` as a figure of the picture's own size."""
    picture = annotate(image, faces, stage=stage, enlarge=enlarge)
    sheet = _Sheet(picture.width / DPI, picture.height / DPI)
    axes = sheet.axes(0, 0, sheet.width, sheet.height)
    axes.imshow(np.asarray(picture), interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    return sheet.figure


def place_labels(
    texts: Sequence[str], boxes: Sequence[tuple[int, int, int, int]], width: int, height: int
) -> list[Label | None]:
    """
    Places for the labels of a picture: see `annotate` for the rules. One font size serves all of a picture's labels:
    the largest with which every label can lie beside its face, or the smallest readable one.

    Args:
        texts: one per face.
        boxes: of the faces, within the picture.
        width: of the picture in pixels.
        height: likewise.

    Returns:
        per face its label, or `None` where nothing fits.
    """
    if not boxes:
        return []
    longer = max(width, height)
    smallest, largest = max(11, round(0.011 * longer)), max(16, round(0.034 * longer))
    typical = float(np.median([box[2] - box[0] for box in boxes]))
    size = round(min(max(0.17 * typical, smallest), largest))
    # Larger faces first: they have fewer places to choose from.
    order = sorted(range(len(boxes)), key=lambda index: boxes[index][2] - boxes[index][0], reverse=True)
    while True:
        labels: list[Label | None] = [None] * len(boxes)
        taken = np.array(boxes)
        # Labels keep away from other faces, so that it is plain whose they are.
        clear = np.array(boxes) + max(2, size // 4) * np.array([-1, -1, 1, 1])
        full: list[tuple[int, int]] = []  # sizes of labels for which there was no room anywhere, and never will be
        for index in order:
            others = np.concatenate([np.delete(clear, index, axis=0), taken[len(boxes) :]])
            text, box = texts[index], boxes[index]
            label = _beside((text,), box, others, width, height, size)
            if label is None and size > smallest:
                break
            label = label or _beside(_two_lines(text), box, others, width, height, size)
            wide, high, _ = _label_size((text,), size)
            if label is None and not any(wide >= other_wide and high >= other_high for other_wide, other_high in full):
                label = _further_away(text, box, taken, width, height, size)
                if label is None:
                    full.append((wide, high))
            label = label or _inside(text, box, np.delete(taken, index, axis=0))
            if label is not None:
                labels[index] = label
                taken = np.concatenate([taken, [label.box]])
        else:
            return labels
        size = max(smallest, math.floor(0.85 * size))


def _beside(
    lines: tuple[str, ...], box: tuple[int, int, int, int], others: np.ndarray, width: int, height: int, size: int
) -> Label | None:
    """A label that touches its box from above, below, the right or the left, or lies in a box that is large enough."""
    label_width, label_height, pad = _label_size(lines, size)
    x0, y0, x1, y1 = box
    # Above or below, a label may slide along its box to stay within the picture.
    along = [min(max(x, 0), width - label_width) for x in (x0, x1 - label_width, (x0 + x1 - label_width) // 2)]
    places = [(x, y0 - label_height) for x in along] + [(x, y1) for x in along]
    places += [(x, y) for x in (x1, x0 - label_width) for y in (y0, y1 - label_height)]
    if label_width <= 0.9 * (x1 - x0) and label_height <= 0.15 * (y1 - y0):
        places += [(x0, y0), (x0, y1 - label_height)]
    covered = np.array([(x, y, x + label_width, y + label_height) for x, y in places])
    free = ~_hits(covered, others) & (covered[:, :2] >= 0).all(1) & (covered[:, 2:] <= (width, height)).all(1)
    return Label(_as_box(covered[free.argmax()]), lines, size, pad) if free.any() else None


def _further_away(
    text: str, box: tuple[int, int, int, int], taken: np.ndarray, width: int, height: int, size: int
) -> Label | None:
    """A label at the free place nearest to its box."""
    label_width, label_height, pad = _label_size((text,), size)
    if label_width > width or label_height > height:
        return None
    step = max(2, label_height // 3)
    x, y = np.meshgrid(np.arange(0, width - label_width + 1, step), np.arange(0, height - label_height + 1, step))
    places = np.stack([x, y, x + label_width, y + label_height], axis=-1).reshape(-1, 4)
    x0, y0, x1, y1 = box
    apart_x = np.maximum(0, np.maximum(x0 - places[:, 2], places[:, 0] - x1))
    apart_y = np.maximum(0, np.maximum(y0 - places[:, 3], places[:, 1] - y1))
    places = places[np.argsort(np.hypot(apart_x, apart_y), kind="stable")]
    # The nearest are nearly always free soon: in portions, a large picture costs no more than a small one.
    for start in range(0, len(places), 512):
        free = ~_hits(places[start : start + 512], taken)
        if free.any():
            covered = _as_box(places[start + int(free.argmax())])
            return Label(covered, (text,), size, pad, pointer=_pointer(covered, box))
    return None


def _inside(text: str, box: tuple[int, int, int, int], others: np.ndarray) -> Label | None:
    """
    A label within its own box, of one line or two, on an edge that other boxes leave free: the largest that covers at
    most half of the face, or else the smallest.
    """
    x0, y0, x1, y1 = box
    fitting = []
    for lines in ((text,), _two_lines(text)):
        for size in range(6, 17):
            width, height, pad = _label_size(lines, size)
            if width <= x1 - x0 and height <= y1 - y0:
                places = np.array([(x, y, x + width, y + height) for y in (y0, y1 - height) for x in (x0, x1 - width)])
                free = ~_hits(places, others)
                fitting.append((height, Label(_as_box(places[free.argmax()]), lines, size, pad)))
    small = [label for height, label in fitting if height <= (y1 - y0) / 2]
    if small:
        return max(small, key=lambda label: label.size)
    return min(fitting, key=lambda pair: pair[0])[1] if fitting else None


def _two_lines(text: str) -> tuple[str, ...]:
    """A label's text with its percentage in a line of its own."""
    return tuple(text.rsplit(" ", 1))


def _pointer(
    label: tuple[int, int, int, int], box: tuple[int, int, int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The shortest line from a label to its box."""
    ends = []
    for low, high in ((0, 2), (1, 3)):
        first, last = max(label[low], box[low]), min(label[high], box[high])
        if first <= last:  # side by side here: straight across
            ends.append(((first + last) // 2,) * 2)
        else:
            ends.append((label[high] - 1, box[low]) if label[high] <= box[low] else (label[low], box[high] - 1))
    return (ends[0][0], ends[1][0]), (ends[0][1], ends[1][1])


def _hits(places: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """For each of `places` `(N, 4)` whether it overlaps any of `taken` `(M, 4)`."""
    a, b = places[:, None], taken[None]
    return ((a[..., 0] < b[..., 2]) & (b[..., 0] < a[..., 2]) & (a[..., 1] < b[..., 3]) & (b[..., 1] < a[..., 3])).any(
        axis=1
    )


def _as_box(row: np.ndarray) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = row.tolist()
    return x0, y0, x1, y1


def _clipped(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """A box in whole pixels within the picture, of at least one pixel."""
    x0, y0 = min(max(round(box[0]), 0), width - 1), min(max(round(box[1]), 0), height - 1)
    return x0, y0, max(min(round(box[2]), width), x0 + 1), max(min(round(box[3]), height), y0 + 1)


@functools.lru_cache(maxsize=128)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The bold font that matplotlib brings along: the same everywhere."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"), size)


@functools.lru_cache(maxsize=4096)
def _label_size(lines: tuple[str, ...], size: int) -> tuple[int, int, int]:
    """Width, height and padding of a label in pixels."""
    font, pad = _font(size), max(1, round(0.25 * size))
    width = max(math.ceil(font.getlength(line)) for line in lines)
    return width + 2 * pad, len(lines) * sum(font.getmetrics()) + pad, pad


def _draw_label(draw: ImageDraw.ImageDraw, label: Label, color: str, thickness: int, hollow: bool) -> None:
    x0, y0, x1, y1 = label.box
    fill = "#ffffff" if hollow else color
    edge = max(1, thickness // 2) if hollow else 0
    draw.rounded_rectangle((x0, y0, x1 - 1, y1 - 1), radius=label.pad, fill=fill, outline=color, width=edge)
    font = _font(label.size)
    for number, line in enumerate(label.lines):
        top = y0 + label.pad // 2 + number * sum(font.getmetrics())
        draw.text((x0 + label.pad, top), line, font=font, fill=ink_on(fill))


def _draw_box(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], color: str, thickness: int, dashed: bool
) -> None:
    """A frame with an edge, dark or light, that lets it be seen on every background."""
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


def _lay_over(picture: Image.Image, face: Expression, stage: int) -> None:
    """Lays a stage's map over a face, within its box."""
    attention = _attention_of(face)
    if not 1 <= stage <= len(attention.maps):
        raise ValueError(f"stage={stage} does not exist: choose 1 to {len(attention.maps)}")
    shown = Image.fromarray(overlay(attention.crop, attention.maps[stage - 1]))
    # The crop and the box have the same centre.
    x0, y0, x1, y1 = face.face.box
    left, top = round((x0 + x1 - shown.width) / 2), round((y0 + y1 - shown.height) / 2)
    inside = _clipped(face.face.box, *picture.size)
    picture.paste(shown.crop((inside[0] - left, inside[1] - top, inside[2] - left, inside[3] - top)), inside[:2])


# Figures. Places are in inches from the upper left corner, so that a figure can grow without its parts moving.


class _Sheet:
    """A figure, and how everything is put on it."""

    def __init__(self, width: float, height: float, theme: str = "light", title: str | None = None) -> None:
        if theme not in THEMES:
            raise ValueError(f"theme={theme!r} is unknown: choose one of {', '.join(THEMES)}")
        # Whole pixels, or the last row would be half transparent.
        self.width, self.height = round(width * DPI) / DPI, round(height * DPI) / DPI
        self.theme = THEMES[theme]
        self.figure = Figure(figsize=(self.width, self.height), dpi=DPI, facecolor=self.theme.background)
        FigureCanvasAgg(self.figure)
        if title is not None:
            self.text(0.2, 0.28, title, size=13, weight="bold")

    def text(self, x: float, y: float, text: str, size: float, muted: bool = False, **style: Any) -> None:
        """Text whose middle (of its height) lies at y."""
        style = {"ha": "left", "color": self.theme.muted if muted else self.theme.text, **style}
        self.figure.text(x / self.width, 1 - y / self.height, text, size=size, va="center", **_PLAIN, **style)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes without anything, whose upper left corner lies at (x, y)."""
        bounds = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(bounds, facecolor="none")
        axes.set(xticks=[], yticks=[])
        axes.tick_params(length=0, pad=5, colors=self.theme.text, labelsize=9, labelfontfamily=FAMILY)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_visible(False)
            spine.set_color(self.theme.line)
        return axes

    def face(self, x: float, y: float, side: float, picture: np.ndarray | Image.Image) -> None:
        """A square with a face in it; what is not square is not distorted."""
        axes = self.axes(x, y, side, side)
        axes.imshow(np.asarray(picture), cmap="gray", vmin=0, vmax=255, interpolation="bilinear", aspect="equal")
        axes.set_axis_off()

    def bars(self, x: float, y: float, width: float, height: float, expression: Expression, size: float) -> None:
        """Probabilities in the fixed order from top to bottom, each with its name and percentage."""
        names = list(expression.probabilities)
        margin = _name_width(names, size)
        axes = self.axes(x + margin, y, width - margin, height)
        numbers = size * 4.1 / 72 / (width - margin)  # the share of the axes that "100.0%" takes
        end = 1 / (1 - numbers)
        for row, (name, value) in enumerate(expression.probabilities.items()):
            style = {"size": size, "va": "center", "ha": "right", "color": self.theme.text, **_PLAIN}
            style["weight"] = "bold" if name == expression.expression else "normal"
            axes.add_patch(Rectangle((0, row - 0.36), 1, 0.72, color=self.theme.line, alpha=0.45, linewidth=0))
            axes.add_patch(Rectangle((0, row - 0.36), value, 0.72, color=color_of(name), linewidth=0))
            axes.text(end, row, f"{value:.1%}", **style)
            axes.text(-0.08 / (width - margin) * end, row, name, **style)
        axes.set(xlim=(0, end), ylim=(len(names) - 0.5, -0.5))
        axes.set_axis_off()

    def ticks(self, axes: Axes, axis: str, places: Iterable[float], texts: Iterable[str], grid: bool = False) -> None:
        """Places and texts of an axis; with lines across when `grid`."""
        getattr(axes, f"set_{axis}ticks")(list(places), list(texts))
        if grid:
            axes.grid(axis=axis, color=self.theme.line, linewidth=0.6)

    def percents(self, axes: Axes, axis: str, low: float = 0.0) -> None:
        """An axis from `low` to 100%."""
        getattr(axes, f"set_{axis}lim")(low, 1)
        steps = np.arange(round(10 * low), 11, 2 if low < 0.5 else 1) / 10
        self.ticks(axes, axis, steps, [f"{step:.0%}" for step in steps], grid=True)

    def frame(self, axes: Axes, x: str = "", y: str = "") -> None:
        """The two axes' lines and titles."""
        axes.spines[["left", "bottom"]].set_visible(True)
        axes.set_xlabel(x, color=self.theme.muted, size=10, family=FAMILY)
        axes.set_ylabel(y, color=self.theme.muted, size=10, family=FAMILY)

    def legend(self, axes: Axes, handles: Sequence[Any], **style: Any) -> None:
        """The names of what is drawn."""
        prop = {"family": FAMILY, "size": 9}
        axes.legend(handles=handles, frameon=False, labelcolor=self.theme.text, prop=prop, **style)

    def color_key(self, x: float, y: float, low: str, high: str) -> None:
        """The colours of maps, between the names of their lowest and highest value; x is where the colours begin."""
        axes = self.axes(x, y - 0.055, 0.9, 0.11)
        axes.imshow(np.linspace(0, 1, 256)[None], cmap="inferno", aspect="auto")
        self.text(x - 0.07, y, low, size=8.5, muted=True, ha="right")
        self.text(x + 0.97, y, high, size=8.5, muted=True)


P = ParamSpec("P")
# A name with two dollar signs in it is no formula.
_PLAIN = {"family": FAMILY, "parse_math": False}
_NOWHERE = Face((0.0, 0.0, 0.0, 0.0))


def to_image(figure: Figure) -> Image.Image:
    """A figure as an RGB picture, of its size times its resolution."""
    # Some versions of matplotlib share font caches between figures without guarding them.
    with _drawing:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _as_image(draw: Callable[P, Figure]) -> Callable[P, Image.Image]:
    """The same picture as a PIL image."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Image.Image:
        return to_image(draw(*args, **kwargs))

    drawn.__name__ = drawn.__qualname__ = draw.__name__.removesuffix("_figure")
    drawn.__annotations__ = {**draw.__annotations__, "return": Image.Image}
    drawn.__doc__ = f"`{draw.__name__}` as a PIL image.\n{draw.__doc__}"
    return drawn


def probability_chart_figure(expression: Expression, theme: str = "light") -> Figure:
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


def attention_panel_figure(expression: Expression, theme: str = "light") -> Figure:
    """
    What the masks do to one face: the crop and its probabilities, each stage's attention map over the face, and the
    strength of each stage's features before and after masking (figure 1.14 of the authors' report, for every stage).

    Args:
        expression: an expression with its attention maps.
        theme: `"light"` or `"dark"`.

    Raises:
        ValueError: the expression has no attention maps.
    """
    attention = _attention_of(expression)
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


def group_panel_figure(faces: Iterable[Expression], theme: str = "light") -> Figure:
    """
    The faces of a picture, one to a row: crop, each stage's attention map over the face, below it the strength of the
    stage's features before and after masking (on one scale), and the probabilities. Many faces are laid out in several
    columns, filled from top to bottom in the order of `faces`.

    Args:
        faces: a `Result`, or any expressions with their attention maps.
        theme: `"light"` or `"dark"`.

    Raises:
        ValueError: there is no face, or one without attention maps.
    """
    faces = tuple(faces)
    if not faces:
        raise ValueError("there is no face to show: give at least one")
    attentions = [_attention_of(face) for face in faces]
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


def confusion_matrix_figure(
    matrix: np.ndarray | Sequence[Sequence[int]],
    names: Sequence[str] = EXPRESSIONS,
    title: str | None = None,
    theme: str = "light",
) -> Figure:
    """
    A confusion matrix (figures 1.11 and 1.19 of the authors' report). Each cell has its share of its row, which is
    also its shade, and its count; a true expression without any face has a row of zeros.

    Args:
        matrix: counts `(N, N)`, true expressions in rows, predicted ones in columns.
        names: of the N expressions, in the matrix's order.
        title: above the matrix.
        theme: `"light"` or `"dark"`.

    Raises:
        ValueError: the matrix is not `N x N`.
    """
    counts = np.asarray(matrix, dtype=np.int64)
    if counts.shape != (len(names), len(names)):
        raise ValueError(f"the matrix has the shape {counts.shape}, but there are {len(names)} names")
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    margin, head, side = 0.55 + _name_width(names, 10), 0.25 + 0.35 * (title is not None), 0.85 * len(names)
    sheet = _Sheet(margin + side + 0.25, head + side + 0.7, theme, title)
    axes = sheet.axes(margin, head, side, side)
    shades = LinearSegmentedColormap.from_list("shades", [sheet.theme.background, COLORS["happy"]])
    axes.imshow(shares, cmap=shades, vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        style = {"color": ink_on(to_hex(shades(share))), "ha": "center", "va": "center", **_PLAIN}
        axes.text(column, row - 0.12, f"{share:.1%}", size=10.5, weight="bold" if row == column else "normal", **style)
        axes.text(column, row + 0.2, f"{counts[row, column]:,}", size=8.5, **style)
    for line in np.arange(len(names) + 1) - 0.5:
        axes.axhline(line, color=sheet.theme.line, linewidth=0.7, clip_on=False)
        axes.axvline(line, color=sheet.theme.line, linewidth=0.7, clip_on=False)
    sheet.ticks(axes, "x", range(len(names)), names)
    sheet.ticks(axes, "y", range(len(names)), names)
    axes.tick_params(labelsize=10)
    sheet.text(margin + side / 2, head + side + 0.48, "predicted", 10.5, muted=True, ha="center")
    sheet.text(0.25, head + side / 2, "true", 10.5, muted=True, ha="center", rotation=90)
    return sheet.figure


def failure_cases_figure(
    images: Sequence[np.ndarray | Image.Image],
    labels: Sequence[int],
    probabilities: np.ndarray,
    names: Sequence[str] = EXPRESSIONS,
    title: str | None = None,
    theme: str = "light",
) -> Figure:
    """
    Faces that were answered wrongly, each with its probabilities (figure 1.12 of the authors' report).

    Args:
        images: the faces, uint8 grey or RGB.
        labels: index of each face's labelled expression.
        probabilities: `(faces, N)` in 0..1.
        names: of the N expressions.
        title: above the faces.
        theme: `"light"` or `"dark"`.

    Raises:
        ValueError: no face, or numbers of faces or expressions that differ.
    """
    probabilities = np.asarray(probabilities)
    if not len(images) or len(images) != len(labels) or probabilities.shape != (len(images), len(names)):
        raise ValueError(
            f"there are {len(images)} faces, {len(labels)} labels, {len(names)} names and probabilities of shape "
            f"{probabilities.shape}: give at least one face, and one of each for each"
        )
    tile, gap, edge, chart, head = 1.25, 0.3, 0.2, 2.1, 0.1 + 0.4 * (title is not None)
    block_width, block_height = tile + chart + gap, tile + 0.68
    columns = min(4, len(images))
    rows = math.ceil(len(images) / columns)
    sheet = _Sheet(columns * block_width - gap + 2 * edge, head + rows * block_height, theme, title)
    for index, (image, label, row) in enumerate(zip(images, labels, probabilities)):
        x, y = edge + (index % columns) * block_width, head + (index // columns) * block_height
        values = {name: float(value) for name, value in zip(names, row)}
        answer = max(values, key=values.__getitem__)
        sheet.text(x, y + 0.14, f"predicted {answer} {percent(values[answer])}", 9.5, weight="bold")
        sheet.text(x, y + 0.34, f"labelled {names[label]} {percent(values[names[label]])}", 9.5, muted=True)
        sheet.face(x, y + 0.48, tile, image)
        sheet.bars(x + tile, y + 0.48, chart, tile, Expression(_NOWHERE, answer, values[answer], values), size=7.5)
    return sheet.figure


def reliability_diagram_figure(
    calibration: Mapping[str, Any], title: str | None = "Reliability", theme: str = "light"
) -> Figure:
    """
    A reliability diagram (Guo et al., "On calibration of modern neural networks", 2017, figure 1): accuracy against
    the probability of the answer, and below it how many faces have such an answer. A calibrated network's bars end on
    the diagonal.

    Args:
        calibration: `expected_calibration_error` in 0..1 and `bins`, each with `lower`, `upper`, `faces`, and, where
            there are faces, `confidence` and `accuracy`, all in 0..1.
        title: above the diagram.
        theme: `"light"` or `"dark"`.
    """
    bins = [each for each in calibration["bins"] if each["faces"]]
    sheet = _Sheet(5.4, 5.7, theme, title)
    error = f"expected calibration error {calibration['expected_calibration_error']:.1%}"
    sheet.text(0.2, 0.53, error, 10, muted=True)
    axes, counts = sheet.axes(0.8, 0.8, 4.4, 3.2), sheet.axes(0.8, 4.2, 4.4, 0.85)
    for each in bins:
        span, middle = 0.92 * (each["upper"] - each["lower"]), (each["upper"] + each["lower"]) / 2
        ends = (middle - span / 2, middle + span / 2)
        axes.bar(middle, each["accuracy"], span, color=COLORS["disgust"])
        axes.plot(ends, [each["confidence"]] * 2, color=COLORS["sad"], linewidth=2.5, solid_capstyle="butt")
        counts.bar(middle, each["faces"], span, color=sheet.theme.muted)
    axes.plot([0, 1], [0, 1], color=sheet.theme.muted, linewidth=1, linestyle=(0, (4, 3)))
    names = [
        Patch(color=COLORS["disgust"], label="accuracy"),
        Line2D([], [], color=COLORS["sad"], linewidth=2.5, label="mean probability"),
    ]
    # The upper left stays free: only answers that are unsure and right would have bars there.
    sheet.legend(axes, names, loc="upper left")
    most = max((each["faces"] for each in bins), default=1)
    for each in (axes, counts):
        sheet.percents(each, "x")
    axes.set_xticklabels([])
    sheet.percents(axes, "y")
    sheet.ticks(counts, "y", [most], [f"{most:,}"])
    sheet.frame(axes, y="accuracy")
    sheet.frame(counts, x="probability of the answer", y="faces")
    return sheet.figure


def coverage_curve_figure(
    rows: Sequence[Mapping[str, Any]], title: str | None = "Accuracy and coverage", theme: str = "light"
) -> Figure:
    """
    How accurate the answers are that remain when those below a confidence are left out, against their share.

    Args:
        rows: each with `threshold`, `coverage` and `accuracy` in 0..1; rows without an accuracy are left out.
        title: above the curve.
        theme: `"light"` or `"dark"`.
    """
    rows = [row for row in rows if row["accuracy"] is not None]
    sheet = _Sheet(5.4, 4.4, theme, title)
    sheet.text(0.2, 0.53, "numbers: the probability from which an answer counts", 10, muted=True)
    wide, high = 4.3, 2.95
    axes = sheet.axes(0.8, 0.8, wide, high)
    coverages, accuracies = [row["coverage"] for row in rows], [row["accuracy"] for row in rows]
    axes.plot(coverages, accuracies, color=COLORS["happy"], linewidth=2, marker="o", markersize=4, clip_on=False)
    low = max(0.0, math.floor(10 * min(accuracies, default=0.0) - 0.5) / 10)
    last = np.array([-1.0, -1.0])
    for row in rows:
        point = np.array([wide * row["coverage"], high * (row["accuracy"] - low) / (1 - low)])
        # Inches: not so close that the numbers lie on each other.
        if np.hypot(*(point - last)) > 0.4:
            style = {"textcoords": "offset points", "size": 8.5, "color": sheet.theme.text, **_PLAIN}
            # At the right edge the number goes below the curve.
            offset, side = ((4, 5), "left") if row["coverage"] < 0.9 else ((-3, -12), "right")
            axes.annotate(f"{row['threshold']:.2f}", (row["coverage"], row["accuracy"]), offset, ha=side, **style)
            last = point
    sheet.percents(axes, "x")
    sheet.percents(axes, "y", low)
    sheet.frame(axes, x="faces that get an answer", y="accuracy on those")
    return sheet.figure


def faithfulness_chart_figure(
    values: Faithfulness | Mapping[str, Any],
    title: str | None = "Faithfulness of the attention maps",
    theme: str = "light",
) -> Figure:
    """
    The faithfulness of the attention maps: for each stage and each share of the face that was removed, the drop in
    probability by map, by the features' strength and at random, with their 95% intervals.

    Args:
        values: of `rmn_hub.attention.faithfulness`, or its `to_dict()`.
        title: above the chart.
        theme: `"light"` or `"dark"`.
    """
    values = values.to_dict() if isinstance(values, Faithfulness) else values
    stages = sorted({removal["stage"] for removal in values["removals"]})
    tile, gap, left, head, high = 1.85, 0.15, 0.6, 1.1, 2.4
    sheet = _Sheet(left + len(stages) * (tile + gap) + 0.1, head + high + 1.05, theme, title)
    note = f"mean drop of the predicted expression's probability, in points of {100 * values['probability']:.0f}"
    sheet.text(0.2, 0.53, f"{note}; {values['faces']:,} faces", 10, muted=True)
    ways = {
        "map": ("where the map is highest", COLORS["sad"]),
        "features": ("where the features are strongest", COLORS["disgust"]),
        "random": ("at random", sheet.theme.muted),
    }
    ends = [end for removal in values["removals"] for way in ways for end in removal[way]["interval"]]
    low, top = 1.08 * min(0.0, *ends), 1.08 * max(0.01, *ends)
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if (top - low) / step <= 8)
    steps = step * np.arange(math.ceil(low / step), math.floor(top / step) + 1)
    for number, stage in enumerate(stages):
        removals = [removal for removal in values["removals"] if removal["stage"] == stage]
        axes = sheet.axes(left + number * (tile + gap), head, tile, high)
        for offset, (way, (_, color)) in zip((-0.28, 0, 0.28), ways.items()):
            where, means = np.arange(len(removals)) + offset, np.array([removal[way]["mean"] for removal in removals])
            errors = np.abs(np.array([removal[way]["interval"] for removal in removals]).T - means)
            axes.bar(where, means, 0.26, color=color)
            axes.errorbar(where, means, errors, fmt="none", ecolor=sheet.theme.text, elinewidth=1.1, capsize=2)
        axes.axhline(0, color=sheet.theme.muted, linewidth=0.8)
        axes.set(xlim=(-0.6, len(removals) - 0.4), ylim=(low, top))
        sheet.ticks(axes, "x", range(len(removals)), [f"{removal['fraction']:.0%}" for removal in removals])
        sheet.ticks(axes, "y", steps, [f"{100 * at:.0f}" if number == 0 else "" for at in steps], grid=True)
        sheet.text(
            left + number * (tile + gap) + tile / 2, head - 0.2, f"stage {stage}", 10.5, weight="bold", ha="center"
        )
    sheet.text(sheet.width / 2, head + high + 0.42, "share of the face that is removed", 10, muted=True, ha="center")
    names = [Patch(color=color, label=name) for name, color in ways.values()]
    sheet.legend(sheet.axes(0, head + high + 0.55, sheet.width, 0.4), names, loc="center", ncols=3)
    return sheet.figure


def training_curves_figure(
    history: Sequence[Mapping[str, Any]], title: str | None = "Training", theme: str = "light"
) -> Figure:
    """
    Losses and accuracy over the epochs of a training run.

    Args:
        history: one row per epoch with `epoch` and `loss`, and, in the epochs where they are known, `validation_loss`
            and `accuracy` (0..1); with `size`, changes of the training images' size in pixels are marked. Rows may be
            text, as the run's CSV has them.
        title: above the curves.
        theme: `"light"` or `"dark"`.
    """
    rows = [{key: _number(value) for key, value in row.items()} for row in history]
    changes = [
        (after["epoch"] - 0.5, after["size"])
        for before, after in pairwise(rows)
        if after.get("size") is not None and after["size"] != before.get("size")
    ]
    sheet = _Sheet(9.3, 4.4, theme, title)
    panels = (
        {"loss": ("training loss", COLORS["happy"], "-"), "validation_loss": ("validation loss", COLORS["sad"], "--")},
        {"accuracy": ("validation accuracy", COLORS["fear"], "-")},
    )
    for number, curves in enumerate(panels):
        left, head, wide, high = 0.8 + 4.5 * number, 1.05, 3.8, 2.7
        axes, handles = sheet.axes(left, head, wide, high), []
        axes.grid(color=sheet.theme.line, linewidth=0.6)
        for key, (name, color, line) in curves.items():
            points = [(row["epoch"], row[key]) for row in rows if row.get(key) is not None]
            if not points:
                continue
            handles += axes.plot(*zip(*points), color=color, linestyle=line, linewidth=1.8, label=name)
            marked = points[-1]
            if key == "accuracy":
                marked = max(points, key=lambda point: point[1])
                handles[-1].set_label(f"{name}, best {marked[1]:.1%} in epoch {marked[0]:.0f}")
            axes.plot(*marked, color=color, marker="o", markersize=5)
        for epoch, size in changes:
            axes.axvline(epoch, color=sheet.theme.muted, linewidth=0.9, linestyle=(0, (2, 2)))
            style = {"size": 8.5, "ha": "center", "va": "bottom", "color": sheet.theme.muted, **_PLAIN}
            axes.text(epoch, 1.01, f"{size:.0f} px", transform=axes.get_xaxis_transform(), **style)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        if number == 1:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        sheet.frame(axes, x="epoch")
        if handles:
            sheet.legend(axes, handles, loc="lower left", bbox_to_anchor=(0, 1.05), borderaxespad=0, ncols=2)
        else:
            axes.set(xticks=[], yticks=[])
            sheet.text(left + wide / 2, head + high / 2, "not measured yet", 10, muted=True, ha="center")
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
confusion_matrix = _as_image(confusion_matrix_figure)
failure_cases = _as_image(failure_cases_figure)
reliability_diagram = _as_image(reliability_diagram_figure)
coverage_curve = _as_image(coverage_curve_figure)
faithfulness_chart = _as_image(faithfulness_chart_figure)
training_curves = _as_image(training_curves_figure)
timeline = _as_image(timeline_figure)


def _heading(expression: Expression) -> str:
    return label_of(expression) + (", uncertain" if expression.uncertain else "")


def _size_of(attention_map: np.ndarray) -> str:
    return f"{attention_map.shape[1]} x {attention_map.shape[0]} px"


def _name_width(names: Iterable[str], size: float) -> float:
    """Inches that the longest of some names needs, bold and with some space, at a size in points."""
    return max(_font(100).getlength(name) for name in names) / 100 * size / 72 + 0.16


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


def _attention_of(expression: Expression) -> Attention:
    if expression.attention is None:
        raise ValueError("this face has no attention maps: call the recognizer with attention=True")
    return expression.attention


def _number(value: Any) -> float | None:
    """A number of a table's cell, which may be text; `None` for an empty one or one that is not finite."""
    number = math.nan if value in (None, "") else float(value)
    return number if math.isfinite(number) else None
