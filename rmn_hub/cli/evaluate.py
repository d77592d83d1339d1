"""`rmn-hub evaluate`, `calibrate` and `benchmark`: what a checkpoint is worth, and what it costs."""

import json as json_library
from pathlib import Path
from typing import Annotated, Any

import typer

from .shared import (
    FOR_NUMBERS,
    TRAIN,
    Device,
    OptionalJsonFile,
    examples,
    failing_on_bad_input,
    main,
    no_media,
    no_stdout,
    no_stdout_no_media,
    progress_bars,
    warn,
)

Data = Annotated[Path, typer.Option(help="Labelled faces: FER2013 in any form, or a folder per expression.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Faces at once.")]


@main.command(
    cls=OptionalJsonFile,
    rich_help_panel=TRAIN,
    epilog=examples(
        "rmn-hub evaluate runs/mine/best --data fer2013/ --json runs/mine/best/eval.json --figures figures/",
        "rmn-hub evaluate runs/a/best runs/b/best --data fer2013/ --json ensemble.json",
        "rmn-hub evaluate --peer fer --data fer2013/",
    ),
)
def evaluate(
    data: Data,
    checkpoints: Annotated[
        list[Path] | None,
        typer.Argument(metavar="CHECKPOINT...", help="Folder of the checkpoint; several are an ensemble."),
    ] = None,
    split: Annotated[
        str, typer.Option(help="train, public_test, private_test, a name of its own, or all.")
    ] = "public_test",
    json: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="[FILE]",
            callback=no_media,
            help="Write the numbers to a file, or to stdout without one.",
        ),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", callback=no_stdout, help="Write the figures of the numbers.")
    ] = None,
    training_data: Annotated[
        Path | None, typer.Option(help="Set whose training faces are looked for among the scored ones.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the set in the JSON.")] = None,
    peer: Annotated[
        str | None, typer.Option(help="Score the network inside another package instead of a checkpoint: fer.")
    ] = None,
    faithfulness: Annotated[bool, typer.Option("--faithfulness", help="Measure the attention maps too.")] = False,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Measure blur, noise, tilt, ... too: takes twenty times as long.")
    ] = False,
    views: Annotated[
        int | None, typer.Option(help="With --robustness: 2 or 6 views are averaged, as predict --views does it.")
    ] = None,
    device: Device = None,
    batch_size: BatchSize = 32,
) -> None:
    """Score a checkpoint, or the unweighted ensemble of several, on labelled faces: accuracy, calibration, speed."""
    with failing_on_bad_input("train", FOR_NUMBERS):
        from ..evaluation.evaluate import evaluate as score
        from ..evaluation.report import held_results, lost_results, summary
        from ..files import prepare_place
        from .outputs import check_folders

        check_folders({"--figures": figures})
        file = None if json in (None, "-") else json
        if file is not None:
            prepare_place(Path(file))
        held = held_results(file)
        with progress_bars() as report:
            document = score(
                checkpoints or [],
                data,
                split,
                peer=peer,
                name=name,
                training_data=training_data,
                json_file=file,
                figures=figures,
                with_faithfulness=faithfulness,
                with_robustness=robustness,
                **({} if views is None else {"views": views}),
                device=device,
                batch_size=batch_size,
                progress=report,
            )
    for lost in lost_results(held, document):
        warn(f"{file} held {lost}; they are gone")
    if json == "-":
        typer.echo(json_library.dumps(document, indent=2))
    else:
        typer.echo(summary(document))


@main.command(
    "cross-validate",
    rich_help_panel=TRAIN,
    epilog=examples("rmn-hub cross-validate runs/mine/best --data faces/ --epochs 30 --output runs/folds"),
)
def cross_validate(
    checkpoint: Annotated[str, typer.Argument(help="Folder or Hub id of the checkpoint to start from.")],
    data: Annotated[Path, typer.Option(help="Your own labelled faces: a folder per expression, or parquet.")],
    output: Annotated[
        Path, typer.Option(callback=no_stdout, help="Folder of the runs and the numbers. Runs found there go on.")
    ],
    recipe: Annotated[str, typer.Option(help="How to fine-tune: a recipe's name or a YAML file.")] = "fine-tune",
    folds: Annotated[
        int, typer.Option(min=3, help="Parts: each is scored by a network that was not trained on it.")
    ] = 5,
    epochs: Annotated[int | None, typer.Option(min=1, help="Budget of a fold in epochs.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Budget of a fold in minutes.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of the parts and of the training.")] = 0,
    device: Device = None,
    batch_size: BatchSize = 32,
) -> None:
    """Fine-tune a checkpoint on your own faces and score it, each face by a network that has not seen it."""
    with failing_on_bad_input("train", FOR_NUMBERS):
        from rich.console import Console

        from ..evaluation.crossvalidation import RESULTS, cross_validate, summary
        from ..training.recipe import Recipe

        with progress_bars() as report:
            document = cross_validate(
                checkpoint,
                data,
                output,
                Recipe.load(recipe),
                recipe_name=recipe,
                number=folds,
                epochs=epochs,
                minutes=minutes,
                seed=seed,
                device=device,
                batch_size=batch_size,
                console=Console(stderr=True),
                progress=report,
            )
    typer.echo(summary(document))
    typer.echo(f"{output / RESULTS}")


@main.command(
    rich_help_panel=TRAIN,
    epilog=examples("rmn-hub members runs/a/best runs/b/best --data fer2013/ --output members.md"),
)
def members(
    checkpoints: Annotated[list[str], typer.Argument(metavar="CHECKPOINT...", help="The networks.")],
    data: Data,
    output: Annotated[
        Path, typer.Option(callback=no_stdout_no_media, help="Markdown file; the curves go beside it.")
    ] = Path("members.md"),
    split: Annotated[str, typer.Option(help="The split to choose on.")] = "public_test",
    device: Device = None,
    batch_size: BatchSize = 32,
) -> None:
    """Write a table of networks: how each was trained, what it is worth, and what they are worth together."""
    with failing_on_bad_input("train", FOR_NUMBERS):
        from ..evaluation.members import write_members
        from ..files import prepare_place

        prepare_place(output)
        with progress_bars() as report:
            write_members(checkpoints, data, output, split=split, device=device, batch_size=batch_size, progress=report)
    typer.echo(output.read_text(encoding="utf-8"))


@main.command(rich_help_panel=TRAIN, epilog=examples("rmn-hub calibrate runs/mine/best --data fer2013/"))
def calibrate(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of the checkpoint; its weights are changed.")],
    data: Annotated[Path, typer.Option(help="Labelled faces that the checkpoint was not trained on.")],
    split: Annotated[str, typer.Option(help="Never the split that is scored.")] = "public_test",
    views: Annotated[
        int, typer.Option(min=1, max=2, help="2: a face and its mirror image, as predict has it; 1: the face alone.")
    ] = 2,
    device: Device = None,
    batch_size: BatchSize = 32,
) -> None:
    """Fit a temperature per expression and fold them into the checkpoint: 80% then means right 4 times out of 5."""
    with failing_on_bad_input("train", FOR_NUMBERS):
        from ..evaluation.calibrate import calibrate as fit

        with progress_bars() as report:
            record = fit(checkpoint, data, split, views=views, device=device, batch_size=batch_size, progress=report)
    temperatures = ", ".join(f"{name} {value:.3f}" for name, value in record["temperatures"].items())
    before, after = (record[when]["expected_calibration_error"] for when in ("before", "after"))
    typer.echo(f"temperatures: {temperatures}")
    typer.echo(f"expected calibration error {before:.3f} -> {after:.3f} on {split}")


@main.command(
    rich_help_panel=TRAIN,
    epilog=examples(
        "rmn-hub benchmark runs/mine/best --no-compiled --json",
        "rmn-hub benchmark --image photo.jpg",
        "rmn-hub benchmark --start",
    ),
)
def benchmark(
    checkpoint: Annotated[str | None, typer.Argument(help="Folder or Hub id. The bundled one when not given.")] = None,
    device: Device = None,
    batch_size: Annotated[
        list[int] | None, typer.Option(min=1, help="Images at once; give it again for more. 1, 8 and 32 by default.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="How long each form runs at each batch size.")] = 2.0,
    compiled: Annotated[bool, typer.Option(help="Whether to compile it too, which takes minutes.")] = True,
    start: Annotated[
        bool,
        typer.Option(
            "--start",
            help="Measure the start: help and first result (of --image or a made face).",
        ),
    ] = False,
    image: Annotated[
        Path | None,
        typer.Option(exists=True, help="Measure decoding, detection and classification of this photo, each by itself."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Measure what a checkpoint costs: parameters, multiply-adds, milliseconds and memory, form by form."""
    from rich.console import Console

    from .costs import benchmark_table, stages_table, start_table

    console = Console(highlight=False)
    with failing_on_bad_input():
        if start:
            from ..evaluation.start import measure_start

            with progress_bars() as report:
                starts = measure_start(image, progress=report)
            document: Any = [one.to_dict() for one in starts]
            shown, skipped = start_table(starts), None
        elif image is not None:
            from .. import BUNDLED_CHECKPOINT
            from ..evaluation.stages import measure_stages

            stages = measure_stages(checkpoint or BUNDLED_CHECKPOINT, image, seconds=seconds, device=device)
            document, shown, skipped = stages.to_dict(), stages_table(stages), None
        else:
            from .. import BUNDLED_CHECKPOINT
            from ..devices import usable_device
            from ..engines.engine import Engine
            from ..engines.onnx import ONNX_FILE, OnnxEngine
            from ..evaluation.benchmark import BATCH_SIZES, FORMS
            from ..evaluation.benchmark import benchmark as run
            from ..evaluation.peers import installed_peers
            from ..hub.checkpoint import find, load_model

            folder = find(checkpoint or BUNDLED_CHECKPOINT)
            model = load_model(folder, device=usable_device(device))
            engines: list[Engine] = []
            if model.device.type == "cpu":
                engines += [OnnxEngine.from_checkpoint(folder)] if (folder / ONNX_FILE).is_file() else []
                engines += installed_peers()
            with progress_bars() as report:
                numbers = run(
                    model,
                    batch_sizes=batch_size or BATCH_SIZES,
                    forms=FORMS if compiled else FORMS[:-1],
                    engines=engines,
                    seconds=seconds,
                    progress=report,
                )
            document, shown, skipped = numbers.to_dict(), benchmark_table(numbers), numbers.skipped
    if json:
        typer.echo(json_library.dumps(document))
    else:
        console.print(shown)
    if skipped:
        warn(skipped)
