"""`rmn-hub compare`: networks side by side on equal time."""

from pathlib import Path
from typing import Annotated

import typer

from .shared import TRAIN, Device, examples, main, no_stdout, progress_bars
from .train import Data, Minutes, Seed, resumable


@main.command(
    rich_help_panel=TRAIN,
    epilog=examples(
        "rmn-hub compare --data fer2013/ --output runs/compare --minutes 8",
        "rmn-hub compare --data fer2013/ --output runs/compare --network rmn --network resnet18",
    ),
)
def compare(
    data: Data,
    output: Annotated[
        Path, typer.Option(callback=no_stdout, help="Folder of the runs and the table. Runs found there go on.")
    ] = Path("runs/compare"),
    recipe: Annotated[str, typer.Option(help="Recipe of all networks, or a YAML file.")] = "quick",
    minutes: Minutes = None,
    network: Annotated[
        list[str] | None, typer.Option(help="A network of `train --network`; give it again for more. All by default.")
    ] = None,
    seed: Seed = 0,
    validation_split: Annotated[str, typer.Option(help="Split that chooses the checkpoints and scores them.")] = (
        "public_test"
    ),
    device: Device = None,
) -> None:
    """Train the RMN and the networks of its paper for the same minutes each, and write a table of what they reach."""
    with resumable():
        from rich.console import Console

        from ..baselines.networks import NETWORKS
        from ..evaluation.compare import TABLE
        from ..evaluation.compare import compare as run
        from ..training.recipe import Recipe

        with progress_bars() as report:
            run(
                data,
                output,
                Recipe.load(recipe),
                recipe_name=recipe,
                networks=network or NETWORKS,
                minutes=minutes,
                seed=seed,
                validation_split=validation_split,
                device=device,
                console=Console(stderr=True),
                progress=report,
            )
    typer.echo((output / TABLE).read_text(encoding="utf-8"))
