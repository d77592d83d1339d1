"""A figure whose parts are placed in inches, in one of two themes. Its module and those above it need matplotlib."""

import functools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, ParamSpec, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from ..errors import InputError
from .labels import font
from .palette import FAMILY, THEMES, color_of

DPI = 120
# How text is set. A name with two dollar signs in it is not a formula.
PLAIN: dict[str, Any] = {"family": FAMILY, "parse_math": False}
_drawing = threading.Lock()
Axis: TypeAlias = Literal["x", "y"]
P = ParamSpec("P")


class Sheet:
    """
    A figure, and how its parts are put on it. Places are in inches from the upper left corner, so that a figure can
    grow without its parts moving.

    Args:
        width: width of the figure in inches.
        height: its height in inches.
        theme: `"light"` or `"dark"`.
        title: text above everything, in the upper left corner.

    Raises:
        InputError: the theme is unknown.
    """

    def __init__(self, width: float, height: float, theme: str = "light", title: str | None = None) -> None:
        if theme not in THEMES:
            raise InputError(f"theme={theme!r} must be one of {', '.join(THEMES)}")
        # Whole pixels, or the last row would be half transparent.
        self.width, self.height = round(width * DPI) / DPI, round(height * DPI) / DPI
        self.theme = THEMES[theme]
        self.figure = Figure(figsize=(self.width, self.height), dpi=DPI, facecolor=self.theme.background)
        FigureCanvasAgg(self.figure)
        if title is not None:
            self.text(0.2, 0.28, title, size=13, weight="bold")

    def text(self, x: float, y: float, text: str, size: float, muted: bool = False, **style: Any) -> None:
        """Put a text so that the middle of its height lies at y."""
        style = {"ha": "left", "color": self.theme.muted if muted else self.theme.text, **style}
        self.figure.text(x / self.width, 1 - y / self.height, text, size=size, va="center", **PLAIN, **style)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Add bare axes whose upper left corner lies at (x, y)."""
        bounds = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(bounds, facecolor="none")
        axes.set(xticks=[], yticks=[])
        axes.tick_params(length=0, pad=5, colors=self.theme.text, labelsize=9, labelfontfamily=FAMILY)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_visible(False)
            spine.set_color(self.theme.line)
        return axes

    def face(self, x: float, y: float, side: float, image: np.ndarray | Image.Image) -> None:
        """Put a face into a square; an image that is not square is not distorted."""
        axes = self.axes(x, y, side, side)
        axes.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=255, interpolation="bilinear", aspect="equal")
        axes.set_axis_off()

    def bars(
        self, x: float, y: float, width: float, height: float, probabilities: Mapping[str, float], size: float
    ) -> None:
        """Draw probabilities as bars in their order from top to bottom, each with name and percentage."""
        names, best = list(probabilities), max(probabilities, key=probabilities.__getitem__)
        margin = name_width(names, size)
        axes = self.axes(x + margin, y, width - margin, height)
        numbers = size * 4.1 / 72 / (width - margin)  # the share of the axes that "100.0%" takes
        end = 1 / (1 - numbers)
        for row, (name, value) in enumerate(probabilities.items()):
            style = {**PLAIN, "size": size, "va": "center", "ha": "right", "color": self.theme.text}
            style["weight"] = "bold" if name == best else "normal"
            axes.add_patch(Rectangle((0, row - 0.36), 1, 0.72, color=self.theme.line, alpha=0.45, linewidth=0))
            axes.add_patch(Rectangle((0, row - 0.36), value, 0.72, color=color_of(name), linewidth=0))
            axes.text(end, row, f"{value:.1%}", **style)
            axes.text(-0.08 / (width - margin) * end, row, name, **style)
        axes.set(xlim=(0, end), ylim=(len(names) - 0.5, -0.5))
        axes.set_axis_off()

    def ticks(self, axes: Axes, axis: Axis, places: Iterable[float], texts: Iterable[str], grid: bool = False) -> None:
        """Set the places and texts of an axis; with lines across when `grid`."""
        getattr(axes, f"set_{axis}ticks")(list(places), list(texts))
        if grid:
            axes.grid(axis=axis, color=self.theme.line, linewidth=0.6)

    def percents(self, axes: Axes, axis: Axis, low: float = 0.0) -> None:
        """Let an axis go from `low` (0..1) to 100%."""
        getattr(axes, f"set_{axis}lim")(low, 1)
        steps = np.arange(round(10 * low), 11, 2 if low < 0.5 else 1) / 10
        self.ticks(axes, axis, steps, [f"{step:.0%}" for step in steps], grid=True)

    def frame(self, axes: Axes, x: str = "", y: str = "") -> None:
        """Draw the lines and titles of the two axes."""
        axes.spines[["left", "bottom"]].set_visible(True)
        axes.set_xlabel(x, color=self.theme.muted, size=10, family=FAMILY)
        axes.set_ylabel(y, color=self.theme.muted, size=10, family=FAMILY)

    def legend(self, axes: Axes, handles: Sequence[Any], **style: Any) -> None:
        """Name what is drawn."""
        prop = {"family": FAMILY, "size": 9}
        axes.legend(handles=handles, frameon=False, labelcolor=self.theme.text, prop=prop, **style)

    def color_key(self, x: float, y: float, low: str, high: str) -> None:
        """Draw the colours of maps between the names of their lowest and highest value; they begin at x."""
        axes = self.axes(x, y - 0.055, 0.9, 0.11)
        axes.imshow(np.linspace(0, 1, 256)[None], cmap="inferno", aspect="auto")
        self.text(x - 0.07, y, low, size=8.5, muted=True, ha="right")
        self.text(x + 0.97, y, high, size=8.5, muted=True)


def to_image(figure: Figure) -> Image.Image:
    """Return a figure as an RGB image of its size times its resolution."""
    # Some versions of matplotlib share font caches between figures without guarding them.
    with _drawing:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def as_image(draw: Callable[P, Figure]) -> Callable[P, Image.Image]:
    """Return the function `X` of a function `X_figure`: it returns a PIL image."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Image.Image:
        return to_image(draw(*args, **kwargs))

    drawn.__name__ = drawn.__qualname__ = draw.__name__.removesuffix("_figure")
    drawn.__annotations__ = {**draw.__annotations__, "return": Image.Image}
    drawn.__doc__ = f"Draw `{draw.__name__}` as a PIL image.\n{draw.__doc__}"
    return drawn


def name_width(names: Iterable[str], size: float) -> float:
    """Return the inches that the longest of some names needs, bold and with some space, at a size in points."""
    return max(font(100).getlength(name) for name in names) / 100 * size / 72 + 0.16


__all__ = ["DPI", "PLAIN", "Sheet", "as_image", "name_width", "to_image"]
