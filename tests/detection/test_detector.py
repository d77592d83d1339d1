"""The protocol of detectors, and the square that is cut around a face."""

import doctest

import numpy as np
import pytest

from rmn_hub.detection import detector
from rmn_hub.detection.detector import MARGIN, FaceDetector, crop_box, crop_face
from rmn_hub.errors import InputError


def test_the_documented_example_of_another_detector_runs():
    results = doctest.testmod(detector)
    assert results.attempted >= 4
    assert results.failed == 0


def test_a_class_without_detect_is_not_a_detector():
    assert not isinstance(object(), FaceDetector)


@pytest.mark.parametrize("margin", [-0.05, 0, 0.3])
def test_the_crop_box_is_what_crop_face_cuts(astronaut, margin):
    box = (100.3, 120.0, 180.9, 230.4)
    square = crop_box(box, margin)
    assert square[2] - square[0] == pytest.approx(square[3] - square[1])
    assert np.add(square[:2], square[2:]) == pytest.approx(np.add(box[:2], box[2:]))
    crop = np.asarray(crop_face(astronaut, box, margin))
    expected = np.asarray(astronaut.crop(tuple(map(round, square))))
    assert abs(crop.shape[0] - (square[2] - square[0])) <= 0.5
    assert np.abs(np.subtract(crop.shape, expected.shape)).max() <= 1


def test_the_crop_is_the_square_around_the_box(astronaut):
    crop = crop_face(astronaut, (100, 100, 150, 200), margin=0.2)
    assert crop.size == (120, 120)
    np.testing.assert_array_equal(np.asarray(crop), np.asarray(astronaut)[90:210, 65:185])
    assert crop_face(astronaut, (100, 100, 150, 200)).size == (round(100 * (1 + MARGIN)),) * 2


@pytest.mark.parametrize("box", [(-30, 10, 70, 60), (460, 480, 560, 540), (-50, -50, 600, 600), (0, 0, 5, 512)])
def test_the_crop_repeats_the_border_and_distorts_nothing(astronaut, box):
    pixels = np.asarray(astronaut)
    crop = np.asarray(crop_face(astronaut, box, margin=0.1))
    side = round(1.1 * max(box[2] - box[0], box[3] - box[1]))
    assert crop.shape == (side, side, 3)
    left, top = round((box[0] + box[2] - side) / 2), round((box[1] + box[3] - side) / 2)
    rows = np.clip(np.arange(top, top + side), 0, 511)
    columns = np.clip(np.arange(left, left + side), 0, 511)
    np.testing.assert_array_equal(crop, pixels[rows][:, columns])


def test_the_crop_of_a_grey_image(astronaut):
    crop = crop_face(astronaut.convert("L"), (-10, -10, 40, 40))
    assert crop.mode == "L"
    assert crop.size == (48, 48)


@pytest.mark.parametrize("box", [(10, 10, 10, 50), (50, 50, 10, 80), (float("nan"), 0, 9, 9), (600, 600, 700, 700)])
def test_boxes_without_pixels_are_refused(astronaut, box):
    with pytest.raises(InputError, match="box"):
        crop_face(astronaut, box)
