"""
The members of an ensemble, side by side: `rmn-hub members`.

One table says of each network how it was trained and what it is worth on the set to choose on, and what all of them are
worth together, summed without weights (section IV-D of the paper). One figure has their accuracy over the epochs.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.faces import check_choosing
from ..data.sources import OpenedSet
from ..engines.pixels import PixelProcessor
from ..engines.torch import TorchEngine
from ..errors import InputError
from ..expressions import EXPRESSIONS
from ..files import naming_failures, replacing
from ..hub import checkpoint as checkpoints
from ..hub.card import METRICS, RUN, read_json, training_time
from ..hub.checkpoint import weights_hash
from ..hub.records import run_name, trained_split
from ..progress import Progress, silent
from .benchmark import multiply_adds
from .evaluate import Predictions, predict
from .metrics import scores
from .report import command_line


@dataclass(frozen=True)
class Member:
    """
    One network of the table.

    Args:
        name: of its folder; of the folder around it where that is called `best`.
        predicted: what it predicts for the set.
        multiply_adds: of one face.
        image_size: height and width of its input in pixels.
        sha256: of its weights.
        command: how it was trained, as its `run.json` has it; empty without one.
        trained: `epochs` and `minutes`, where its `metrics.csv` has them.
        curve: pairs of an epoch and the accuracy (0..1) that was measured after it.
    """

    name: str
    predicted: Predictions
    multiply_adds: int
    image_size: int
    sha256: str
    command: str
    trained: Mapping[str, float] | None
    curve: tuple[tuple[int, float], ...]


def write_members(
    checkpoints_: Sequence[str | Path],
    data: str | Path,
    output: str | Path,
    *,
    split: str = "public_test",
    device: str | None = None,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Path:
    """
    Score networks and their ensemble, and write the table (Markdown) and, beside it, the figure of their curves.

    Args:
        checkpoints_: folders of the networks; the `run.json` and `metrics.csv` in them say how they were trained.
        data: labelled faces, in any form of [`rmn_hub.data.sources`].
        output: the Markdown file. The figure has the same name and ends in `.png`.
        split: the one to choose on; never the one that is scored once, nor one with training faces.
        device: where to compute; the GPU if there is one when not given.
        batch_size: faces at once.
        progress: called while faces are predicted.

    Returns:
        `output`.

    Raises:
        InputError: there are no networks, two have one name, or checkpoint, data or output cannot be used.
    """
    folders = [checkpoints.find(checkpoint) for checkpoint in checkpoints_]
    for folder in folders:
        check_choosing("split", split, trained_split(folder, data))
    names = [run_name(folder) for folder in folders]
    if not folders or len(set(names)) < len(names):
        raise InputError(f"checkpoints={names} must be folders whose names differ, at least one")
    opened = OpenedSet.open(data)
    faces = opened.split(split)
    members = []
    for name, folder in zip(names, folders):
        loaded = checkpoints.load(folder, expressions=EXPRESSIONS)
        engine, processor = TorchEngine(loaded.model, device), PixelProcessor.from_folder(folder)
        run = read_json(folder / RUN) or {}
        members.append(
            Member(
                name=name,
                predicted=predict(engine, processor, faces, batch_size, progress),
                multiply_adds=multiply_adds(loaded.model),
                image_size=loaded.model.config.image_size,
                sha256=weights_hash(folder),
                command=str(run.get("command", "")),
                trained=training_time(folder / METRICS),
                curve=_curve(folder / METRICS),
            )
        )
    output = Path(output)
    figure = output.with_suffix(".png")
    curves = {member.name: member.curve for member in members if member.curve}
    with naming_failures(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        if curves:
            from ..drawing.figures import accuracy_curves

            with replacing(figure) as beside:
                accuracy_curves(curves).save(beside, format="png")
        options = {"--data": data, "--split": split if split != "public_test" else None, "--output": output}
        command = command_line("members", checkpoints_, options)
        with replacing(output) as beside:
            text = members_table(members, faces.labels, split, command, figure.name if curves else None)
            beside.write_text(text, encoding="utf-8")
    return output


def members_table(
    members: Sequence[Member], labels: np.ndarray, split: str, command: str, figure: str | None = None
) -> str:
    """
    Return the Markdown of the table: one row for each member, and one for all of them.

    Args:
        members: the networks.
        labels: int64 `(N,)` of the faces that they were scored on.
        split: its name.
        command: the one that makes the table again.
        figure: name of the file of the curves, where there is one.
    """
    lines = [
        "# Members",
        "",
        f"Networks that can be asked together, scored on {split} ({len(labels):,} faces), the split to choose on. The "
        "last row is the mean of their probabilities, without weights. Written by",
        "",
        f"    {command}",
        "",
        "| member | px | million multiply-adds | epochs | single view | flip-averaged | differs from the others |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    answers = [member.predicted.single_view.argmax(1) for member in members]
    for index, member in enumerate(members):
        others = [float((answers[index] != other).mean()) for place, other in enumerate(answers) if place != index]
        cells = [
            member.name,
            str(member.image_size),
            f"{member.multiply_adds / 1e6:.0f}",
            f"{member.trained['epochs']:.0f}" if member.trained else "",
            *_accuracies(member.predicted, labels),
            f"{100 * float(np.mean(others)):.0f}% of the faces" if others else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if len(members) > 1:
        mean = Averaged(members)
        total = sum(member.multiply_adds for member in members)
        lines.append(f"| all {len(members)} |  | {total / 1e6:.0f} |  | {' | '.join(_accuracies(mean, labels))} |  |")
    if figure:
        lines += ["", f"![Accuracy of the members over the epochs]({figure})"]
    lines += ["", "How they were trained:", ""]
    for member in members:
        how = f"`{member.command}`" if member.command else "no run.json"
        lines.append(f"- **{member.name}** ({member.sha256[:12]}): {how}")
    return "\n".join(lines) + "\n"


class Averaged:
    """The mean of several members' probabilities, in the two views of [`Predictions`]."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.single_view = np.mean([member.predicted.single_view for member in members], axis=0)
        self.flip_averaged = np.mean([member.predicted.flip_averaged for member in members], axis=0)


def _accuracies(predicted: Predictions | Averaged, labels: np.ndarray) -> list[str]:
    cells = []
    for probabilities in (predicted.single_view, predicted.flip_averaged):
        numbers: dict[str, Any] = scores(probabilities, labels)
        low, high = numbers["interval"]
        cells.append(f"{100 * numbers['accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f})")
    return cells


def _curve(path: Path) -> tuple[tuple[int, float], ...]:
    """Return the pairs of epoch and accuracy of a `metrics.csv`; none without a file."""
    if training_time(path) is None:
        return ()
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return tuple((int(row["epoch"]), float(row["accuracy"])) for row in rows if row.get("accuracy"))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} must be what rmn-hub train wrote. Restore it, or remove it.") from error


__all__ = ["Member", "members_table", "write_members"]
