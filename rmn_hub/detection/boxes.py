"""Arithmetic on boxes: float32 arrays `(N, 4)` of `(x0, y0, x1, y1)`."""

import numpy as np

# Boxes that are compared with each other at once. Suppression of N boxes takes this times N numbers, not N times N.
_BLOCK = 256


def moved(boxes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return boxes with their four coordinates moved by `offsets`, in parts of their width and height."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    return boxes + offsets * np.concatenate([sizes, sizes], axis=1)


def squares(boxes: np.ndarray) -> np.ndarray:
    """Return the squares of the longer side around the same centres."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / np.float32(2)
    halves = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / np.float32(2)
    return np.concatenate([centres - halves, centres + halves], axis=1)


def best(scores: np.ndarray, most: int) -> np.ndarray:
    """Return the indices of the `most` highest scores, or of all where there are fewer, highest first."""
    return np.argsort(-scores, kind="stable")[:most]


def suppress(boxes: np.ndarray, scores: np.ndarray, overlap: float, *, of_smaller: bool = False) -> np.ndarray:
    """
    Return the indices of the boxes that non-maximum suppression keeps, highest score first.

    Args:
        boxes: float32 `(N, 4)`.
        scores: float32 `(N,)`.
        overlap: a box is dropped when it shares more than this with a kept box of a higher score.
        of_smaller: whether the shared area counts against the smaller of the two boxes instead of against their union:
            of a face and a part of it, one goes.
    """
    order = best(scores, len(scores))
    kept = np.empty(0, np.intp)
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        if len(kept):
            block = block[~(_shares(boxes[block], boxes[kept], of_smaller) > overlap).any(axis=1)]
        clashes = _shares(boxes[block], boxes[block], of_smaller) > overlap
        # Each row as one whole number, whose bit i stands for box i: a step of the loop is one operation on it.
        rows = [int.from_bytes(row.tobytes(), "little") for row in np.packbits(clashes, axis=1, bitorder="little")]
        dropped, chosen = 0, []
        for place, row in enumerate(rows):
            if not dropped >> place & 1:
                chosen.append(place)
                dropped |= row
        kept = np.concatenate([kept, block[chosen]])
    return kept


def _shares(boxes: np.ndarray, others: np.ndarray, of_smaller: bool) -> np.ndarray:
    """Return the shared area of each box with each of the others, `(N, M)`, as a part of the union or the smaller."""
    width = np.minimum(boxes[:, None, 2], others[None, :, 2]) - np.maximum(boxes[:, None, 0], others[None, :, 0])
    height = np.minimum(boxes[:, None, 3], others[None, :, 3]) - np.maximum(boxes[:, None, 1], others[None, :, 1])
    shared = width.clip(min=0) * height.clip(min=0)
    areas, other_areas = (((some[:, 2] - some[:, 0]) * (some[:, 3] - some[:, 1]))[:, None] for some in (boxes, others))
    whole = np.minimum(areas, other_areas.T) if of_smaller else areas + other_areas.T - shared
    # Boxes without an area share nothing.
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


__all__ = ["best", "moved", "squares", "suppress"]
