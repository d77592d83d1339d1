"""The tracker on a real portrait that moves, and its rules with a detector that sees bright squares."""

import numpy as np
import pytest
import skimage
from films import SquareDetector, squares
from PIL import Image
from space_helpers import EXAMPLES

from rmn_hub import InputError
from rmn_hub.detection.mtcnn import MTCNNDetector
from rmn_hub.results import Face
from rmn_hub.video.tracking import FaceTracker, ProbabilitySmoother, overlap


def test_a_real_face_is_followed_and_lost():
    head = Image.fromarray(skimage.data.astronaut()).crop((100, 0, 360, 260))
    tracker = FaceTracker(MTCNNDetector(), detect_every=4, patience=1)
    places = []
    for step in range(7):
        picture = Image.new("RGB", (640, 480), (90, 90, 90))
        picture.paste(head, (60 + 25 * step, 100))
        (track,) = tracker.update(picture)
        assert track.id == 1
        assert track.frames == step + 1
        assert track.missed == 0
        assert len(track.face.landmarks) == 5
        places.append((track.face.box[0] + track.face.box[2]) / 2)
    # The head moves by 25 pixels a frame; the box must be where the face is, not where it was.
    np.testing.assert_allclose(np.diff(places), 25, atol=12)
    truth = MTCNNDetector().detect([picture])[0][0]
    assert overlap(track.face.box, truth.box) > 0.75
    empty = Image.new("RGB", (640, 480), (90, 90, 90))
    assert len(tracker.update(empty)) == 1
    assert tracker.update(empty) == ()


def test_whole_frames_are_searched_every_few_frames_only():
    detector = SquareDetector()
    tracker = FaceTracker(detector, detect_every=5)
    for step in range(10):
        assert len(tracker.update(squares((100 + 5 * step, 100, 80, 250)))) == 1
    assert detector.whole_frames == 2
    assert len(detector.sizes) == 10
    followed = [size for sizes in detector.sizes for size in sizes if size != (640, 480)]
    assert set(followed) == {(128, 128)}


def test_each_face_keeps_its_number_and_new_ones_get_new_numbers():
    tracker = FaceTracker(SquareDetector(), detect_every=3, patience=0)
    assert [track.id for track in tracker.update(squares((50, 50, 90, 250)))] == [1]
    for step in range(1, 6):
        tracks = tracker.update(squares((50 + 10 * step, 50, 90, 250), (400, 200, 120, 120)))
    assert {track.id: track.face.box[0] for track in tracks} == pytest.approx({1: 100, 2: 400}, abs=1)
    assert [track.id for track in tracker.update(squares((400, 200, 120, 120)))] == [2]
    tracks = tracker.update(squares((60, 60, 90, 250), (400, 200, 120, 120)))
    tracks = tracker.update(squares((60, 60, 90, 250), (400, 200, 120, 120)))
    tracks = tracker.update(squares((60, 60, 90, 250), (400, 200, 120, 120)))
    assert [track.id for track in tracks] == [2, 3]


def test_a_lost_face_makes_the_tracker_search_at_once_and_wait_a_little():
    detector = SquareDetector()
    tracker = FaceTracker(detector, detect_every=50, patience=2)
    tracker.update(squares((100, 100, 80, 250)))
    jumped = tracker.update(squares((450, 300, 80, 250)))
    assert detector.whole_frames == 2
    assert [(track.id, track.missed) for track in jumped] == [(1, 1), (2, 0)]
    gone = [len(tracker.update(squares())) for _ in range(4)]
    assert gone == [2, 1, 0, 0]


def test_a_face_at_the_border_and_a_growing_one_are_followed():
    tracker = FaceTracker(SquareDetector(), detect_every=100)
    tracker.update(squares((560, 380, 100, 250)))
    (track,) = tracker.update(squares((575, 390, 100, 250)))
    assert track.face.box[0] == pytest.approx(575, abs=4)
    tracker = FaceTracker(SquareDetector(), detect_every=100)
    for size in range(60, 240, 15):
        (track,) = tracker.update(squares((200, 100, size, 250)))
    assert track.face.box[2] - track.face.box[0] == pytest.approx(size, abs=12)


def test_still_boxes_are_calmed_and_moving_ones_are_not_held_back():
    tracker = FaceTracker(SquareDetector(), detect_every=1)
    tracker.update(squares((200, 100, 100, 250)))
    (still,) = tracker.update(squares((202, 100, 100, 250)))
    assert 200.2 < still.face.box[0] < 201.8
    (moved,) = tracker.update(squares((240, 100, 100, 250)))
    assert moved.face.box[0] == pytest.approx(240, abs=0.01)


def test_only_the_largest_faces_are_followed_and_a_new_size_starts_anew():
    tracker = FaceTracker(SquareDetector(), max_faces=1)
    (track,) = tracker.update(squares((50, 50, 60, 250), (300, 200, 150, 120)))
    assert track.face.box[0] == 300
    (anew,) = tracker.update(squares((300, 200, 150, 120)).resize((320, 240)))
    assert anew.id > track.id
    with pytest.raises(ValueError, match="detect_every=0"):
        FaceTracker(SquareDetector(), detect_every=0)
    with pytest.raises(ValueError, match="max_faces=0"):
        FaceTracker(SquareDetector(), max_faces=0)


def test_a_face_that_is_found_twice_is_one():
    class TwiceDetector(SquareDetector):
        """Finds every square twice, the second time a little to the right."""

        def detect(self, images):
            return [
                [*faces, *(Face((x0 + 20, y0, x1 + 20, y1), score=0.9) for x0, y0, x1, y1 in (f.box for f in faces))]
                for faces in super().detect(images)
            ]

    tracker = FaceTracker(TwiceDetector(), detect_every=3)
    for step in range(7):
        tracks = tracker.update(squares((100 + step, 100, 100, 250), (300, 100, 100, 120)))
        assert sorted(track.id for track in tracks) == [1, 2]


def test_a_hidden_face_gets_its_old_id_back_and_a_stranger_in_its_place_does_not():
    heads = {
        name: Image.open(EXAMPLES / f"{name}.jpg").convert("RGB").crop(box).resize((150, 150))
        for name, box in {"astronaut": (120, 10, 330, 220), "officer": (150, 60, 450, 360)}.items()
    }

    def room(name=None):
        image = Image.new("RGB", (320, 240), (90, 90, 90))
        if name:
            image.paste(heads[name], (80, 50))
        return image

    for after, same in (("astronaut", True), ("officer", False)):
        tracker = FaceTracker(MTCNNDetector(), patience=10)
        for _ in range(3):
            (before,) = tracker.update(room("astronaut"))
        for _ in range(4):
            (hidden,) = tracker.update(room())
        assert (hidden.id, hidden.missed) == (before.id, 4)
        tracks = [track for track in tracker.update(room(after)) if not track.missed]
        assert [track.id == before.id for track in tracks] == [same]


def test_any_image_is_a_frame_and_what_is_not_is_refused():
    picture = squares((100, 100, 80, 250))
    box = FaceTracker(SquareDetector()).update(picture)[0].face.box
    assert FaceTracker(SquareDetector()).update(np.asarray(picture))[0].face.box == box
    with pytest.raises(InputError):
        FaceTracker(SquareDetector()).update(7)


def test_supervision_gets_boxes_and_ids():
    tracker = FaceTracker(SquareDetector())
    assert len(tracker.to_supervision()) == 0
    tracker.update(squares((100, 100, 80, 250), (300, 200, 100, 120)))
    detections = tracker.to_supervision()
    assert detections.tracker_id.tolist() == [1, 2]
    assert detections.xyxy.tolist() == [[300, 200, 400, 300], [100, 100, 180, 180]]
    tracker.update(squares((100, 100, 80, 250)))
    assert tracker.to_supervision().tracker_id.tolist() == [2]


def test_smoothing_depends_on_time_and_keeps_the_sum():
    smoother = ProbabilitySmoother(seconds=0.5)
    first, second = {"happy": 0.9, "sad": 0.1}, {"happy": 0.1, "sad": 0.9}
    assert smoother.update(1, first, now=10.0) == first
    value = smoother.update(1, second, now=10.5)
    # One time constant: 63% of the way from 0.9 to 0.1.
    assert value["happy"] == pytest.approx(0.9 - 0.8 * (1 - np.exp(-1)))
    assert sum(value.values()) == pytest.approx(1)
    assert list(value) == ["happy", "sad"]
    in_two_steps = ProbabilitySmoother(seconds=0.5)
    in_two_steps.update(1, first, now=0.0)
    in_two_steps.update(1, second, now=0.2)
    assert in_two_steps.update(1, second, now=0.5) == pytest.approx(value)
    assert smoother.update(2, second, now=10.5) == second


def test_smoothing_can_be_off_and_forgets():
    off = ProbabilitySmoother(seconds=0)
    off.update(1, {"happy": 1.0}, 0.0)
    assert off.update(1, {"happy": 0.2}, 0.1) == {"happy": 0.2}
    smoother = ProbabilitySmoother()
    smoother.update(1, {"happy": 1.0}, 0.0)
    smoother.keep([2])
    assert smoother.update(1, {"happy": 0.2}, 0.1) == {"happy": 0.2}
    with pytest.raises(ValueError, match="seconds=-1"):
        ProbabilitySmoother(-1)
