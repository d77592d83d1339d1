"""The types that every call returns: `Face`, `FaceExpression`, `ImageResult`."""

import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from .errors import InputError
from .files import as_utf8

if TYPE_CHECKING:
    import pandas
    import supervision
    from PIL import Image

Box = tuple[float, float, float, float]
Point = tuple[float, float]

# Probability below which an expression is marked `uncertain` unless another one is asked for. On FER2013's PublicTest
# the bundled network is right on 78% of the faces above it, and on 37% of those below (`coverage` of its eval.json).
MIN_CONFIDENCE = 0.5
# The order in which MTCNN gives its five points. Left and right are the viewer's.
LANDMARKS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")


@dataclass(frozen=True)
class Face:
    """
    One face of an image, as a detector finds it.

    Args:
        box: `(x0, y0, x1, y1)` in pixels of the upright image (EXIF rotation applied), x to the right and y down.
        landmarks: the five points `LANDMARKS` as `(x, y)` in the same pixels, or `None` without landmarks.
        score: the detector's score in 0..1, or `None` without a detector.
    """

    box: Box
    landmarks: tuple[Point, ...] | None = None
    score: float | None = None

    def scaled(self, x: float, y: float) -> "Face":
        """Return the face in an image whose width is `x` times and whose height is `y` times as large."""
        x0, y0, x1, y1 = self.box
        points = self.landmarks
        moved = None if points is None else tuple((left * x, top * y) for left, top in points)
        return Face((x0 * x, y0 * y, x1 * x, y1 * y), moved, self.score)

    def to_dict(self) -> dict[str, Any]:
        """Return the face as lists, numbers and `None`, ready for JSON."""
        return {
            "box": [float(value) for value in self.box],
            "landmarks": None if self.landmarks is None else [[float(x), float(y)] for x, y in self.landmarks],
            "score": None if self.score is None else float(self.score),
        }


@dataclass(frozen=True, eq=False)
class Attention:
    """
    Where the masks acted on one face, stage by stage (made by `rmn_hub.attention`).

    Args:
        maps: the attention map of each stage, float32 `H x W` in 0..1, normalised per stage and of the mask's own size.
        before: per stage, float32 `H x W` in 0..1: the strength of the stage's features before masking.
        after: per stage, the same after masking, on the scale of `before`.
        crop: the crop as it was cut from the image, `H x W x 3` uint8 RGB.
        turned: by how many degrees it was turned clockwise then, so that the face is upright.
        margin: how much longer the crop's longer side is than that of the face's box, in whatever size of the image.
    """

    maps: tuple[np.ndarray, ...] = field(repr=False)
    before: tuple[np.ndarray, ...] = field(repr=False)
    after: tuple[np.ndarray, ...] = field(repr=False)
    crop: np.ndarray = field(repr=False)
    turned: float = 0.0
    margin: float = 0.0


@dataclass(frozen=True, kw_only=True, repr=False)
class FaceExpression:
    """
    The expression of one face.

    Args:
        box: `(x0, y0, x1, y1)` in pixels of the upright image, x to the right and y down.
        landmarks: the five points `LANDMARKS` as `(x, y)` in the same pixels, or `None` without landmarks.
        score: the detector's score in 0..1, or `None` without a detector.
        expression: the most probable expression.
        probability: its probability in 0..1.
        probabilities: the probability of every expression by name, in the checkpoint's class order; they sum to 1.
        uncertain: whether `probability` lies below the recognizer's `min_confidence`.
        attention: the attention maps, when they were asked for.
        features: the embedding of the face, float32 `(D,)`, when it was asked for: the mean over places of the last
            stage's features, of which the classifier makes its logits. D is 256 in the bundled network.
        index: the number of the face in its image: from 1, in reading order (see [`reading_order`]).
        track_id: the identity of the face over the frames of a video, or `None` for a single image.
    """

    box: Box
    landmarks: tuple[Point, ...] | None = None
    score: float | None = None
    expression: str
    probability: float
    probabilities: dict[str, float] = field(hash=False)
    uncertain: bool = False
    attention: Attention | None = field(default=None, compare=False)
    features: np.ndarray | None = field(default=None, compare=False)
    index: int = 1
    track_id: int | None = None

    @property
    def face(self) -> Face:
        """The face without its expression."""
        return Face(self.box, self.landmarks, self.score)

    def scaled(self, x: float, y: float) -> "FaceExpression":
        """Return the face in an image whose width is `x` times and whose height is `y` times as large."""
        moved = self.face.scaled(x, y)
        return replace(self, box=moved.box, landmarks=moved.landmarks)

    def to_dict(self) -> dict[str, Any]:
        """
        Return the values ready for JSON. Attention maps and features are left out, and so is a `track_id` of `None`.
        """
        values = {
            "index": int(self.index),
            **self.face.to_dict(),
            "expression": self.expression,
            "probability": float(self.probability),
            "probabilities": {name: float(value) for name, value in self.probabilities.items()},
            "uncertain": bool(self.uncertain),
        }
        return values if self.track_id is None else {**values, "track_id": int(self.track_id)}

    def __repr__(self) -> str:
        box = ", ".join(f"{value:.0f}" for value in self.box)
        unsure = ", uncertain" if self.uncertain else ""
        track = "" if self.track_id is None else f", track {self.track_id}"
        return f"<FaceExpression {self.index}: {self.expression} {self.probability:.1%}{unsure}, box ({box}){track}>"


@dataclass(frozen=True, repr=False)
class ImageResult:
    """
    All faces of one image, in reading order. Length, index and iteration are those of `faces`; a result is true even
    without a face.

    Args:
        source: the path of the image, or `"image 3"` for the third of a list of images without one.
        width: width of the upright image in pixels.
        height: its height in pixels.
        faces: one `FaceExpression` per face, numbered from 1 by their `index`; empty when no face was found.
        message: a sentence about what the caller may not expect (no face was found, only the first frame was read).
        turned: how far the image had to be turned clockwise for its faces to be found: 0, 90, 180 or 270 degrees. Boxes
            and landmarks are in the image as it came; crops and attention maps show the face upright.
        image: the image as it was handed over (a path stays a path), which `plot`, `save` and Jupyter draw on.
    """

    source: str
    width: int
    height: int
    faces: tuple[FaceExpression, ...] = ()
    message: str | None = None
    turned: int = 0
    image: Any = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.faces)

    def __bool__(self) -> bool:
        # `if result:` asks whether there is a result; `if len(result):` whether it has faces.
        return True

    def __iter__(self) -> Iterator[FaceExpression]:
        return iter(self.faces)

    def __getitem__(self, index: int) -> FaceExpression:
        return self.faces[index]

    def __repr__(self) -> str:
        shown = ", ".join(f"{face.expression} {face.probability:.0%}" for face in self.faces[:4])
        more = f", {len(self.faces) - 4} more" if len(self.faces) > 4 else ""
        return f"<ImageResult {self.source!r}, {self.width} x {self.height}: {shown + more or 'no face'}>"

    @property
    def failed(self) -> bool:
        """Whether the image could not be used: the result has no size, and its `message` states why."""
        return self.width == 0

    def scaled(self, width: int, height: int) -> "ImageResult":
        """
        Return the result for the same image at `width x height` pixels: boxes and landmarks move along.

        Raises:
            InputError: a side is not at least 1 pixel, or the image could not be used.
        """
        if not (width >= 1 and height >= 1) or self.failed:
            raise InputError(f"width={width} and height={height} must be at least 1, for an image that could be used")
        faces = tuple(face.scaled(width / self.width, height / self.height) for face in self.faces)
        return replace(self, width=width, height=height, faces=faces, image=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the line of `rmn-hub predict --json`. It has `message` and `turned` only where there is one."""
        line: dict[str, Any] = {
            "source": as_utf8(self.source),
            "width": int(self.width),
            "height": int(self.height),
            "faces": [face.to_dict() for face in self.faces],
        }
        if self.message is not None:
            line["message"] = self.message
        if self.turned:
            line["turned"] = int(self.turned)
        return line

    def to_json(self, indent: int | None = None) -> str:
        """Return `to_dict` as JSON text: one line, or indented by `indent` spaces."""
        return json.dumps(self.to_dict(), allow_nan=False, indent=indent)

    def to_csv(self, path_or_file: str | os.PathLike[str] | IO[str], *, every_image: bool = False) -> None:
        """Write one row per face; see [`rmn_hub.tables.to_csv`]."""
        from .tables import to_csv

        to_csv(self, path_or_file, every_image=every_image)

    def to_df(self, *, every_image: bool = False) -> "pandas.DataFrame":
        """
        Return one row per face as a pandas frame; see [`rmn_hub.tables.to_frame`].

        Raises:
            MissingPackageError: pandas is not installed.
        """
        from .tables import to_frame

        return to_frame(self, every_image=every_image)

    def to_supervision(self) -> "supervision.Detections":
        """
        Return the faces as supervision's `Detections`: `xyxy`, `confidence` (the expression's probability), `class_id`
        (its place in the class order), `tracker_id` where there are tracks, and `data["class_name"]`.

        Raises:
            MissingPackageError: supervision is not installed.
        """
        from .tables import to_supervision

        return to_supervision(self)

    def plot(self, **options: Any) -> "Image.Image":
        """
        Return the image with its faces as a PIL image; see [`rmn_hub.drawing.photo.annotate`] for `options`.

        Raises:
            InputError: the result does not carry its image, or the image cannot be read any more.
        """
        from .drawing.photo import annotate

        if self.image is None:
            raise InputError("this result does not carry its image: draw with rmn_hub.annotate(image, result)")
        return annotate(self.image, self, **options)

    def save(self, path: str | os.PathLike[str], **options: Any) -> Path:
        """
        Write the image with its faces to a file whose suffix names the format, and return the file's path.

        Raises:
            InputError: the image cannot be drawn or the file cannot be written.
        """
        from .files import replacing

        drawn, path = self.plot(**options), Path(path)
        try:
            with replacing(path) as beside:
                drawn.save(beside)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from error
        return path

    def _repr_png_(self) -> bytes | None:
        """Return what Jupyter shows: the annotated image, or nothing where it cannot be drawn any more."""
        try:
            drawn = self.plot()
        except InputError:
            return None
        drawn.thumbnail((1280, 1280))
        buffer = io.BytesIO()
        drawn.save(buffer, "PNG")
        return buffer.getvalue()


def reading_order(boxes: Sequence[Box]) -> list[int]:
    """
    Return the indices of boxes in reading order: rows from top to bottom, and from left to right in each row.

    Boxes are of one row when the centre of each lies within the height of the row's first (topmost) box.
    """
    waiting = sorted(range(len(boxes)), key=lambda index: (boxes[index][1] + boxes[index][3], boxes[index][0]))
    order: list[int] = []
    while waiting:
        bottom = boxes[waiting[0]][3]
        row = [index for index in waiting if (boxes[index][1] + boxes[index][3]) / 2 <= bottom]
        order += sorted(row, key=lambda index: (boxes[index][0], boxes[index][1]))
        waiting = [index for index in waiting if index not in row]
    return order


def numbered(faces: Iterable[FaceExpression]) -> tuple[FaceExpression, ...]:
    """Return the faces in reading order, with their `index` set from 1."""
    faces = tuple(faces)
    order = reading_order([face.box for face in faces])
    return tuple(replace(faces[place], index=number) for number, place in enumerate(order, start=1))


__all__ = [
    "LANDMARKS",
    "MIN_CONFIDENCE",
    "Attention",
    "Box",
    "Face",
    "FaceExpression",
    "ImageResult",
    "Point",
    "numbered",
    "reading_order",
]
