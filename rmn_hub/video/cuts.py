"""Camera cuts: `CutDetector` compares thumbnails of neighbouring frames."""

import numpy as np
from PIL import Image

# Thumbnails of this many pixels: a face in motion moves few of them, a cut changes nearly all.
WIDTH, HEIGHT = 32, 24
# A cut changes a pixel by more than this on average (of 0..255) ...
LEAST_CHANGE = 12.0
# ... by more than this many times what the scene's own motion has changed lately ...
AGAINST_MOTION = 3.0
# ... and leaves less than this of the correlation of the two thumbnails. A lamp that is switched on changes every pixel
# and leaves the correlation; a new camera position changes both.
MOST_CORRELATION = 0.6
# Share of the newest frame in the memory of motion.
NEWEST = 0.25


class CutDetector:
    """
    Find camera cuts: frames that show another scene, or the same from another place, than the frame before.

    A frame is a cut when its thumbnail of 32 x 24 pixels differs from the last one by much more than the motion of the
    last frames, and does not correlate with it. Fades and slow pans do not count as cuts. It costs less than a
    millisecond a frame.

    Example:
        >>> detector = CutDetector()
        >>> [detector.update(frame) for frame in frames]  # doctest: +SKIP
        [False, False, True, False]
    """

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._motion = 0.0

    def update(self, frame: Image.Image) -> bool:
        """
        Compare the next frame with the last one.

        Args:
            frame: an RGB image of any size.

        Returns:
            Whether there is a cut between the last frame and this one; `False` for the first frame.
        """
        # `draft` aside, the box filter with a gap reads every pixel once.
        small = frame.resize((WIDTH, HEIGHT), Image.Resampling.BOX, reducing_gap=1.0)
        thumbnail = np.asarray(small, np.float32)
        last, self._last = self._last, thumbnail
        if last is None:
            return False
        change = float(np.abs(thumbnail - last).mean())
        cut = (
            change > max(LEAST_CHANGE, AGAINST_MOTION * self._motion)
            and _correlation(thumbnail, last) < MOST_CORRELATION
        )
        # The scene after a cut moves as it likes: its motion was not measured yet.
        self._motion = 0.0 if cut else self._motion + NEWEST * (change - self._motion)
        return cut


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation of two thumbnails in -1..1; 1 where both are flat, 0 where one is."""
    a, b = first - first.mean(), second - second.mean()
    norms = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    # Below a standard deviation of 1 of 255, a thumbnail is one colour and its noise.
    flat = [norm < np.sqrt(a.size) for norm in norms]
    if any(flat):
        return float(all(flat))
    return float((a * b).sum()) / (norms[0] * norms[1])


__all__ = ["CutDetector"]
