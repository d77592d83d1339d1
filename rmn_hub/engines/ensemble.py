"""The unweighted ensemble: several engines, whose probabilities are averaged (section IV-D of the paper sums them)."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image

from ..errors import InputError
from .engine import Engine, EngineOutput, has_features, softmax
from .pixels import PixelProcessor

# Least probability whose logarithm is taken: that of 0 would be infinite, and no loss or figure could use it.
_TINY = 1e-30


class EnsembleProcessor:
    """
    Turn face crops into the pixel values of every member of an ensemble, each resized from the crop itself.

    Args:
        processors: what makes the pixel values, one for each kind that the members need.
    """

    def __init__(self, processors: Sequence[PixelProcessor]) -> None:
        self.processors = tuple(processors)

    def __call__(self, crops: Sequence[Image.Image]) -> np.ndarray:
        """
        Return a structured array `(N,)`: a record per crop, with a field of float32 `(3, S, S)` for each processor, of
        that processor's S. `mirrored` of `engines.pixels` mirrors it.

        Args:
            crops: PIL images of the modes RGB or L, at least one.
        """
        parts = [processor(crops) for processor in self.processors]
        records = np.empty(len(crops), [(str(number), np.float32, part.shape[1:]) for number, part in enumerate(parts)])
        for number, part in enumerate(parts):
            records[str(number)] = part
        return records


# What makes the pixel values that an engine takes.
Processor: TypeAlias = PixelProcessor | EnsembleProcessor


class EnsembleEngine:
    """
    Average the probabilities of several networks. The logits are the logarithms of the means, so that their softmax is
    the mean. An ensemble has no masks: the members' are of different features. Its features are the members', one after
    the other, where all of them have some.

    Args:
        members: engines with the same classes in the same order, and the image processing that belongs to each.

    Raises:
        InputError: there are no members, or their classes differ.
    """

    name = "ensemble"
    has_masks = False

    def __init__(self, members: Sequence[tuple[Engine, PixelProcessor]]) -> None:
        if not members:
            raise InputError("members=[] must hold at least one network")
        self.expressions: tuple[str, ...] = members[0][0].expressions
        for engine, _ in members:
            if engine.expressions != self.expressions:
                raise InputError(
                    "members must have the same classes in the same order, not "
                    f"{', '.join(self.expressions)} and {', '.join(engine.expressions)}"
                )
        self.image_size: int = max(engine.image_size for engine, _ in members)
        self.device = getattr(members[0][0], "device", "cpu")
        self.has_features = all(has_features(engine) for engine, _ in members)
        # Members of the same size share their pixel values.
        kinds: list[PixelProcessor] = []
        for _, processor in members:
            if processor not in kinds:
                kinds.append(processor)
        self.processor = EnsembleProcessor(kinds)
        self._members = [(engine, str(kinds.index(processor))) for engine, processor in members]

    def __call__(self, pixel_values: np.ndarray, *, attention: bool = False, features: bool = False) -> EngineOutput:
        """
        Run every member on what the ensemble's `processor` has made; see [`Engine`]. There are no maps.

        Raises:
            InputError: `pixel_values` are of another processor, or `features` are asked of members without.
        """
        if pixel_values.dtype.names != tuple(map(str, range(len(self.processor.processors)))):
            raise InputError("pixel_values must be made by the processor of this ensemble")
        wanted = {"features": True} if features else {}
        outputs = [engine(pixel_values[field], **wanted) for engine, field in self._members]
        mean = sum(softmax(output.logits) for output in outputs) / len(outputs)
        pooled = np.concatenate([output.features for output in outputs], 1) if features else None
        return EngineOutput(np.log(np.maximum(mean, _TINY)).astype(np.float32), features=pooled)


def combined(members: Sequence[tuple[Engine, PixelProcessor]]) -> tuple[Engine, Processor]:
    """
    Return one engine and one processor for several: their ensemble, or the only one as it is.

    Raises:
        InputError: there are no members, or their classes differ.
    """
    if len(members) == 1:
        return members[0]
    ensemble = EnsembleEngine(members)
    return ensemble, ensemble.processor


__all__ = ["EnsembleEngine", "EnsembleProcessor", "Processor", "combined"]
