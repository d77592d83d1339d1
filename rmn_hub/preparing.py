"""From images to numbered face crops: read, detect several images together or at the same time, cut out."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from PIL import Image

from .boxes import check_crops, checked_faces, iterable
from .detection.detector import FaceDetector, crop_face
from .errors import InputError, RMNError
from .forking import call, has_lost_cuda
from .images import LoadedImage, load_image, name_of, shown
from .results import Face, ImageResult, reading_order
from .turning import found_turned, is_doubtful, lean, turned_sentence

# What becomes of an image that cannot be used: it is left out and the function is called with the error, or `"keep"`
# puts a result without faces in its place.
OnError: TypeAlias = Callable[[InputError], object] | Literal["keep"] | None

# Images that the detector gets together, and bytes of their pixels beyond which they go early: for GPUs and detectors
# that work on batches. One that can be called by several threads gets them one by one instead, two ahead for each
# thread, while this thread reads and classifies: on two cores, 200 photos take half the time.
IMAGES_AT_ONCE = 8
BYTES_AT_ONCE = 64_000_000
AHEAD = 2
NO_FACE = (
    "No face was found: look for smaller ones (min_face=20), or skip the detection if this is a face (faces_only)."
)
NO_BOXES = "No box was given for this image."


@dataclass
class PreparedImage:
    """
    An image whose faces wait for the engine. Its pixels are not kept.

    Args:
        result: the image's result, still without faces.
        faces: its faces in reading order, in pixels of the upright image.
        crops: the square around each face.
        turned: by how many degrees each crop was turned clockwise.
        margin: how much longer the side of a crop is than the longer side of its box.
    """

    result: ImageResult
    faces: list[Face]
    crops: list[Image.Image]
    turned: list[float]
    margin: float = 0.0


@dataclass(frozen=True)
class _Read:
    """An image of the caller's, decoded, or the error of one that cannot be used."""

    image: Any
    name: str
    outcome: LoadedImage | InputError

    @property
    def size(self) -> int:
        """Bytes of its pixels."""
        return 0 if isinstance(self.outcome, InputError) else 3 * self.outcome.image.width * self.outcome.image.height


class _Reads:
    """The caller's images, decoded, up to the first for which something is raised; `end` raises that."""

    def __init__(self, reads: Iterator[_Read]) -> None:
        self._reads = reads
        self._failure: Exception | None = None

    def __iter__(self) -> Iterator[_Read]:
        try:
            yield from self._reads
        except Exception as error:  # whatever the caller's iterable raises
            self._failure = error

    def end(self) -> None:
        """Raise what ended the images before their time, now that those before it are done."""
        if self._failure is not None:
            raise self._failure


@dataclass(frozen=True)
class Preparation:
    """
    How images become crops; the settings are those of the recognizer.

    Args:
        detector: finds the faces.
        device: where it runs, as far as the recognizer chose it.
        margin: how much wider than a box the crop is.
        upright: whether faces with landmarks are turned upright by their eyes.
        max_pixels: most pixels that an image may have.
        batch_size: most images that may wait for the detector.
    """

    detector: FaceDetector
    device: str
    margin: float
    upright: bool
    max_pixels: int
    batch_size: int

    def searched(self, images: Iterable[Any], on_error: OnError) -> Iterator[PreparedImage]:
        """
        Yield the images in order with the faces that the detector finds. Where it finds none, or only doubtful ones, it
        also gets the image turned: it may lie on its side or stand upside down.

        Raises:
            InputError: an image cannot be used and `on_error` is `None`, or the detector failed. The images before it
                are yielded first.
        """
        threads = getattr(self.detector, "threads", 1)
        if threads > 1 and not (isinstance(images, Sized) and len(images) == 1):
            yield from self._searched_by(threads, images, on_error)
            return
        for group in self._groups(images, on_error):
            found = self._detected([read.outcome for read in group if isinstance(read.outcome, LoadedImage)])
            for read in group:
                if isinstance(read.outcome, InputError):
                    yield from _refused(read, read.outcome, on_error)
                else:
                    yield self._search(read.image, read.outcome, next(found))

    def _searched_by(self, threads: int, images: Iterable[Any], on_error: OnError) -> Iterator[PreparedImage]:
        """Do the work of [`searched`] in threads. Images are read and results are yielded in this one, in order."""
        pending: deque[tuple[_Read, Future[PreparedImage] | None]] = deque()
        size = 0

        def first() -> Iterator[PreparedImage]:
            nonlocal size
            read, future = pending.popleft()
            size -= read.size
            if future is not None:
                yield future.result()
            elif isinstance(read.outcome, InputError):
                yield from _refused(read, read.outcome, on_error)

        ahead = min(AHEAD * threads, self.batch_size - 1)
        pool = ThreadPoolExecutor(threads, thread_name_prefix="rmn_hub-detection")
        try:
            reads = _Reads(self._reads(images, on_error))
            for read in reads:
                loaded = read.outcome
                future = pool.submit(self._search, read.image, loaded) if isinstance(loaded, LoadedImage) else None
                pending.append((read, future))
                size += read.size
                while len(pending) > ahead or (size > BYTES_AT_ONCE and len(pending) > 1):
                    yield from first()
            while pending:
                yield from first()
            reads.end()
        finally:
            pool.shutdown(cancel_futures=True)

    def _search(self, image: Any, loaded: LoadedImage, faces: list[Face] | None = None) -> PreparedImage:
        """Cut out the faces of an image: `faces` or those that the detector finds, or finds in the image turned."""
        if faces is None:
            [faces] = self._detected([loaded])
        degrees = 0
        if is_doubtful(faces):
            quicker = getattr(self.detector, "detect_larger", None)
            look = None if quicker is None else lambda other: next(self._detected([other], quicker))
            degrees, turned = found_turned(loaded, lambda other: next(self._detected([other])), look)
            faces = turned or faces
        return self._cut_out(image, loaded, faces, None if faces else NO_FACE, degrees)

    def given(self, images: Iterable[Any], boxes: Iterable[Any] | None, on_error: OnError) -> Iterator[PreparedImage]:
        """
        Yield the images in order with the caller's boxes, or as faces themselves where `boxes` is `None`.

        Raises:
            InputError: an image cannot be used and `on_error` is `None`, or the boxes are wrong.
        """
        missing = object()
        all_boxes = None if boxes is None else iter(iterable("boxes", boxes))
        for number, image in enumerate(images, start=1):
            own_boxes = None if all_boxes is None else next(all_boxes, missing)
            if own_boxes is missing:
                raise InputError(f"boxes has {number - 1} lists but must have one for each image")
            read = self._read(image, f"image {number}", on_error, is_face=all_boxes is None, waits=all_boxes is None)
            loaded = read.outcome
            if isinstance(loaded, InputError):
                yield from _refused(read, loaded, on_error)
            elif all_boxes is None:
                # As it is: the engine's processor stretches it to a square, as training and the image processor do.
                result = ImageResult(loaded.source, loaded.width, loaded.height, (), loaded.message, image=image)
                yield PreparedImage(result, [_whole(loaded)], [loaded.image], [0.0])
            else:
                faces = checked_faces(own_boxes, loaded.width, loaded.height, f"boxes of {loaded.source}")
                yield self._cut_out(image, loaded, faces, None if faces else NO_BOXES)
        if all_boxes is not None and next(all_boxes, missing) is not missing:
            raise InputError("boxes has more lists than there are images: give one for each image")

    def _groups(self, images: Iterable[Any], on_error: OnError) -> Iterator[list[_Read]]:
        """Yield the images that go to the detector together, and the rest of them before an error is raised."""
        group: list[_Read] = []
        size = 0
        reads = _Reads(self._reads(images, on_error))
        for read in reads:
            group.append(read)
            size += read.size
            if len(group) >= min(self.batch_size, IMAGES_AT_ONCE) or size >= BYTES_AT_ONCE:
                yield group
                group, size = [], 0
        if group:
            yield group
        reads.end()

    def _reads(self, images: Iterable[Any], on_error: OnError) -> Iterator[_Read]:
        for number, image in enumerate(images, start=1):
            yield self._read(image, f"image {number}", on_error)

    def _read(self, image: Any, name: str, on_error: OnError, *, is_face: bool = False, waits: bool = True) -> _Read:
        outcome: LoadedImage | InputError
        try:
            outcome = load_image(image, name, max_pixels=self.max_pixels)
            if waits and outcome.image is image:
                # Until its turn comes, the caller may paste the next one into it, or seek in it.
                outcome = replace(outcome, image=outcome.image.copy())
            if is_face:
                check_crops([_whole(outcome)], 0.0, outcome.source)
            if isinstance(image, Image.Image) and getattr(image, "is_animated", False):
                image = outcome.image  # what the result is drawn on: this frame, not that at which the caller ends
        except InputError as error:
            if on_error is None:
                raise
            outcome = error
        return _Read(image, name, outcome)

    def _detected(
        self, several: list[LoadedImage], detect: Callable[[list[Image.Image]], Any] | None = None
    ) -> Iterator[list[Face]]:
        """Yield the faces that `detect`, or the detector's own, finds in each image, in its upright pixels."""
        detect = detect or self.detector.detect
        if self.device.startswith("cuda") and has_lost_cuda():
            raise InputError(f"device={self.device!r} cannot be used after fork: start processes with spawn")
        found: Any
        if len(several) > 1:
            try:
                found = call(detect, [loaded.image for loaded in several])
            except Exception:  # of one of them, or it takes one at a time: the calls below tell which
                found = None
            if _is_list_of(len(several), found):
                yield from map(_in_own_pixels, several, found)
                return
        for loaded in several:
            try:
                found = call(detect, [loaded.image])
            except RMNError:
                raise
            except Exception as error:
                reason = f"{type(error).__name__}: {shown(error, 200)}"
                raise InputError(f"detector failed on {loaded.source}: {reason}. Mend its detect().") from error
            if not _is_list_of(1, found):
                raise InputError("detector.detect must return one list of faces for each image: see FaceDetector")
            yield _in_own_pixels(loaded, found[0])

    def _cut_out(
        self,
        image: Any,
        loaded: LoadedImage,
        faces: list[Face],
        message: str | None,
        turned: int = 0,
    ) -> PreparedImage:
        """Sort the faces in reading order and cut them out, upright where their eyes or the `turned` image show how."""
        faces = [faces[place] for place in reading_order([face.box for face in faces])]
        check_crops(faces, self.margin, loaded.source)
        scale = (loaded.image.width / loaded.width, loaded.image.height / loaded.height)
        seen = [face if scale == (1, 1) else face.scaled(*scale) for face in faces]
        turns = [-lean(face) if self.upright and face.landmarks else float(turned) for face in seen]
        crops = [crop_face(loaded.image, face.box, self.margin, degrees) for face, degrees in zip(seen, turns)]
        parts = (loaded.message, message, turned_sentence(turned) if turned else None)
        sentences = " ".join(sentence for sentence in parts if sentence)
        result = ImageResult(loaded.source, loaded.width, loaded.height, (), sentences or None, turned, image)
        return PreparedImage(result, faces, crops, turns, self.margin)


def failed(source: str, error: InputError, image: Any) -> ImageResult:
    """Return the result of an image that cannot be used."""
    return ImageResult(source, 0, 0, (), message=str(error), image=image)


def _refused(read: _Read, error: InputError, on_error: OnError) -> Iterator[PreparedImage]:
    if callable(on_error):
        on_error(error)
    else:
        yield PreparedImage(failed(name_of(read.image, read.name), error, read.image), [], [], [])


def _whole(loaded: LoadedImage) -> Face:
    return Face((0.0, 0.0, float(loaded.width), float(loaded.height)))


def _is_list_of(count: int, found: Any) -> bool:
    return isinstance(found, Sequence) and not isinstance(found, str) and len(found) == count


def _in_own_pixels(loaded: LoadedImage, found: Any) -> list[Face]:
    faces = checked_faces(found, *loaded.image.size, f"detector's boxes of {loaded.source}")
    scale = (loaded.width / loaded.image.width, loaded.height / loaded.image.height)
    return faces if scale == (1, 1) else [face.scaled(*scale) for face in faces]


__all__ = ["OnError", "Preparation", "PreparedImage", "failed"]
