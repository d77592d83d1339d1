"""The recognizer's settings as options, for the commands that take images or films: `predict`, `batch` and `video`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..recognizer import ExpressionRecognizer

# Panels of the help.
FACES, NETWORK = "Faces", "Network"

FacesOnly = Annotated[
    bool, typer.Option("--faces-only", rich_help_panel=FACES, help="Each image is a face: no detection.")
]
MinFace = Annotated[
    int | None,
    typer.Option(
        min=12,
        rich_help_panel=FACES,
        help="Smallest face in pixels. 40 when not given, more on photos above 2560 pixels.",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(min=0, max=1, rich_help_panel=FACES, help="Drop faces of which the detector is less sure than this."),
]
MaxFaces = Annotated[int | None, typer.Option(min=1, rich_help_panel=FACES, help="Most faces per image, the largest.")]
Margin = Annotated[
    float | None,
    typer.Option(rich_help_panel=FACES, help="How much wider than its box a face is cut out, as a share of it."),
]
Checkpoints = Annotated[
    list[str] | None,
    typer.Option(
        rich_help_panel=NETWORK, help="Folder or Hub id; the bundled one when not given. Give it again for an ensemble."
    ),
]
MaxPixels = Annotated[int | None, typer.Option(min=1, rich_help_panel=FACES, help="Refuse larger images.")]
MinConfidence = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        rich_help_panel=NETWORK,
        help="Mark expressions less probable than this as uncertain; 0.5 when not given.",
    ),
]
Revision = Annotated[
    str | None, typer.Option(rich_help_panel=NETWORK, help="Branch, tag or commit of the checkpoint on the Hub.")
]
LocalFilesOnly = Annotated[bool, typer.Option("--local-files-only", rich_help_panel=NETWORK, help="Never ask the Hub.")]
EngineName = Annotated[str | None, typer.Option(rich_help_panel=NETWORK, help="auto, torch or onnx.")]
Upright = Annotated[
    bool | None,
    typer.Option(
        "--upright/--no-upright",
        rich_help_panel=FACES,
        help="Turn faces upright by their eyes, as is done unless told not to.",
    ),
]
Views = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=NETWORK, help="Average the face alone (1), with its mirror image (2, the default), or 6 views."
    ),
]
BatchSize = Annotated[int | None, typer.Option(min=1, rich_help_panel=NETWORK, help="Most faces at once.")]


def load(
    checkpoint: Sequence[str] | None, revision: str | None, local_files_only: bool, settings: dict[str, Any]
) -> "ExpressionRecognizer":
    """
    Return the recognizer; settings that are not given are the library's.

    Raises:
        InputError: a checkpoint cannot be loaded, a setting is out of range, or there is no Hub id for `revision`.
    """
    from .. import BUNDLED_CHECKPOINT
    from ..errors import InputError
    from ..images import is_folder
    from ..recognizer import ExpressionRecognizer

    if revision is not None and all(is_folder(Path(name)) for name in checkpoint or ()):
        raise InputError(
            f"revision={revision!r} must come with a Hub id: a folder and the bundled checkpoint have none"
        )
    return ExpressionRecognizer.from_pretrained(
        checkpoint or BUNDLED_CHECKPOINT,
        revision=revision,
        local_files_only=local_files_only,
        **{name: value for name, value in settings.items() if value is not None},
    )
