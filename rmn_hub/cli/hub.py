"""`rmn-hub convert`, `card` and `publish`: checkpoints in and out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .shared import PUBLISH, examples, fail, failing_on_bad_input, main, no_stdout, no_stdout_no_media


@main.command(
    rich_help_panel=PUBLISH,
    epilog=examples(
        "rmn-hub convert phamquiluan/ResidualMaskingNetwork original/",
        "rmn-hub convert rmn.pth mine/",
        "rmn-hub convert resnet34.pth start/ --trunk",
    ),
)
def convert(
    source: Annotated[
        str, typer.Argument(help="The authors' file, or owner/name on the Hub (owner/name/file names both).")
    ],
    out: Annotated[Path, typer.Argument(callback=no_stdout, help="Folder to make.")],
    file: Annotated[
        str | None,
        typer.Option(help="The file in the Hub repository; the authors' in theirs and in py-feat/resmasknet."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the Hub repository.")] = None,
    trunk: Annotated[
        bool, typer.Option("--trunk", help="The source is a ResNet34 or dlib's face network, to start a training from.")
    ] = False,
    faces: Annotated[
        Path | None, typer.Option(help="With --trunk: folder of face crops that set the statistics of every BatchNorm.")
    ] = None,
) -> None:
    """Turn weights of the original network, a pickle, into a checkpoint of safetensors. Run no code of the pickle."""
    if revision is not None and Path(source).exists():
        fail(f"--revision {revision} must come with a Hub id: {source} is on this disk")
    with failing_on_bad_input():
        if trunk:
            from ..hub.trunk import convert_trunk

            folder = convert_trunk(source, out, filename=file, revision=revision, faces=faces)
        else:
            from ..hub.convert import convert as run

            folder = run(source, out, filename=file, revision=revision)
    typer.echo(f"{folder}: RMNModel.from_pretrained({str(folder)!r}) loads it")


@main.command(
    rich_help_panel=PUBLISH,
    epilog=examples(
        "rmn-hub card runs/mine/best --licence cc-by-nc-4.0",
        "rmn-hub card runs/mine/best --peer fer.json --ablation on.json --ablation off.json",
    ),
)
def card(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of the checkpoint, with its eval.json.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            callback=no_stdout_no_media,
            help="Write the card here as well as to the checkpoint's README.md.",
        ),
    ] = None,
    ablation: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Results of networks with and without masks to compare; give it twice."),
    ] = None,
    peer: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Results of another network or an ensemble on the same faces, for the table."
        ),
    ] = None,
    repo_id: Annotated[
        str | None, typer.Option("--id", help="owner/name on the Hub that the card's code loads; `publish` sets it.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", "--license", help="Of the weights, as the Hub abbreviates it: mit, ...")
    ] = None,
    demo: Annotated[
        str | None, typer.Option(metavar="OWNER/SPACE", help="The Space that the card links to; `publish` keeps it.")
    ] = None,
) -> None:
    """Write the model card, and evaluation.md beside it, from the numbers in the checkpoint's folder."""
    with failing_on_bad_input("train"):
        from ..evaluation.ablation import write_ablation
        from ..hub.card import write_card

        if ablation:
            write_ablation(checkpoint, ablation)
        for path in write_card(checkpoint, out, repo_id=repo_id, licence=licence, demo=demo, peers=peer or ()):
            typer.echo(f"wrote {path}")


@main.command(
    rich_help_panel=PUBLISH,
    epilog=examples(
        "rmn-hub publish runs/mine/best OWNER/NAME --private --revision next",
        "rmn-hub publish OWNER/NAME OWNER/SPACE --space cpu",
        "rmn-hub publish page/ OWNER/SPACE --space static --model OWNER/NAME",
    ),
)
def publish(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="Folder of the checkpoint, with its README.md. With --space cpu and zerogpu, a folder or Hub id; with "
            "static, the folder of the page."
        ),
    ],
    repo_id: Annotated[str, typer.Argument(help="owner/name on the Hub; made when it is not there.")],
    revision: Annotated[str | None, typer.Option(help="Branch to upload to.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository a private one.")] = False,
    space: Annotated[
        str | None,
        typer.Option(
            metavar="cpu|zerogpu|static",
            help="Upload the page of `rmn-hub demo` as a Space that runs the checkpoint, or (static) the folder of "
            "`rmn-hub export --browser`.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="With --space: the checkpoint that the Space links to.")
    ] = None,
    demo: Annotated[
        str | None, typer.Option(metavar="OWNER/SPACE", help="Without --space: the Space that the card links to.")
    ] = None,
) -> None:
    """Upload a checkpoint to the Hub with its card and its code, so that it runs without rmn-hub as well."""
    if space not in (None, "cpu", "zerogpu", "static"):
        fail(f"--space {space} must be cpu, zerogpu or static")
    if model is not None and space is None:
        fail("--model belongs to --space")
    if demo is not None and space is not None:
        fail("--demo and --space exclude each other: the card of a checkpoint links to a Space")
    where: dict[str, Any] = {"revision": revision, "private": private or None}
    with failing_on_bad_input():
        if space is None:
            from ..hub.publish import publish as run

            address = run(Path(checkpoint), repo_id, demo=demo, **where)
        elif space == "static":
            from ..hub.space import publish_page

            address = publish_page(checkpoint, repo_id, model=model, **where)
        else:
            from ..hub.gradio_space import publish_space

            address = publish_space(checkpoint, repo_id, space, model=model, **where)
    typer.echo(address)
