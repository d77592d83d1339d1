"""cli.demo"""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    pass
from .shared import failing_on_bad_input, main


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
    from rmn_space.start import main as serve

    with failing_on_bad_input():
        serve(checkpoint, host, port, share)
