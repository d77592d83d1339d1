"""
Cross-validation: `rmn-hub cross-validate`. What a checkpoint is worth on somebody's own small set after it has been
fine-tuned there, as in the paper's table 1.3 (VEMO), and what it is worth without.

Each face is scored once, by a network that was neither trained nor chosen on it, unless the checkpoint was: the notes
state where its `run.json` names the set. `crossvalidation.json` in the run's folder holds `command`, `date`,
`versions`, `data` (`faces`, `per_expression`, `folds`, `seed`, `notes`), `recipe`, `start_from` with its `sha256`, and,
for `before` and `after` the fine-tuning, what an entry of `eval.json` has: `single_view`, `flip_averaged`,
`per_expression`, `mean_recall`, `mean_f1`, `confusion_matrix` and `right`. `difference` compares the two face by face,
and `folds` lists each fold's epochs and accuracies.
"""

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from ..data.folds import folds
from ..data.sources import OpenedSet
from ..engines.pixels import PixelProcessor
from ..engines.torch import TorchEngine
from ..expressions import EXPRESSIONS
from ..files import write_json
from ..hub import checkpoint as checkpoints
from ..hub.checkpoint import weights_hash
from ..hub.records import public_name, trained_on
from ..progress import Progress, silent
from ..training.loop import TrainingResult
from ..training.recipe import Recipe
from ..training.train import train
from .evaluate import Predictions, predict
from .metrics import paired_difference, per_expression, scores
from .report import command_line, versions

RESULTS = "crossvalidation.json"


@dataclass(frozen=True)
class _Scored:
    """What one network predicts for one fold."""

    predicted: Predictions
    labels: np.ndarray

    @property
    def accuracy(self) -> float:
        return float((self.predicted.single_view.argmax(1) == self.labels).mean())


def cross_validate(
    checkpoint: str | Path,
    data: str | Path,
    output: str | Path,
    recipe: Recipe,
    *,
    recipe_name: str | None = None,
    number: int = 5,
    epochs: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    device: str | None = None,
    batch_size: int = 32,
    console: Console | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """
    Fine-tune a checkpoint on each fold of a set, and score it on the part that the fold left out.

    A fold is a run of its own in `output/fold-K`, with a budget of its own: a run that was killed goes on.

    Args:
        checkpoint: what to start from, a folder or a Hub id.
        data: the set, in any form of [`rmn_hub.data.sources`].
        output: folder of the runs and of `crossvalidation.json`.
        recipe: how to fine-tune; its `sizes` are scaled to the checkpoint's own.
        recipe_name: its name, for the record of the command.
        number: how many folds, at least 3.
        epochs: budget of a fold; or
        minutes: the same in minutes; the recipe's when neither is given.
        seed: of the folds and of the training; 0 to 2**31 - 1.
        device: where to compute; the GPU if there is one when not given.
        batch_size: faces at once when they are scored.
        console: where the lines about epochs go; nowhere when not given.
        progress: called while faces are predicted.

    Returns:
        what `crossvalidation.json` holds.

    Raises:
        InputError: checkpoint, data, recipe or output cannot be used.
        TrainingError: a loss is no longer a number.
    """
    start = checkpoints.find(checkpoint)
    untouched = _network(start, device)
    opened = OpenedSet.open(data)
    notes = []
    if trained_on(start)[0] == public_name(data):
        notes.append(
            f"{public_name(checkpoint)} was trained on a set of this name, {public_name(data)}: if it is this one, its "
            "network has seen the faces that are scored, before and after. Start from one that has not."
        )
        if console is not None:
            console.print(f"note: {notes[0]}", markup=False, highlight=False, soft_wrap=True)
    parts = folds(opened, number, seed)
    best: list[TrainingResult] = []
    before: list[_Scored] = []
    after: list[_Scored] = []
    for index, part in enumerate(parts, 1):
        result = train(
            part,
            Path(output) / f"fold-{index}",
            recipe,
            epochs=epochs,
            minutes=minutes,
            seed=seed,
            start_from=start,
            device=device,
            console=console,
            progress=progress,
        )
        best.append(result)
        faces = part.split("private_test")
        for scored, network in ((before, untouched), (after, _network(result.checkpoint, device))):
            scored.append(_Scored(predict(*network, faces, batch_size, progress), faces.labels))
    labels = np.concatenate([scored.labels for scored in after])
    options = {
        "--data": data,
        "--recipe": recipe_name,
        "--folds": number,
        "--epochs": epochs,
        "--minutes": minutes,
        "--seed": seed,
        "--output": output,
    }
    old, new = _numbers(before), _numbers(after)
    document = {
        "command": command_line("cross-validate", [checkpoint], options),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "versions": versions(),
        "data": {
            "name": public_name(data),
            "faces": len(labels),
            "per_expression": dict(zip(EXPRESSIONS, np.bincount(labels, minlength=len(EXPRESSIONS)).tolist())),
            "folds": number,
            "seed": seed,
            "notes": notes,
        },
        "recipe": recipe.to_dict(),
        "start_from": public_name(checkpoint),
        "sha256": weights_hash(start),
        "before": old,
        "after": new,
        "difference": paired_difference(
            *([digit == "1" for digit in numbers["right"]] for numbers in (new, old)),
        ),
        "folds": [
            {"epochs": run.epochs, "before": first.accuracy, "after": second.accuracy}
            for run, first, second in zip(best, before, after)
        ],
    }
    write_json(Path(output) / RESULTS, document)
    return document


def summary(document: dict[str, Any]) -> str:
    """Return the main numbers of a `crossvalidation.json` in a few lines, for people."""
    data = document["data"]
    lines = [f"{data['name']}: {data['faces']:,} faces in {data['folds']} folds"]
    lines += [f"  note: {note}" for note in data["notes"]]
    for when in ("before", "after"):
        for view in ("single_view", "flip_averaged"):
            numbers = document[when][view]
            low, high = numbers["interval"]
            name = f"{when} fine-tuning, {view.replace('_', ' ')}"
            lines.append(f"  {name}: {numbers['accuracy']:.1%} ({low:.1%} to {high:.1%})")
    low, high = document["difference"]["interval"]
    change = document["difference"]["difference"]
    lines.append(f"  change, single view: {100 * change:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})")
    return "\n".join(lines)


def _network(checkpoint: Path, device: str | None) -> tuple[TorchEngine, PixelProcessor]:
    loaded = checkpoints.load(checkpoint, expressions=EXPRESSIONS)
    return TorchEngine(loaded.model, device), PixelProcessor.from_folder(loaded.folder)


def _numbers(parts: list[_Scored]) -> dict[str, Any]:
    labels = np.concatenate([part.labels for part in parts])
    single = np.concatenate([part.predicted.single_view for part in parts])
    averaged = np.concatenate([part.predicted.flip_averaged for part in parts])
    return {
        "single_view": scores(single, labels),
        "flip_averaged": scores(averaged, labels),
        **per_expression(single, labels),
        "right": "".join(str(int(right)) for right in single.argmax(1) == labels),
    }


__all__ = ["RESULTS", "cross_validate", "summary"]
