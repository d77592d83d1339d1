"""MTCNN (Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks", 2016)."""

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from ..errors import InputError
from ..results import Box, Face
from ..sessions import available_cores
from .boxes import best, moved, squares, suppress
from .detector import MARGIN
from .networks import CascadeNetworks, OnnxNetworks, Runtime, load_networks
from .pyramid import Pyramid

# Faces that are smaller than this in the image that MTCNN sees are mostly missed.
MIN_SEEN = 20
# Default for the smallest face, in pixels of the photo.
MIN_FACE = 40
# MTCNN's own numbers: the window and stride of its first network, the step of the pyramid, thresholds of the first two.
_WINDOW = 12
_STRIDE = 2
_STEP = 0.709
# How much larger the smallest face is in a quicker search: of 150 faces in the wild, 25 to 250 pixels wide, it finds as
# many with a score of 0.995 (127), in half the time.
_LARGER = 1.5
# The pyramid starts a little below the smallest face: at exactly its size one face in five is missed.
_SLACK = 0.85
_PROPOSAL_THRESHOLD = 0.6
_REFINE_THRESHOLD = 0.7
# Most candidates of an image that enter a stage, the best ones. An ordinary photo has some hundred, a tiling of 5,000
# faces more than 10,000, which took 20 GB when nothing bounded them.
_MOST_PROPOSALS = 8192
_MOST_REFINED = 4096
# Pixels of crops that go to a network together: 256 of 24 x 24 pixels, 64 of 48 x 48.
_CROP_PIXELS_AT_ONCE = 256 * 24 * 24
# Images whose pyramids are held at the same time.
_IMAGES_AT_ONCE = 16
# Sizes of the squares around a box in which its face may be now, in parts of its longer side. Of faces that move by up
# to a quarter of their size, squares to the sides find no more, and take a quarter longer.
_SIZES = np.array([0.85, 1.0, 1.2], np.float32)
# Boxes `(N, 4)`, scores `(N,)` and points `(N, 5, 2)`.
_Found: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]


class MTCNNDetector:
    """
    MTCNN with the weights of facenet-pytorch.

    The networks are facenet-pytorch's and the cascade is ours: it finds what `facenet_pytorch.MTCNN` finds in a
    fraction of the time. The pyramid is built level from level instead of from the photo each time, the candidates of
    all images are cut out and classified together instead of one by one, and images of any size can be detected at
    once. At most 4,096 candidates of an image reach the last network.

    A detector can be used from several threads, pickled, and used after a fork.

    Args:
        min_face: smallest face to look for, in pixels of the photo (the longer side of its box); those found may be a
            little smaller. When not given it is 40, or more in photos whose longer side is above `2 * max_size`. Half
            of it takes about four times as long.
        threshold: faces with a lower score (0..1) are dropped.
        max_faces: most faces per image; the largest are kept. All when `None`.
        device: where torch runs the networks: `"cpu"`, `"cuda"`, `"cuda:1"`, ... or a `torch.device`.
        max_size: photos are detected with their longer side reduced to this many pixels, or to as many as it takes
            for a `min_face` that was given.
        runtime: what runs the networks: `"onnx"`, `"torch"`, or `"auto"`: onnxruntime on the CPU where it is
            installed, torch otherwise. Both find the same faces, with boxes within half a pixel.
        threads: with onnxruntime, how many images a recognizer has it look at at the same time, a thread each; as many
            as there are cores when `None`.

    Raises:
        InputError: a setting is out of range, or the runtime is not installed.
    """

    margin = MARGIN

    def __init__(
        self,
        min_face: int | None = None,
        threshold: float = 0.9,
        max_faces: int | None = None,
        device: Any = "cpu",
        max_size: int = 1280,
        runtime: Runtime = "auto",
        threads: int | None = None,
    ) -> None:
        if min_face is not None and not _WINDOW <= min_face < math.inf:
            raise InputError(f"min_face={min_face!r} must be at least {_WINDOW} pixels, or None")
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold={threshold!r} must be in 0..1")
        if max_faces is not None and not max_faces >= 1:
            raise InputError(f"max_faces={max_faces!r} must be at least 1, or None for all")
        if threads is not None and not threads >= 1:
            raise InputError(f"threads={threads!r} must be at least 1, or None for as many as there are cores")
        if not 2 * MIN_FACE <= max_size < math.inf:
            raise InputError(f"max_size={max_size!r} must be at least {2 * MIN_FACE} pixels")
        self.min_face = min_face
        self.threshold = threshold
        self.max_faces = max_faces
        self.device = str(device)
        self.max_size = max_size
        self.networks: CascadeNetworks = load_networks(runtime, self.device)
        # torch has threads of its own for each thread that calls it: they would be too many.
        self.threads = (threads or available_cores()) if isinstance(self.networks, OnnxNetworks) else 1

    def detect(self, images: Sequence[Image.Image]) -> list[list[Face]]:
        """
        Return the faces of each image, largest first.

        The faces of one image do not depend on the other images beyond rounding.
        """
        return self._search(images, 1.0)

    def detect_larger(self, images: Sequence[Image.Image]) -> list[list[Face]]:
        """
        Return the faces of each image, largest first, as [`detect`] does of a `min_face` that is half as large again:
        a search in half the time, which misses next to none of the faces that have a high score.
        """
        return self._search(images, _LARGER)

    def near(self, images: Sequence[Image.Image], boxes: Sequence[Box]) -> list[list[Face]]:
        """
        Return the faces of each image that lie about where a box is: a face that was there a moment ago.

        The first network, which looks for faces everywhere, is left out: a few squares around the box take the place
        of its candidates. For two faces that takes 6 ms of CPU instead of the 16 ms of a search of squares twice as
        large as they are; the boxes are as close to those of a search of the whole image.

        Args:
            images: upright RGB images, each shown to the networks as it is.
            boxes: one for each image, in its pixels.
        """
        if not images:
            return []
        pyramids = [Pyramid(image, _WINDOW) for image in images]
        candidates = [_around(box) for box in boxes]
        return self._in_pixels(images, pyramids, self._cascade(pyramids, candidates))

    def _search(self, images: Sequence[Image.Image], larger: float) -> list[list[Face]]:
        images = list(images)
        found: list[list[Face]] = []
        for start in range(0, len(images), _IMAGES_AT_ONCE):
            found += self._search_together(images[start : start + _IMAGES_AT_ONCE], larger)
        return found

    def _search_together(self, images: list[Image.Image], larger: float) -> list[list[Face]]:
        pyramids, smallest = [], []
        for image in images:
            size, min_face = self._seen(*image.size, larger)
            image = image if image.mode == "RGB" else image.convert("RGB")
            seen = image if size == image.size else image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
            pyramids.append(Pyramid(seen, _WINDOW))
            smallest.append(min_face)
        return self._in_pixels(images, pyramids, self._cascade(pyramids, self._propose(pyramids, smallest)))

    def _in_pixels(
        self, images: Sequence[Image.Image], pyramids: Sequence[Pyramid], results: Sequence[_Found]
    ) -> list[list[Face]]:
        """Return the faces of each image in its pixels, largest first."""
        found = []
        for image, pyramid, result in zip(images, pyramids, results):
            boxes, scores, points = result
            # Back to the photo, whose proportions the rounded size has changed a little.
            factors = np.array(image.size, np.float32) / np.array(pyramid.size, np.float32)
            boxes, points = boxes * np.concatenate([factors, factors]), points * factors
            faces = [
                Face((x0, y0, x1, y1), tuple((x, y) for x, y in five), score)
                for (x0, y0, x1, y1), five, score in zip(boxes.tolist(), points.tolist(), scores.tolist())
                if 0 < (x0 + x1) / 2 < image.width and 0 < (y0 + y1) / 2 < image.height
            ]
            faces.sort(key=lambda face: (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]), reverse=True)
            found.append(faces[: self.max_faces])
        return found

    def _seen(self, width: int, height: int, larger: float) -> tuple[tuple[int, int], float]:
        """
        Return the size at which MTCNN sees a photo of some size, and the smallest face in pixels of that size, `larger`
        times as large as it is by the settings.
        """
        longer = max(width, height)
        if self.min_face is None:
            min_face = larger * max(MIN_FACE, longer * MIN_SEEN / self.max_size)
            scale = min(1.0, self.max_size / longer)
        else:
            min_face = larger * self.min_face
            scale = min(1.0, max(self.max_size / longer, MIN_SEEN / min_face))
        return (max(1, round(width * scale)), max(1, round(height * scale))), min_face * scale

    def _cascade(self, pyramids: list[Pyramid], candidates: list[np.ndarray]) -> list[_Found]:
        """Return what the last two networks make of the squares of each image, in pixels of its pyramid."""
        refined = []
        for boxes, (offsets, scores) in zip(candidates, self._on_crops(self.networks.refine, pyramids, candidates, 24)):
            keep = np.flatnonzero(scores > _REFINE_THRESHOLD)
            keep = keep[suppress(boxes[keep], scores[keep], 0.7)][:_MOST_REFINED]
            refined.append(squares(moved(boxes[keep], offsets[keep])))

        results = []
        for boxes, outputs in zip(refined, self._on_crops(self.networks.output, pyramids, refined, 48)):
            offsets, points, scores = outputs
            keep = np.flatnonzero(scores > self.threshold)
            keep = keep[suppress(moved(boxes[keep], offsets[keep]), scores[keep], 0.7, of_smaller=True)]
            # Five x and then five y, in parts of the square that the network saw.
            corners, sides = boxes[keep, None, :2], boxes[keep, None, 2:] - boxes[keep, None, :2]
            points = corners + sides * points[keep].reshape(-1, 2, 5).swapaxes(1, 2)
            results.append((moved(boxes[keep], offsets[keep]), scores[keep], points))
        return results

    def _propose(self, pyramids: list[Pyramid], smallest: list[float]) -> list[np.ndarray]:
        """Return the squares of each image where the first network, run over every level, finds a face."""
        boxes: list[list[np.ndarray]] = [[np.empty((0, 4), np.float32)] for _ in pyramids]
        scores: list[list[np.ndarray]] = [[np.empty(0, np.float32)] for _ in pyramids]
        levels: dict[tuple[int, int], list[tuple[int, float]]] = defaultdict(list)
        for image, (pyramid, min_face) in enumerate(zip(pyramids, smallest)):
            scale = _WINDOW / (_SLACK * min_face)
            while min(pyramid.size) * scale >= _WINDOW:
                levels[round(pyramid.size[0] * scale), round(pyramid.size[1] * scale)].append((image, scale))
                scale *= _STEP
        for (width, height), members in levels.items():
            at_once = max(1, self.networks.level_pixels // (width * height))
            for start in range(0, len(members), at_once):
                batch = members[start : start + at_once]
                pixels = np.stack([pyramids[image].level(width, height, scale) for image, scale in batch])
                for (image, _), offsets, probabilities in zip(batch, *self._in_strips(pixels)):
                    rows, columns = np.nonzero(probabilities >= _PROPOSAL_THRESHOLD)
                    found = probabilities[rows, columns]
                    chosen = best(found, _MOST_PROPOSALS)
                    rows, columns, found = rows[chosen], columns[chosen], found[chosen]
                    corners = np.stack([columns, rows], axis=1).astype(np.float32) * _STRIDE
                    windows = np.concatenate([corners, corners + _WINDOW], axis=1)
                    windows *= np.tile(np.divide(pyramids[image].size, (width, height)).astype(np.float32), 2)
                    keep = suppress(windows, found, 0.5)
                    boxes[image].append(moved(windows[keep], offsets[:, rows[keep], columns[keep]].T))
                    scores[image].append(found[keep])
        proposals = []
        for some_boxes, some_scores in zip(boxes, scores):
            merged, probabilities = np.concatenate(some_boxes), np.concatenate(some_scores)
            chosen = best(probabilities, _MOST_PROPOSALS)
            merged = merged[chosen]
            proposals.append(squares(merged[suppress(merged, probabilities[chosen], 0.7)]))
        return proposals

    def _in_strips(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Return P-Net's outputs for levels `(N, 3, H, W)`, a strip of rows at a time: the features of a whole level of
        3 megapixels take 700 MB, and those of a small one are out of the processor's cache when they are read.
        """
        # Rows of windows in a strip. The last one needs the rows of pixels of a whole window.
        rows = max(1, (self.networks.level_pixels // (len(pixels) * pixels.shape[3]) - _WINDOW) // _STRIDE + 1)
        strips = [
            self.networks.propose(pixels[:, :, start * _STRIDE : (start + rows - 1) * _STRIDE + _WINDOW])
            for start in range(0, (pixels.shape[2] - _WINDOW + 1) // _STRIDE + 1, rows)
        ]
        return np.concatenate([offsets for offsets, _ in strips], 2), np.concatenate(
            [scores for _, scores in strips], 1
        )

    @staticmethod
    def _on_crops(
        network: Callable[[np.ndarray], tuple[np.ndarray, ...]],
        pyramids: list[Pyramid],
        boxes: list[np.ndarray],
        size: int,
    ) -> list[tuple[np.ndarray, ...]]:
        """Return a network's outputs for the boxes of each image, whose crops go through it together, in batches."""
        owners = np.repeat(np.arange(len(boxes)), [len(some) for some in boxes])
        together = np.concatenate(boxes)
        batches, at_once = [], _CROP_PIXELS_AT_ONCE // size**2
        # One batch even where there are no boxes: its outputs are the empty arrays that are due.
        for start in range(0, max(1, len(together)), at_once):
            part = slice(start, start + at_once)
            crops = np.empty((len(together[part]), 3, size, size), np.float32)
            for image in np.unique(owners[part]):
                chosen = owners[part] == image
                crops[chosen] = pyramids[image].crops(together[part][chosen], size)
            batches.append(network(crops))
        outputs = [np.concatenate(some) for some in zip(*batches)]
        return [tuple(output[owners == image] for output in outputs) for image in range(len(boxes))]


def _around(box: Box) -> np.ndarray:
    """Return the squares in which the face of a box may be now, float32 `(N, 4)`."""
    centre = np.array([box[0] + box[2], box[1] + box[3]], np.float32) / 2
    halves = _SIZES[:, None] * np.float32(max(box[2] - box[0], box[3] - box[1]) / 2)
    return np.concatenate([centre - halves, centre + halves], axis=1)


def numbers() -> dict[str, float]:
    """Return the cascade's constants by the names that the page in the browser has for them."""
    defaults = {name: each.default for name, each in inspect.signature(MTCNNDetector).parameters.items()}
    return {
        "window": _WINDOW,
        "stride": _STRIDE,
        "step": _STEP,
        "slack": _SLACK,
        "larger": _LARGER,
        "minFace": MIN_FACE,
        "minSeen": MIN_SEEN,
        "maxSize": defaults["max_size"],
        "proposalThreshold": _PROPOSAL_THRESHOLD,
        "refineThreshold": _REFINE_THRESHOLD,
        "threshold": defaults["threshold"],
        "mostProposals": _MOST_PROPOSALS,
        "mostRefined": _MOST_REFINED,
        "pixelsAtOnce": OnnxNetworks.level_pixels,
        "cropPixelsAtOnce": _CROP_PIXELS_AT_ONCE,
    }


__all__ = ["MIN_FACE", "MTCNNDetector", "numbers"]
