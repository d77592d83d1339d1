"""Faces for tests of images, and what tests measure on images and figures."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from skimage import data

from rmn_hub.expressions import EXPRESSIONS
from rmn_hub.results import Attention, FaceExpression

SIZES = (24, 12, 6, 3)


def make_attention(seed: int = 0, sizes: tuple[int, ...] = SIZES, margin: float = 0.0) -> Attention:
    rng = np.random.default_rng(seed)
    maps, before = (tuple(rng.random((size, size), dtype=np.float32) for size in sizes) for _ in range(2))
    after = tuple(np.minimum(1, stage * 1.4) for stage in before)
    crop = np.ascontiguousarray(data.astronaut()[50:180, 155:285])
    return Attention(maps, before, after, crop, margin=margin)


def make_expression(
    box: tuple[float, float, float, float] = (0, 0, 48, 48),
    expression: str = "happy",
    probability: float = 0.93,
    uncertain: bool = False,
    names: tuple[str, ...] = EXPRESSIONS,
    attention: Attention | None = None,
    second: tuple[str, float] | None = None,
    **more: int,
) -> FaceExpression:
    rest = (1 - probability) / (len(names) - 1)
    probabilities = {name: probability if name == expression else rest for name in names}
    if second is not None:
        rest = (1 - probability - second[1]) / (len(names) - 2)
        probabilities = {name: probability if name == expression else rest for name in names} | dict([second])
    return FaceExpression(
        box=box,
        expression=expression,
        probability=probability,
        probabilities=probabilities,
        uncertain=uncertain,
        attention=attention,
        **more,
    )


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def inside(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return b[0] <= a[0] and b[1] <= a[1] and a[2] <= b[2] and a[3] <= b[3]


def contrast(one: str, other: str) -> float:
    def luminance(color: str) -> float:
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def texts_of(figure: Figure) -> dict[Text, tuple[float, float, float, float]]:
    """Every text that can be seen in a figure, with its place in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if not axes.axison or not low <= tick.get_loc() <= high:
                    hidden |= {tick.label1, tick.label2}
    found = {}
    for text in set(figure.findobj(Text)) - hidden:
        extent = text.get_window_extent(canvas.get_renderer())
        if text.get_text().strip() and text.get_visible() and extent.width > 0:
            found[text] = (extent.x0, extent.y0, extent.x1, extent.y1)
    return found
