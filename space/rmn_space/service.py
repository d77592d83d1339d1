"""What all tabs share: the recognizer, its limits, and where it runs."""

import contextlib
import functools
import logging
import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from PIL import Image

from rmn_hub import BUNDLED_CHECKPOINT, ExpressionRecognizer, ImageResult, InputError, MTCNNDetector
from rmn_hub.detection import mtcnn
from rmn_hub.evaluation.measured import read_measured

from .decoding import VISITOR_LEFT, Decoder
from .inputs import Photo
from .render import NOTHING
from .safety import MAX_FACES, MAX_PIXELS, MAX_PLACES

log = logging.getLogger(__name__)
# Smallest face of the live tab: whoever looks into a camera is nearer than people on photos.
LIVE_MIN_FACE = 48
# Least and usual smallest face of a photo: from the usual one on, no smaller ones are looked for in a large photo than
# the detector itself chooses.
LEAST_FACE, USUAL_FACE = 20, 40
# Where networks live whose GPU is lent by the call (ZeroGPU).
LENT_DEVICE = "cuda"
NO_GPU = "No GPU was free, so this photo ran on the CPU."


def on_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs while a GPU is lent for it on a ZeroGPU Space; anywhere else, the same function."""
    try:
        import spaces
    except ImportError:
        return function
    return spaces.GPU(duration=20)(function)


def usual_face(image: Image.Image) -> float:
    """Return the smallest face in pixels that the detector looks for by itself."""
    numbers = mtcnn.numbers()
    return max(numbers["minFace"], max(image.size) * numbers["minSeen"] / numbers["maxSize"])


def smallest_face(asked: int, image: Image.Image, width: int) -> int | None:
    """
    Return the smallest face to look for, in pixels of an image, or `None` for the detector's own choice.

    Args:
        asked: smallest face in pixels of the photo: `USUAL_FACE` and more do not go below the detector's own choice.
        image: the photo, perhaps read smaller than it is.
        width: of the photo.
    """
    wanted = asked * image.width / width
    if asked >= USUAL_FACE and wanted <= usual_face(image):
        return None
    wanted = max(LEAST_FACE, round(wanted))
    # The cascade's cost grows with the pixels and the inverse square.
    affordable = math.ceil(math.sqrt(image.width * image.height / MAX_PLACES))
    return wanted if affordable <= wanted else -(-affordable // 10) * 10


class Cores:
    """
    Shares torch's threads between the requests that run at the same time. Threads that wait for a core spin, and more
    of them than cores slow each other down many times over. onnxruntime has threads of its own: where it does the work,
    torch is neither imported nor changed.

    Args:
        uses_torch: whether the requests run in torch.
    """

    def __init__(self, uses_torch: bool = True) -> None:
        self.uses_torch = uses_torch
        self.threads = self.running = 0
        self._lock = threading.Lock()
        if uses_torch:
            import torch

            self.threads = torch.get_num_threads()

    @contextlib.contextmanager
    def shared(self, between: int = 1) -> Iterator[None]:
        """Run the block on its share of the threads: among all that run now, and `between` that may run at least."""
        if not self.uses_torch:
            yield
            return
        import torch

        with self._lock:
            self.running += 1
            share = max(1, self.threads // max(self.running, between))
        try:
            torch.get_num_threads()  # a new thread takes over the last setting of any thread at its first question
            torch.set_num_threads(share)
            yield
        finally:
            with self._lock:
                self.running -= 1


class Service:
    """
    The recognizer behind the page.

    Args:
        checkpoint: folder or Hub id; the bundled checkpoint when `None`.

    Raises:
        InputError: the checkpoint cannot be loaded.
    """

    def __init__(self, checkpoint: str | None = None) -> None:
        where = checkpoint or BUNDLED_CHECKPOINT
        load = functools.partial(ExpressionRecognizer.from_pretrained, where, max_faces=MAX_FACES)
        zero_gpu = bool(os.environ.get("SPACES_ZERO_GPU"))
        # All networks are made here, when the page starts: what is made while a GPU is lent is lost with it.
        self.recognizer = load(device=LENT_DEVICE if zero_gpu else None)
        # A lent GPU comes by the call: too slow for a camera's frames.
        self.live_recognizer = load(device="cpu") if zero_gpu else self.recognizer
        self.cores = Cores("torch" in {each.engine.name for each in (self.recognizer, self.live_recognizer)})
        self.live_detector = MTCNNDetector(min_face=LIVE_MIN_FACE, device=self.live_recognizer.device)
        self.has_masks = self.recognizer.has_masks
        # Only a folder has an eval.json to show. Of a checkpoint on the Hub, the page links to where it is.
        folder = Path(where) if Path(where).is_dir() else None
        self.results = read_measured(folder)
        self.address = None if folder else f"{constants.ENDPOINT}/{where}"
        self.decoder = Decoder()
        # A few only: visitors may ask for any size, and each detector holds weights of its own.
        self._recognizer = functools.lru_cache(maxsize=4)(self._recognizer_for)
        self._recognize = on_gpu(self._recognize_here) if zero_gpu else self._recognize_here

    def recognize(
        self,
        photo: Photo,
        min_face: int | None = None,
        min_confidence: float | None = None,
        attention: bool = False,
        between: int = 1,
        wanted: Callable[[], bool] = lambda: True,
        on_cpu: bool = False,
    ) -> tuple[ImageResult, Image.Image]:
        """
        Return the result of a photo, as the command line has it, and the upright photo.

        Args:
            photo: what a visitor sent.
            min_face: as `smallest_face` takes it; the recognizer's own choice when `None`.
            min_confidence: probability below which a face is marked uncertain; the recognizer's own when `None`.
            attention: whether to add attention maps, where the checkpoint has masks.
            between: requests to share the cores with at least (see `Cores`). With 1, a request that is alone runs as
                the command line does, and the numbers agree to the last digit.
            wanted: whether the visitor still waits for the result; when not, the work stops.
            on_cpu: whether to ask for no GPU where it is lent by the call. A photo whose GPU is refused runs on the CPU
                as well, with a sentence in its `message`.

        Raises:
            InputError: the photo cannot be used; the message is a sentence for the visitor.
        """
        if photo.problem:
            raise InputError(photo.problem)
        loaded = self.decoder.load(photo.data, photo.name, MAX_PIXELS, wanted)
        if not wanted():
            raise InputError(VISITOR_LEFT)
        smallest = None if min_face is None else smallest_face(min_face, loaded.image, loaded.width)
        settings = (loaded.image, smallest, min_confidence, attention and self.has_masks)
        with self.cores.shared(between):
            result, refused = self._recognize_anywhere(settings, on_cpu)
        sentences = [loaded.message, result.message if result.faces else NOTHING, refused]
        if len(result) == MAX_FACES:
            sentences.append(f"Only the {MAX_FACES} largest faces are shown.")
        least = round((smallest or usual_face(loaded.image)) * loaded.width / loaded.image.width)
        # What the detector chooses is usual: it is of interest where nothing was found.
        if min_face is not None and least > min_face and not (smallest is None and result.faces):
            sentences.append(f"Only faces of at least {least} pixels were looked for: the photo is large.")
        message = " ".join(sentence for sentence in sentences if sentence) or None
        result = replace(result, source=loaded.source, message=message)
        if (loaded.width, loaded.height) != loaded.image.size:
            result = result.scaled(loaded.width, loaded.height)
        return result, loaded.image

    def close(self) -> None:
        """Stop the processes that decode."""
        self.decoder.close()

    def _recognizer_for(self, min_face: int, on_cpu: bool) -> ExpressionRecognizer:
        chosen = self.live_recognizer if on_cpu else self.recognizer
        detector = MTCNNDetector(min_face=min_face, max_faces=MAX_FACES, device=chosen.device)
        return ExpressionRecognizer(chosen.engine, chosen.processor, device=chosen.device, detector=detector)

    def _recognize_anywhere(
        self, settings: tuple[Image.Image, int | None, float | None, bool], on_cpu: bool
    ) -> tuple[ImageResult, str | None]:
        """Return the result, and a sentence where a GPU was refused."""
        lent = self.live_recognizer is not self.recognizer
        if not lent:
            return self._recognize(*settings), None
        if not on_cpu:
            try:
                return self._recognize(*settings), None
            except Exception:  # `spaces` raises gradio's error for whatever it was: no quota, a timeout, a failed task
                log.warning("no GPU was lent", exc_info=True)
        return self._recognize_here(*settings, True), None if on_cpu else NO_GPU

    def _recognize_here(
        self,
        image: Image.Image,
        min_face: int | None,
        min_confidence: float | None,
        attention: bool,
        on_cpu: bool = False,
    ) -> ImageResult:
        if min_face is not None:
            recognizer = self._recognizer(min_face, on_cpu)
        else:
            recognizer = self.live_recognizer if on_cpu else self.recognizer
        return recognizer(image, min_confidence=min_confidence, attention=attention)
