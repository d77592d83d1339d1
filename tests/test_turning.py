"""Images on their side or upside down, heads that lean: all is found, and everything is in the image as it came."""

import json

import numpy as np
import pytest
from PIL import Image
from recognizer_helpers import CountingDetector

from rmn_hub import ExpressionRecognizer, Face, annotate
from rmn_hub.detection.detector import crop_face
from rmn_hub.turning import lean, turned_back

# What turns the upright image so that turning it clockwise by these degrees makes it upright again.
TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


@pytest.fixture(scope="module")
def photo(astronaut):
    return astronaut.resize((700, 500))


@pytest.mark.parametrize("degrees", list(TURNS))
def test_faces_of_turned_photos_are_those_of_the_upright_one(bundled, photo, degrees):
    lying = photo.transpose(TURNS[degrees])
    result, upright = bundled(lying, attention=True), bundled(photo)
    assert (result.turned, upright.turned) == (degrees, 0)
    assert (result.width, result.height) == lying.size
    assert str(degrees) in result.message
    assert upright.message is None
    assert result[0].expression == upright[0].expression
    assert result[0].probability == pytest.approx(upright[0].probability, abs=0.02)
    expected = turned_back(upright[0].face, degrees, *lying.size)
    np.testing.assert_allclose(result[0].box, expected.box, atol=0.5)
    np.testing.assert_allclose(result[0].landmarks, expected.landmarks, atol=0.5)
    # The crop beside the attention maps shows the face upright.
    crop = Image.fromarray(result[0].attention.crop).convert("L").resize((32, 32))
    face = photo.crop(tuple(map(round, upright[0].box))).convert("L").resize((32, 32))
    assert np.corrcoef(np.ravel(crop), np.ravel(face))[0, 1] > 0.8
    assert json.loads(result.to_json())["turned"] == degrees
    assert "turned" not in json.loads(upright.to_json())


def test_a_map_is_laid_over_a_turned_face_as_it_lies(bundled, photo):
    upright = bundled(photo, attention=True)
    lying = photo.transpose(TURNS[90])
    drawn = annotate(lying, bundled(lying, attention=True), stage=3).transpose(Image.Transpose.ROTATE_270)
    expected = annotate(photo, upright, stage=3)
    x0, y0, x1, y1 = (round(value) for value in upright[0].box)
    inside = (x0 + 12, y0 + 12, x1 - 12, y1 - 12)  # without the label and the frame
    one, two = (np.asarray(image.crop(inside).convert("L"), float).ravel() for image in (drawn, expected))
    assert np.corrcoef(one, two)[0, 1] > 0.9


def test_what_is_not_a_face_in_any_direction_stays_without_one(bundled, faceless):
    # On its side the cup has a score of 0.991: not enough for an image that had to be turned.
    result = bundled(faceless)
    assert (len(result), result.turned) == (0, 0)


class Scripted(CountingDetector):
    """A detector that finds one face of a given score in images of each shape, and none in others."""

    def __init__(self, scores):
        super().__init__((10.0, 10.0, 60.0, 70.0))
        self.scores = scores
        self.seen = []

    def detect(self, images):
        self.seen += [image.size for image in images]
        found = [self.scores.get(image.size) for image in images]
        return [[] if score is None else [Face((10.0, 10.0, 60.0, 70.0), score=score)] for score in found]


@pytest.mark.parametrize(
    ("upright", "lying", "looks", "turned", "score"),
    [
        (0.999, 0.999, 1, 0, 0.999),  # a face that is sure costs nothing more
        (0.95, None, 4, 0, 0.95),  # a doubtful face that no turn explains better stays
        (0.95, 0.98, 4, 0, 0.95),
        (0.95, 0.999, 4, 90, 0.999),
        (None, 0.98, 4, 0, None),
        (None, 0.999, 4, 90, 0.999),
    ],
)
def test_only_images_without_a_sure_face_are_turned(tiny_checkpoint, upright, lying, looks, turned, score):
    detector = Scripted({(200, 100): upright, (100, 200): lying})
    recognizer = ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu", detector=detector)
    result = recognizer(Image.new("RGB", (200, 100)))
    assert len(detector.seen) == looks
    assert result.turned == turned
    assert [face.score for face in result] == ([] if score is None else [score])


class Quick(Scripted):
    """A detector with a quicker search, which finds faces of scores of its own."""

    def __init__(self, scores, quick):
        super().__init__(scores)
        self.quick = Scripted(quick)

    def detect_larger(self, images):
        return self.quick.detect(images)


@pytest.mark.parametrize(
    ("quick", "lying", "looks", "score"),
    [
        (None, 0.999, 1, None),  # what the quicker search does not find is not looked for again
        (0.999, 0.996, 2, 0.996),  # the turn is the quicker search's, the faces are those of the whole one
        (0.997, 0.98, 2, 0.997),  # unless that finds none
    ],
)
def test_a_quicker_search_chooses_the_turn(tiny_checkpoint, quick, lying, looks, score):
    detector = Quick({(100, 200): lying}, {(100, 200): quick})
    recognizer = ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu", detector=detector)
    result = recognizer(Image.new("RGB", (200, 100)))
    assert (len(detector.seen), len(detector.quick.seen)) == (looks, 3)
    assert [face.score for face in result] == ([] if score is None else [score])


def test_boxes_are_turned_back():
    face = Face((1.0, 2.0, 11.0, 22.0), ((3.0, 4.0),), 1.0)
    # In an image of 100 x 50 pixels, which is 50 x 100 when it lies on its side.
    assert turned_back(face, 180, 100, 50) == Face((89.0, 28.0, 99.0, 48.0), ((97.0, 46.0),), 1.0)
    assert turned_back(face, 90, 100, 50) == Face((2.0, 39.0, 22.0, 49.0), ((4.0, 47.0),), 1.0)
    assert turned_back(face, 270, 100, 50) == Face((78.0, 1.0, 98.0, 11.0), ((96.0, 3.0),), 1.0)


def tilted(image, degrees):
    """Turn an image clockwise around its middle."""
    return image.rotate(-degrees, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("degrees", [-170, -45, 0, 10, 30, 90, 135])
def test_how_far_a_head_leans(degrees):
    points = np.array([(-10, -5), (10, -5), (0, 2), (-8, 10), (8, 10)], float)
    angle = np.radians(degrees)
    turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    moved = [tuple(point) for point in points @ turn + 50]
    assert lean(Face((0, 0, 100, 100), tuple(moved))) == pytest.approx(degrees)
    # A detector that means the left eye of the person.
    swapped = (moved[1], moved[0], moved[2], moved[4], moved[3])
    assert lean(Face((0, 0, 100, 100), swapped)) == pytest.approx(degrees)


def test_a_face_without_landmarks_does_not_lean():
    assert lean(Face((0, 0, 100, 100))) == 0
    assert lean(Face((0, 0, 100, 100), ((1.0, 2.0), (3.0, 4.0)))) == 0


def test_a_crop_is_turned_around_its_middle(astronaut):
    box = (160.0, 50.0, 290.0, 180.0)
    plain = np.asarray(crop_face(astronaut, box), float)
    for degrees in (-30, 10, 45, 100):
        crop = np.asarray(
            crop_face(tilted(astronaut, degrees), _moved(box, degrees, astronaut), turned=-degrees), float
        )
        assert crop.shape == plain.shape
        assert np.abs(crop - plain).mean() < 8 < np.abs(crop - plain[::-1]).mean()
    quarter = np.asarray(crop_face(astronaut, box, turned=90))
    np.testing.assert_array_equal(quarter, np.rot90(plain, -1))


def _moved(box, degrees, image):
    """Return the box around the same middle, in an image that is turned around its own."""
    x, y = (box[0] + box[2] - image.width) / 2, (box[1] + box[3] - image.height) / 2
    angle, half = np.radians(degrees), (box[2] - box[0]) / 2
    x, y = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    x, y = x + image.width / 2, y + image.height / 2
    return (x - half, y - half, x + half, y + half)


def test_a_head_that_leans_is_turned_upright(bundled, astronaut):
    """Of own boxes too, where they come with landmarks; and not when it is switched off."""
    other = ExpressionRecognizer.from_pretrained(device="cpu", upright=False)

    def probabilities(recognizer, image, boxes=None):
        [face] = recognizer(image, boxes=boxes, attention=True)
        return np.array(list(face.probabilities.values())), face

    expected, upright = probabilities(bundled, astronaut)
    leaning = tilted(astronaut, 30)
    turned, face = probabilities(bundled, leaning)
    plain, lain = probabilities(other, leaning)
    assert face.attention.turned == pytest.approx(-30 + upright.attention.turned, abs=10)
    assert lain.attention.turned == 0
    assert np.abs(turned - expected).sum() < np.abs(plain - expected).sum()
    again, _ = probabilities(bundled, leaning, [face.face])
    np.testing.assert_allclose(again, turned, atol=1e-5)
    bare, _ = probabilities(bundled, leaning, [face.box])
    np.testing.assert_allclose(bare, plain, atol=1e-5)


def test_a_map_is_laid_over_a_leaning_face_as_it_leans(bundled, astronaut):
    """Where the turned square shows nothing, the photo stays."""
    leaning = tilted(astronaut, 30)
    result = bundled(leaning, attention=True)
    [face] = result
    drawn = np.asarray(annotate(leaning, (), stage=None), float)
    x0, y0, x1, y1 = (round(value) for value in face.box)
    shown = np.asarray(result.plot(stage=1, numbers=False), float)
    middle = np.s_[(y0 + y1) // 2 - 20 : (y0 + y1) // 2 + 20, (x0 + x1) // 2 - 20 : (x0 + x1) // 2 + 20]
    assert np.abs(shown - drawn)[middle].mean() > 10
    assert np.abs(shown - drawn)[y0 - 40 : y0 - 30, : x0 - 20].max() == 0
