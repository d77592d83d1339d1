"""Who is who from frame to frame: `FaceTracker` follows faces, `ProbabilitySmoother` calms their probabilities."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from ..detection.detector import FaceDetector
from ..errors import InputError
from ..images import load_image
from ..results import Box, Face

# A followed face is looked for in a square of this many times its size: it may move by half its size between two
# frames, and it may grow to nearly twice its size.
SEARCH = 2.0
# ... and that square is scaled so that the face is this many pixels large, whatever its size in the frame. Following
# then costs the same for every face, about a third of a detection at 640 x 480 (MTCNN, smallest face 40 pixels).
LOOK_SIZE = 64
# Two boxes that overlap more than this (intersection over union) are one face.
SAME_FACE = 0.3
# A still box keeps this share of its old place in every frame; a moving one keeps less.
STEADINESS = 0.6


@dataclass(frozen=True)
class Track:
    """
    One face over time.

    Args:
        id: a number that stays with the face as long as it is followed; never used again by the same tracker.
        face: where the face is now, in pixels of the frame; its box is smoothed, landmarks and score are as measured.
        frames: for how many frames it has been followed, from 1.
        missed: how many frames ago it was last seen: 0 when it was seen in this frame.
    """

    id: int
    face: Face
    frames: int = 1
    missed: int = 0


class FaceTracker:
    """
    Follows faces through the frames of a video or camera. Every `detect_every` frames the whole frame is searched; in
    between, only the neighbourhood of each known face is, with the same detector. A face that gets lost makes the
    tracker search the whole frame at once.

    Args:
        detector: any face detector. It is called with whole frames and with lists of small squares of equal size.
        detect_every: frames from one search of the whole frame to the next; 1 searches every frame.
        patience: for how many frames a face that is not seen stays where it was. 0 drops it at once.
        max_faces: follow at most this many faces, the largest first; `None` follows all.
        steady: whether the box of a still face is smoothed over time. Otherwise boxes are as detected.

    Raises:
        InputError: a setting is out of range.

    Example:
        >>> tracker = FaceTracker(MTCNNDetector())
        >>> for frame in frames:
        ...     for track in tracker.update(frame):
        ...         print(track.id, track.face.box)
    """

    def __init__(
        self,
        detector: FaceDetector,
        detect_every: int = 5,
        patience: int = 2,
        max_faces: int | None = None,
        steady: bool = True,
    ) -> None:
        if detect_every < 1 or patience < 0:
            raise InputError(f"detect_every={detect_every} must be at least 1 and patience={patience} at least 0")
        if max_faces is not None and max_faces < 1:
            raise InputError(f"max_faces={max_faces} must be at least 1, or None for all")
        self.detector = detector
        self.detect_every = detect_every
        self.patience = patience
        self.max_faces = max_faces
        self.steady = steady
        self.tracks: tuple[Track, ...] = ()
        self._next_id = 1
        self._frames_since_detection = 0
        self._size: tuple[int, int] | None = None

    def reset(self) -> None:
        """End all tracks, as a camera cut does. Their ids are not used again."""
        self.tracks = ()

    def update(self, frame: Any) -> tuple[Track, ...]:
        """
        Take the next frame.

        Args:
            frame: an upright frame, in any form that the recognizer takes (see [`load_image`]). A frame of another size
                than the last one ends all tracks.

        Returns:
            The faces of this frame in the order in which they appeared.

        Raises:
            InputError: the frame cannot be used.
        """
        frame = load_image(frame, "the frame").image
        if frame.size != self._size:
            self.tracks, self._size = (), frame.size
        self._frames_since_detection += 1
        searched_all = not self.tracks or self._frames_since_detection >= self.detect_every
        found: list[Face | None] = self._match(self._detect(frame)) if searched_all else self._follow(frame)
        if not searched_all and None in found[: len(self.tracks)]:
            found = self._match(self._detect(frame))
        self.tracks = self._merge(found)
        return self.tracks

    def _detect(self, frame: Image.Image) -> list[Face]:
        self._frames_since_detection = 0
        return self.detector.detect([frame])[0]

    def _follow(self, frame: Image.Image) -> list[Face | None]:
        """Looks for each track in its own neighbourhood; one face or `None` for each track."""
        # A square must show the face well above the smallest one that the detector looks for.
        target = max(LOOK_SIZE, 1.6 * (getattr(self.detector, "min_face", None) or 0))
        side = round(SEARCH * target)
        squares, offsets = [], []
        for track in self.tracks:
            x0, y0, x1, y1 = track.face.box
            half = SEARCH * max(x1 - x0, y1 - y0) / 2
            left, top = round((x0 + x1) / 2 - half), round((y0 + y1) / 2 - half)
            whole = max(1, round(2 * half))
            # `crop` fills with black what lies outside the frame.
            square = frame.crop((left, top, left + whole, top + whole))
            squares.append(square.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0))
            offsets.append((left, top, whole / side))
        found: list[Face | None] = []
        for track, faces, (left, top, scale) in zip(self.tracks, self.detector.detect(squares), offsets):
            candidates = [face for face in (_move(face, left, top, scale) for face in faces) if _is_in(face, frame)]
            overlaps = [overlap(face.box, track.face.box) for face in candidates]
            best = max(overlaps, default=0.0)
            found.append(candidates[overlaps.index(best)] if best >= SAME_FACE else None)
        return found

    def _match(self, faces: list[Face]) -> list[Face | None]:
        """Gives each track its face (or `None`), best overlap first; faces of no track follow after the last track."""
        pairs = sorted(
            (
                (overlap(track.face.box, face.box), t, f)
                for t, track in enumerate(self.tracks)
                for f, face in enumerate(faces)
            ),
            reverse=True,
        )
        matched: dict[int, int] = {}
        for share, t, f in pairs:
            if share >= SAME_FACE / 2 and t not in matched and f not in matched.values():
                matched[t] = f
        known = [faces[matched[t]] if t in matched else None for t in range(len(self.tracks))]
        new = [face for f, face in enumerate(faces) if f not in matched.values()]
        return known + sorted(new, key=lambda face: -_area(face.box))

    def _merge(self, found: list[Face | None]) -> tuple[Track, ...]:
        tracks: list[Track] = []
        for track, face in zip(self.tracks, found):
            if face is not None:
                face = replace(face, box=_smooth(track.face.box, face.box)) if self.steady else face
                track = Track(track.id, face, track.frames + 1)
            else:
                track = replace(track, frames=track.frames + 1, missed=track.missed + 1)
            # Two tracks that have run onto one face are one: the older keeps it.
            if track.missed <= self.patience and not _is_known(track.face, tracks):
                tracks.append(track)
        for face in found[len(self.tracks) :]:
            if face is not None and not _is_known(face, tracks):
                tracks.append(Track(self._next_id, face))
                self._next_id += 1
        if self.max_faces is not None and len(tracks) > self.max_faces:
            kept = sorted(tracks, key=lambda track: -_area(track.face.box))[: self.max_faces]
            tracks = [track for track in tracks if track in kept]
        return tuple(tracks)


class ProbabilitySmoother:
    """
    Smooths probabilities over time, one series per key, by an exponential moving average that depends on the time
    between two frames and not on their number. The raw values stay with whoever measured them.

    Args:
        seconds: time constant: after a sudden change, the smoothed value has gone 63% of the way after this long. 0
            switches the smoothing off.
    """

    def __init__(self, seconds: float = 0.4) -> None:
        if not 0 <= seconds < math.inf:
            raise InputError(f"seconds={seconds} must be a finite number of at least 0")
        self.seconds = seconds
        self._series: dict[int, tuple[float, dict[str, float]]] = {}

    def update(self, key: int, probabilities: Mapping[str, float], now: float) -> dict[str, float]:
        """
        Args:
            key: whose probabilities they are, such as a track's `id`.
            probabilities: raw probabilities by name; they sum to 1.
            now: the time of the frame in seconds, from any start.

        Returns:
            The smoothed probabilities, in the order of `probabilities`; they sum to 1, too.
        """
        values = dict(probabilities)
        if key in self._series and self.seconds > 0:
            before, old = self._series[key]
            kept = math.exp(-max(0.0, now - before) / self.seconds)
            values = {name: kept * old.get(name, value) + (1 - kept) * value for name, value in values.items()}
        self._series[key] = (now, values)
        return dict(values)

    def keep(self, keys: Iterable[int]) -> None:
        """Forgets every series but those of `keys`."""
        wanted = set(keys)
        self._series = {key: value for key, value in self._series.items() if key in wanted}


def overlap(first: Box, second: Box) -> float:
    """Intersection over union of two boxes, in 0..1."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (_area(first) + _area(second) - shared)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _is_known(face: Face, tracks: list[Track]) -> bool:
    return any(overlap(face.box, track.face.box) > SAME_FACE for track in tracks)


def _is_in(face: Face, frame: Image.Image) -> bool:
    """Whether the middle of the face lies in the frame: a square at the border shows more than the frame."""
    x0, y0, x1, y1 = face.box
    return 0 < (x0 + x1) / 2 < frame.width and 0 < (y0 + y1) / 2 < frame.height


def _move(face: Face, left: float, top: float, scale: float) -> Face:
    """A face of a search square in pixels of the frame."""
    x0, y0, x1, y1 = face.box
    points = face.landmarks
    return Face(
        box=(left + x0 * scale, top + y0 * scale, left + x1 * scale, top + y1 * scale),
        landmarks=None if points is None else tuple((left + x * scale, top + y * scale) for x, y in points),
        score=face.score,
    )


def _smooth(old: Box, new: Box) -> Box:
    """The new box, held back while the face is still: MTCNN's boxes tremble by a few pixels."""
    movement = max(abs(a - b) for a, b in zip(old, new)) / math.sqrt(max(1.0, _area(new)))
    kept = STEADINESS * max(0.0, 1 - 6 * movement)
    x0, y0, x1, y1 = (kept * a + (1 - kept) * b for a, b in zip(old, new))
    return x0, y0, x1, y1


__all__ = ["FaceTracker", "ProbabilitySmoother", "Track", "overlap"]
