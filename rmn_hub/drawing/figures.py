"""
Figures of an evaluation and of a training run.

`X(...)` returns a PIL image, `X_figure(...)` a matplotlib `Figure`. pyplot does not register the figures: nothing has
to be closed, no backend is chosen, and functions may be called from several threads at once.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

from ..errors import InputError
from ..expressions import EXPRESSIONS
from .palette import COLORS, ink_on, percent
from .sheet import PLAIN, Sheet, as_image, name_width


def confusion_matrix_figure(
    matrix: np.ndarray | Sequence[Sequence[int]],
    names: Sequence[str] = EXPRESSIONS,
    title: str | None = None,
    theme: str = "light",
) -> Figure:
    """
    Draw a confusion matrix (figures 1.11 and 1.19 of the authors' report).

    Each cell shows its share of its row, which is also its shade, and its count. A true expression without any face
    has a row of zeros.

    Args:
        matrix: counts `(N, N)`, true expressions in rows, predicted ones in columns.
        names: the N expressions in the matrix's order.
        title: text above the matrix.
        theme: `"light"` or `"dark"`.

    Raises:
        InputError: the matrix is not N x N.
    """
    counts = np.asarray(matrix, dtype=np.int64)
    if counts.shape != (len(names), len(names)):
        raise InputError(f"matrix of shape {counts.shape} must be {len(names)} x {len(names)}, as there are names")
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    margin, head, side = 0.55 + name_width(names, 10), 0.25 + 0.35 * (title is not None), 0.85 * len(names)
    sheet = Sheet(margin + side + 0.25, head + side + 0.7, theme, title)
    axes = sheet.axes(margin, head, side, side)
    shades = LinearSegmentedColormap.from_list("shades", [sheet.theme.background, COLORS["happy"]])
    axes.imshow(shares, cmap=shades, vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        style = {"color": ink_on(to_hex(shades(share))), "ha": "center", "va": "center", **PLAIN}
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
    Draw faces that were classified wrongly, each with its probabilities (figure 1.12 of the authors' report).

    Args:
        images: the crops, uint8 grey `H x W` or RGB `H x W x 3`.
        labels: index of each face's labelled expression.
        probabilities: `(faces, N)` in 0..1.
        names: the N expressions.
        title: text above the faces.
        theme: `"light"` or `"dark"`.

    Raises:
        InputError: there is no face, or the numbers of faces or expressions differ.
    """
    probabilities = np.asarray(probabilities)
    if not len(images) or len(images) != len(labels) or probabilities.shape != (len(images), len(names)):
        raise InputError(
            f"images, labels and probabilities must belong to the same faces, at least one: they are of {len(images)} "
            f"and {len(labels)} faces and of shape {probabilities.shape} for {len(names)} names"
        )
    tile, gap, edge, chart, head = 1.25, 0.3, 0.2, 2.1, 0.1 + 0.4 * (title is not None)
    block_width, block_height = tile + chart + gap, tile + 0.68
    columns = min(4, len(images))
    rows = math.ceil(len(images) / columns)
    sheet = Sheet(columns * block_width - gap + 2 * edge, head + rows * block_height, theme, title)
    for index, (image, label, row) in enumerate(zip(images, labels, probabilities)):
        x, y = edge + (index % columns) * block_width, head + (index // columns) * block_height
        values = {name: float(value) for name, value in zip(names, row)}
        best = max(values, key=values.__getitem__)
        sheet.text(x, y + 0.14, f"predicted {best} {percent(values[best])}", 9.5, weight="bold")
        sheet.text(x, y + 0.34, f"labelled {names[label]} {percent(values[names[label]])}", 9.5, muted=True)
        sheet.face(x, y + 0.48, tile, image)
        sheet.bars(x + tile, y + 0.48, chart, tile, values, size=7.5)
    return sheet.figure


def reliability_diagram_figure(
    calibration: Mapping[str, Any], title: str | None = "Reliability", theme: str = "light"
) -> Figure:
    """
    Draw a reliability diagram (Guo et al., "On calibration of modern neural networks", 2017, figure 1).

    It shows the accuracy against the probability of the predicted expression, and below it how many faces have such a
    probability. The bars of a calibrated network end on the diagonal.

    Args:
        calibration: `expected_calibration_error` in 0..1 and `bins`, each with `lower`, `upper`, `faces`, and, where
            there are faces, `confidence` and `accuracy`, all in 0..1.
        title: text above the diagram.
        theme: `"light"` or `"dark"`.
    """
    bins = [each for each in calibration["bins"] if each["faces"]]
    sheet = Sheet(5.4, 5.7, theme, title)
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
    # The upper left stays free: only predictions that are unsure and right would have bars there.
    sheet.legend(axes, names, loc="upper left")
    most = max((each["faces"] for each in bins), default=1)
    for each in (axes, counts):
        sheet.percents(each, "x")
    axes.set_xticklabels([])
    sheet.percents(axes, "y")
    sheet.ticks(counts, "y", [most], [f"{most:,}"])
    sheet.frame(axes, y="accuracy")
    sheet.frame(counts, x="probability of the predicted expression", y="faces")
    return sheet.figure


def coverage_curve_figure(
    rows: Sequence[Mapping[str, Any]], title: str | None = "Accuracy and coverage", theme: str = "light"
) -> Figure:
    """
    Draw how accurate the predictions are that remain when those below a probability are left out, against their share.

    Args:
        rows: each with `threshold`, `coverage` and `accuracy` in 0..1; rows without an accuracy are left out.
        title: text above the curve.
        theme: `"light"` or `"dark"`.
    """
    rows = [row for row in rows if row["accuracy"] is not None]
    sheet = Sheet(5.4, 4.4, theme, title)
    sheet.text(0.2, 0.53, "numbers: the lowest probability that counts", 10, muted=True)
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
            style = {"textcoords": "offset points", "size": 8.5, "color": sheet.theme.text, **PLAIN}
            # At the right edge the number goes below the curve.
            offset, side = ((4, 5), "left") if row["coverage"] < 0.9 else ((-3, -12), "right")
            axes.annotate(f"{row['threshold']:.2f}", (row["coverage"], row["accuracy"]), offset, ha=side, **style)
            last = point
    sheet.percents(axes, "x")
    sheet.percents(axes, "y", low)
    sheet.frame(axes, x="faces that remain", y="accuracy on those")
    return sheet.figure


def faithfulness_chart_figure(
    values: Mapping[str, Any],
    title: str | None = "Faithfulness of the attention maps",
    theme: str = "light",
) -> Figure:
    """
    Draw how faithful the attention maps are: for each stage and each share of the face that was removed, the drop in
    probability by map, by the features' strength and at random, with their 95% intervals.

    Args:
        values: `probability` in 0..1, `faces`, and `removals`, each with `stage`, `fraction` in 0..1, and, for `map`,
            `features` and `random`, the `mean` drop and its `interval` (the dictionary of a faithfulness measurement).
        title: text above the chart.
        theme: `"light"` or `"dark"`.
    """
    stages = sorted({removal["stage"] for removal in values["removals"]})
    tile, gap, left, head, high = 1.85, 0.15, 0.6, 1.1, 2.4
    sheet = Sheet(left + len(stages) * (tile + gap) + 0.1, head + high + 1.05, theme, title)
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
    Draw losses and accuracy over the epochs of a training run.

    Args:
        history: one row per epoch with `epoch` and `loss`, and, in the epochs where they are known, `validation_loss`
            and `accuracy` (0..1); with `size`, changes of the training images' size in pixels are marked. Rows may be
            text, as the run's CSV has them.
        title: text above the curves.
        theme: `"light"` or `"dark"`.
    """
    rows = [_numbers(row) for row in history]
    changes = [
        (after["epoch"] - 0.5, after["size"])
        for before, after in pairwise(rows)
        if "size" in after and after["size"] != before.get("size")
    ]
    sheet = Sheet(9.3, 4.4, theme, title)
    panels = (
        {"loss": ("training loss", COLORS["happy"], "-"), "validation_loss": ("validation loss", COLORS["sad"], "--")},
        {"accuracy": ("validation accuracy", COLORS["fear"], "-")},
    )
    for number, curves in enumerate(panels):
        left, head, wide, high = 0.8 + 4.5 * number, 1.05, 3.8, 2.7
        axes, handles = sheet.axes(left, head, wide, high), []
        axes.grid(color=sheet.theme.line, linewidth=0.6)
        for key, (name, color, line) in curves.items():
            points = [(row["epoch"], row[key]) for row in rows if key in row]
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
            style = {"size": 8.5, "ha": "center", "va": "bottom", "color": sheet.theme.muted, **PLAIN}
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


def accuracy_curves_figure(
    curves: Mapping[str, Sequence[tuple[int, float]]], title: str | None = None, theme: str = "light"
) -> Figure:
    """
    Draw the accuracy of several training runs over their epochs.

    Args:
        curves: by name of the run, pairs of an epoch and the accuracy (0..1) after it.
        title: text above the curves.
        theme: `"light"` or `"dark"`.

    Raises:
        InputError: there are no curves.
    """
    if not any(curves.values()):
        raise InputError("curves must hold at least one pair of an epoch and an accuracy")
    sheet = Sheet(7.6, 4.4, theme, title)
    axes, colors = sheet.axes(0.8, 0.95, 6.5, 2.8), list(COLORS.values())
    axes.grid(color=sheet.theme.line, linewidth=0.6)
    handles = []
    for index, (name, points) in enumerate(curves.items()):
        if points:
            line = "-" if index < len(colors) else "--"
            style: dict[str, Any] = {"color": colors[index % len(colors)], "linestyle": line, "linewidth": 1.8}
            handles += axes.plot(*zip(*points), label=f"{name}, {points[-1][1]:.1%}", **style)
            axes.plot(*points[-1], color=style["color"], marker="o", markersize=5)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    sheet.frame(axes, x="epoch", y="validation accuracy")
    sheet.legend(axes, handles, loc="lower left", bbox_to_anchor=(0, 1.02), borderaxespad=0, ncols=3)
    return sheet.figure


accuracy_curves = as_image(accuracy_curves_figure)
confusion_matrix = as_image(confusion_matrix_figure)
failure_cases = as_image(failure_cases_figure)
reliability_diagram = as_image(reliability_diagram_figure)
coverage_curve = as_image(coverage_curve_figure)
faithfulness_chart = as_image(faithfulness_chart_figure)
training_curves = as_image(training_curves_figure)


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a table's row, whose cells may be text or empty."""
    numbers = {key: float(value) for key, value in row.items() if value not in (None, "")}
    return {key: number for key, number in numbers.items() if math.isfinite(number)}


__all__ = [
    "accuracy_curves",
    "accuracy_curves_figure",
    "confusion_matrix",
    "confusion_matrix_figure",
    "coverage_curve",
    "coverage_curve_figure",
    "failure_cases",
    "failure_cases_figure",
    "faithfulness_chart",
    "faithfulness_chart_figure",
    "reliability_diagram",
    "reliability_diagram_figure",
    "training_curves",
    "training_curves_figure",
]
