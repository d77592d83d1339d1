"""Boxes of a caller and of a detector: taken as they are, or an error of whoever gave them, never of an image."""

import numpy as np
import pytest
from recognizer_helpers import CountingDetector, assert_same

from rmn_hub import ExpressionRecognizer, Face
from rmn_hub.errors import InputError


def test_own_boxes(recognizer, tiny_checkpoint, astronaut, faceless):
    [found] = recognizer(astronaut)
    # A box without landmarks does not show how far the head leans.
    as_it_is = ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu", upright=False)(astronaut)
    for boxes in ([found.box], np.array([found.box]), [list(found.box)]):
        assert_same(recognizer(astronaut, boxes=boxes), as_it_is)
    [face] = recognizer(astronaut, boxes=[found.face])
    assert face.face == found.face
    several = recognizer([astronaut, faceless], boxes=[[(300, 10, 350, 60), (10, 10, 60, 70)], []])
    assert [face.box[0] for face in several[0]] == [10.0, 300.0]
    assert several[1].faces == ()
    assert "box" in several[1].message
    # Any iterable of lists will do.
    assert_same(recognizer([astronaut], boxes=(boxes for boxes in [[found.face]]))[0], [found])
    # A box may leave the picture a little, as a face at its border does.
    assert len(recognizer(astronaut, boxes=[(-30, -10, 80, 90)])) == 1


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([(600, 600, 700, 700)], r"boxes of image 1.*outside the image, which has 512 x 512 pixels"),
        ([(0.1, 0.1, 0.5, 0.5), (0.2, 0, 1, 1)], r"boxes of image 1 lie in 0\.\.1"),
        ([(-300, 10, -200, 60)], "outside"),
        ([(0, 0, 5000, 5000)], "outside"),
        ([(-1e9, -1e9, 1e9, 1e9)], "outside"),
        ([(10, 10, 10, 60)], "no area"),
        ([(60, 10, 10, 60)], "no area"),
        ([(10, 10, 60)], "four finite numbers"),
        ([(10, 10, 10**400, 60)], "four finite numbers"),
        ([Face((10, 10, 60, 60), landmarks=((1, 2), (3,)))], "four finite numbers"),
        ([Face((10, 10, 60, 60), score="good")], "four finite numbers"),
        ([(10, 10, float("nan"), 60)], "four finite numbers"),
        ([(10, 10, "a", 60)], "four finite numbers"),
        ((10, 10, 60, 60), "four finite numbers"),
        (["1234"], "four finite numbers"),
        ([None], "four finite numbers"),
        ("10 10 60 60", "boxes"),
        (7, "boxes"),
    ],
)
def test_boxes_that_cannot_be(recognizer, astronaut, boxes, words):
    with pytest.raises(InputError, match=words) as caught:
        recognizer(astronaut, boxes=boxes)
    assert "\n" not in str(caught.value)


def test_arguments_that_exclude_each_other(recognizer, astronaut, tiny_checkpoint):
    for boxes in ([[(0, 0, 9, 9)]], [[], [], []]):
        with pytest.raises(InputError, match=f"boxes has {len(boxes)} lists"):
            recognizer([astronaut, astronaut], boxes=boxes)
    with pytest.raises(InputError, match="boxes of image 1"):
        recognizer([astronaut], boxes=[None])
    with pytest.raises(InputError, match="exclude"):
        recognizer(astronaut, boxes=[], faces_only=True)
    with pytest.raises(InputError, match="min_face and detector exclude"):
        ExpressionRecognizer.from_pretrained(tiny_checkpoint, detector=CountingDetector(), min_face=20)


def test_an_own_detector(tiny_checkpoint, astronaut):
    detector = CountingDetector((300.0, 70.0, 400.0, 170.0), (180.0, 60.0, 270.0, 170.0))
    recognizer = ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu", detector=detector)
    results = recognizer([astronaut, astronaut])
    assert [[face.box[0] for face in result] for result in results] == [[180.0, 300.0]] * 2
    assert results[0][0].score is None
    assert detector.calls == 2


def test_what_is_no_detector_is_one_sentence(tiny_checkpoint, astronaut):
    with pytest.raises(InputError, match="detector of type str"):
        ExpressionRecognizer.from_pretrained(tiny_checkpoint, detector="mtcnn")
    # What facenet-pytorch's own MTCNN returns: arrays of boxes and of scores.
    found = BrokenDetector((np.zeros((1, 1, 4)), np.ones((1, 1))))
    with pytest.raises(InputError, match="one list of faces for each image"):
        ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu", detector=found)(astronaut)


def test_a_strip_is_no_face(recognizer, astronaut):
    # As a square it would have 400 million pixels.
    with pytest.raises(InputError, match="20000 x 10 pixels of image 1"):
        recognizer(np.zeros((10, 20_000), np.uint8), faces_only=True)
    assert len(recognizer(np.zeros((10, 2_000), np.uint8), faces_only=True)) == 1


class BrokenDetector:
    """A detector that raises, or returns whatever it was given."""

    def __init__(self, found):
        self.found = found

    def detect(self, images):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.mark.parametrize(
    "found",
    [
        RuntimeError("out of order"),
        None,
        [],
        [[], []],
        "abc",
        [None],
        [[(1, 2, 3)]],
        [[Face((float("nan"), 1, 2, 3))]],
        [[(0.1, 0.1, 0.9, 0.9)]],
        [[(9000, 9000, 9999, 9999)]],
    ],
    ids=str,
)
def test_a_broken_detector_is_the_callers_error(tiny_checkpoint, astronaut, found):
    recognizer = ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu", detector=BrokenDetector(found))
    booked = []
    for on_error in (booked.append, "keep", None):
        with pytest.raises(InputError, match="detector") as caught:
            recognizer([astronaut], on_error=on_error)
        assert "\n" not in str(caught.value)
    assert not booked


@pytest.mark.parametrize(
    "boxes",
    [[None, []], [[], 7], [[(1, 2, 3)], []], [[(9e9, 0, 9.1e9, 9)], []], iter([[]]), iter([[], [], []])],
    ids=["none", "number", "three values", "outside", "too few", "too many"],
)
def test_wrong_boxes_are_the_callers_error(recognizer, crops, boxes):
    booked = []
    with pytest.raises(InputError, match="boxes"):
        list(recognizer.stream(crops[:2], boxes=boxes, on_error=booked.append))
    assert not booked


def test_the_margin_is_the_detectors(tiny_checkpoint, astronaut):
    detector = CountingDetector((180.0, 60.0, 280.0, 160.0))
    sides = []
    for margin, own in ((None, None), (None, 0.2), (0.5, 0.2)):
        if own is not None:
            detector.margin = own
        recognizer = ExpressionRecognizer.from_pretrained(
            tiny_checkpoint, device="cpu", detector=detector, margin=margin
        )
        sides.append(len(recognizer(astronaut, attention=True)[0].attention.crop))
    assert sides == [95, 120, 150]
