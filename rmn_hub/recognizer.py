"""The one way from pictures to expressions: load, detect, crop, classify in batches."""

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from transformers.utils import logging

from .checkpoints import BUNDLED_CHECKPOINT
from .detection.detector import MARGIN, FaceDetector, crop_face
from .detection.mtcnn import MTCNNDetector
from .errors import InputError
from .hub.checkpoint import weights_problem
from .images import MAX_PIXELS, LoadedImage, is_folder, load_image
from .model.image_processing_rmn import RMNImageProcessor
from .model.modeling_rmn import RMNModel
from .results import Attention, Face, FaceExpression, ImageResult, reading_order

if TYPE_CHECKING:
    from .video.recognize import FilmResults

# Faces wait for a full batch as crops of their photo's resolution. Beyond this much of them the batch goes early.
MAX_WAITING_BYTES = 64_000_000
# A crop is a square: of a strip of 10 x 1,000,000 pixels it would have a terabyte. The largest of a photo's faces fits.
MAX_CROP_PIXELS = 2 * MAX_PIXELS
# The form of an id on the Hub: whatever else is no folder is a path that was mistyped.
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
NO_FACE = "No face was found: look for smaller ones (min_face), or skip the detection if this is a face (faces_only)."
NO_BOXES = "No box was given for this picture."


@dataclass
class _Waiting:
    """A picture whose faces wait for the model. The picture itself is not kept."""

    source: str
    width: int
    height: int
    message: str | None
    image: Any
    faces: list[Face]
    crops: list[Image.Image]


class ExpressionRecognizer:
    """
    Says for every face of every picture which expression it shows.

    Args:
        model: the network; a copy of it in its inference form is used.
        processor: the image processor that belongs to it.
        device: where networks run: `"cpu"`, `"cuda"`, `"cuda:1"`, ...; when not given, the GPU if there is one.
        detector: any `FaceDetector`; MTCNN when not given.
        min_face: smallest face that MTCNN looks for, in pixels of the photo (see `MTCNNDetector`).
        threshold: score in 0..1 below which MTCNN's faces are dropped; 0.9 when not given.
        max_faces: most faces that MTCNN gives per picture, the largest; all when not given.
        min_confidence: probability in 0..1 below which an answer is marked `uncertain`.
        batch_size: most faces that go through the model at once.
        margin: how much wider the square crop is than the longer side of the face's box (see `faces.MARGIN`).

    Raises:
        InputError: a setting is out of range, the device is not there, or the detector is none.

    Example:
        >>> recognizer = ExpressionRecognizer.from_pretrained()  # doctest: +SKIP
        >>> [face.expression for face in recognizer("photo.jpg")]  # doctest: +SKIP
        ['happy']
    """

    def __init__(
        self,
        model: RMNModel,
        processor: RMNImageProcessor,
        *,
        device: str | torch.device | None = None,
        detector: FaceDetector | None = None,
        min_face: int | None = None,
        threshold: float | None = None,
        max_faces: int | None = None,
        min_confidence: float = 0.0,
        batch_size: int = 32,
        margin: float = MARGIN,
    ) -> None:
        if detector is not None and not (min_face is None and threshold is None and max_faces is None):
            raise InputError("min_face, threshold and max_faces are settings of MTCNN: set your own detector's itself")
        if detector is not None and not isinstance(detector, FaceDetector):
            raise InputError(f"a {type(detector).__name__} is no detector: it needs a method detect(images)")
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size} must be at least 1")
        if not -1 < margin < math.inf:
            raise InputError(f"margin={margin} must be greater than -1")
        self.min_confidence = _checked_confidence(min_confidence)
        self.batch_size = batch_size
        self.margin = margin
        self.device = _checked_device(device)
        if detector is None:
            settings = {"min_face": min_face, "threshold": threshold, "max_faces": max_faces}
            given = {name: value for name, value in settings.items() if value is not None}
            try:
                detector = MTCNNDetector(device=self.device, **given)
            except ValueError as error:
                raise InputError(str(error)) from error
        self.detector = detector
        self.processor = processor
        self.model = model.for_inference().to(self.device)
        labels = model.config.id2label
        self.expressions = tuple(labels[index] for index in sorted(labels))

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | os.PathLike[str] = BUNDLED_CHECKPOINT,
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **settings: Any,
    ) -> "ExpressionRecognizer":
        """
        A recognizer with the network and the image processor of a checkpoint.

        Args:
            checkpoint: a folder or a Hub id; the bundled checkpoint, which needs no network, when not given.
            revision: branch, tag or commit on the Hub.
            cache_dir: where downloads are kept, when not in Hugging Face's own place.
            local_files_only: never ask the Hub.
            token: for private repositories.
            **settings: `device`, `detector`, `min_face`, `threshold`, `max_faces`, `min_confidence`, `batch_size` and
                `margin`, as the class takes them.

        Raises:
            InputError: the checkpoint cannot be loaded, or a setting is out of range.
        """
        where = {
            "revision": revision or "main",
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
            "token": token,
        }
        checkpoint = os.fspath(checkpoint)
        folder = Path(checkpoint)
        if not is_folder(folder) and not _HUB_ID.fullmatch(checkpoint):
            raise InputError(
                f"there is no checkpoint {checkpoint}: give the folder of one, or the id of a model on the Hub"
            )
        if is_folder(folder) and not (folder / "config.json").is_file():
            raise InputError(f"{folder} has no config.json: give the folder of a checkpoint")
        # Below, transformers would print a table of every tensor that does not fit, and for a moment a bar.
        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        if is_folder(folder):
            logging.disable_progress_bar()
        try:
            model, report = RMNModel.from_pretrained(
                checkpoint, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **where
            )
            processor = RMNImageProcessor.from_pretrained(checkpoint, **where)
        except (OSError, ValueError, TypeError, AttributeError, RuntimeError, StrictDataclassError) as error:
            raise InputError(f"the checkpoint {checkpoint} cannot be loaded: {' '.join(str(error).split())}") from error
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
        if problem := weights_problem(checkpoint, report):
            raise InputError(problem)
        return cls(model, processor, **settings)

    def __call__(
        self,
        images: Any,
        *,
        boxes: Sequence[Any] | None = None,
        faces_only: bool = False,
        attention: bool = False,
        min_confidence: float | None = None,
    ) -> ImageResult | list[ImageResult]:
        """
        The expressions of one picture, or of each of several.

        Args:
            images: a path, the bytes of a picture's file, a PIL image or a numpy array (`images.load_image` says which
                ones), or an iterable of these.
            boxes: own boxes instead of detection: for one picture a list of `(x0, y0, x1, y1)` (or of `Face`) in
                pixels of the upright picture, for several pictures one such list each.
            faces_only: every picture is a face already and is classified without detection.
            attention: whether to add the attention maps.
            min_confidence: another one than the recognizer's, for this call.

        Returns:
            one `ImageResult` for one image (not in a list), else a list of them in the same order. Faces are sorted in
            reading order. The answers do not depend on the form of the picture nor on the others.

        Raises:
            InputError: a picture cannot be used, or an argument cannot be what it is.
        """
        if _is_one(images):
            return next(
                self.stream(
                    [images],
                    boxes=None if boxes is None else [boxes],
                    faces_only=faces_only,
                    attention=attention,
                    min_confidence=min_confidence,
                )
            )
        try:
            images = list(images)
        except TypeError:
            images = [images]  # loading it says what it is
        boxes = None if boxes is None else list(boxes)
        if boxes is not None and len(boxes) != len(images):
            raise InputError(f"there are {len(images)} images but {len(boxes)} lists of boxes: give one for each image")
        return list(
            self.stream(images, boxes=boxes, faces_only=faces_only, attention=attention, min_confidence=min_confidence)
        )

    def stream(
        self,
        images: Iterable[Any],
        *,
        boxes: Iterable[Any] | None = None,
        faces_only: bool = False,
        attention: bool = False,
        min_confidence: float | None = None,
        on_error: Callable[[InputError], None] | None = None,
    ) -> Iterator[ImageResult]:
        """
        The result of each picture, in order, in memory that does not grow with their number: pictures are read when it
        is their turn, and nothing of them is kept. Up to `batch_size` of them are read ahead.

        Args:
            images: any iterable of what `__call__` takes.
            boxes: own boxes, one list for each image.
            faces_only: every picture is a face already.
            attention: whether to add the attention maps.
            min_confidence: another one than the recognizer's.
            on_error: what to do with a picture that cannot be used; it is then left out. Without it, the error is
                raised.

        Raises:
            InputError: an argument cannot be what it is; while streaming, a picture cannot be used.
        """
        if boxes is not None and faces_only:
            raise InputError("boxes and faces_only exclude each other: a face that is cut out needs no box")
        if attention and not self.model.masking_blocks:
            raise InputError("this checkpoint has its masks switched off: there is no attention to show")
        confidence = self.min_confidence if min_confidence is None else _checked_confidence(min_confidence)
        return self._stream(images, boxes, faces_only, attention, confidence, on_error)

    def video(self, source: str | os.PathLike[str] | int, **settings: Any) -> "FilmResults":
        """
        Return the results of a film frame by frame, with faces that keep their identities; see
        [`rmn_hub.video.recognize`] for the `settings`.

        Raises:
            InputError: the source cannot be opened or a setting is out of range.
        """
        from .video.recognize import recognize

        return recognize(source, self, **settings)

    def _stream(
        self,
        images: Iterable[Any],
        boxes: Iterable[Any] | None,
        faces_only: bool,
        attention: bool,
        min_confidence: float,
        on_error: Callable[[InputError], None] | None,
    ) -> Iterator[ImageResult]:
        waiting: list[_Waiting] = []
        faces = size = 0
        all_boxes = None if boxes is None else iter(boxes)
        for number, image in enumerate(images, start=1):
            own_boxes = None if all_boxes is None else next(all_boxes, ())
            try:
                ready = self._prepare(image, f"image {number}", own_boxes, faces_only)
            except InputError as error:
                if on_error is None:
                    raise
                on_error(error)
                continue
            waiting.append(ready)
            faces += len(ready.faces)
            size += sum(3 * crop.width * crop.height for crop in ready.crops)
            if max(faces, len(waiting)) >= self.batch_size or size >= MAX_WAITING_BYTES:
                yield from self._classify(waiting, attention, min_confidence)
                waiting, faces, size = [], 0, 0
        yield from self._classify(waiting, attention, min_confidence)

    def _prepare(self, image: Any, name: str, boxes: Any, faces_only: bool) -> _Waiting:
        """Loads a picture, finds its faces and cuts them out."""
        picture = load_image(image, name)
        width, height = picture.image.size
        message = None
        if faces_only:
            faces = [Face((0.0, 0.0, float(width), float(height)))]
        elif boxes is not None:
            faces = _checked_boxes(boxes, picture)
            message = None if faces else NO_BOXES
        else:
            found = self.detector.detect([picture.image])
            if not isinstance(found, Sequence) or len(found) != 1:
                raise InputError("the detector does not give one list of faces for each picture: see FaceDetector")
            faces = _checked_boxes(found[0], picture)
            message = None if faces else NO_FACE
        faces = [faces[place] for place in reading_order([face.box for face in faces])]
        margin = 0.0 if faces_only else self.margin
        for x0, y0, x1, y1 in (face.box for face in faces):
            if ((1 + margin) * max(x1 - x0, y1 - y0)) ** 2 > MAX_CROP_PIXELS:
                raise InputError(
                    f"{x1 - x0:.0f} x {y1 - y0:.0f} pixels of {picture.source} are too many for the square around a "
                    "face: give the crop or the box of one face"
                )
        crops = [crop_face(picture.image, face.box, margin) for face in faces]
        sentences = [sentence for sentence in (picture.message, message) if sentence]
        return _Waiting(picture.source, width, height, " ".join(sentences) or None, image, faces, crops)

    @torch.inference_mode()
    def _classify(self, waiting: list[_Waiting], attention: bool, min_confidence: float) -> list[ImageResult]:
        """The pictures' results, their faces together in batches."""
        crops = [crop for picture in waiting for crop in picture.crops]
        probabilities: list[list[float]] = []
        maps: list[Attention | None] = []
        for start in range(0, len(crops), self.batch_size):
            batch = crops[start : start + self.batch_size]
            pixel_values = self.processor(batch, return_tensors="pt")["pixel_values"].to(self.device)
            # TensorFloat-32 rounds by 5e-4, differently in every batch size.
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                outputs = self.model(
                    pixel_values.contiguous(memory_format=torch.channels_last),
                    output_masks=attention,
                    output_hidden_states=attention,
                )
            if not outputs.logits.isfinite().all():
                raise InputError("the checkpoint's answers are not finite numbers: its weights are damaged")
            # In double precision the probabilities sum to 1 within 1e-15.
            probabilities += outputs.logits.double().softmax(-1).tolist()
            if attention:
                from .attention import attention_from_outputs

                maps += attention_from_outputs(outputs, [np.asarray(crop) for crop in batch])
            else:
                maps += [None] * len(batch)
        answers = zip(probabilities, maps)
        return [
            ImageResult(
                source=picture.source,
                width=picture.width,
                height=picture.height,
                faces=tuple(
                    self._expression(number, face, *answer, min_confidence)
                    for number, (face, answer) in enumerate(zip(picture.faces, answers), start=1)
                ),
                message=picture.message,
                image=picture.image,
            )
            for picture in waiting
        ]

    def _expression(
        self, index: int, face: Face, values: list[float], attention: Attention | None, min_confidence: float
    ) -> FaceExpression:
        probability = max(values)
        return FaceExpression(
            box=face.box,
            landmarks=face.landmarks,
            score=face.score,
            expression=self.expressions[values.index(probability)],
            probability=probability,
            probabilities=dict(zip(self.expressions, values)),
            uncertain=probability < min_confidence,
            attention=attention,
            index=index,
        )


def _is_one(images: Any) -> bool:
    return isinstance(images, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray))


def _checked_confidence(value: float) -> float:
    if not 0 <= value <= 1:
        raise InputError(f"min_confidence={value} must lie in 0..1")
    return float(value)


def _checked_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise InputError(f"device={device} cannot be used here: give cpu, or cuda on a machine with a GPU") from error


def _checked_boxes(boxes: Any, picture: LoadedImage) -> list[Face]:
    """Faces of a caller's or a detector's boxes, each with an area and its centre inside the picture."""
    width, height = picture.image.size
    faces = []
    try:
        given = list(boxes)
    except TypeError as error:
        raise InputError(f"the boxes of {picture.source} are no list: give a list of (x0, y0, x1, y1)") from error
    for item in given:
        face = item if isinstance(item, Face) else None
        try:
            box = tuple(float(value) for value in (face.box if face else item))
        except (TypeError, ValueError) as error:
            raise InputError(f"a box of {picture.source} is {item!r}: give four numbers (x0, y0, x1, y1)") from error
        if len(box) != 4 or not all(math.isfinite(value) for value in box):
            raise InputError(f"a box of {picture.source} is {item!r}: give four finite numbers (x0, y0, x1, y1)")
        x0, y0, x1, y1 = box
        if not (x0 < x1 and y0 < y1):
            raise InputError(f"the box {box} of {picture.source} has no area: give (x0, y0, x1, y1), x0 < x1, y0 < y1")
        # Such a box was made for another picture, or another scale of it; its crop would be mostly invented.
        if not (0 <= x0 + x1 <= 2 * width and 0 <= y0 + y1 <= 2 * height) or max(x1 - x0, y1 - y0) > 2 * max(
            width, height
        ):
            raise InputError(f"the box {box} lies outside {picture.source}, which has {width} x {height} pixels")
        faces.append(face or Face(box))
    return faces


__all__ = ["ExpressionRecognizer"]
