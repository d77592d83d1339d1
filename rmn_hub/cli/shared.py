"""cli.shared"""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    pass


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
    from ..errors import InputError

    try:
        yield
    except InputError as error:
        fail(str(error))


@main.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        from .. import __version__

        typer.echo(f"rmn-hub {__version__}")
        raise typer.Exit


def _printable(text: str) -> str:
    """`text` without the bytes that are no UTF-8 and the control characters that a file name may hold."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


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


@contextlib.contextmanager
def failing_on_bad_training() -> Iterator[None]:
    """`failing_on_bad_input`, and the other ways in which training ends with a sentence."""
    with failing_on_bad_input(), _training_extra():
        from ..errors import TrainingError

        try:
            yield
        except TrainingError as error:
            warn(str(error))
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            warn("interrupted: the same command goes on after the last whole epoch")
            raise typer.Exit(130) from None
