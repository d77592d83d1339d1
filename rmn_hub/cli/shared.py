"""What the commands share: the program itself, its panels and common options, and how a command ends."""

import contextlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand
from typer.models import ArgumentInfo

from ..files import readable
from ..progress import Progress

USE, TRAIN, PUBLISH = "Use", "Train", "Publish"
# What an output is called that goes to stdout.
STDOUT = Path("-")
# What training and evaluation import for their numbers and figures, when most of the work is done.
FOR_NUMBERS = ("matplotlib", "scipy", "sklearn")

main = typer.Typer(
    name="rmn-hub",
    help="Facial expressions with the Residual Masking Network. An expression is what a face shows, not a feeling.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)

Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; the GPU when there is one.")]


def no_stdout(path: Any) -> Any:
    """Refuse `-` for an output that does not go to stdout, before a file or folder of that name is made."""
    if str(path) == str(STDOUT):
        raise typer.BadParameter("- is stdout, where this output does not go: give a path")
    return path


def no_media(path: Any) -> Any:
    """
    Refuse the name of an image or a film for an output that is neither.

    After `--csv *.jpg` it is that of an input: the shell has put the first one behind the option.
    """
    if path is not None:
        from ..images import SUFFIXES
        from .inputs import VIDEO_SUFFIXES

        suffix = Path(path).suffix
        if suffix.lower() in SUFFIXES | VIDEO_SUFFIXES:
            raise typer.BadParameter(
                f"{path} must not be the name of an image or a film: {suffix} is not of this output"
            )
    return path


def no_stdout_no_media(path: Any) -> Any:
    """Refuse both `-` and the name of an image or a film."""
    return no_media(no_stdout(path))


def counted(number: int, thing: str) -> str:
    """Return how many there are of a thing, in words: `1 face`, `1,200 faces`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def examples(*lines: str) -> str:
    """Return command lines as the end of a command's help."""
    return "\n\n".join(["[bold]Examples[/bold]", *lines])


def fail(sentence: str) -> NoReturn:
    """End the command with one sentence on stderr and exit code 2: the input or the usage was wrong."""
    warn(sentence)
    raise typer.Exit(2)


def warn(sentence: str) -> None:
    """Print one sentence on stderr."""
    typer.echo(f"rmn-hub: {printable(in_options(sentence))}", err=True)


@contextlib.contextmanager
def failing_on_bad_input(extra: str | None = None, needs: Iterable[str] = ()) -> Iterator[None]:
    """
    End the command with the sentence of an error of the block: exit code 1 for a failed training run, 2 for any other.

    Args:
        extra: the optional part of the package that the block needs, which a missing module's sentence names.
        needs: modules that the block imports only when much of its work is done: a missing one ends the command first.
    """
    from ..errors import RMNError, TrainingError

    # Not imported yet: the order of imports decides how threads are shared between torch and scikit-learn.
    for module in needs:
        if importlib.util.find_spec(module) is None:
            fail(_missing(module, extra))
    try:
        yield
    except TrainingError as error:
        warn(str(error))
        raise typer.Exit(1) from None
    except RMNError as error:
        fail(str(error))
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if not module or module.startswith("rmn_"):
            raise
        fail(_missing(module, extra))


def _missing(module: str, extra: str | None) -> str:
    package = {"PIL": "pillow", "yaml": "pyyaml"}.get(module, module)
    wanted = f"'rmn-hub[{extra}]'" if extra else package
    return f"this command needs {package}: install it with `pip install {wanted}`"


def printable(text: str) -> str:
    """Return `text` without the bytes that are not UTF-8 and the control characters that a file name may hold."""
    text = readable(text)
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def in_options(sentence: str) -> str:
    """
    Return a sentence of the library in the words of the command line: `min_face=20` becomes `--min-face 20`.

    A name without an underscore is an English word, too (device, margin): it counts with its value only.
    """

    def option(match: re.Match[str]) -> str:
        name, value = match["name"], match["value"]
        if name not in names or ("_" not in name and value is None):
            return match[0]
        flag = "--" + name.replace("_", "-")
        return flag if value in (None, "True", "False", "None") else f"{flag} {value.strip(chr(39))}"

    callbacks = [command.callback for command in main.registered_commands if command.callback]
    parameters = [item for callback in callbacks for item in inspect.signature(callback).parameters.values()]
    names = {item.name for item in parameters if not _is_argument(item)}
    # Not in the middle of a path, nor before the suffix of a file.
    return re.sub(
        r"(?<![\w/\\.=-])(?P<name>[a-z]+(?:_[a-z]+)*)(?:=(?P<value>'[^']*'|[^\s,;:)]+))?(?![\w/\\=-]|\.\w)",
        option,
        sentence,
    )


def _is_argument(parameter: inspect.Parameter) -> bool:
    """Return whether a parameter of a command stands without a flag on the command line."""
    return any(isinstance(item, ArgumentInfo) for item in getattr(parameter.annotation, "__metadata__", ()))


class OptionalJsonFile(TyperCommand):
    """A command whose `--json` may stand without a file: the JSON then goes to stdout (`-`)."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, with the file that `--json` lacks."""
        for index, word in enumerate(args):
            following = args[index + 1 : index + 2]
            if word == "--json" and (not following or (following[0].startswith("-") and following[0] != "-")):
                args = [*args[: index + 1], "-", *args[index + 1 :]]
                break
        return super().parse_args(ctx, args)


@contextlib.contextmanager
def progress_bars() -> Iterator[Progress]:
    """Yield a function `(what is being done, items more, of how many)` behind bars on stderr, on a terminal only."""
    from rich.console import Console
    from rich.progress import Progress as Bars

    with Bars(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bars:
        tasks: dict[str, Any] = {}

        def report(description: str, done: int, total: int) -> None:
            if description not in tasks:
                tasks[description] = bars.add_task(description, total=total)
            bars.advance(tasks[description], done)

        yield report


@main.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        from .. import __version__

        typer.echo(f"rmn-hub {__version__}")
        raise typer.Exit
