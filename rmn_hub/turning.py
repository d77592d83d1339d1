"""Images that lie on their side, turned for the detector and its faces turned back; heads that lean to a side."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from PIL import Image

from .images import LoadedImage
from .results import LANDMARKS, Face

# A face with a lower score is doubtful. Of 150 upright faces in the wild MTCNN gives 95% at least 0.991, and of the
# same faces turned by 90, 180 or 270 degrees it finds 2%.
DOUBTFUL = 0.99
# A face in a turned image must be surer: three more looks find three times as many things that are not faces. A cup of
# coffee has 0.9912 on its side; of the 150 faces, 88% have more than this.
SURE = 0.995
# Clockwise, as Pillow counts the other way.
_TURNS = {
    90: Image.Transpose.ROTATE_270,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_90,
}


def is_doubtful(faces: list[Face]) -> bool:
    """Return whether there is no face, or none that a detector with scores is sure of."""
    return all(face.score is not None and face.score < DOUBTFUL for face in faces)


def found_turned(
    loaded: LoadedImage,
    detect: Callable[[LoadedImage], list[Face]],
    detect_larger: Callable[[LoadedImage], list[Face]] | None = None,
) -> tuple[int, list[Face]]:
    """
    Look for faces in an image turned by 90, 180 and 270 degrees.

    Args:
        loaded: the image.
        detect: the faces of an image in its pixels.
        detect_larger: likewise, a quicker search that chooses the turn; `detect` when not given.

    Returns:
        The degrees (clockwise) of the turn that shows the most faces that are sure, and its faces that are, in pixels
        of the image as it came; 0 and none where no turn shows one.
    """
    best: tuple[int, LoadedImage, list[Face]] = (0, loaded, [])
    for degrees, turned in _turned(loaded):
        faces = _sure((detect_larger or detect)(turned))
        if len(faces) > len(best[2]):
            best = degrees, turned, faces
    degrees, turned, faces = best
    if faces and detect_larger is not None:
        faces = _sure(detect(turned)) or faces
    return degrees, [turned_back(face, degrees, loaded.width, loaded.height) for face in faces]


def lean(face: Face) -> float:
    """
    Return how far a head leans clockwise, in degrees in -180..180: the direction of the line through the eyes. It is 0
    for a face without landmarks.
    """
    if face.landmarks is None or len(face.landmarks) != len(LANDMARKS):
        return 0.0
    (left, top), (right, bottom), _, *mouth = face.landmarks
    x, y = right - left, bottom - top
    down_x = mouth[0][0] + mouth[1][0] - left - right
    down_y = mouth[0][1] + mouth[1][1] - top - bottom
    # The mouth lies clockwise of the way from the left eye to the right one, unless a detector has them the other way.
    if x * down_y - y * down_x < 0:
        x, y = -x, -y
    return math.degrees(math.atan2(y, x))


def turn(image: Image.Image, degrees: int) -> Image.Image:
    """Return an image turned clockwise by 0, 90, 180 or 270 degrees."""
    return image.transpose(_TURNS[degrees]) if degrees else image


def turned_back(face: Face, degrees: int, width: int, height: int) -> Face:
    """
    Return a face of a turned image in pixels of the image as it came.

    Args:
        face: in pixels of the turned image.
        degrees: how far it was turned clockwise: 90, 180 or 270.
        width: width of the image as it came.
        height: likewise.
    """

    def back(x: float, y: float) -> tuple[float, float]:
        if degrees == 180:
            return width - x, height - y
        return (y, height - x) if degrees == 90 else (width - y, x)

    (x0, y0), (x1, y1) = back(*face.box[:2]), back(*face.box[2:])
    points = None if face.landmarks is None else tuple(back(x, y) for x, y in face.landmarks)
    return Face((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), points, face.score)


def turned_sentence(degrees: int) -> str:
    """Return what a user should read about an image whose faces were found after turning it."""
    return f"The image was turned by {degrees} degrees clockwise to find its faces; boxes are in the image as it came."


def _sure(faces: list[Face]) -> list[Face]:
    return [face for face in faces if face.score is None or face.score >= SURE]


def _turned(loaded: LoadedImage) -> Iterator[tuple[int, LoadedImage]]:
    for degrees in _TURNS:
        sides = (loaded.width, loaded.height) if degrees == 180 else (loaded.height, loaded.width)
        yield degrees, replace(loaded, image=turn(loaded.image, degrees), width=sides[0], height=sides[1])


__all__ = ["found_turned", "is_doubtful", "lean", "turn", "turned_back", "turned_sentence"]
