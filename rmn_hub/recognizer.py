"""The one way from images to expressions: load, detect, crop, run the engine in batches, in the same order."""

import math
import operator
import os
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import numpy as np

from .attention import attention_of_faces
from .boxes import iterable
from .checkpoints import BUNDLED_CHECKPOINT
from .detection.detector import MARGIN, FaceDetector
from .engines.engine import Engine, has_features
from .engines.ensemble import EnsembleProcessor
from .engines.pixels import PixelProcessor
from .engines.views import VIEWS, averaged, check_views
from .engines.views import run as run_views
from .errors import CheckpointError, InputError
from .forking import call
from .images import MAX_PIXELS, as_images, name_of, shown
from .loading import engine_of, load_ensemble
from .preparing import OnError, Preparation, PreparedImage, failed
from .results import MIN_CONFIDENCE, Attention, Face, FaceExpression, ImageResult

if TYPE_CHECKING:
    import torch

    from .baselines.networks import Network
    from .images import OneImage
    from .model.image_processing_rmn import RMNImageProcessor
    from .video.recognize import FilmResults

# Faces wait for a full batch as crops of their photo's resolution. Beyond this much of them the batch goes early.
MAX_WAITING_BYTES = 64_000_000


class ExpressionRecognizer:
    """
    Recognize the expression of every face of every image.

    A recognizer can be used from many threads at once, pickled, and used in processes made by fork (on a CPU) or spawn.

    Args:
        model: the network, of which a copy in its inference form is used, or any `Engine`.
        processor: the image processor that belongs to the network, or a `PixelProcessor`, or that of an ensemble.
        device: where networks run: `"cpu"`, `"cuda"`, `"cuda:1"`, ...; the GPU if there is one when not given.
        detector: any `FaceDetector`; MTCNN when not given.
        min_face: the smallest face that MTCNN looks for, in pixels of the photo (see `MTCNNDetector`).
        threshold: score in 0..1 below which MTCNN's faces are dropped; 0.9 when not given.
        max_faces: most faces that MTCNN returns per image, the largest; all when not given.
        min_confidence: probability in 0..1 below which a face is marked `uncertain`; its `expression` stays the most
            probable one. With 0, no face is.
        upright: whether faces with landmarks are turned upright by their eyes before they are cut out. Own boxes and
            crops have no landmarks, and are taken as they are.
        views: over how many views of a face the probabilities are averaged: 1 is the face as it is, 2 (unless given)
            adds its mirror image, 6 both moved up and down by a 48th (see `engines.views`). The network works that many
            times. Attention maps are those of the face as it is.
        batch_size: most views of faces that go through the network at once.
        margin: how much wider the square crop is than the longer side of the face's box; when not given, the `margin`
            of the detector, or `MARGIN` where it has none.
        max_pixels: most pixels that an image may have; see `load_image`.
        threads: how many of several images MTCNN looks at at the same time in onnxruntime; as many as there are cores
            when not given. torch, and a detector or an engine of the caller, keep their own settings.

    Raises:
        InputError: a setting is out of range, the device does not exist, or the detector has no `detect`.

    Example:
        >>> recognizer = ExpressionRecognizer.from_pretrained()  # doctest: +SKIP
        >>> [face.expression for face in recognizer("photo.jpg")]  # doctest: +SKIP
        ['happy']
    """

    def __init__(
        self,
        model: "Network | Engine",
        processor: "RMNImageProcessor | PixelProcessor | EnsembleProcessor",
        *,
        device: "str | torch.device | None" = None,
        detector: FaceDetector | None = None,
        min_face: int | None = None,
        threshold: float | None = None,
        max_faces: int | None = None,
        min_confidence: float = MIN_CONFIDENCE,
        upright: bool = True,
        views: int = VIEWS,
        batch_size: int = 32,
        margin: float | None = None,
        max_pixels: int = MAX_PIXELS,
        threads: int | None = None,
    ) -> None:
        settings = {"min_face": min_face, "threshold": threshold, "max_faces": max_faces}
        given = {name: value for name, value in settings.items() if value is not None}
        if detector is not None and given:
            raise InputError(f"{', '.join(given)} and detector exclude each other: they are settings of MTCNN alone")
        if detector is not None and not callable(getattr(detector, "detect", None)):
            raise InputError(f"detector of type {type(detector).__name__} must have a method detect(images)")
        self.min_confidence = _probability("min_confidence", min_confidence)
        if upright not in (True, False):
            raise InputError(f"upright={shown(upright)} must be True or False")
        self.upright = bool(upright)
        self.views = check_views(views)
        self.batch_size = _count("batch_size", batch_size)
        self.max_pixels = _count("max_pixels", max_pixels)
        threads = None if threads is None else _count("threads", threads)
        self.engine = call(engine_of, model, device)
        self.device = str(getattr(self.engine, "device", "cpu"))
        self.expressions = self.engine.expressions
        self.has_masks = self.engine.has_masks
        self.processor = (
            processor
            if isinstance(processor, (PixelProcessor, EnsembleProcessor))
            else PixelProcessor.from_settings(processor.to_dict(), "the processor")
        )
        if detector is None:
            from .detection.mtcnn import MTCNNDetector

            detector = call(MTCNNDetector, device=self.device, threads=threads, **cast("dict[str, Any]", given))
        self.detector = detector
        self.margin = _margin(getattr(detector, "margin", MARGIN) if margin is None else margin)

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]" = BUNDLED_CHECKPOINT,
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        engine: Literal["auto", "torch", "onnx"] = "auto",
        device: "str | torch.device | None" = None,
        threads: int | None = None,
        **settings: Any,
    ) -> "ExpressionRecognizer":
        """
        Load the network and the image processor of a checkpoint.

        Args:
            checkpoint: a folder or a Hub id; the bundled checkpoint, which needs no network, when not given. Several
                are an ensemble: the probabilities are the means of theirs, and there are no attention maps.
            revision: branch, tag or commit on the Hub.
            cache_dir: where downloads are kept, when not in Hugging Face's own place.
            local_files_only: never ask the Hub.
            token: for private repositories.
            engine: the runtime: `"torch"`, `"onnx"`, or `"auto"`: onnxruntime on a CPU where the checkpoint has an ONNX
                file, of which a Hub id's is downloaded instead of the weights; torch otherwise.
            device: as the class takes it.
            threads: threads of onnxruntime: so many work on a batch of faces, and so many images are searched for faces
                at the same time; all cores when not given. torch keeps its own setting, which is the whole process's:
                see `torch.set_num_threads`.
            **settings: `detector`, `min_face`, `threshold`, `max_faces`, `min_confidence`, `upright`, `views`,
                `batch_size`, `margin` and `max_pixels`, as the class takes them.

        Raises:
            CheckpointError: the checkpoint cannot be loaded.
            InputError: a setting is out of range.
        """
        where = {
            "revision": revision,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
            "token": token,
        }
        threads = None if threads is None else _count("threads", threads)
        several = [checkpoint] if isinstance(checkpoint, (str, os.PathLike)) else list(checkpoint)
        names = [os.fspath(each) for each in several]
        model, processor = call(load_ensemble, names, where, engine, device, threads)
        return cls(model, processor, device=device, threads=threads, **settings)

    @overload
    def __call__(
        self,
        images: "OneImage",
        *,
        boxes: Iterable[Any] | None = ...,
        faces_only: bool = ...,
        attention: bool = ...,
        features: bool = ...,
        min_confidence: float | None = ...,
        on_error: OnError = ...,
    ) -> ImageResult: ...

    @overload
    def __call__(
        self,
        images: "Sequence[Any] | Iterator[Any] | set[Any]",
        *,
        boxes: Iterable[Any] | None = ...,
        faces_only: bool = ...,
        attention: bool = ...,
        features: bool = ...,
        min_confidence: float | None = ...,
        on_error: OnError = ...,
    ) -> list[ImageResult]: ...

    @overload
    def __call__(
        self,
        images: Any,
        *,
        boxes: Iterable[Any] | None = ...,
        faces_only: bool = ...,
        attention: bool = ...,
        features: bool = ...,
        min_confidence: float | None = ...,
        on_error: OnError = ...,
    ) -> Any: ...

    def __call__(
        self,
        images: Any,
        *,
        boxes: Iterable[Any] | None = None,
        faces_only: bool = False,
        attention: bool = False,
        features: bool = False,
        min_confidence: float | None = None,
        on_error: OnError = None,
    ) -> Any:
        """
        Recognize the expressions of one image, or of each of several.

        Args:
            images: a path, the bytes of an image file, a file opened for reading bytes, a `data:` URL, a PIL image, a
                numpy array or a torch tensor (`images.load_image` documents their shapes), or an iterable of these, or
                an array `N x H x W x 3` of N images.
            boxes: own boxes instead of detection: for one image a list of `(x0, y0, x1, y1)` (or of `Face`) in pixels
                of the upright image, for several images one such list each.
            faces_only: every image is a face already and is classified without detection.
            attention: whether to add the attention maps.
            features: whether to add the embedding of each face, float32 `(D,)`: the mean of the last stage's features
                over their places (D = 256 in the bundled network), as `RMNBaseModel` computes it, of the face as it
                is. An ensemble's are its members', one after the other.
            min_confidence: for this call, instead of the recognizer's.
            on_error: what becomes of an image that cannot be used. Without it, the error is raised. A function is
                called with the error, and the image is left out of a list. With `"keep"`, its place is taken by a
                result without faces whose `failed` is true and whose `message` is the error, as it is for one image.

        Returns:
            One `ImageResult` for one image (not in a list), else a list of them in the same order. Faces are sorted in
            reading order. Results depend neither on the form of the image nor on the others.

        Raises:
            InputError: an image cannot be used, or an argument is wrong. Errors of arguments are never passed to
                `on_error`.
        """
        several = as_images(images)
        options: dict[str, Any] = {
            "faces_only": faces_only,
            "attention": attention,
            "features": features,
            "min_confidence": min_confidence,
        }
        if several is not None:
            boxes = None if boxes is None else list(iterable("boxes", boxes))
            return list(self.stream(several, boxes=boxes, on_error=on_error, **options))
        errors: list[InputError] = []
        own_boxes = None if boxes is None else [boxes]
        results = list(
            self.stream(
                [images], boxes=own_boxes, on_error=errors.append if callable(on_error) else on_error, **options
            )
        )
        if errors and callable(on_error):
            on_error(errors[0])
            return failed(name_of(images, "image 1"), errors[0], images)
        return results[0]

    def stream(
        self,
        images: Iterable[Any],
        *,
        boxes: Iterable[Any] | None = None,
        faces_only: bool = False,
        attention: bool = False,
        features: bool = False,
        min_confidence: float | None = None,
        on_error: OnError = None,
    ) -> Iterator[ImageResult]:
        """
        Yield the result of each image, in order, in memory that does not grow with their number.

        Images are read when it is their turn, in the thread that asks for results, and their pixels are not kept. Up
        to `batch_size` of them are read ahead, and as many again (at most 8, or two for each thread) for the detector.
        What was recognized before an error is yielded before it is raised.

        Args:
            images: any iterable of what `__call__` takes for one image.
            boxes: own boxes, one list for each image.
            faces_only: every image is a face already.
            attention: whether to add the attention maps.
            features: whether to add the embedding of each face.
            min_confidence: instead of the recognizer's.
            on_error: as in `__call__`.

        Raises:
            InputError: an argument is wrong; while streaming, an image cannot be used.
        """
        if boxes is not None and faces_only:
            raise InputError("boxes and faces_only exclude each other: an image that is a face needs no box")
        if attention and not self.has_masks:
            raise InputError("attention=True must have a checkpoint with masks: this one has none")
        if features and not has_features(self.engine):
            raise InputError(
                f"features=True must have an engine with features: this one ({self.engine.name}) has none. Export the "
                "ONNX file again with `rmn-hub export`, or take an RMN and engine='torch'."
            )
        if not (on_error is None or on_error == "keep" or callable(on_error)):
            raise InputError(f"on_error={shown(on_error)} must be a function, 'keep' or None")
        several = as_images(images)
        if several is None:
            raise InputError(
                f"images of type {type(images).__name__} must be several images: call the recognizer for one"
            )
        if boxes is not None and isinstance(boxes, Sized) and isinstance(several, Sized) and len(boxes) != len(several):
            raise InputError(f"boxes has {len(boxes)} lists but must have one for each of the {len(several)} images")
        confidence = self.min_confidence
        if min_confidence is not None:
            confidence = _probability("min_confidence", min_confidence)
        preparation = Preparation(
            self.detector, self.device, self.margin, self.upright, self.max_pixels, self.batch_size
        )
        if boxes is None and not faces_only:
            ready = preparation.searched(several, on_error)
        else:
            ready = preparation.given(several, boxes, on_error)
        wanted = {"attention": attention, "features": features}
        return self._batched(ready, wanted, confidence)

    def video(self, source: str | os.PathLike[str] | int, **settings: Any) -> "FilmResults":
        """
        Return the results of a film frame by frame, with faces that keep their identities; see
        [`rmn_hub.video.recognize`] for the `settings`.

        Raises:
            InputError: the source cannot be opened or a setting is out of range.
        """
        from .video.recognize import recognize

        return recognize(source, self, **settings)

    def _batched(
        self, ready: Iterator[PreparedImage], wanted: dict[str, bool], min_confidence: float
    ) -> Iterator[ImageResult]:
        """Collect images until their faces make a batch, and yield their results."""
        waiting: list[PreparedImage] = []
        faces = size = 0
        failure: BaseException | None = None
        while failure is None:
            try:
                image = next(ready)
            except StopIteration:
                break
            except (Exception, KeyboardInterrupt) as error:  # whatever the caller's iterables raise, and Ctrl-C
                failure = error
                break
            waiting.append(image)
            faces += len(image.faces)
            size += sum(3 * crop.width * crop.height for crop in image.crops)
            if max(faces, len(waiting)) >= self.batch_size or size >= MAX_WAITING_BYTES:
                yield from self._classify(waiting, wanted, min_confidence)
                waiting, faces, size = [], 0, 0
        yield from self._classify(waiting, wanted, min_confidence)
        if failure is not None:
            raise failure

    def _classify(
        self, waiting: list[PreparedImage], wanted: dict[str, bool], min_confidence: float
    ) -> Iterator[ImageResult]:
        """Yield the results of the images, whose faces go through the engine together."""
        crops = [crop for image in waiting for crop in image.crops]
        turned = [degrees for image in waiting for degrees in image.turned]
        margins = [image.margin for image in waiting for _ in image.crops]
        probabilities: list[list[float]] = []
        maps: list[Attention | None] = []
        embeddings: list[np.ndarray | None] = []
        at_once = max(1, self.batch_size // self.views)
        for start in range(0, len(crops), at_once):
            batch = crops[start : start + at_once]
            output, logits = call(run_views, self.engine, self.processor(batch), self.views, **wanted)
            if not np.isfinite(logits).all():
                raise CheckpointError("the network's logits are not finite numbers: its weights are damaged")
            # In double precision the probabilities sum to 1 within 1e-15.
            probabilities += averaged(logits).tolist()
            # Copies: one face that is kept must not keep its whole batch in memory.
            embeddings += [None] * len(batch) if output.features is None else [row.copy() for row in output.features]
            if wanted["attention"]:
                pixels = [np.asarray(crop) for crop in batch]
                places = (some[start : start + at_once] for some in (turned, margins))
                maps += attention_of_faces(output.maps, output.before, output.after, pixels, *places)
            else:
                maps += [None] * len(batch)
        values = iter(zip(probabilities, maps, embeddings))
        for image in waiting:
            faces = tuple(
                self._expression(index, face, *next(values), min_confidence)
                for index, face in enumerate(image.faces, start=1)
            )
            yield replace(image.result, faces=faces)

    def _expression(
        self,
        index: int,
        face: Face,
        values: list[float],
        attention: Attention | None,
        features: np.ndarray | None,
        min_confidence: float,
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
            features=features,
            index=index,
        )


def _probability(name: str, value: Any) -> float:
    if isinstance(value, (int, float, np.number)) and 0 <= value <= 1:
        return float(value)
    raise InputError(f"{name}={shown(value)} must be in 0..1")


def _count(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise InputError(f"{name}={shown(value)} must be a whole number of at least 1")
    return number


def _margin(value: Any) -> float:
    if isinstance(value, (int, float, np.number)) and -1 < value < math.inf:
        return float(value)
    raise InputError(f"margin={shown(value)} must be a number greater than -1")


__all__ = ["ExpressionRecognizer", "OnError"]
