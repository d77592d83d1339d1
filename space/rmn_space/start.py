"""How the page is started: the private folder first, then gradio, then the page."""

import importlib.util
import os
import socket

from rmn_hub import InputError
from rmn_hub.packages import require

from .folder import PrivateFolder


def main(
    checkpoint: str | None = None,
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
    open_browser: bool = False,
    mcp: bool = False,
) -> None:
    """
    Serve the page until the process receives a signal to stop.

    Args:
        checkpoint: folder or Hub id; the bundled checkpoint when not given.
        host: address to listen on: `"127.0.0.1"` for this computer only, `"0.0.0.0"` for all, `"::1"` and `"::"` the
            same in IPv6; gradio's `GRADIO_SERVER_NAME`, or this computer only, when not given.
        port: port to listen on; `GRADIO_SERVER_PORT`, or the next free one from 7860, when not given.
        share: whether to ask gradio for a public address.
        open_browser: whether to open the page in the user's browser.
        mcp: whether to offer a tool to language models, over MCP (the extra `mcp`).

    Raises:
        InputError: gradio or (with `mcp`) the package mcp is not installed, the checkpoint cannot be loaded, the port
            is taken, or uploads have no folder.
    """
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the page needs gradio: install it with `pip install 'rmn-hub[demo]'`")
    if mcp:
        require("mcp", "tools for language models (--mcp)", extra="mcp")
    # gradio reads both when it is imported: a name in IPv6 makes it find no free port, a port like "abc" a traceback.
    name, number = (os.environ.pop(f"GRADIO_SERVER_{part}", None) for part in ("NAME", "PORT"))
    host = (host or name or "127.0.0.1").strip("[]")
    if port is None and number:
        if not (number.isascii() and number.isdigit() and 0 < int(number) < 65536):
            raise InputError(f"GRADIO_SERVER_PORT={number[:40]!r} must be a port in 1..65535")
        port = int(number)
    if port is not None:
        _check_free(host, port)
    # These are read when torch and gradio are imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        folder = PrivateFolder()
    except OSError as error:
        raise InputError(f"the page has no folder to write to: {error}") from error
    folder.use()
    try:
        from .page import serve
        from .service import Service

        serve(Service(checkpoint), folder, host, port, share, open_browser, mcp)
    finally:
        folder.remove()


def _check_free(host: str, port: int) -> None:
    """Raise `InputError` for a port that is taken: before half a minute of loading, not after it."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"port {port} of {host} cannot be used ({reason}): choose another --port or --host") from error
