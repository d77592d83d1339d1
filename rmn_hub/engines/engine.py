"""The protocol of every engine: pixel values in, logits and maps out, numpy on both sides."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..errors import InputError


@dataclass(frozen=True, eq=False)
class EngineOutput:
    """
    What an engine returns for a batch of N crops. `maps`, `before` and `after` are empty unless attention was asked
    for; the spatial size of each entry is that of its stage's features. `features` is `None` unless they were.

    Args:
        logits: float32 `(N, classes)`.
        maps: per stage, float32 `(N, H, W)`, 0 or more: sqrt(mean over channels of (m t)^2), the distance between the
            features after and before masking (equation 1 of the paper).
        before: per stage, float32 `(N, H, W)`: mean over channels of |t|, the features before masking.
        after: per stage, float32 `(N, H, W)`: mean over channels of |b|, the features after masking.
        features: float32 `(N, D)`: the embedding of each crop, the mean over places of the last stage's features after
            masking, of which the classifier makes the logits. D is 256 in the bundled network.
    """

    logits: np.ndarray
    maps: tuple[np.ndarray, ...] = ()
    before: tuple[np.ndarray, ...] = ()
    after: tuple[np.ndarray, ...] = ()
    features: np.ndarray | None = None


@runtime_checkable
class Engine(Protocol):
    """
    A network in a runtime. One that can return features has a further attribute, `has_features`, which is true, and
    takes a further argument, `features=True`.

    Attributes:
        name: `"torch"` or `"onnx"`.
        expressions: the classes, in the order of the logits.
        image_size: height and width of the pixel values in pixels.
        has_masks: whether the network has masks to show.
    """

    name: str
    expressions: tuple[str, ...]
    image_size: int
    has_masks: bool

    def __call__(self, pixel_values: np.ndarray, *, attention: bool = False) -> EngineOutput:
        """
        Run the network on float32 `(N, 3, image_size, image_size)` in 0..1, N of at least 1.

        The outputs of one crop do not depend on the other crops of its batch beyond rounding (1e-5).
        """
        ...


def has_features(engine: Engine) -> bool:
    """Return whether an engine can return features: an engine of the caller's own may not have the attribute."""
    return getattr(engine, "has_features", False) is True


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits: the softmax over the last axis, in double precision."""
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def check_softmax(classes: int, problem_type: Any = None) -> None:
    """
    Check that a network's logits become probabilities by [`softmax`].

    Args:
        classes: the number of its logits.
        problem_type: that of its configuration.

    Raises:
        InputError: they do not.
    """
    if problem_type not in (None, "single_label_classification"):
        raise InputError(
            f"problem_type={str(problem_type)[:80]!r} must be 'single_label_classification' or not set: each face is "
            "given one expression. Call the network itself."
        )
    if classes < 2:
        raise InputError(
            "the network must have at least two classes: the probability of a single one would be 1 for each face. "
            "Call the network itself."
        )


__all__ = ["Engine", "EngineOutput", "check_softmax", "has_features", "softmax"]
