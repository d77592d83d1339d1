"""drawing.palette"""

import math
from dataclasses import dataclass

from ..expressions import EXPRESSIONS
from ..results import FaceExpression

# Okabe and Ito's colours ("Color universal design", 2008), which colour-blind people can tell apart.
COLORS = dict(zip(EXPRESSIONS, ("#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#999999")))
# Their yellow is for expressions of checkpoints that have others than the seven.
OTHER_COLOR = "#F0E442"
FAMILY = "DejaVu Sans"


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


def label_of(expression: FaceExpression) -> str:
    """What a face is labelled with: `happy 93%`, and `happy? 41%` when the answer is uncertain."""
    return f"{expression.expression}{'?' if expression.uncertain else ''} {percent(expression.probability)}"
