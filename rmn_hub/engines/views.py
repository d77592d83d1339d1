"""Views of a face: itself, its mirror image, shifted copies. Their probabilities are averaged."""

from functools import partial
from typing import Any

import numpy as np

from ..errors import InputError
from .engine import Engine, EngineOutput, softmax
from .pixels import mapped, mirrored

# Numbers of views that exist. They come in pairs, so that a face and its mirror image have the same ones.
CHOICES = (1, 2, 6)
# What a recognizer takes unless told otherwise.
VIEWS = 2
# How far the shifted views are moved up and down, as a share of the height: the side of a pixel of 48.
_SHIFT = 1 / 48


def check_views(views: Any) -> int:
    """
    Return the number of views.

    Raises:
        InputError: it is none of `CHOICES`.
    """
    if isinstance(views, bool) or views not in CHOICES:
        raise InputError(f"views={str(views)[:40]} must be {', '.join(map(str, CHOICES[:-1]))} or {CHOICES[-1]}")
    return int(views)


def views_of(pixel_values: np.ndarray, views: int) -> list[np.ndarray]:
    """
    Return the views of faces: with 1, the faces; with 2, their mirror images as well; with 6, both of these moved up
    and down by a 48th of their height as well, the border repeated.

    Args:
        pixel_values: float32 `(N, 3, S, S)`, or an ensemble's.
        views: one of `CHOICES`.

    Returns:
        `views` arrays like `pixel_values`, the first of which is `pixel_values` itself.
    """
    moved = [pixel_values]
    if views > 2:
        moved += [mapped(pixel_values, partial(_moved, way=way)) for way in (-1, 1)]
    return moved if views == 1 else [view for one in moved for view in (one, mirrored(one))]


def run(
    engine: Engine,
    pixel_values: np.ndarray,
    views: int = VIEWS,
    *,
    attention: bool = False,
    features: bool = False,
) -> tuple[EngineOutput, np.ndarray]:
    """
    Run a network on every view of N faces.

    Args:
        engine: the network.
        pixel_values: float32 `(N, 3, S, S)`, or an ensemble's.
        views: one of `CHOICES`.
        attention: whether to return the attention maps of the faces as they are.
        features: whether to return the embeddings of the faces as they are.

    Returns:
        the engine's output for the faces as they are, and the logits of all views, float32 `(views, N, classes)`.
    """
    seen = views_of(pixel_values, views)
    wanted = {"features": True} if features else {}
    if not attention:
        output = engine(np.concatenate(seen), **wanted)
        logits = output.logits.reshape(views, len(pixel_values), -1)
        own = None if output.features is None else output.features[: len(pixel_values)]
        return EngineOutput(logits[0], features=own), logits
    # Maps of the other views would be thrown away.
    output = engine(pixel_values, attention=True, **wanted)
    others = [engine(np.concatenate(seen[1:])).logits] if views > 1 else []
    logits = np.concatenate([output.logits, *others]).reshape(views, len(pixel_values), -1)
    return output, logits


def averaged(logits: np.ndarray) -> np.ndarray:
    """Return the mean over views of the softmax of logits `(views, N, classes)`: float64 `(N, classes)`."""
    return softmax(logits).mean(0)


def _moved(values: np.ndarray, way: int) -> np.ndarray:
    rows = np.arange(values.shape[2])
    return values[:, :, (rows + way * max(1, round(_SHIFT * len(rows)))).clip(0, rows[-1])]


__all__ = ["CHOICES", "VIEWS", "averaged", "check_views", "run", "views_of"]
