"""One stream of frames: identities, times, smoothing, cuts, and the same numbers as the recognizer's."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from rmn_hub import InputError
from rmn_hub.video.cuts import CutDetector
from rmn_hub.video.session import Session


@pytest.fixture(scope="module")
def head(astronaut):
    return astronaut.crop((100, 0, 360, 260)).resize((140, 140))


def scene(*heads, shade=90):
    """A frame of 320 x 240 pixels with heads at `(left, top)`."""
    frame = Image.new("RGB", (320, 240), (shade, shade, shade))
    for head, place in heads:
        frame.paste(head, place)
    return frame


def test_without_smoothing_the_results_are_those_of_the_recognizer(recognizer, head):
    session = Session(recognizer, smooth=0)
    mirrored = head.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for step in range(4):
        frame = scene((head, (4 * step, 90 - 3 * step)), (mirrored, (170, 10 + 5 * step)))
        result = session.update(frame, time=0.04 * step)
        alone = recognizer(frame)
        assert [face.box for face in result] == [face.box for face in alone]
        assert [face.index for face in result] == [face.index for face in alone] == [1, 2]
        for face, raw, expected in zip(result, result.raw, alone, strict=True):
            assert face.probabilities == raw.probabilities
            assert face.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
        # Reading order changes when one face rises above the other; identities stay with the faces.
        left_first = result[0].box[0] < result[1].box[0]
        assert sorted(face.track_id for face in result) == [1, 2]
        if step == 0:
            ids = {left_first: result[0].track_id, not left_first: result[1].track_id}
        assert {left_first: result[0].track_id, not left_first: result[1].track_id} == ids
        assert (result.index, result.time, result.width, result.height) == (step, 0.04 * step, 320, 240)


def test_smoothing_changes_probabilities_and_keeps_the_raw_ones(recognizer, head):
    session = Session(recognizer, smooth=0.5, detect_every=1)
    bright = head.point(lambda value: 1.2 * value)
    first = session.update(scene((head, (80, 50))), 0.0)
    second = session.update(scene((bright, (80, 50))), 0.1)
    assert first[0].probabilities == first.raw[0].probabilities
    kept = np.exp(-0.1 / 0.5)
    for name, value in second[0].probabilities.items():
        expected = kept * first[0].probabilities[name] + (1 - kept) * second.raw[0].probabilities[name]
        assert value == pytest.approx(expected, abs=1e-9)
    assert second[0].probability == max(second[0].probabilities.values())
    assert second[0].probabilities[second[0].expression] == second[0].probability


def test_uncertain_is_about_the_smoothed_probability(recognizer, head):
    frame = scene((head, (80, 50)))
    probability = recognizer(frame)[0].probability
    assert not Session(recognizer, smooth=0, min_confidence=probability - 0.01).update(frame, 0.0)[0].uncertain
    assert Session(recognizer, smooth=0, min_confidence=probability + 0.01).update(frame, 0.0)[0].uncertain


def test_a_cut_ends_all_tracks(recognizer, head):
    session = Session(recognizer)
    ids = []
    rng = np.random.default_rng(0)
    other = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((320, 240))
    for step in range(6):
        frame = scene((head, (80, 50)))
        if step >= 3:  # another room, with a head at the same place
            frame = other.copy()
            frame.paste(head, (80, 50))
        result = session.update(frame, 0.04 * step)
        assert result.cut == (step == 3)
        ids.append([face.track_id for face in result])
    assert ids == [[1]] * 3 + [[2]] * 3


@pytest.mark.parametrize(
    ("change", "cut"),
    [
        (lambda frame: frame.point(lambda value: value * 0.6), False),  # a lamp
        (lambda frame: Image.fromarray(np.roll(np.asarray(frame), 12, axis=1)), False),  # a pan
        (lambda frame: frame.transpose(Image.Transpose.FLIP_LEFT_RIGHT), True),
        (lambda frame: Image.new("RGB", frame.size), True),
    ],
)
def test_what_is_a_cut(astronaut, change, cut):
    detector = CutDetector()
    assert not detector.update(astronaut)
    assert not detector.update(astronaut)
    assert detector.update(change(astronaut)) == cut


def test_steady_motion_is_no_cut(astronaut):
    detector = CutDetector()
    pixels = np.asarray(astronaut)
    assert not any(detector.update(Image.fromarray(np.roll(pixels, 25 * step, axis=1))) for step in range(20))


def test_arrays_are_frames_and_what_is_not_is_refused(recognizer, head):
    frame = scene((head, (80, 50)))
    assert Session(recognizer).update(np.asarray(frame), 0.0).faces == Session(recognizer).update(frame, 0.0).faces
    with pytest.raises(InputError, match="time"):
        Session(recognizer).update(frame, float("nan"))
    with pytest.raises(InputError):
        Session(recognizer).update("nothing.png", 0.0)
    for settings in ({"smooth": -1}, {"detect_every": 0}, {"hold": 3, "patience": 2}, {"min_confidence": 2}):
        with pytest.raises(InputError, match=next(iter(settings))):
            Session(recognizer, **settings)


def test_a_frame_without_faces_and_json(recognizer, head):
    session = Session(recognizer)
    assert session.update(scene(), 0.0).to_dict()["faces"] == []
    line = session.update(scene((head, (80, 50))), 0.25).to_dict()
    assert (line["frame"], line["time"], line["faces"][0]["track_id"]) == (1, 0.25, 1)
    assert line["faces"][0]["raw_probabilities"] == line["faces"][0]["probabilities"]


def test_following_needs_no_torch():
    code = "import sys, rmn_hub; rmn_hub.FaceTracker, rmn_hub.FrameResult; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
