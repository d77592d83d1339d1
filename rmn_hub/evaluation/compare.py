"""
Networks side by side on equal time: `rmn-hub compare`, the comparison of the paper's tables 1.1 to 1.3 on one machine.

Every network is trained by the same recipe for the same minutes, then scored on the split that chose its checkpoint;
last comes the ensemble of all, summed without weights (section IV-D). Equal time is not equal training: in few minutes
a large network sees each face a few times only, and its row is what it reaches by then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from ..baselines.networks import NETWORKS
from ..data.faces import FaceImages
from ..data.sources import OpenedSet
from ..devices import usable_device
from ..engines.pixels import PixelProcessor
from ..engines.torch import TorchEngine
from ..errors import InputError
from ..expressions import EXPRESSIONS
from ..files import write_json, write_text
from ..hub import checkpoint as checkpoints
from ..hub.card import METRICS, training_time
from ..hub.checkpoint import weights_hash
from ..hub.records import public_name
from ..progress import Progress, silent
from ..training.recipe import Recipe
from ..training.train import train
from .benchmark import multiply_adds
from .evaluate import Predictions, device_name, predict
from .metrics import scores
from .report import command_line, versions

TABLE, RESULTS = "compare.md", "compare.json"


@dataclass(frozen=True)
class Compared:
    """
    A network of the comparison.

    Args:
        numbers: its block of `compare.json`.
        predicted: what it predicts for the set.
    """

    numbers: dict[str, Any]
    predicted: Predictions


def compare(
    data: str | Path,
    output: str | Path,
    recipe: Recipe,
    *,
    recipe_name: str = "quick",
    networks: Sequence[str] = NETWORKS,
    minutes: float | None = None,
    seed: int = 0,
    validation_split: str = "public_test",
    device: str | None = None,
    batch_size: int = 32,
    console: Console | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """
    Train networks on equal time, score each and their ensemble, and write `compare.md` and `compare.json`.

    Each network is a run of its own in `output/NAME`: a comparison that was killed goes on where it was.

    Args:
        data: the set, in any form of [`rmn_hub.data.sources`].
        output: folder of the runs and of the results.
        recipe: how to train all of them.
        recipe_name: its name, for the record of the command.
        networks: names among `rmn_hub.baselines.networks.NETWORKS`.
        minutes: budget of each; the recipe's when not given.
        seed: of every run.
        validation_split: split that chooses the checkpoints and scores them; never the one that is scored once.
        device: where to compute; the GPU if there is one when not given.
        batch_size: faces at once when they are scored.
        console: where the lines about epochs go; nowhere when not given.
        progress: called while networks are trained and faces predicted.

    Returns:
        what `compare.json` holds: `command`, `date`, `versions`, `device`, `threads`, `recipe`, `minutes`, `seed`,
        `data`, and for each of `networks` and for the `ensemble` (`None` of one network) `parameters`, `multiply_adds`,
        and the scores of `single_view` and `flip_averaged` as in `eval.json`; networks also have `name`, `sha256` and
        `epochs`.

    Raises:
        InputError: a network, the data or the output cannot be used.
        MissingPackageError: timm is not installed.
        TrainingError: a loss is no longer a number.
    """
    unknown = [name for name in networks if name not in NETWORKS]
    if not networks or unknown or len(set(networks)) < len(networks):
        raise InputError(f"network={', '.join(unknown or networks)!r} must be of {', '.join(NETWORKS)}, each once")
    opened = OpenedSet.open(data)
    faces = opened.split(validation_split)
    compared = []
    for name in networks:

        def show(what: str, done: int, total: int, name: str = name) -> None:
            progress(f"{name}: {what}", done, total)

        if console is not None:
            console.print(f"{name}:", highlight=False)
        result = train(
            opened,
            Path(output) / name,
            recipe,
            network=name,
            minutes=minutes,
            seed=seed,
            validation_split=validation_split,
            device=device,
            console=console,
            progress=show,
        )
        compared.append(_score(name, result.checkpoint, faces, device, batch_size, show))
    options = {
        "--data": data,
        "--output": output,
        "--recipe": recipe_name,
        "--minutes": None if minutes is None else f"{minutes:g}",
        "--seed": seed or None,
        "--validation-split": validation_split if validation_split != "public_test" else None,
    }
    chosen = [word for name in networks for word in ("--network", name)] if tuple(networks) != NETWORKS else []
    document = {
        "command": command_line("compare", [], options, chosen),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "versions": versions(),
        "device": device_name(usable_device(device)),
        "threads": torch.get_num_threads(),
        "recipe": recipe.to_dict(),
        "minutes": recipe.minutes if minutes is None else minutes,
        "seed": seed,
        "data": {"name": public_name(data), "split": validation_split, "faces": len(faces)},
        "networks": [each.numbers for each in compared],
        "ensemble": _ensemble(compared, faces.labels) if len(compared) > 1 else None,
    }
    write_json(Path(output) / RESULTS, document)
    write_text(Path(output) / TABLE, table(document))
    return document


def _score(
    name: str, folder: Path, faces: FaceImages, device: str | None, batch_size: int, progress: Progress
) -> Compared:
    loaded = checkpoints.load(folder, expressions=EXPRESSIONS)
    engine, processor = TorchEngine(loaded.model, device), PixelProcessor.from_folder(folder)
    predicted = predict(engine, processor, faces, batch_size, progress)
    numbers = {
        "name": name,
        "sha256": weights_hash(folder),
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "multiply_adds": multiply_adds(loaded.model),
        "epochs": (training_time(folder / METRICS) or {"epochs": 0})["epochs"],
        "single_view": scores(predicted.single_view, faces.labels),
        "flip_averaged": scores(predicted.flip_averaged, faces.labels),
    }
    return Compared(numbers, predicted)


def _ensemble(compared: Sequence[Compared], labels: np.ndarray) -> dict[str, Any]:
    views = ("single_view", "flip_averaged")
    sums = {key: sum(each.numbers[key] for each in compared) for key in ("parameters", "multiply_adds")}
    means = {view: np.mean([getattr(each.predicted, view) for each in compared], axis=0) for view in views}
    return {**sums, **{view: scores(mean, labels) for view, mean in means.items()}}


def table(document: dict[str, Any]) -> str:
    """Return what `compare.json` holds as a table in Markdown, the best single view first."""
    data, rows = document["data"], sorted(document["networks"], key=lambda row: -row["single_view"]["accuracy"])
    lines = [
        "# Networks on equal time",
        "",
        f"Each network was trained by the same recipe for {document['minutes']:g} minutes on {document['device']} "
        f"({document['threads']} threads), and scored on "
        f"{data['split']} of {data['name']} ({data['faces']:,} faces), which also chose its epoch. Accuracy in percent "
        "with its 95% interval (Wilson). Equal time is not equal training: see the epochs. Written by",
        "",
        f"    {document['command']}",
        "",
        "| network | million parameters | million multiply-adds | epochs | single view | flip-averaged |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    for row in rows:
        lines.append(_line(row["name"], row, str(row["epochs"])))
    if document["ensemble"] is not None:
        lines.append(_line(f"all {len(rows)}, summed without weights", document["ensemble"], ""))
    return "\n".join(lines) + "\n"


def _line(name: str, row: dict[str, Any], epochs: str) -> str:
    cells = [name, f"{row['parameters'] / 1e6:.1f}", f"{row['multiply_adds'] / 1e6:.0f}", epochs]
    for view in ("single_view", "flip_averaged"):
        accuracy, (low, high) = row[view]["accuracy"], row[view]["interval"]
        cells.append(f"{100 * accuracy:.1f} ({100 * low:.1f} to {100 * high:.1f})")
    return f"| {' | '.join(cells)} |"


__all__ = ["RESULTS", "TABLE", "compare", "table"]
