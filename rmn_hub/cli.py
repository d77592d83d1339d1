"""The command line: arguments in, one call, readable output. Every command imports what it needs when it runs."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from rich.table import Table

    from .results import Result

# A progress bar says nothing about a handful of files that take a second.
PROGRESS_FROM = 10
_UNCERTAIN = " (uncertain)"

main = typer.Typer(
    name="rmn-hub",
    help="Facial expressions with the Residual Masking Network. An expression is what a face shows, not a feeling.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


def fail(sentence: str) -> NoReturn:
    """Ends the command with one sentence on stderr and exit code 2: the input or the usage was wrong."""
    warn(sentence)
    raise typer.Exit(2)


def warn(sentence: str) -> None:
    """One sentence on stderr."""
    typer.echo(f"rmn-hub: {_printable(sentence)}", err=True)


@contextlib.contextmanager
def failing_on_bad_input() -> Iterator[None]:
    """Turns an `InputError` of the block into `fail` with its sentence."""
    from .results import InputError

    try:
        yield
    except InputError as error:
        fail(str(error))


@main.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        from . import __version__

        typer.echo(f"rmn-hub {__version__}")
        raise typer.Exit


@main.command()
def predict(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Pictures, and folders of them (recursive).")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")] = False,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a table with one row per face.")] = None,
    annotate: Annotated[Path | None, typer.Option(metavar="DIR", help="Write each picture with its faces.")] = None,
    attention: Annotated[Path | None, typer.Option(metavar="DIR", help="Write each picture's attention maps.")] = None,
    faces_only: Annotated[bool, typer.Option("--faces-only", help="Each picture is a face: no detection.")] = False,
    checkpoint: Annotated[str | None, typer.Option(help="Folder or Hub id. The bundled one when not given.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... The GPU when there is one.")] = None,
    min_face: Annotated[
        int | None,
        typer.Option(min=12, help="Smallest face in pixels. 40 when not given, more on photos above 2560 pixels."),
    ] = None,
    min_confidence: Annotated[
        float, typer.Option(min=0, max=1, help="Below this probability an answer is marked uncertain.")
    ] = 0.0,
) -> None:
    """
    Finds the faces of pictures and says which expression each one shows.

    Exit code: 0, or 1 when some of several pictures could not be read, or 2 when none could or the usage was wrong.
    """
    from transformers.utils.logging import disable_progress_bar

    from . import BUNDLED_CHECKPOINT
    from .images import find_images, is_folder, load_image
    from .recognizer import ExpressionRecognizer
    from .results import InputError, to_csv

    if annotate or attention:
        from .plots import annotate as draw
        from .plots import attention_panel, group_panel

    bad = good = 0

    def skip(error: InputError) -> None:
        nonlocal bad
        bad += 1
        warn(str(error))

    # Where the pictures come from, and for each the name that its outputs get below their folder.
    names: dict[Path, Path] = {}
    outputs = [folder for folder in (annotate, attention) if folder is not None]
    for path in dict.fromkeys(paths):
        try:
            found = find_images(path, skip=outputs, on_error=skip)
        except InputError as error:
            skip(error)
            continue
        for file in found:
            names.setdefault(file, file.relative_to(path) if is_folder(path) else Path(file.name))
    if not names:
        raise typer.Exit(2)
    taken: set[str] = set()
    annotated = _output_paths(annotate, names, "", taken) if annotate else {}
    maps = _output_paths(attention, names, "-attention", taken) if attention else {}
    # Not Path.resolve: of a link that leads to itself it raises.
    overwritten = set(map(os.path.realpath, names)) & set(
        map(os.path.realpath, [*annotated.values(), *maps.values(), *([csv] if csv else [])])
    )
    if overwritten:
        fail(f"the output would overwrite the input {min(overwritten)}: choose another folder for it")
    if csv and (is_folder(csv) or not is_folder(csv.absolute().parent)):
        fail(f"--csv {csv} cannot be written: give a file in a folder that exists")

    disable_progress_bar()  # of loading a checkpoint, which is no matter of the pictures
    with failing_on_bad_input():
        recognizer = ExpressionRecognizer.from_pretrained(
            checkpoint or BUNDLED_CHECKPOINT, device=device, min_face=min_face, min_confidence=min_confidence
        )
        # A bar and long lines of JSON would disturb each other on one terminal.
        bar = len(names) >= PROGRESS_FROM and sys.stderr.isatty() and not (json and sys.stdout.isatty())
        stream = recognizer.stream(
            _progress(names) if bar else names, faces_only=faces_only, attention=attention is not None, on_error=skip
        )
    labels = [name + _UNCERTAIN if min_confidence else name for name in recognizer.expressions]
    show = _write_json if json else _table_printer([str(file) for file in names], labels)

    def results() -> Iterator["Result"]:
        nonlocal good
        for result in stream:
            good += 1
            file = Path(result.source)
            if annotate:
                _save(draw(load_image(file).image, result), annotated[file])
            if attention and result.faces:
                _save(attention_panel(result[0]) if len(result) == 1 else group_panel(result), maps[file])
            show(result)
            yield result
        if not good:
            # Raised in here so that no table of nothing is left behind.
            raise typer.Exit(2)

    with failing_on_bad_input():
        if csv:
            try:
                to_csv(results(), csv)
            except BrokenPipeError:
                raise
            except OSError as error:
                fail(f"--csv {csv} cannot be written: {error.strerror or error}")
        else:
            for _ in results():
                pass
    if bad:
        warn(f"{bad} of {good + bad} inputs could not be used")
        raise typer.Exit(1)


def _write_json(result: "Result") -> None:
    from .results import to_json_lines

    sys.stdout.write(to_json_lines(result))
    sys.stdout.flush()


def _output_paths(folder: Path, names: dict[Path, Path], ending: str, taken: set[str]) -> dict[Path, Path]:
    """
    For each input a path of its own below `folder`: two inputs with one name do not overwrite each other, nor does one
    kind of output the other (`taken` are the paths of both).
    """
    paths: dict[Path, Path] = {}
    for file, name in names.items():
        # A photo stays a JPEG: as a PNG it would be ten times as large.
        suffix = name.suffix if name.suffix.lower() in (".jpg", ".jpeg") else ".png"
        number, target = 1, folder / name.with_name(name.stem + ending + suffix)
        while os.path.realpath(target).casefold() in taken:
            number += 1
            target = folder / name.with_name(f"{name.stem}-{number}{ending}{suffix}")
        taken.add(os.path.realpath(target).casefold())
        paths[file] = target
    return paths


def _save(picture: Any, path: Path) -> None:
    """Writes a PIL picture beside `path` and renames it."""
    from .results import replacing

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            picture.save(beside, **({"quality": 92} if path.suffix.lower() != ".png" else {}))
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror or error}")


def _progress(files: Any) -> Any:
    """The same files, with a progress bar on stderr that goes when they are through."""
    from rich.console import Console
    from rich.progress import track

    return track(files, description="Pictures", console=Console(stderr=True), transient=True)


def _printable(text: str) -> str:
    """`text` without the bytes that are no UTF-8 and the control characters that a file name may hold."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _table_printer(sources: list[str], labels: list[str]) -> Any:
    """
    A function that prints a result as rows of one table. The widths are known from the start, so rows come as soon
    as their picture is done and nothing is kept.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    label_width = max(map(len, ["Expression", *labels]))
    rest = 42 + label_width  # the other columns with the gaps between them
    longest = max(len(_printable(source)) for source in sources)
    # Nobody's terminal to fit into when the output goes to a file or a pipe.
    width = max(12, min(longest, console.width - rest)) if console.is_terminal else max(12, longest)
    if not console.is_terminal:
        console = Console(highlight=False, width=width + rest)
    header = True

    def table() -> "Table":
        nonlocal header
        rows = Table(box=None, show_header=header, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        rows.add_column("Picture", width=width, overflow="fold")
        rows.add_column("Face", width=4, justify="right")
        rows.add_column("Expression", width=label_width)
        rows.add_column("Probability", width=11, justify="right")
        rows.add_column("Box", width=19)
        header = False
        return rows

    def show(result: "Result") -> None:
        rows = table()
        source = Text(_printable(result.source))
        for number, face in enumerate(result.faces, start=1):
            x0, y0, x1, y1 = (round(value) for value in face.face.box)
            name = face.expression + (_UNCERTAIN if face.uncertain else "")
            rows.add_row(
                source if number == 1 else "",
                str(number),
                Text(name, style="dim" if face.uncertain else ""),
                f"{face.probability:.1%}",
                f"{x0} {y0} {x1} {y1}",
            )
        if not result.faces:
            rows.add_row(source, "-", "no face", "", "")
        console.print(rows)
        if result.message:
            console.print(Text(f"  {result.message}", style="dim"), soft_wrap=True)

    return show


class _OptionalJsonFile(TyperCommand):
    """A command whose `--json` may stand without a file: the JSON then goes to stdout (`-`)."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for index, word in enumerate(args):
            following = args[index + 1 : index + 2]
            if word == "--json" and (not following or (following[0].startswith("-") and following[0] != "-")):
                args = [*args[: index + 1], "-", *args[index + 1 :]]
                break
        return super().parse_args(ctx, args)


@contextlib.contextmanager
def _training_extra() -> Iterator[None]:
    """`fail`s when a package of the extra `train` is missing, and keeps transformers' own progress bars away."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        yield
    except ModuleNotFoundError as error:
        fail(f"this command needs {error.name}: install it with pip install 'rmn-hub[train]'")


@contextlib.contextmanager
def _face_progress() -> Iterator[Any]:
    """A function `(what is being done, faces more, of how many)` behind a bar on stderr, on a terminal only."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        tasks: dict[str, Any] = {}

        def report(description: str, done: int, total: int) -> None:
            if description not in tasks:
                tasks[description] = progress.add_task(description, total=total)
            progress.advance(tasks[description], done)

        yield report


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
        from .training.evaluate import evaluate as score
        from .training.evaluate import replaces_results, summary

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
        from .training.calibrate import calibrate as fit

        with _face_progress() as report:
            record = fit(checkpoint, data, split, device=device, batch_size=batch_size, progress=report)
    temperatures = ", ".join(f"{name} {value:.3f}" for name, value in record["temperatures"].items())
    before, after = (record[when]["expected_calibration_error"] for when in ("before", "after"))
    typer.echo(f"temperatures: {temperatures}")
    typer.echo(f"expected calibration error {before:.3f} -> {after:.3f} on {split}")


@main.command()
def card(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of the checkpoint, with its eval.json.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The card, besides the checkpoint's README.md.")] = Path(
        "model_card.md"
    ),
    ablation: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Results of networks with and without masks to tell about; give it twice."),
    ] = None,
) -> None:
    """Writes the model card from the numbers in the checkpoint's folder."""
    with failing_on_bad_input(), _training_extra():
        from .training.card import write_ablation, write_card

        if ablation:
            write_ablation(checkpoint, ablation)
        for path in write_card(checkpoint, out):
            typer.echo(f"wrote {path}")


Data = Annotated[
    Path, typer.Option(help="FER2013 (CSV, folders, parquet), or your own faces: a folder per expression.")
]
RunFolder = Annotated[Path, typer.Option("--output", help="Folder of the run. A run found there goes on.")]
Minutes = Annotated[
    float | None, typer.Option(min=0.01, help="Wall-clock budget over all sittings. The recipe's when not given.")
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Budget in epochs instead.")]
Seed = Annotated[int, typer.Option(min=0, help="Of weights, order, augmentation and dropout.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Stop after so many steps, to try a recipe out.")]
Cpu = Annotated[bool, typer.Option("--cpu", help="Stay on the CPU although there is a GPU.")]


@main.command()
def train(
    data: Data,
    output: RunFolder = Path("runs/rmn"),
    recipe: Annotated[str, typer.Option(help="cpu, gpu, original, cpu-no-masks, or a YAML file.")] = "cpu",
    minutes: Minutes = None,
    epochs: Epochs = None,
    seed: Seed = 0,
    start_from: Annotated[str | None, typer.Option(help="Checkpoint (folder or Hub id) to start from.")] = None,
    train_split: Annotated[str, typer.Option(help="Split to train on.")] = "train",
    validation_split: Annotated[str, typer.Option(help="Split that chooses the checkpoint.")] = "public_test",
    batch_size: Annotated[int | None, typer.Option(min=2, help="Instead of the recipe's.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0, help="Instead of the recipe's.")] = None,
    steps: Steps = None,
    cpu: Cpu = False,
) -> None:
    """
    Trains a network. Interrupt it as you like: the same command goes on after the last whole epoch.
    """
    with failing_on_bad_training():
        from .training.recipe import Recipe
        from .training.train import train as run

        chosen = Recipe.load(recipe).changed(batch_size=batch_size, learning_rate=learning_rate)
        result = run(
            data,
            output,
            chosen,
            minutes=minutes,
            epochs=epochs,
            seed=seed,
            start_from=start_from,
            train_split=train_split,
            validation_split=validation_split,
            limit_steps=steps,
            cpu=cpu,
        )
    typer.echo(f"{result.checkpoint}: {result.accuracy:.1%} on {validation_split} after {result.epochs} epochs")


@main.command()
def teach(
    members: Annotated[list[str], typer.Argument(metavar="CHECKPOINT...", help="The ensemble's networks.")],
    data: Data,
    output: Annotated[Path, typer.Option(help="File for the probabilities.")] = Path("runs/teacher.npz"),
    recipe: Annotated[str, typer.Option(help="Recipe whose augmentation makes the views.")] = "cpu",
    views: Annotated[int, typer.Option(min=1, help="Augmented views of every face.")] = 24,
    seed: Seed = 0,
) -> None:
    """
    Keeps what an ensemble says of augmented views of the training faces, for `distill`.
    """
    with failing_on_bad_training():
        import torch

        from .training.data import load_faces
        from .training.distill import teach as run
        from .training.evaluate import load_checkpoint
        from .training.recipe import Recipe

        device = "cuda" if torch.cuda.is_available() else "cpu"
        models = [load_checkpoint(member, device)[0] for member in members]
        teacher = run(
            models, members, load_faces(data, "train"), Recipe.load(recipe).augmentation, views=views, seed=seed
        )
        output.parent.mkdir(parents=True, exist_ok=True)
        teacher.save(output)
    typer.echo(f"{output}: {views} views by {len(members)} networks, {output.stat().st_size / 1e6:.1f} MB")


@main.command()
def distill(
    teacher: Annotated[Path, typer.Argument(help="File of `rmn-hub teach`.")],
    data: Data,
    output: RunFolder = Path("runs/student"),
    recipe: Annotated[str, typer.Option(help="The student's recipe.")] = "cpu",
    minutes: Minutes = None,
    epochs: Epochs = None,
    seed: Seed = 0,
    steps: Steps = None,
    cpu: Cpu = False,
) -> None:
    """
    Trains one network on an ensemble's probabilities.
    """
    with failing_on_bad_training():
        from .training.distill import Teacher
        from .training.distill import distill as run
        from .training.recipe import Recipe

        result = run(
            Teacher.load(teacher),
            data,
            output,
            Recipe.load(recipe),
            minutes=minutes,
            epochs=epochs,
            seed=seed,
            limit_steps=steps,
            cpu=cpu,
        )
    typer.echo(f"{result.checkpoint}: {result.accuracy:.1%} on public_test after {result.epochs} epochs")


@contextlib.contextmanager
def failing_on_bad_training() -> Iterator[None]:
    """`failing_on_bad_input`, and the other ways in which training ends with a sentence."""
    with failing_on_bad_input(), _training_extra():
        from .training.train import TrainingError

        try:
            yield
        except TrainingError as error:
            warn(str(error))
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            warn("interrupted: the same command goes on after the last whole epoch")
            raise typer.Exit(130) from None


@main.command()
def demo(
    checkpoint: Annotated[str | None, typer.Option(help="Folder or Hub id. The bundled one when not given.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other computers in.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port to listen on. The next free one from 7860 if not given.")
    ] = None,
    share: Annotated[bool, typer.Option("--share", help="Ask gradio for a public address.")] = False,
) -> None:
    """
    Opens the page: photos and camera, with probability charts and attention maps. Ctrl-C ends it.
    """
    from .demo import serve

    with failing_on_bad_input():
        serve(checkpoint, host, port, share)


@main.command()
def convert(
    source: Annotated[
        str, typer.Argument(help="The authors' file, or owner/name on the Hub (owner/name/file names both).")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    file: Annotated[str | None, typer.Option(help="The file in the Hub repository.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the Hub repository.")] = None,
) -> None:
    """
    Turns weights of the original network, a pickle, into a checkpoint of safetensors. Runs no code of the pickle.
    """
    with failing_on_bad_input():
        from .convert import convert as run

        folder = run(source, out, filename=file, revision=revision)
    typer.echo(f"{folder}: RMNModel.from_pretrained({str(folder)!r}) loads it")


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
        from . import BUNDLED_CHECKPOINT
        from .benchmark import BATCH_SIZES, FORMS, load, table
        from .benchmark import benchmark as run

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


@main.command()
def publish(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of the checkpoint, with its README.md.")],
    repo_id: Annotated[str, typer.Argument(help="owner/name on the Hub; made when it is not there.")],
    revision: Annotated[str | None, typer.Option(help="Branch to upload to.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository a private one.")] = False,
) -> None:
    """
    Uploads a checkpoint to the Hub with its card and its code, so that it runs without rmn-hub as well.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with failing_on_bad_input():
        from .publish import publish as run

        address = run(checkpoint, repo_id, revision=revision, private=private or None)
    typer.echo(address)
