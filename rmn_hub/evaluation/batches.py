"""Faces in batches of pixel values."""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
from PIL import Image

from ..engines.ensemble import Processor


def pixel_batches(processor: Processor, faces: Iterable[Image.Image], batch_size: int) -> Iterator[np.ndarray]:
    """Yield the pixel values of all faces in their order, float32 `(batch, 3, S, S)`, or the records of an ensemble."""
    images = iter(faces)
    while batch := list(islice(images, batch_size)):
        yield processor(batch)


__all__ = ["pixel_batches"]
