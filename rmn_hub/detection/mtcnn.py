"""Faces in pictures: the detector protocol, the MTCNN of facenet-pytorch behind it, and the crop that RMN gets."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..results import Face

if TYPE_CHECKING:
    from facenet_pytorch import MTCNN


# Faces that are smaller than this in the picture that MTCNN sees are mostly missed.
MIN_SEEN = 20
# Default for the smallest face, in pixels of the photo.
MIN_FACE = 40
# MTCNN's own numbers (Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional
# Networks", 2016): the window and stride of its first network, the step of the pyramid, thresholds of the first two.
_WINDOW = 12
_STRIDE = 2
_STEP = 0.709
# The pyramid starts a little below the smallest face: at exactly its size one face in five is missed.
_SLACK = 0.85
_PROPOSAL_THRESHOLD = 0.6
_REFINE_THRESHOLD = 0.7


class MTCNNDetector:
    """
    The three networks of facenet-pytorch's MTCNN (Zhang et al., 2016), whose weights come with that package.

    The networks are facenet-pytorch's and the cascade is ours: it finds what `facenet_pytorch.MTCNN` finds (its tests
    compare them), in a fraction of the time. The pyramid is built level from level instead of from the photo each time,
    the candidates are cut out together instead of one by one, and pictures of any size are fine.

    Args:
        min_face: smallest face to look for, in pixels of the photo (the longer side of its box); those found may be a
            little smaller. When not given it is 40, or more in photos whose longer side is above `2 * max_size`. Half
            of it takes about four times as long.
        threshold: faces with a lower score (0..1) are dropped.
        max_faces: most faces per picture; the largest are kept. All when `None`.
        device: where the networks run.
        max_size: photos are detected with their longer side reduced to this many pixels, or to as many as it takes
            for a `min_face` that was given.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        min_face: int | None = None,
        threshold: float = 0.9,
        max_faces: int | None = None,
        device: str | torch.device = "cpu",
        max_size: int = 1280,
    ) -> None:
        if min_face is not None and not min_face >= _WINDOW:
            raise ValueError(f"min_face={min_face} must be at least {_WINDOW} pixels: MTCNN sees nothing smaller")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold} must lie in 0..1")
        if max_faces is not None and not max_faces >= 1:
            raise ValueError(f"max_faces={max_faces} must be at least 1, or None for all")
        if not max_size >= 2 * MIN_FACE:
            raise ValueError(f"max_size={max_size} must be at least {2 * MIN_FACE} pixels")
        self.min_face = min_face
        self.threshold = threshold
        self.max_faces = max_faces
        self.device = torch.device(device)
        self.max_size = max_size

    @cached_property
    def _networks(self) -> "MTCNN":
        from facenet_pytorch import MTCNN

        networks = MTCNN(device=self.device).eval().requires_grad_(False)
        return networks.to(memory_format=torch.channels_last)

    def detect(self, images: Sequence[Image.Image]) -> list[list[Face]]:
        """
        The faces of each picture, largest first. Pictures are looked at one by one, so that what is found in one does
        not depend on the others.
        """
        return [self._detect(image) for image in images]

    @torch.inference_mode()
    def _detect(self, image: Image.Image) -> list[Face]:
        longer = max(image.size)
        if self.min_face is None:
            min_face = max(MIN_FACE, longer * MIN_SEEN / self.max_size)
            scale = min(1.0, self.max_size / longer)
        else:
            min_face = self.min_face
            scale = min(1.0, max(self.max_size / longer, MIN_SEEN / min_face))
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image if image.mode == "RGB" else image.convert("RGB")
        seen = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        boxes, scores, points = self._cascade(_Halvings(seen, self.device), min_face * scale)

        # Back to the photo, whose proportions the rounded size has changed a little.
        factors = torch.tensor([image.width / size[0], image.height / size[1]])
        boxes = boxes.cpu() * factors.repeat(2)
        points = points.cpu() * factors
        faces = [
            Face(tuple(box), tuple((x, y) for x, y in five), score)
            for box, five, score in zip(boxes.tolist(), points.tolist(), scores.tolist())
            if 0 < (box[0] + box[2]) / 2 < image.width and 0 < (box[1] + box[3]) / 2 < image.height
        ]
        faces.sort(key=lambda face: (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]), reverse=True)
        return faces[: self.max_faces]

    def _cascade(self, picture: "_Halvings", min_face: float) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes `N x 4`, scores `N` and points `N x 5 x 2` in pixels of `picture`."""
        nothing = torch.empty(0, 4), torch.empty(0), torch.empty(0, 5, 2)
        boxes = self._propose(picture, min_face)
        if not len(boxes):
            return nothing

        reg, scores = self._on_crops(self._networks.rnet, picture, boxes, 24)
        scores = scores[:, 1]
        keep = scores > _REFINE_THRESHOLD
        boxes, reg, scores = boxes[keep], reg[keep], scores[keep]
        keep = _nms(boxes, scores, 0.7)
        boxes = _squares(_moved(boxes[keep], reg[keep]))
        if not len(boxes):
            return nothing

        reg, points, scores = self._on_crops(self._networks.onet, picture, boxes, 48)
        scores = scores[:, 1]
        keep = scores > self.threshold
        boxes, reg, points, scores = boxes[keep], reg[keep], points[keep], scores[keep]
        # Five x and then five y, in parts of the square that the network saw.
        corners, sides = boxes[:, None, :2], (boxes[:, None, 2:] - boxes[:, None, :2])
        points = corners + sides * points.reshape(-1, 2, 5).transpose(1, 2)
        boxes = _moved(boxes, reg)
        keep = _nms_of_smaller(boxes, scores, 0.7)
        return boxes[keep], scores[keep], points[keep]

    def _propose(self, picture: "_Halvings", min_face: float) -> Tensor:
        """Squares where the first network, run over the whole picture at every scale, sees a face."""
        width, height = picture.size
        scale = _WINDOW / (_SLACK * min_face)
        boxes, scores = [torch.empty(0, 4, device=self.device)], [torch.empty(0, device=self.device)]
        while min(height, width) * scale >= _WINDOW:
            # From the halving just above: a small step, and few pixels to read.
            halving = min(max(0, math.floor(-math.log2(scale))), len(picture) - 1)
            size = (round(height * scale), round(width * scale))
            level = nn.functional.interpolate(picture[halving], size, mode="bilinear", antialias=True)
            reg, probabilities = self._networks.pnet(level.contiguous(memory_format=torch.channels_last))
            rows, columns = (probabilities[0, 1] >= _PROPOSAL_THRESHOLD).nonzero(as_tuple=True)
            corners = torch.stack([columns, rows], dim=1) * float(_STRIDE)
            found = torch.cat([corners, corners + _WINDOW], dim=1)
            found = found * torch.tensor([width / size[1], height / size[0]], device=self.device).repeat(2)
            probabilities = probabilities[0, 1, rows, columns]
            keep = _nms(found, probabilities, 0.5)
            boxes.append(_moved(found[keep], reg[0, :, rows, columns].T[keep]))
            scores.append(probabilities[keep])
            scale *= _STEP
        squares = torch.cat(boxes)
        return _squares(squares[_nms(squares, torch.cat(scores), 0.7)])

    def _on_crops(self, network: nn.Module, picture: "_Halvings", boxes: Tensor, size: int) -> tuple[Tensor, ...]:
        """What `network` answers for the squares `boxes`, scaled to `size` pixels; grey outside the picture."""
        from torchvision.ops import roi_align

        # Each from the halving where it has once to twice as many pixels as it needs: then four samples are its mean.
        halvings = ((boxes[:, 2] - boxes[:, 0]) / size).clamp(min=1).log2().long().clamp(max=len(picture) - 1)
        crops = boxes.new_empty(len(boxes), 3, size, size)
        for halving in halvings.unique().tolist():
            chosen = halvings == halving
            crops[chosen] = roi_align(
                picture[halving], [boxes[chosen]], size, spatial_scale=0.5**halving, sampling_ratio=2, aligned=True
            )
        # In parts: a picture full of pattern has thousands of candidates.
        answers = [network(part) for part in crops.split(256)]
        return tuple(torch.cat(parts) for parts in zip(*answers))


class _Halvings:
    """
    A picture and its halves, quarters, ... down to the window, each as MTCNN wants it: `1 x 3 x H x W` in -1..1. A
    tensor is made when it is asked for: often nobody needs the largest.
    """

    def __init__(self, image: Image.Image, device: torch.device) -> None:
        self.size = image.size
        self._device = device
        self._images = [image]
        while min(self._images[-1].size) >= 2 * _WINDOW:
            # A whole number of 2 x 2 pixels, so that level n is the picture at exactly 1 / 2**n.
            width, height = self._images[-1].size
            self._images.append(self._images[-1].reduce(2, box=(0, 0, width // 2 * 2, height // 2 * 2)))
        self._tensors: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, level: int) -> Tensor:
        if level not in self._tensors:
            pixels = torch.from_numpy(np.array(self._images[level])).to(self._device)
            # Planes one after the other: what follows reads them several times faster so.
            pixels = pixels.permute(2, 0, 1)[None].contiguous()
            self._tensors[level] = pixels.float().sub_(127.5).mul_(1 / 128)
        return self._tensors[level]


def _moved(boxes: Tensor, reg: Tensor) -> Tensor:
    """Boxes with their corners moved by `reg`, in parts of their width and height."""
    return boxes + reg * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)


def _squares(boxes: Tensor) -> Tensor:
    """The squares of the longer side around the same centres."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    halves = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1, keepdim=True) / 2
    return torch.cat([centres - halves, centres + halves], dim=1)


def _nms(boxes: Tensor, scores: Tensor, overlap: float) -> Tensor:
    from torchvision.ops import nms

    return nms(boxes, scores, overlap)


def _nms_of_smaller(boxes: Tensor, scores: Tensor, overlap: float) -> Tensor:
    """
    Non-maximum suppression with the intersection against the smaller box instead of the union: of a face and a part
    of it, one goes. Boxes are few here.
    """
    sizes = boxes[:, 2:] - boxes[:, :2]
    areas = sizes.prod(dim=1)
    starts = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    ends = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shares = (ends - starts).clamp(min=0).prod(dim=2) / torch.minimum(areas[:, None], areas[None, :])
    kept: list[int] = []
    for index in scores.argsort(descending=True, stable=True).tolist():
        if not kept or shares[index, kept].max() <= overlap:
            kept.append(index)
    return torch.tensor(kept, dtype=torch.long, device=boxes.device)


__all__ = ["MIN_FACE", "MTCNNDetector"]
