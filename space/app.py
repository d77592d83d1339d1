"""The Space's start: `python app.py`. On a computer of one's own, `rmn-hub demo` does the same."""

import argparse
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

with contextlib.suppress(ImportError):
    import spaces  # noqa: F401  (ZeroGPU wants to be imported before torch)

from rmn_space.start import main

# Where `rmn-hub publish` puts a checkpoint that is not the bundled one.
CHECKPOINT = Path(__file__).resolve().parent / "checkpoint"


def _arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    on_a_space = "SPACE_ID" in os.environ
    parser.add_argument(
        "--checkpoint",
        default=str(CHECKPOINT) if CHECKPOINT.is_dir() else None,
        help="folder or Hub id; checkpoint/ beside this file, or the bundled checkpoint, when not given",
    )
    parser.add_argument("--host", default="0.0.0.0" if on_a_space else "127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=7860 if on_a_space else None, help="port to listen on")
    parser.add_argument("--share", action="store_true", help="ask gradio for a public address")
    parser.add_argument("--mcp", action="store_true", help="offer a tool to language models (rmn-hub[mcp])")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(**vars(_arguments()))
