"""The Space's start: `python app.py`, or `rmn-hub demo`."""

import argparse
import contextlib
import os
from collections.abc import Sequence

with contextlib.suppress(ImportError):
    import spaces  # noqa: F401  (ZeroGPU wants to be imported before torch)

from rmn_space.folder import PrivateFolder


def main(checkpoint: str | None = None, host: str = "127.0.0.1", port: int | None = None, share: bool = False) -> None:
    """
    Serves the page until the process is told to stop.

    Args:
        checkpoint: folder or Hub id; the bundled checkpoint when not given.
        host: address to listen on.
        port: port to listen on; the next free one from 7860 when not given.
        share: whether to ask gradio for a public address.

    Raises:
        rmn_hub.results.InputError: the checkpoint cannot be loaded, the port is taken, or uploads have no folder.
    """
    # These are read when torch and gradio are imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        folder = PrivateFolder()
    except OSError as error:
        from rmn_hub.results import InputError

        raise InputError(f"the page has no folder to write to: {error}") from error
    folder.use()
    try:
        from rmn_space.page import serve
        from rmn_space.service import Service

        serve(Service(checkpoint), folder, host, port, share)
    finally:
        folder.remove()


def _arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    on_a_space = "SPACE_ID" in os.environ
    parser.add_argument("--checkpoint", help="folder or Hub id; the bundled checkpoint when not given")
    parser.add_argument("--host", default="0.0.0.0" if on_a_space else "127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=7860 if on_a_space else None, help="port to listen on")
    parser.add_argument("--share", action="store_true", help="ask gradio for a public address")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(**vars(_arguments()))
