"""Who is who from frame to frame: `FaceTracker` follows faces, `ProbabilitySmoother` calms their probabilities."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..detection.detector import FaceDetector
from ..errors import InputError
from ..images import load_image
from ..packages import require
from ..results import Box, Face
from .assignment import best_assignment

if TYPE_CHECKING:
    import supervision

# A followed face is looked for in a square of this many times its size: it may move by half its size between two
# frames, and it may grow to nearly twice its size.
SEARCH = 2.0
# ... and that square is scaled so that the face is this many pixels large, whatever its size in the frame. Following
# then costs the same for every face: 3 ms of CPU by MTCNN's `near` and 8 ms by a search, against 40 ms for a search of
# 640 x 480 pixels.
LOOK_SIZE = 64
# For this many frames a lost face is looked for in its square; after that, only when the whole frame is searched.
LOOK_AFTER = 2
# Two boxes that overlap more than this (intersection over union) are one face.
SAME_FACE = 0.4
# A still box keeps this share of its old place in every frame; a moving one keeps less.
STEADINESS = 0.6
# A face may be this far from where it is expected, in parts of its size, and this much farther for every frame for
# which it was not seen ...
REACH, REACH_PER_FRAME, FARTHEST = 0.7, 0.1, 1.5
# ... and larger or smaller by this factor.
GROWTH = 1.8
# Likeness of two looks (see `_likeness`) from which they may be one person after an occlusion. Of 100 people of LFW at
# 25 x 25 pixels, 90% of the pairs have less (median 0.62); one person has 0.85 or more with boxes that tremble by 4% of
# their width (19 of 20 times), and 0.84 or more with up to a third of the face covered (9 of 10 times). The plain
# correlation of the looks finds only half of the latter.
LIKENESS = 0.8
# ... and from which they may be one person in the next frame, far from where it was.
LIKENESS_NEXT = 0.5
# Pixels of a look on a side, its blocks on a side, those of its 9 blocks that count, and how much wider than the box it
# is: hair and ears tell people apart.
_LOOK, _BLOCKS, _ALIKE, _LOOK_WIDTH = 12, 3, 5, 1.1
# A block whose standard deviation is below this (of 255) is one colour, which correlates with nothing.
_FLAT = 3.0
# The share of the newest frame in what is remembered: lately, and for longer. A face that disappears behind a pillar
# spoils the quick look and seems to slow down; one that turns is no longer like the slow look.
_QUICK, _SLOW = 0.3, 0.03
_QUICK_MOTION, _SLOW_MOTION = 0.5, 0.1
# A track that is not seen slows down by this factor in every frame.
_SLOWING = 0.97


@dataclass(frozen=True)
class Track:
    """
    One face over time.

    Args:
        id: a number that stays with the face as long as it is followed; never used again by the same tracker.
        face: where the face is now, in pixels of the frame; its box is smoothed, landmarks and score are as measured.
        frames: for how many frames it has been followed, from 1.
        missed: how many frames ago it was last seen: 0 when it was seen in this frame.
        confirmed: whether it was seen often enough to count: see `confirm` of [`FaceTracker`].
    """

    id: int
    face: Face
    frames: int = 1
    missed: int = 0
    confirmed: bool = True


@dataclass
class _Memory:
    """What the tracker remembers of a track beside what it returns."""

    track: Track
    # How it has looked lately, and for longer.
    looks: tuple[np.ndarray, np.ndarray]
    # The box as it was measured last, moved along by `velocity` for every frame in which it was not seen.
    expected: Box = field(init=False)
    measured: Box = field(init=False)
    # Pixels a frame to the right and down, lately and for longer.
    velocity: tuple[float, float] = (0.0, 0.0)
    steady_velocity: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        self.expected = self.measured = self.track.face.box


class FaceTracker:
    """
    Follow faces through the frames of a video or camera.

    Every `detect_every` frames the whole frame is searched; in between, only the neighbourhood of each known face is,
    with the same detector. A face that gets lost makes the tracker search the whole frame at once. Faces and tracks are
    assigned to each other all together, by place, size and look: a track is expected where its motion leads it, and a
    face that was hidden for a while gets its old id only when it looks like it.

    Args:
        detector: any face detector. It is called with whole frames and with lists of small squares of equal size. Where
            it has a method `near`, as MTCNN, that one gets the squares and the box in each.
        detect_every: frames from one search of the whole frame to the next; 1 searches every frame.
        patience: for how many frames a face that is not seen is waited for. 0 ends its track at once.
        max_faces: follow at most this many faces of a frame, the largest first; those that are waited for do not count,
            so that they keep their id and hide nobody. `None` follows all.
        steady: whether the box of a still face is smoothed over time. Otherwise boxes are as detected.
        reach: how far a face may be from where it is expected in the next frame, in parts of its size. Beyond the 0.7
            of a common frame rate, it has to look like it did.
        confirm: a track counts once its face was seen in this many frames, one after the other. Until then it is
            tentative, and a frame without its face ends it: detectors see a face for a frame or two where there is
            none. (As `n_init` of DeepSORT, Wojke et al., 2017, section 2.2.)

    Raises:
        InputError: a setting is out of range.

    Example:
        >>> tracker = FaceTracker(MTCNNDetector())  # doctest: +SKIP
        >>> for frame in frames:  # doctest: +SKIP
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
        reach: float = REACH,
        confirm: int = 1,
    ) -> None:
        if detect_every < 1 or patience < 0:
            raise InputError(f"detect_every={detect_every} must be at least 1 and patience={patience} at least 0")
        if max_faces is not None and max_faces < 1:
            raise InputError(f"max_faces={max_faces} must be at least 1, or None for all")
        if confirm < 1:
            raise InputError(f"confirm={confirm} must be at least 1")
        self.detector = detector
        self.detect_every = detect_every
        self.confirm = confirm
        self.patience = patience
        self.max_faces = max_faces
        if not 0 < reach < math.inf:
            raise InputError(f"reach={reach!r} must be a finite number above 0")
        self.steady = steady
        self.reach = reach
        self._memories: list[_Memory] = []
        self._next_id = 1
        self._frames_since_detection = 0
        self._size: tuple[int, int] | None = None

    @property
    def tracks(self) -> tuple[Track, ...]:
        """The faces of the last frame, and those that are waited for, in the order in which they appeared."""
        return tuple(memory.track for memory in self._memories)

    def reset(self) -> None:
        """End all tracks, as a camera cut does. Their ids are not used again."""
        self._memories = []

    def update(self, frame: Any, faces: Sequence[Face] | None = None) -> tuple[Track, ...]:
        """
        Take the next frame.

        Args:
            frame: an upright frame, in any form that the recognizer takes (see [`load_image`]). A frame of another size
                than the last one ends all tracks.
            faces: all faces of the frame, where they have been detected already.

        Returns:
            The faces of this frame, with `missed` 0, and those that are waited for, in the order in which they
            appeared. Some may not be `confirmed` yet.

        Raises:
            InputError: the frame cannot be used.
        """
        image = load_image(frame, "the frame").image
        if image.size != self._size:
            self.reset()
            self._size = image.size
        self._expect(image)
        self._frames_since_detection += 1
        seen = [memory.track.missed == 0 for memory in self._memories]
        whole = faces is not None or self._frames_since_detection >= self.detect_every or not any(seen)
        if faces is None:
            faces = self._detect(image) if whole else self._follow(image)
        looks = [_look(image, face.box) for face in faces]
        found = self._assign(faces, looks)
        if not whole and any(before and track not in found for track, before in enumerate(seen)):
            whole = True
            faces = self._detect(image)
            looks = [_look(image, face.box) for face in faces]
            found = self._assign(faces, looks)
        self._advance(faces, looks, found)
        if whole:
            self._begin([(faces[f], looks[f]) for f in range(len(faces)) if f not in found.values()])
        if self.max_faces is not None:
            shown = [memory for memory in self._memories if not memory.track.missed]
            beyond = sorted(shown, key=lambda memory: -_area(memory.measured))[self.max_faces :]
            self._memories = [memory for memory in self._memories if all(memory is not other for other in beyond)]
        return self.tracks

    def find(self, frame: Image.Image, face: Face, other: Image.Image) -> Face | None:
        """
        Look for the face of one frame in a neighbouring one, before or after it; no track changes.

        Args:
            frame: where to look.
            face: the face.
            other: the frame that shows it.

        Returns:
            The face in `frame`, or `None` where it is not seen near its place.
        """
        look = _look(other, face.box)
        known = _Memory(Track(0, face), (look, look))
        best, found = 0.0, None
        for candidate in self._search(frame, [face.box]):
            match = _match(known, candidate, _look(frame, candidate.box), self.reach)
            if match > best:
                best, found = match, candidate
        return found

    def to_supervision(self) -> "supervision.Detections":
        """
        Return the confirmed faces of the last frame as supervision's `Detections`: `xyxy`, `confidence` (the detector's
        score, 1 where there is none) and `tracker_id`.

        Raises:
            MissingPackageError: supervision is not installed.
        """
        require("supervision", "detections")
        import supervision

        seen = [track for track in self.tracks if track.missed == 0 and track.confirmed]
        if not seen:
            return supervision.Detections.empty()
        scores = [1.0 if track.face.score is None else track.face.score for track in seen]
        return supervision.Detections(
            xyxy=np.array([track.face.box for track in seen], np.float32),
            confidence=np.array(scores, np.float32),
            class_id=np.zeros(len(seen), int),
            tracker_id=np.array([track.id for track in seen]),
        )

    def _expect(self, frame: Image.Image) -> None:
        """Move every track to where its motion leads it, but not out of the frame: it is waited for at the border."""
        for memory in self._memories:
            if memory.track.missed:
                vx, vy = memory.steady_velocity
                memory.velocity = memory.steady_velocity = (_SLOWING * vx, _SLOWING * vy)
            expected = _shifted(memory.expected, *memory.velocity)
            x, y = _centre(expected)
            inside = min(max(x, 0), frame.width), min(max(y, 0), frame.height)
            memory.expected = _shifted(expected, inside[0] - x, inside[1] - y)

    def _detect(self, frame: Image.Image) -> list[Face]:
        self._frames_since_detection = 0
        return _distinct(self.detector.detect([frame])[0])

    def _follow(self, frame: Image.Image) -> list[Face]:
        """Return the faces in the neighbourhoods of the tracks."""
        return self._search(frame, [memory.expected for memory in self._memories if memory.track.missed <= LOOK_AFTER])

    def _search(self, frame: Image.Image, boxes: Sequence[Box]) -> list[Face]:
        """Return the faces in the neighbourhoods of boxes."""
        # A square must show the face well above the smallest one that the detector looks for.
        target = max(LOOK_SIZE, 1.6 * (getattr(self.detector, "min_face", None) or 0))
        side = round(SEARCH * target)
        squares, offsets, places = [], [], []
        for x0, y0, x1, y1 in boxes:
            half = SEARCH * max(x1 - x0, y1 - y0) / 2
            left, top = round((x0 + x1) / 2 - half), round((y0 + y1) / 2 - half)
            whole = max(1, round(2 * half))
            # `crop` fills with black what lies outside the frame.
            square = frame.crop((left, top, left + whole, top + whole))
            squares.append(square.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0))
            scale = whole / side
            offsets.append((left, top, scale))
            places.append(((x0 - left) / scale, (y0 - top) / scale, (x1 - left) / scale, (y1 - top) / scale))
        faces = []
        near = getattr(self.detector, "near", None)
        several = self.detector.detect(squares) if near is None else near(squares, places)
        for found, (left, top, scale) in zip(several, offsets):
            faces += [face for face in (_move(face, left, top, scale) for face in found) if _is_in(face.box, frame)]
        return _distinct(faces)

    def _assign(self, faces: Sequence[Face], looks: Sequence[np.ndarray]) -> dict[int, int]:
        """Return which track (its place in the memory) has which face: the best assignment of all to all."""
        if not faces or not self._memories:
            return {}
        scores = np.array(
            [[_match(memory, face, look, self.reach) for face, look in zip(faces, looks)] for memory in self._memories]
        )
        return {row: column for row, column in best_assignment(scores) if scores[row, column] > 0}

    def _advance(self, faces: Sequence[Face], looks: Sequence[np.ndarray], found: Mapping[int, int]) -> None:
        """Bring every track up to this frame, and end those that were waited for long enough."""
        for place, memory in enumerate(self._memories):
            track = memory.track
            if place not in found:
                memory.track = replace(track, frames=track.frames + 1, missed=track.missed + 1)
                continue
            face, look = faces[found[place]], looks[found[place]]
            dx, dy = (now - before for now, before in zip(_centre(face.box), _centre(memory.measured)))
            steps = 1 + track.missed
            motion = (dx / steps, dy / steps)
            # The second frame is the first to show a motion; after that, boxes that tremble are averaged.
            quick, slow = (1.0, 1.0) if track.frames == 1 else (_QUICK_MOTION, max(_SLOW_MOTION, 1 / track.frames))
            memory.velocity = _towards(memory.velocity, motion, quick)
            memory.steady_velocity = _towards(memory.steady_velocity, motion, slow)
            others = [other.expected for other in self._memories if other is not memory]
            if all(overlap(face.box, box) < 0.1 for box in others):
                # Else the look is partly that of somebody else.
                lately, longer = memory.looks
                memory.looks = lately + _QUICK * (look - lately), longer + _SLOW * (look - longer)
            memory.expected = memory.measured = face.box
            box = _smooth(track.face.box, face.box) if self.steady and not track.missed else face.box
            seen = track.frames + 1
            memory.track = Track(
                track.id, replace(face, box=box), seen, confirmed=track.confirmed or seen >= self.confirm
            )
        self._memories = [
            memory
            for memory in self._memories
            if memory.track.missed <= (self.patience if memory.track.confirmed else 0)
        ]

    def _begin(self, faces: Iterable[tuple[Face, np.ndarray]]) -> None:
        """Begin a track for every face that belongs to none, the largest first."""
        for face, look in sorted(faces, key=lambda pair: -_area(pair[0].box)):
            track = Track(self._next_id, face, confirmed=self.confirm == 1)
            self._memories.append(_Memory(track, (look, look)))
            self._next_id += 1


class ProbabilitySmoother:
    """
    Smooth probabilities over time, one series per key.

    The exponential moving average depends on the time between two frames and not on their number. The raw values stay
    with whoever measured them.

    Args:
        seconds: time constant: after a sudden change, the smoothed value has gone 63% of the way after this long. 0
            switches the smoothing off.

    Raises:
        InputError: `seconds` is negative or not finite.
    """

    def __init__(self, seconds: float = 0.4) -> None:
        if not 0 <= seconds < math.inf:
            raise InputError(f"seconds={seconds} must be a finite number of at least 0")
        self.seconds = seconds
        self._series: dict[int, tuple[float, dict[str, float]]] = {}

    def update(self, key: int, probabilities: Mapping[str, float], now: float) -> dict[str, float]:
        """
        Take the next probabilities of one series.

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
        """Forget every series but those of `keys`."""
        wanted = set(keys)
        self._series = {key: value for key, value in self._series.items() if key in wanted}


def overlap(first: Box, second: Box) -> float:
    """Return the intersection over union of two boxes, in 0..1."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (_area(first) + _area(second) - shared)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _shifted(box: Box, dx: float, dy: float) -> Box:
    return box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy


def _towards(old: tuple[float, float], new: tuple[float, float], share: float) -> tuple[float, float]:
    return old[0] + share * (new[0] - old[0]), old[1] + share * (new[1] - old[1])


def _distinct(faces: Iterable[Face]) -> list[Face]:
    """Return the faces without those that a better one overlaps: two squares may show one face."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -(face.score or 0.0)):
        if all(overlap(face.box, other.box) <= SAME_FACE for other in kept):
            kept.append(face)
    return kept


def _is_in(box: Box, frame: Image.Image) -> bool:
    """Return whether the middle of a box lies in the frame: a square at the border shows more than the frame."""
    x, y = _centre(box)
    return 0 < x < frame.width and 0 < y < frame.height


def _move(face: Face, left: float, top: float, scale: float) -> Face:
    """Return a face of a search square in pixels of the frame."""
    x0, y0, x1, y1 = face.box
    points = face.landmarks
    return Face(
        box=(left + x0 * scale, top + y0 * scale, left + x1 * scale, top + y1 * scale),
        landmarks=None if points is None else tuple((left + x * scale, top + y * scale) for x, y in points),
        score=face.score,
    )


def _look(frame: Image.Image, box: Box) -> np.ndarray:
    """Return what a face looks like: a thumbnail, float32 `(12, 12, 3)` in 0..255."""
    x, y = _centre(box)
    half_width, half_height = _LOOK_WIDTH * (box[2] - box[0]) / 2, _LOOK_WIDTH * (box[3] - box[1]) / 2
    crop = frame.crop((round(x - half_width), round(y - half_height), round(x + half_width), round(y + half_height)))
    return np.asarray(crop.resize((_LOOK, _LOOK), Image.Resampling.BILINEAR, reducing_gap=2.0), np.float32)


def _likeness(first: np.ndarray, second: np.ndarray) -> float:
    """Return how much two looks are alike, at most 1: the mean correlation of those 5 of 9 blocks that are most so."""
    side = _LOOK // _BLOCKS
    blocks = np.stack([first, second]).reshape(2, _BLOCKS, side, _BLOCKS, side, 3).swapaxes(2, 3)
    blocks = blocks.reshape(2, _BLOCKS * _BLOCKS, -1)
    means, deviations = blocks.mean(2), blocks.std(2)
    products = ((blocks[0] - means[0, :, None]) * (blocks[1] - means[1, :, None])).mean(1)
    correlations = products / np.maximum(deviations[0] * deviations[1], _FLAT**2)
    # Two blocks of one colour each are alike when it is the same colour.
    flat = (deviations < _FLAT).all(0)
    correlations = np.where(flat, np.abs(means[0] - means[1]) < 4 * _FLAT, correlations)
    return float(np.sort(correlations)[-_ALIKE:].mean())


def _match(memory: _Memory, face: Face, look: np.ndarray, reach: float) -> float:
    """Return how well a face continues a track, 0 where it cannot."""
    size, expected_size = math.sqrt(_area(face.box)), math.sqrt(_area(memory.expected))
    if max(size, expected_size) > GROWTH * min(size, expected_size):
        return 0.0
    (x, y), (expected_x, expected_y) = _centre(face.box), _centre(memory.expected)
    distance = math.hypot(x - expected_x, y - expected_y) / max(size, expected_size)
    missed = memory.track.missed
    reach = max(reach, min(reach + REACH_PER_FRAME * missed, FARTHEST))
    if distance >= reach:
        return 0.0
    likeness = max(_likeness(known, look) for known in memory.looks)
    # A face that was seen in the last frame and nearly stays in its place is the same one even when it turns away.
    needed = LIKENESS if missed or distance > REACH else LIKENESS_NEXT if distance > REACH / 3 else -1.0
    if likeness < needed:
        return 0.0
    return 1e-3 + max(0.0, likeness) + (1 - distance / reach)


def _smooth(old: Box, new: Box) -> Box:
    """Return the new box, held back while the face is still: MTCNN's boxes tremble by a few pixels."""
    movement = max(abs(a - b) for a, b in zip(old, new)) / math.sqrt(max(1.0, _area(new)))
    kept = STEADINESS * max(0.0, 1 - 6 * movement)
    x0, y0, x1, y1 = (kept * a + (1 - kept) * b for a, b in zip(old, new))
    return x0, y0, x1, y1


__all__ = ["FaceTracker", "ProbabilitySmoother", "Track", "overlap"]
