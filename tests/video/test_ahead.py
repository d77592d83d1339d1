"""Which tracks of a film count, and from which frame on, with a detector that sees bright squares."""

import numpy as np
import pytest
from films import SquareDetector, marked, squares, write_film
from PIL import Image

from rmn_hub import ExpressionRecognizer, InputError
from rmn_hub.video import FaceTracker, Session, Timeline, recognize
from rmn_hub.video.ahead import LookAhead

OLD, NEW = (60, 100, 90, 250), (400, 200, 120, 120)


@pytest.fixture(scope="module")
def recognizer(tiny_checkpoint):
    return ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu", detector=SquareDetector())


def results_of(recognizer, frames, **settings):
    """The results of frames with all that follows known, and of a stream without."""
    stream = Session(recognizer, **settings)
    at_once = [stream.update(frame, 0.04 * number) for number, frame in enumerate(frames)]
    session = Session(recognizer, **settings)
    ahead, settled = LookAhead(session), []
    for number, frame in enumerate(frames):
        settled += ahead.push(session.locate(frame, 0.04 * number))
        assert number + 1 - len(settled) <= ahead.frames
    settled += ahead.flush()
    results = [session.classify(located) for located in settled]
    assert [result.index for result in results] == list(range(len(frames)))
    return results, at_once


def frames_of(results):
    """The frames in which each track is reported."""
    seen = {}
    for result in results:
        for face in result:
            seen.setdefault(face.track_id, []).append(result.index)
    return seen


def test_what_is_seen_for_a_frame_or_two_is_not_reported(recognizer):
    for length in (1, 2):
        frames = [squares(OLD, NEW) if 5 <= number < 5 + length else squares(OLD) for number in range(12)]
        results, at_once = results_of(recognizer, frames, confirm=3)
        assert frames_of(results) == {1: list(range(12))}
        assert frames_of(at_once) == {1: list(range(2, 12))}
    results, at_once = results_of(recognizer, frames, confirm=1)
    assert frames_of(results)[2] == frames_of(at_once)[2] == [5, 6]


def test_a_face_that_counts_is_reported_from_its_first_frame_on(recognizer):
    # It comes after a search of the whole frame, and is found by the next one.
    for first in range(5, 11):
        frames = [squares(OLD, NEW) if number >= first else squares(OLD) for number in range(16)]
        results, at_once = results_of(recognizer, frames, confirm=3, detect_every=5)
        assert frames_of(results)[2] == list(range(first, 16))
        assert frames_of(at_once)[2] == list(range(7 if first == 5 else 12, 16))


def test_the_first_frames_show_a_face_where_it_was(recognizer):
    frames = [
        squares(OLD, (640 - 12 * (number - 5), 200, 120, 120)) if number > 5 else squares(OLD) for number in range(20)
    ]
    results, _ = results_of(recognizer, frames, confirm=3)
    lefts = {result.index: face.box[0] for result in results for face in result if face.track_id == 2}
    # The square enters at the right; the detector does not see a sliver.
    assert min(lefts) <= 7
    assert sorted(lefts) == list(range(min(lefts), 20))
    for number, left in lefts.items():
        assert left == pytest.approx(640 - 12 * (number - 5), abs=8)


def test_probabilities_are_smoothed_from_the_first_frame_on(recognizer):
    frames = [squares(OLD, NEW) if number >= 7 else squares(OLD) for number in range(13)]
    results, _ = results_of(recognizer, frames, confirm=3)
    first = results[7]
    assert [face.track_id for face in first] == [1, 2]
    assert first[1].probabilities == first.raw[1].probabilities
    kept = np.exp(-0.04 / 0.4)
    for name, value in results[8][1].probabilities.items():
        expected = kept * first[1].probabilities[name] + (1 - kept) * results[8].raw[1].probabilities[name]
        assert value == pytest.approx(expected, abs=1e-9)


def test_a_scene_of_one_frame_keeps_its_faces(recognizer):
    results, at_once = results_of(recognizer, [squares(OLD, NEW)], confirm=3)
    assert frames_of(results) == {1: [0], 2: [0]}
    assert frames_of(at_once) == {}
    noise = np.random.default_rng(0).integers(0, 90, (6, 8, 3), dtype=np.uint8)
    other = Image.fromarray(noise).resize((640, 480))
    other.paste((250, 250, 250), (300, 300, 400, 400))
    frames = [*[squares(OLD)] * 6, other, *[squares(OLD)] * 6]
    results, _ = results_of(recognizer, frames, confirm=3)
    assert [result.cut for result in results] == [number in (6, 7) for number in range(13)]
    assert frames_of(results) == {1: list(range(6)), 2: [6], 3: list(range(7, 13))}


def test_a_film_of_one_frame_and_the_frames_between(recognizer, tmp_path):
    (result,) = recognize(write_film(tmp_path / "one.mp4", [squares(OLD)]), recognizer)
    assert [face.track_id for face in result] == [1]
    timeline = Timeline()
    timeline.add(result)
    assert timeline.tracks[0].expression == result[0].expression
    frames = [squares(OLD, NEW) if number >= 9 else squares(OLD) for number in range(31)]
    path = write_film(tmp_path / "film.mp4", frames)
    for every in (1, 2, 3, 10):
        results = list(recognize(path, recognizer, every=every))
        assert [result.index for result in results] == list(range(0, 31, every))
        assert frames_of(results)[2] == [number for number in range(0, 31, every) if number >= 9]
    assert [
        len(result) for result in recognize(write_film(tmp_path / "no.mp4", map(marked, range(3))), recognizer)
    ] == [0] * 3


def test_a_tracker_confirms(recognizer):
    tracker = FaceTracker(SquareDetector(), confirm=3, patience=5)
    seen = [tracker.update(squares(OLD)) for _ in range(4)]
    assert [[track.confirmed for track in tracks] for tracks in seen] == [[False], [False], [True], [True]]
    assert len(tracker.to_supervision()) == 1
    tracker.update(squares(OLD, NEW))
    assert [track.id for track in tracker.update(squares())] == [1]  # which is waited for
    with pytest.raises(InputError, match="confirm=0"):
        FaceTracker(SquareDetector(), confirm=0)


def test_the_largest_faces_are_those_that_are_seen(recognizer):
    large, small = (50, 50, 120, 250), (400, 200, 60, 120)
    # The large one is there at first, is not seen for a frame, and leaves while it is waited for.
    frames = [squares(small, large) if number < 12 and number != 6 else squares(small) for number in range(30)]
    results, _ = results_of(recognizer, frames, confirm=3, max_faces=1, patience=50)
    assert [len(result) for result in results] == [number != 6 for number in range(30)]
    assert frames_of(results) == {1: [*range(6), *range(7, 12)], 2: list(range(12, 30))}
    held, _ = results_of(recognizer, frames, confirm=1, max_faces=1, patience=50, hold=1)
    assert [len(result) for result in held] == [1] * 30
    # A larger face that comes in is not added to frames that show enough faces.
    frames = [squares(small, large) if number >= 12 else squares(small) for number in range(20)]
    results, _ = results_of(recognizer, frames, max_faces=1)
    assert [len(result) for result in results] == [1] * 20
