"""Where the labels of an image's faces go: within the image, off each other and off other faces."""

import functools
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ImageFont

from ..errors import MissingPackageError
from ..results import FaceExpression
from .palette import label_of, long_label_of, numbers_of


@dataclass(frozen=True)
class Label:
    """
    The place of a label on an image.

    Args:
        box: what the label covers, `(x0, y0, x1, y1)` in whole pixels of the image.
        lines: its text, one or two lines.
        size: size of the font in pixels.
        pad: pixels between text and border.
        pointer: the ends of the line from the label to its face, or `None` where the two are neighbours.
    """

    box: tuple[int, int, int, int]
    lines: tuple[str, ...]
    size: int
    pad: int
    pointer: tuple[tuple[int, int], tuple[int, int]] | None = None


def label_faces(
    faces: Sequence[FaceExpression],
    boxes: Sequence[tuple[int, int, int, int]],
    width: int,
    height: int,
    numbers: bool,
    alone: bool = False,
) -> list[Label | None]:
    """
    Return the label of each face, worded as long as there is room for.

    Args:
        faces: whose labels.
        boxes: their boxes in pixels, within the image.
        width: width of the image in pixels.
        height: its height in pixels.
        numbers: whether labels begin with the number of the face.
        alone: whether a face whose label has no room is labelled with its number alone.
    """
    starts = [f"{number}: " for number in numbers_of(faces)] if numbers else [""] * len(faces)
    short, long = ([start + word(face) for start, face in zip(starts, faces)] for word in (label_of, long_label_of))
    labels = place_labels(short, boxes, width, height)
    if long != short:
        longer = place_labels(long, boxes, width, height)
        if _ease(longer) >= _ease(labels):
            labels = longer
    if alone and None in labels:
        texts = [start[:-2] if label is None else " ".join(label.lines) for start, label in zip(starts, labels)]
        labels = place_labels(texts, boxes, width, height)
    return labels


def _ease(labels: Sequence[Label | None]) -> tuple[int, int, int]:
    """Return how well labels fit: more of them, then fewer lines to faces, then larger letters."""
    placed = [label for label in labels if label is not None]
    pointers = sum(label.pointer is not None for label in placed)
    return len(placed), -pointers, min((label.size for label in placed), default=0)


def place_labels(
    texts: Sequence[str], boxes: Sequence[tuple[int, int, int, int]], width: int, height: int
) -> list[Label | None]:
    """
    Find places for the labels of an image; [`annotate`] states the rules.

    One font size serves all labels of an image: the largest with which every label lies beside its face, or else the
    smallest readable one.

    Args:
        texts: the text of each label.
        boxes: the box of each face, `(x0, y0, x1, y1)` in pixels, within the image.
        width: width of the image in pixels.
        height: its height in pixels.

    Returns:
        The label of each face, or `None` where nothing fits.
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
    """Return a label that touches its box from outside, or lies in a box that is large enough."""
    label_width, label_height, pad = _label_size(lines, size)
    x0, y0, x1, y1 = box
    # Above or below, a label may slide along its box to stay within the image.
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
    """Return a label at the free place nearest to its box."""
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
    # The nearest are nearly always free soon: in portions, a large image costs no more than a small one.
    for start in range(0, len(places), 512):
        free = ~_hits(places[start : start + 512], taken)
        if free.any():
            covered = _as_box(places[start + int(free.argmax())])
            return Label(covered, (text,), size, pad, pointer=_pointer(covered, box))
    return None


def _inside(text: str, box: tuple[int, int, int, int], others: np.ndarray) -> Label | None:
    """
    Return a label within its own box, of one line or two, on an edge that other boxes leave free.

    It is the largest that covers at most half of the face, or else the smallest.
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
    """Return a text with its last word, a percentage, in a line of its own."""
    return tuple(text.rsplit(" ", 1))


def _pointer(
    label: tuple[int, int, int, int], box: tuple[int, int, int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the shortest line from a label to its box."""
    ends = []
    for low, high in ((0, 2), (1, 3)):
        first, last = max(label[low], box[low]), min(label[high], box[high])
        if first <= last:  # side by side here: straight across
            ends.append(((first + last) // 2,) * 2)
        else:
            ends.append((label[high] - 1, box[low]) if label[high] <= box[low] else (label[low], box[high] - 1))
    return (ends[0][0], ends[1][0]), (ends[0][1], ends[1][1])


def _hits(places: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Return for each of `places` `(N, 4)` whether it overlaps any of `taken` `(M, 4)`, bool `(N,)`."""
    a, b = places[:, None], taken[None]
    overlaps = (a[..., 0] < b[..., 2]) & (b[..., 0] < a[..., 2]) & (a[..., 1] < b[..., 3]) & (b[..., 1] < a[..., 3])
    return np.asarray(overlaps.any(axis=1))


def _as_box(row: np.ndarray) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = row.tolist()
    return x0, y0, x1, y1


def clipped(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """Return a box in whole pixels within an image of `width x height` pixels, at least one pixel wide and high."""
    x0, y0 = min(max(round(box[0]), 0), width - 1), min(max(round(box[1]), 0), height - 1)
    return x0, y0, max(min(round(box[2]), width), x0 + 1), max(min(round(box[3]), height), y0 + 1)


@functools.lru_cache(maxsize=128)
def font(size: int) -> ImageFont.FreeTypeFont:
    """
    Return the bold font of all labels at a size in pixels.

    It is the one that matplotlib brings along, so that images are the same everywhere; matplotlib is not imported for
    it. Without that file, Pillow's own font takes its place.
    """
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        file = Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
        if file.is_file():
            return ImageFont.truetype(str(file), size)
    own = ImageFont.load_default(size)
    if not isinstance(own, ImageFont.FreeTypeFont):
        raise MissingPackageError("labels need a font: this Pillow was built without FreeType. Install matplotlib.")
    return own


@functools.lru_cache(maxsize=4096)
def _label_size(lines: tuple[str, ...], size: int) -> tuple[int, int, int]:
    """Return width, height and padding of a label in pixels."""
    bold, pad = font(size), max(1, round(0.25 * size))
    width = max(math.ceil(bold.getlength(line)) for line in lines)
    return width + 2 * pad, len(lines) * sum(bold.getmetrics()) + pad, pad


__all__ = ["Label", "clipped", "font", "label_faces", "place_labels"]
