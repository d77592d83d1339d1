"""`rmn-hub demo`: the page on one's own computer."""

from typing import Annotated

import typer

from .shared import USE, examples, fail, failing_on_bad_input, main


@main.command(
    rich_help_panel=USE,
    epilog=examples("rmn-hub demo --open", "rmn-hub demo --host 0.0.0.0 --port 7861", "rmn-hub demo --mcp"),
)
def demo(
    checkpoint: Annotated[
        list[str] | None, typer.Option(metavar="<str>", help="Folder or Hub id; the bundled one when not given.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; 127.0.0.1 if not given, 0.0.0.0 lets other computers in.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port to listen on. The next free one from 7860 if not given.")
    ] = None,
    share: Annotated[bool, typer.Option("--share", help="Ask gradio for a public address.")] = False,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    mcp: Annotated[
        bool, typer.Option("--mcp", help="Offer language models the tool `predict`, over MCP (rmn-hub[mcp]).")
    ] = False,
) -> None:
    """Serve the page: photos and camera, with probability charts and attention maps. Ctrl-C ends it."""
    from rmn_space.start import main as serve

    if checkpoint and len(checkpoint) > 1:
        fail("--checkpoint must be given once: the page is of one network")
    with failing_on_bad_input("demo"):
        serve(checkpoint[0] if checkpoint else None, host, port, share, open_browser, mcp)
