"""An image at all the sizes that MTCNN looks at, and the crops that it takes from them."""

import numpy as np
from PIL import Image

# Bytes of windows that are resampled at once, and of an image's planes that are kept from one level to the next.
_MOST_BYTES = 16_000_000


class Pyramid:
    """
    An image and its halves, quarters, ..., from which every other size is made: a level is at most half as large as
    what it is made from, and few pixels are read.

    Pixel values are float32 in -1..1, as MTCNN wants them: (value - 127.5) / 128.

    Args:
        image: the RGB image.
        smallest: the shorter side of the smallest halving has at least this many pixels.
    """

    def __init__(self, image: Image.Image, smallest: int) -> None:
        self.size = image.size
        self._images = [image]
        while min(self._images[-1].size) >= 2 * smallest:
            # A whole number of 2 x 2 pixels, so that halving n is the image at exactly 1 / 2**n.
            width, height = self._images[-1].size
            self._images.append(self._images[-1].reduce(2, box=(0, 0, width // 2 * 2, height // 2 * 2)))
        # Their pixels, uint8 `(H, W, 3)`, of those that crops were cut from.
        self._pixels: dict[int, np.ndarray] = {}
        # The planes that the last level was made from, and their halving: two levels or three come from the same ones.
        self._planes: tuple[int, list[Image.Image]] = (-1, [])

    def level(self, width: int, height: int, scale: float) -> np.ndarray:
        """Return the image at `width x height` pixels, about `scale` of its size, as float32 `(3, height, width)`."""
        halving = min(max(0, int(np.floor(-np.log2(scale)))), len(self._images) - 1)
        kept, planes = self._planes
        if kept != halving:
            image = self._images[halving]
            # In floats: values rounded to 8 bits move scores by a hundredth.
            planes = [plane.convert("F") for plane in image.split()]
            if 12 * image.width * image.height <= _MOST_BYTES:
                self._planes = (halving, planes)
        pixels = np.empty((3, height, width), np.float32)
        for channel, plane in enumerate(planes):
            pixels[channel] = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))
        return _normalized(pixels)

    def crops(self, boxes: np.ndarray, size: int) -> np.ndarray:
        """
        Return squares of the image, each scaled to `size` pixels; outside the image they are grey.

        A pixel of a crop is the mean of 2 x 2 samples (bilinear between the pixels of the image), as in RoIAlign (He et
        al., "Mask R-CNN", 2017, section 3).

        Args:
            boxes: float32 `(N, 4)`, squares in pixels of the image.
            size: height and width of a crop in pixels.

        Returns:
            float32 `(N, 3, size, size)`.
        """
        crops = np.empty((len(boxes), 3, size, size), np.float32)
        # Each from the halving where it has once to twice as many pixels as it needs: four samples are then its mean.
        ratios = np.maximum((boxes[:, 2] - boxes[:, 0]) / np.float32(size), 1)
        halvings = np.log2(ratios).astype(int).clip(max=len(self._images) - 1)
        for halving in np.unique(halvings):
            chosen = np.flatnonzero(halvings == halving)
            if halving not in self._pixels:
                self._pixels[halving] = np.asarray(self._images[halving])
            _resample(self._pixels[halving], boxes[chosen] * np.float32(0.5**halving), crops, chosen)
        return crops


def _resample(pixels: np.ndarray, boxes: np.ndarray, crops: np.ndarray, places: np.ndarray) -> None:
    """Write what the boxes hold of the pixels, uint8 `(H, W, 3)`, to `crops[places]`."""
    size, (height, width, _) = crops.shape[-1], pixels.shape
    lefts, columns = _weights(boxes[:, 0], boxes[:, 2], size, width)
    tops, rows = _weights(boxes[:, 1], boxes[:, 3], size, height)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (rows.shape[2], columns.shape[2]), axis=(0, 1))
    step = max(1, _MOST_BYTES // (12 * rows.shape[2] * columns.shape[2]))
    for start in range(0, len(boxes), step):
        part = slice(start, start + step)
        window = _normalized(windows[tops[part], lefts[part]].astype(np.float32))
        # Bilinear sampling is a product with the weights of the rows and one with those of the columns.
        crops[places[part]] = rows[part, None] @ window @ columns[part, None].swapaxes(2, 3)


def _weights(starts: np.ndarray, ends: np.ndarray, size: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Return how `size` pixels of each crop are made of the `length` pixels of one axis: the first pixel of each crop's
    window `(N,)`, and the weights of the window's pixels `(N, size, window)`.
    """
    step = (ends - starts) / np.float32(size)
    samples = (np.arange(2 * size, dtype=np.float32) + np.float32(0.5)) / np.float32(2)
    positions = starts[:, None] - np.float32(0.5) + samples * step[:, None]
    inside = (positions >= -1) & (positions <= length)
    positions = positions.clip(0, length - 1)
    firsts, lasts = np.floor(positions[:, 0]).astype(int), np.ceil(positions[:, -1]).astype(int)
    window = int((lasts - firsts).max()) + 1
    firsts = firsts.clip(max=length - window)
    # A sample outside is moved so far from the window that it has no weight in it.
    positions = np.where(inside, positions - firsts[:, None].astype(np.float32), np.float32(-1))
    weights = positions[:, :, None] - np.arange(window, dtype=np.float32)
    np.abs(weights, out=weights)
    np.subtract(1, weights, out=weights)
    np.maximum(weights, 0, out=weights)
    means = weights[:, 0::2] + weights[:, 1::2]
    means *= np.float32(0.5)
    return firsts, means


def _normalized(pixels: np.ndarray) -> np.ndarray:
    """Bring 0..255 to -1..1, in place."""
    pixels -= np.float32(127.5)
    pixels *= np.float32(1 / 128)
    return pixels


__all__ = ["Pyramid"]
