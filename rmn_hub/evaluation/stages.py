"""What the steps of one photo cost, each by itself: `rmn-hub benchmark --image`."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..images import load_image
from ..recognizer import ExpressionRecognizer
from .benchmark import take_turns


@dataclass(frozen=True)
class Stages:
    """
    What a photo costs, step by step.

    Args:
        width: of the photo in pixels.
        height: of the photo in pixels.
        faces: how many the detector finds.
        engine: the name of what classifies them.
        milliseconds: median time of `decode`, `detect` (one look at the photo as it is), `crop and classify` (all
            faces, in the recognizer's views) and of `all`.
    """

    width: int
    height: int
    faces: int
    engine: str
    milliseconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers ready for JSON."""
        return asdict(self)


def measure_stages(
    checkpoint: str | os.PathLike[str], image: str | Path, *, seconds: float = 2.0, device: str | None = None
) -> Stages:
    """
    Measure the steps from a file to probabilities, in turns, with the recognizer's default settings.

    Args:
        checkpoint: a folder or a Hub id.
        image: the file.
        seconds: about how long each step runs.
        device: where the networks run; as the recognizer chooses when not given.

    Raises:
        InputError: the checkpoint, the image or the device cannot be used.
    """
    recognizer = ExpressionRecognizer.from_pretrained(checkpoint, device=device)
    loaded, result = load_image(image), recognizer(image)
    faces = [face.face for face in result]
    costs = take_turns(
        {
            "decode": lambda: load_image(image),
            "detect": lambda: recognizer.detector.detect([loaded.image]),
            "crop and classify": lambda: recognizer(loaded.image, boxes=faces),
            "all": lambda: recognizer(image),
        },
        seconds,
    )
    milliseconds = {name: cost.milliseconds for name, cost in costs.items()}
    return Stages(loaded.width, loaded.height, len(faces), recognizer.engine.name, milliseconds)


__all__ = ["Stages", "measure_stages"]
