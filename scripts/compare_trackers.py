"""
Compare the package's own tracker with ByteTrack (Zhang et al., 2022) of supervision on made films with known faces.

    uv run --with 'supervision==0.26.1' python scripts/compare_trackers.py

supervision 0.31 has no ByteTrack any more. Heads of space/examples move, cross, hide behind a pillar, leave, come back
and are cut away. Both trackers get the same detector; ByteTrack needs a detection in every frame. Both are told of
cuts. For each film and tracker: how often a face changes its id, ids that two faces share, the share of faces in view
that have an id, and milliseconds a frame (ByteTrack's without the detection, which the own tracker does by itself).

The own one is kept: with its default, a search in every fifth frame, no face of the seven films changes its id, shares
one or goes without one, at 9 to 11 ms a frame. ByteTrack loses two of them, behind the pillar and outside the frame,
and costs 1 ms beside the 20 to 30 ms of a search in every frame. (The own one with a search in every frame loses one.)
"""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import supervision
from PIL import Image

from rmn_hub.detection.mtcnn import MTCNNDetector
from rmn_hub.results import Face
from rmn_hub.video.cuts import CutDetector
from rmn_hub.video.tracking import FaceTracker

EXAMPLES = Path(__file__).parents[1] / "space" / "examples"
BOXES = {"astronaut": (100, 0, 360, 260), "officer": (150, 60, 450, 360)}
FRAMES, SIDE, RATE = 75, 170, 25
# A face counts as in view when no other head lies over it and it is not at the border.
APART = 0.75 * SIDE

Places = dict[str, tuple[float, float]]


def films() -> dict[str, list[tuple[Places, int, bool]]]:
    """Return for each film its frames: where which head is, the grey of the room, whether a pillar stands in it."""
    steps = range(FRAMES)
    return {
        "moving": [({"astronaut": (20 + 5 * n, 60), "officer": (420 - 3 * n, 250)}, 90, False) for n in steps],
        "crossing": [({"officer": (440 - 6 * n, 150), "astronaut": (10 + 6 * n, 190)}, 90, False) for n in steps],
        "meeting and parting": [
            ({"officer": (260 + 5 * abs(n - 37), 150), "astronaut": (190 - 5 * abs(n - 37), 170)}, 90, False)
            for n in steps
        ],
        "behind a pillar": [({"astronaut": (10 + 6 * n, 60), "officer": (440 - 6 * n, 260)}, 90, True) for n in steps],
        "out and in": [({"astronaut": (abs(300 - 12 * n) - 170, 60), "officer": (300, 250)}, 90, False) for n in steps],
        "still": [({"astronaut": (60, 60), "officer": (400, 250)}, 90, False) for _ in steps],
        "cut": [
            ({"astronaut": (60, 150), "officer": (400, 150)}, 90, False)
            if n < 38
            else ({"officer": (60, 150), "astronaut": (400, 150)}, 220, False)
            for n in steps
        ],
    }


def paint(heads: dict[str, Image.Image], places: Places, shade: int, pillar: bool) -> Image.Image:
    """Return a frame; the head that comes last is in front."""
    frame = Image.new("RGB", (640, 480), (shade, shade, shade))
    for name, (x, y) in places.items():
        frame.paste(heads[name], (round(x), round(y)))
    if pillar:
        frame.paste((40, 40, 40), (270, 0, 370, 480))
    return frame


def in_view(places: Places, pillar: bool) -> Iterator[str]:
    """Yield the faces that a tracker can be expected to see."""
    for name, (x, y) in places.items():
        others = [place for other, place in places.items() if other != name]
        alone = all(np.hypot(x - a, y - b) > APART for a, b in others)
        hidden = pillar and 270 - SIDE < x < 370
        if alone and not hidden and 0 <= x <= 640 - SIDE:
            yield name


class Own:
    """The package's tracker."""

    def __init__(self, detector: MTCNNDetector, detect_every: int) -> None:
        self.tracker = FaceTracker(detector, detect_every=detect_every, patience=2 * RATE)

    def reset(self) -> None:
        """End all tracks."""
        self.tracker.reset()

    def update(self, frame: Image.Image, faces: list[Face]) -> list[tuple[int, np.ndarray]]:
        """Return ids and boxes; the tracker detects by itself."""
        return [(track.id, np.array(track.face.box)) for track in self.tracker.update(frame) if not track.missed]


class Byte:
    """supervision's ByteTrack."""

    def __init__(self) -> None:
        self.tracker, self.shots = supervision.ByteTrack(frame_rate=RATE, lost_track_buffer=2 * RATE), 0

    def reset(self) -> None:
        """End all tracks."""
        self.tracker.reset()
        self.shots += 1

    def update(self, frame: Image.Image, faces: list[Face]) -> list[tuple[int, np.ndarray]]:
        """Return ids and boxes of the faces that were detected."""
        found = self.tracker.update_with_detections(
            supervision.Detections(
                xyxy=np.array([face.box for face in faces], np.float32).reshape(-1, 4),
                confidence=np.array([face.score for face in faces], np.float32),
                class_id=np.zeros(len(faces), int),
            )
        )
        return [(1000 * self.shots + int(number), box) for box, number in zip(found.xyxy, found.tracker_id)]


def main() -> None:
    """Print a row for each film and tracker."""
    heads = {
        name: Image.open(EXAMPLES / f"{name}.jpg").convert("RGB").crop(box).resize((SIDE, SIDE))
        for name, box in BOXES.items()
    }
    detector = MTCNNDetector()
    print(f"{'film':22}{'tracker':22}{'changes':>8}{'shared':>8}{'found':>8}{'ms':>8}")
    for film, frames in films().items():
        trackers = {"own, every frame": Own(detector, 1), "own, every fifth": Own(detector, 5), "ByteTrack": Byte()}
        for title, tracker in trackers.items():
            cuts, shot = CutDetector(), 0
            ids: dict[tuple[str, int], list[int]] = {}
            seen = expected = 0
            seconds = 0.0
            for places, shade, pillar in frames:
                frame = paint(heads, places, shade, pillar)
                if cuts.update(frame):
                    tracker.reset()
                    shot += 1
                faces = detector.detect([frame])[0] if title == "ByteTrack" else []
                started = time.process_time()
                found = tracker.update(frame, faces)
                seconds += time.process_time() - started
                for name in in_view(places, pillar):
                    expected += 1
                    middle = np.array(places[name]) + SIDE / 2
                    near = [(np.abs((box[:2] + box[2:]) / 2 - middle).max(), number) for number, box in found]
                    if near and min(near)[0] < SIDE / 3:
                        seen += 1
                        ids.setdefault((name, shot), []).append(min(near)[1])
            changes = sum(a != b for numbers in ids.values() for a, b in itertools.pairwise(numbers))
            used = [set(numbers) for numbers in ids.values()]
            shared = sum(len(a & b) for n, a in enumerate(used) for b in used[n + 1 :])
            print(f"{film:22}{title:22}{changes:8}{shared:8}{seen / expected:8.1%}{1000 * seconds / len(frames):8.1f}")


if __name__ == "__main__":
    main()
