"""`rmn-hub train`, `teach` and `distill`: networks and what they are trained on."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from .shared import (
    FOR_NUMBERS,
    TRAIN,
    Device,
    counted,
    examples,
    failing_on_bad_input,
    main,
    no_stdout,
    no_stdout_no_media,
    progress_bars,
    warn,
)

Data = Annotated[
    Path, typer.Option(help="FER2013 (CSV, folders, parquet), or your own faces: a folder per expression.")
]
RunFolder = Annotated[
    Path, typer.Option("--output", callback=no_stdout, help="Folder of the run. A run found there goes on.")
]
Minutes = Annotated[
    float | None, typer.Option(min=0.01, help="Wall-clock budget over all sittings. The recipe's when not given.")
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Budget in epochs instead.")]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of weights, order, augmentation and dropout.")]
StartFrom = Annotated[str | None, typer.Option(help="Checkpoint (folder or Hub id) to start from.")]
BatchSize = Annotated[int | None, typer.Option(min=2, help="Instead of the recipe's.")]
LearningRate = Annotated[float | None, typer.Option(min=0, help="Instead of the recipe's.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Stop after so many steps, to try a recipe out.")]
InMemory = Annotated[
    bool | None,
    typer.Option("--in-memory/--no-in-memory", help="Decode all faces once, or in every epoch; else by their number."),
]


@contextlib.contextmanager
def resumable(part: str = "epoch") -> Iterator[None]:
    """End a training command with one sentence, after Ctrl-C too; `part` is what it keeps when it is done."""
    with failing_on_bad_input("train", FOR_NUMBERS):
        try:
            yield
        except KeyboardInterrupt:
            warn(f"interrupted: the same command goes on after the last whole {part}")
            raise typer.Exit(130) from None


@main.command(
    rich_help_panel=TRAIN,
    epilog=examples(
        "rmn-hub train --data fer2013/ --recipe cpu --output runs/mine",
        "accelerate launch -m rmn_hub train --data fer2013/ --recipe gpu --output runs/mine",
    ),
)
def train(
    data: Data,
    output: RunFolder = Path("runs/rmn"),
    recipe: Annotated[
        str, typer.Option(help="cpu, quick, gpu, strong, face-trunk, student, fine-tune, original, or a YAML file.")
    ] = "cpu",
    network: Annotated[
        str,
        typer.Option(
            help="rmn, or one that the paper compares it with: vgg19, resattnet56, densenet121, resnet18, resnet34, "
            "resnet152, cbam_resnet50."
        ),
    ] = "rmn",
    minutes: Minutes = None,
    epochs: Epochs = None,
    seed: Seed = 0,
    start_from: StartFrom = None,
    train_split: Annotated[str, typer.Option(help="Split to train on.")] = "train",
    validation_split: Annotated[str, typer.Option(help="Split that chooses the checkpoint.")] = "public_test",
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    steps: Steps = None,
    in_memory: InMemory = None,
    device: Device = None,
) -> None:
    """Train a network. Interrupt it as you like: the same command goes on after the last whole epoch."""
    with resumable():
        from rich.console import Console

        from ..training.recipe import Recipe
        from ..training.train import train as run

        chosen = Recipe.load(recipe).changed(batch_size=batch_size, learning_rate=learning_rate)
        with progress_bars() as report:
            result = run(
                data,
                output,
                chosen,
                network=network,
                minutes=minutes,
                epochs=epochs,
                seed=seed,
                start_from=start_from,
                train_split=train_split,
                validation_split=validation_split,
                limit_steps=steps,
                in_memory=in_memory,
                device=device,
                console=Console(stderr=True),
                progress=report,
            )
    typer.echo(
        f"{result.checkpoint}: {result.accuracy:.1%} on {validation_split} after {counted(result.epochs, 'epoch')}"
    )


@main.command(
    rich_help_panel=TRAIN, epilog=examples("rmn-hub teach runs/a/best runs/b/best --data fer2013/ --output teacher.npz")
)
def teach(
    members: Annotated[list[str], typer.Argument(metavar="CHECKPOINT...", help="The ensemble's networks.")],
    data: Data,
    output: Annotated[Path, typer.Option(callback=no_stdout_no_media, help="File for the probabilities.")] = Path(
        "runs/teacher.npz"
    ),
    recipe: Annotated[str, typer.Option(help="Recipe whose augmentation makes the views.")] = "cpu",
    views: Annotated[int, typer.Option(min=1, help="Augmented views of every face.")] = 24,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """
    Write an ensemble's probabilities for augmented views of the training faces, for `distill`.

    The file is written after every view; the same command goes on with it.
    """
    with resumable("view"):
        import torch

        from ..data.sources import load_face_images
        from ..devices import usable_device
        from ..files import prepare_place
        from ..loading import load_ensemble
        from ..training.distill import teach as run
        from ..training.feeding import size_for_training
        from ..training.optimisation import precision_of
        from ..training.recipe import Recipe

        # As in training: what bfloat16 rounds is less than what two views of a face differ by.
        chosen = usable_device(device)
        dtype = torch.bfloat16 if precision_of(chosen) == "bf16" else None
        engine, processor = load_ensemble(members, {}, "torch", chosen, dtype=dtype)
        with progress_bars() as report:
            stored = load_face_images(data, "train")
            prepare_place(output)
            faces = stored.reduced(size_for_training(stored, engine.image_size), report)
            how = Recipe.load(recipe).augmentation
            teacher = run(engine, processor, members, faces, how, views=views, seed=seed, keep=output, progress=report)
    made = counted(len(teacher.probabilities), "view")
    typer.echo(f"{output}: {made} by {counted(len(members), 'network')}, {output.stat().st_size / 1e6:.1f} MB")


@main.command(
    rich_help_panel=TRAIN, epilog=examples("rmn-hub distill teacher.npz --data fer2013/ --output runs/student")
)
def distill(
    teacher: Annotated[Path, typer.Argument(help="File of `rmn-hub teach`.")],
    data: Data,
    output: RunFolder = Path("runs/student"),
    recipe: Annotated[str, typer.Option(help="The student's recipe.")] = "cpu",
    minutes: Minutes = None,
    epochs: Epochs = None,
    seed: Seed = 0,
    start_from: StartFrom = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    steps: Steps = None,
    device: Device = None,
) -> None:
    """Train one network, the student, on an ensemble's probabilities."""
    with resumable():
        from rich.console import Console

        from ..training.distill import Teacher
        from ..training.distill import distill as run
        from ..training.recipe import Recipe

        with progress_bars() as report:
            result = run(
                Teacher.load(teacher),
                data,
                output,
                Recipe.load(recipe).changed(batch_size=batch_size, learning_rate=learning_rate),
                minutes=minutes,
                epochs=epochs,
                seed=seed,
                start_from=start_from,
                limit_steps=steps,
                device=device,
                console=Console(stderr=True),
                progress=report,
            )
    typer.echo(f"{result.checkpoint}: {result.accuracy:.1%} on public_test after {counted(result.epochs, 'epoch')}")
