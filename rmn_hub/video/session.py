"""
What one stream of frames is: `Session` turns frames into tracked, smoothed results.

Files, cameras and the page's Live tab all go through it: the whole frame is searched now and then, faces are followed
in between, every face is classified by the recognizer, and its probabilities are smoothed over time.
"""

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..detection.detector import FaceDetector
from ..errors import InputError
from ..images import load_image
from ..results import FaceExpression, ImageResult, reading_order
from .cuts import CutDetector
from .results import FrameResult
from .tracking import REACH, FaceTracker, ProbabilitySmoother, Track

if TYPE_CHECKING:
    from ..recognizer import ExpressionRecognizer

# Seconds: the time constant of the smoothed probabilities.
SMOOTH = 0.4
# Frames from one search of the whole frame to the next.
DETECT_EVERY = 5


@dataclass
class Located:
    """
    A frame whose faces are found and followed, and not classified yet.

    Args:
        image: the upright frame.
        time: its time in seconds.
        index: its number in the stream.
        source: the name of the stream.
        tracks: the faces that it shows, some of which may be tentative.
        alive: the ids of all tracks, those that are waited for included.
        cut: whether the camera has cut just before it.
        alone: what the recognizer made of the frame, where it is treated as an image of its own.
    """

    image: Image.Image
    time: float
    index: int
    source: str
    tracks: list[Track] = field(default_factory=list)
    alive: frozenset[int] = frozenset()
    cut: bool = False
    alone: ImageResult | None = None


class Session:
    """
    One stream of frames with one memory: who is who, and what they have shown lately.

    Args:
        recognizer: classifies the faces.
        detector: finds them; the recognizer's own when not given.
        smooth: time constant in seconds of the smoothed probabilities (see [`ProbabilitySmoother`]). With 0, boxes and
            probabilities are those of each frame alone, and where every frame is searched by the recognizer's own
            detector, they are what the recognizer returns for the frame.
        detect_every: frames from one search of the whole frame to the next. When not given it is 5, or 1 without
            smoothing: the results of a frame are then those of the recognizer for the same image.
        patience: for how many frames a face that is not seen is waited for before its track ends.
        hold: for how many of these frames it is reported where it was last seen. 0 reports only what is seen.
        reach: how far a face may move from one frame to the next (see [`FaceTracker`]).
        confirm: in how many frames, one after the other, a face has to be seen before it is reported. Its first frames
            are then left out, as a stream cannot be taken back; a film gives them back (see [`recognize`]).
        max_faces: follow at most this many faces, the largest first; all when not given.
        min_confidence: probability in 0..1 below which a (smoothed) expression is `uncertain`; the recognizer's own
            when not given.
        cuts: whether camera cuts end all tracks. Whoever takes only some frames of a film looks for cuts in all of them
            and calls `cut`.

    Raises:
        InputError: a setting is out of range.

    Example:
        >>> session = Session(recognizer)  # doctest: +SKIP
        >>> for time, frame in frames:  # doctest: +SKIP
        ...     for face in session.update(frame, time):
        ...         print(time, face.track_id, face.expression)
    """

    def __init__(
        self,
        recognizer: "ExpressionRecognizer",
        *,
        detector: FaceDetector | None = None,
        smooth: float = SMOOTH,
        detect_every: int | None = None,
        patience: int = 2,
        hold: int = 0,
        reach: float = REACH,
        confirm: int = 1,
        max_faces: int | None = None,
        min_confidence: float | None = None,
        cuts: bool = True,
    ) -> None:
        if min_confidence is not None and not 0 <= min_confidence <= 1:
            raise InputError(f"min_confidence={min_confidence} must lie in 0..1")
        if not 0 <= hold <= patience:
            raise InputError(f"hold={hold} must lie in 0..patience={patience}")
        if not 0 <= smooth < math.inf:
            raise InputError(f"smooth={smooth} must be a finite number of seconds, 0 or more")
        if detect_every is None:
            detect_every = DETECT_EVERY if smooth > 0 else 1
        self.recognizer = recognizer
        self.hold = hold
        self.min_confidence = recognizer.min_confidence if min_confidence is None else float(min_confidence)
        self.smoother = ProbabilitySmoother(smooth)
        self.tracker = FaceTracker(
            detector or recognizer.detector,
            detect_every=detect_every,
            patience=patience,
            max_faces=max_faces,
            steady=smooth > 0,
            reach=reach,
            confirm=confirm,
        )
        self._alone = smooth == 0 and detect_every == 1 and detector is None
        self._cuts = CutDetector() if cuts else None
        self._frames = 0
        self._cut = False
        self._ids: dict[int, int] = {}
        self._next_id = 1

    def cut(self) -> None:
        """Note that the camera has cut since the last frame: the next frame begins with new tracks."""
        self._cut = True

    def update(
        self,
        frame: Any,
        time: float,
        *,
        index: int | None = None,
        source: str | None = None,
        attention: bool = False,
    ) -> FrameResult:
        """
        Take the next frame.

        Args:
            frame: an upright frame, in any form that the recognizer takes.
            time: its time in seconds, from any start.
            index: its number in the stream; counted from 0 when not given.
            source: the name of the stream; `"frame N"` when not given.
            attention: whether to add the attention maps.

        Returns:
            The faces of this frame in reading order. The result does not carry the frame itself.

        Raises:
            InputError: the frame cannot be used, or `time` is not a finite number.
        """
        located = self.locate(frame, time, index=index, source=source, attention=attention)
        located.tracks = [track for track in located.tracks if track.confirmed]
        return self.classify(located, attention=attention)

    def locate(
        self,
        frame: Any,
        time: float,
        *,
        index: int | None = None,
        source: str | None = None,
        attention: bool = False,
    ) -> Located:
        """
        Take the next frame and find its faces: the first half of `update`, for whoever looks ahead.

        Args:
            frame: as in `update`.
            time: likewise.
            index: likewise.
            source: likewise.
            attention: likewise.

        Raises:
            InputError: the frame cannot be used, or `time` is not a finite number.
        """
        if not math.isfinite(time):
            raise InputError(f"time={time!r} must be a finite number of seconds")
        index = self._frames if index is None else index
        self._frames = index + 1
        source = source or f"frame {index}"
        image: Image.Image = load_image(frame, source).image
        cut = (self._cuts is not None and self._cuts.update(image)) or self._cut
        self._cut = False
        if cut:
            self.tracker.reset()
        alone = self.recognizer(image, attention=attention) if self._alone else None
        tracks = self.tracker.update(image, None if alone is None else [face.face for face in alone])
        seen = sorted((track for track in tracks if track.missed <= self.hold), key=lambda track: track.missed)
        seen = seen[: self.tracker.max_faces]
        return Located(image, time, index, source, seen, frozenset(track.id for track in tracks), cut, alone)

    def classify(self, located: Located, *, attention: bool = False) -> FrameResult:
        """
        Return the result of a frame: the second half of `update`. Frames come in the order of their times.

        Args:
            located: the frame; its tracks are those to report.
            attention: whether to add the attention maps.
        """
        # In reading order already, so that the recognizer's results are in the order of the tracks.
        tracks = [located.tracks[place] for place in reading_order([track.face.box for track in located.tracks])]
        raw: tuple[FaceExpression, ...] = ()
        if located.alone is not None:
            ids = {track.face.box: track.id for track in tracks}
            raw = tuple(
                replace(face, index=number, track_id=self._number(ids[face.box]))
                for number, face in enumerate((face for face in located.alone if face.box in ids), start=1)
            )
        elif tracks:
            seen = self.recognizer(located.image, boxes=[track.face for track in tracks], attention=attention)
            assert isinstance(seen, ImageResult)
            raw = tuple(replace(face, track_id=self._number(track.id)) for face, track in zip(seen, tracks))
        faces = tuple(self._smoothed(face, located.time) for face in raw)
        known = located.alive.union(track.id for track in tracks)
        self._ids = {track: number for track, number in self._ids.items() if track in known}
        self.smoother.keep(self._ids.values())
        return FrameResult(
            source=located.source,
            width=located.image.width,
            height=located.image.height,
            faces=faces,
            turned=0 if located.alone is None else located.alone.turned,
            time=located.time,
            index=located.index,
            raw=raw,
            cut=located.cut,
        )

    def _number(self, track: int) -> int:
        """Return the number under which a track is reported: tentative ones that came to nothing leave no gaps."""
        if track not in self._ids:
            self._ids[track] = self._next_id
            self._next_id += 1
        return self._ids[track]

    def _smoothed(self, face: FaceExpression, time: float) -> FaceExpression:
        assert face.track_id is not None
        probabilities = self.smoother.update(face.track_id, face.probabilities, time)
        best = max(probabilities, key=probabilities.__getitem__)
        return replace(
            face,
            expression=best,
            probability=probabilities[best],
            probabilities=probabilities,
            uncertain=probabilities[best] < self.min_confidence,
        )


__all__ = ["Session"]
