"""cli.evaluate"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    pass
from .shared import _face_progress, _OptionalJsonFile, _training_extra, failing_on_bad_input, main, warn


@main.command(cls=_OptionalJsonFile)
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of the checkpoint.")],
    data: Annotated[Path, typer.Option(help="Labelled faces: FER2013 in any form, or a folder per expression.")],
    split: Annotated[
        str, typer.Option(help="train, public_test, private_test, a name of its own, or all.")
    ] = "public_test",
    json: Annotated[
        str | None,
        typer.Option("--json", metavar="[FILE]", help="Write the numbers to a file, or to stdout without one."),
    ] = None,
    figures: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the pictures of the numbers.")] = None,
    training_data: Annotated[
        Path | None, typer.Option(help="Set whose training faces are looked for among the scored ones.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the set in the JSON.")] = None,
    faithfulness: Annotated[bool, typer.Option("--faithfulness", help="Measure the attention maps too.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; the CPU when not given.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Faces at once.")] = 32,
) -> None:
    """Scores a checkpoint on labelled faces: accuracy with intervals, calibration, speed, and how to get them again."""
    with failing_on_bad_input(), _training_extra():
        from ..evaluation.evaluate import evaluate as score
        from ..evaluation.report import replaces_results, summary

        file = None if json in (None, "-") else json
        replaced = file is not None and replaces_results(file, checkpoint)
        with _face_progress() as report:
            document = score(
                checkpoint,
                data,
                split,
                name=name,
                training_data=training_data,
                json_file=file,
                figures=figures,
                with_faithfulness=faithfulness,
                device=device,
                batch_size=batch_size,
                progress=report,
            )
    if replaced:
        warn(f"{file} held results of other weights; they are gone")
    if json == "-":
        import json as json_library

        typer.echo(json_library.dumps(document, indent=2))
    else:
        typer.echo(summary(document))


@main.command()
def calibrate(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of the checkpoint; its weights are changed.")],
    data: Annotated[Path, typer.Option(help="Labelled faces that the checkpoint was not trained on.")],
    split: Annotated[str, typer.Option(help="Never the split that is scored.")] = "public_test",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; the CPU when not given.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Faces at once.")] = 32,
) -> None:
    """Fits a temperature per expression and folds them into the checkpoint: probabilities then mean what they say."""
    with failing_on_bad_input(), _training_extra():
        from ..evaluation.calibrate import calibrate as fit

        with _face_progress() as report:
            record = fit(checkpoint, data, split, device=device, batch_size=batch_size, progress=report)
    temperatures = ", ".join(f"{name} {value:.3f}" for name, value in record["temperatures"].items())
    before, after = (record[when]["expected_calibration_error"] for when in ("before", "after"))
    typer.echo(f"temperatures: {temperatures}")
    typer.echo(f"expected calibration error {before:.3f} -> {after:.3f} on {split}")


@main.command()
def benchmark(
    checkpoint: Annotated[str | None, typer.Argument(help="Folder or Hub id. The bundled one when not given.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    batch_size: Annotated[
        list[int] | None, typer.Option(min=1, help="Images at once; give it again for more. 1, 8 and 32 by default.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="How long each form runs at each batch size.")] = 2.0,
    compiled: Annotated[bool, typer.Option(help="Whether to compile it too, which takes minutes.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """
    Shows what a checkpoint costs: parameters, multiply-adds, milliseconds and memory, plain, folded and compiled.
    """
    import json as json_library

    from rich.console import Console
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with failing_on_bad_input():
        from .. import BUNDLED_CHECKPOINT
        from ..evaluation.benchmark import BATCH_SIZES, FORMS, load, table
        from ..evaluation.benchmark import benchmark as run

        model = load(checkpoint or BUNDLED_CHECKPOINT, device)
        with Console(stderr=True).status("loading") as status:
            numbers = run(
                model,
                batch_sizes=batch_size or BATCH_SIZES,
                forms=FORMS if compiled else FORMS[:-1],
                seconds=seconds,
                progress=status.update,
            )
    if json:
        typer.echo(json_library.dumps(numbers.to_dict()))
    else:
        Console(highlight=False).print(table(numbers))
    if numbers.skipped:
        warn(numbers.skipped)
