"""What every image has in common: the expressions' colours, the themes, and the words of a label."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..expressions import EXPRESSIONS
from ..results import FaceExpression, reading_order

# Okabe and Ito's colours ("Color universal design", 2008), which colour-blind people can tell apart.
COLORS = dict(zip(EXPRESSIONS, ("#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#999999")))
# Their yellow is for expressions of checkpoints that have others than the seven.
OTHER_COLOR = "#F0E442"
FAMILY = "DejaVu Sans"
# An uncertain face is labelled with two expressions when the second is at least this share of the first.
NEAR = 0.5


@dataclass(frozen=True)
class Theme:
    """Colours of everything but the data, `#RRGGBB`."""

    background: str
    text: str
    muted: str
    line: str


THEMES = {
    "light": Theme(background="#ffffff", text="#1a1d21", muted="#5a6069", line="#d5d9de"),
    "dark": Theme(background="#14161a", text="#f1f3f5", muted="#a7aeb8", line="#3b4048"),
}


def color_of(expression: str) -> str:
    """Return the colour of an expression, `#RRGGBB`."""
    return COLORS.get(expression, OTHER_COLOR)


def ink_on(color: str) -> str:
    """
    Return black or white, whichever has the higher contrast on `#RRGGBB`.

    The contrast is that of WCAG 2.2 (relative luminance); it is at least 4.5 : 1 on every colour.
    """
    channels = [int(color[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # Where the contrast with white, 1.05 / (l + 0.05), is that with black, (l + 0.05) / 0.05.
    return "#000000" if luminance > math.sqrt(1.05 * 0.05) - 0.05 else "#ffffff"


def percent(probability: float) -> str:
    """Return a probability as a label shows it: `93%`, but never 0% or 100%, which would claim certainty."""
    if probability < 0.01:
        return "<1%"
    return ">99%" if probability > 0.99 else f"{probability:.0%}"


def label_of(face: FaceExpression) -> str:
    """Return the label of a face: `happy 93%`, and `happy? 41%` when it is uncertain."""
    return f"{face.expression}{'?' if face.uncertain else ''} {percent(face.probability)}"


def near_expressions(face: FaceExpression) -> tuple[str, ...]:
    """Return the most probable expression, and the second one when it is at least `NEAR` times as probable."""
    first, *rest = sorted(face.probabilities, key=face.probabilities.__getitem__, reverse=True)
    if rest and face.probabilities[rest[0]] >= NEAR * face.probabilities[first]:
        return first, rest[0]
    return (first,)


def long_label_of(face: FaceExpression) -> str:
    """Return `label_of`, but `angry or sad?` for an uncertain face with two near expressions."""
    near = near_expressions(face)
    return f"{near[0]} or {near[1]}?" if face.uncertain and len(near) == 2 else label_of(face)


def numbers_of(faces: Sequence[FaceExpression]) -> list[int]:
    """
    Return the number of each face: its track in a video, else its index in the image.

    Faces that were put together by hand may share an index; they are then numbered from 1 in reading order.
    """
    numbers = [face.index if face.track_id is None else face.track_id for face in faces]
    if len(set(numbers)) == len(numbers):
        return numbers
    order = reading_order([face.box for face in faces])
    return [order.index(place) + 1 for place in range(len(faces))]
