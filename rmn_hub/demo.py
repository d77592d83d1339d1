"""Starts the page of `space/` from wherever this package is: a checkout has the folder beside it, a wheel inside."""

import importlib.util
import socket
import sys
from pathlib import Path

from .results import InputError

INSTALLED = Path(__file__).resolve().parent / "_space"
CHECKOUT = Path(__file__).resolve().parents[1] / "space"


def space_folder() -> Path:
    """
    The folder of the page, with its `app.py`.

    Raises:
        InputError: there is none.
    """
    for folder in (INSTALLED, CHECKOUT):
        if (folder / "app.py").is_file():
            return folder
    raise InputError("the page is missing from this installation: install rmn-hub again")


def serve(checkpoint: str | None = None, host: str = "127.0.0.1", port: int | None = None, share: bool = False) -> None:
    """
    Serves the page until the process is told to stop.

    Args:
        checkpoint: folder or Hub id; the bundled checkpoint when not given.
        host: address to listen on: `"127.0.0.1"` for this computer only, `"0.0.0.0"` for all.
        port: port to listen on; the next free one from 7860 when not given.
        share: whether to ask gradio for a public address.

    Raises:
        InputError: gradio is not installed, the checkpoint cannot be loaded, or the port is taken.
    """
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the page needs gradio: install it with `pip install 'rmn-hub[demo]'`")
    if port is not None:
        _check_free(host, port)
    folder = space_folder()
    # As `python app.py` does it: the page's own package lies beside app.py, as a Space wants it.
    sys.path.insert(0, str(folder))
    specification = importlib.util.spec_from_file_location("rmn_hub_space", folder / "app.py")
    app = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(app)
    app.main(checkpoint, host, port, share)


def _check_free(host: str, port: int) -> None:
    """Before half a minute of loading, not after it."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"port {port} of {host} cannot be used ({reason}): choose another --port or --host") from error


__all__ = ["serve", "space_folder"]
