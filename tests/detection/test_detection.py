"""Faces: what MTCNN finds, at which cost in pixels, and the square that is cut out."""

import numpy as np
import pytest
import torch
from PIL import Image

from rmn_hub.detection.detector import MARGIN, FaceDetector, crop_face
from rmn_hub.detection.mtcnn import MTCNNDetector
from rmn_hub.results import LANDMARKS
from rmn_hub.video.tracking import overlap

# Of the astronaut's face, as facenet-pytorch's own MTCNN gives it.
BOX = (181.1, 62.2, 267.7, 172.1)
POINTS = ((205.0, 101.7), (246.8, 103.7), (224.7, 129.0), (201.7, 139.2), (245.3, 141.9))


@pytest.fixture(scope="module")
def detector():
    return MTCNNDetector()


def test_the_astronaut_has_one_face(detector, astronaut):
    [[face]] = detector.detect([astronaut])
    assert overlap(face.box, BOX) > 0.85
    assert 0.99 < face.score <= 1
    assert len(face.landmarks) == len(LANDMARKS)
    np.testing.assert_allclose(face.landmarks, POINTS, atol=4)
    assert isinstance(detector, FaceDetector)


def test_it_finds_what_facenet_pytorch_finds(collage):
    from facenet_pytorch import MTCNN

    # Faces that differ in size and brightness, one of them cut by the border.
    picture = collage.resize((1100, 500)).point(lambda value: value * 0.8)
    picture.paste(collage.resize((600, 300)), (700, 260))
    picture = picture.crop((55, 0, 1100, 500))
    boxes, scores, points = MTCNN(min_face_size=20, keep_all=True).detect(picture, landmarks=True)
    [faces] = MTCNNDetector(min_face=20).detect([picture])
    expected = [(tuple(box), five) for box, score, five in zip(boxes, scores, points) if score > 0.9]
    assert len(expected) >= 10
    assert len(faces) == len(expected)
    for box, five in expected:
        face = max(faces, key=lambda face: overlap(face.box, box))
        assert overlap(face.box, box) > 0.7
        np.testing.assert_allclose(face.landmarks, five.astype(float), atol=0.1 * (box[3] - box[1]))


def test_eight_faces_in_a_collage(detector, collage):
    [faces] = detector.detect([collage])
    places = sorted((int(face.box[1] // 256), int(face.box[0] // 256)) for face in faces)
    assert places == [(row, column) for row in range(2) for column in range(4)]


def test_no_face_is_an_empty_list(detector, faceless):
    assert detector.detect([faceless]) == [[]]
    assert detector.detect([]) == []


@pytest.mark.parametrize("size", [(640, 480), (3000, 2000)])
def test_a_face_of_24_pixels_is_found_when_asked_for(astronaut, faceless, size):
    picture = faceless.resize(size)
    # 113 pixels become 24.
    picture.paste(astronaut.resize((109, 109)), (size[0] // 2, size[1] // 3))
    [[face]] = MTCNNDetector(min_face=24).detect([picture])
    scale = 109 / 512
    place = np.array(BOX) * scale + np.array([size[0] // 2, size[1] // 3] * 2)
    assert overlap(face.box, tuple(place)) > 0.7
    assert MTCNNDetector(min_face=60).detect([picture]) == [[]]


def test_large_photos_are_seen_small_and_boxes_scaled_back(astronaut, monkeypatch):
    seen = []
    original = MTCNNDetector._cascade
    monkeypatch.setattr(
        MTCNNDetector,
        "_cascade",
        lambda self, picture, *rest: seen.append(picture.size) or original(self, picture, *rest),
    )
    detector = MTCNNDetector()
    [[face]] = detector.detect([astronaut.resize((4096, 4096))])
    assert overlap(face.box, tuple(8 * value for value in BOX)) > 0.8
    detector.detect([astronaut, astronaut.resize((300, 2700))])
    assert seen == [(1280, 1280), (512, 512), (142, 1280)]
    seen.clear()
    # A smaller face that is asked for needs the pixels to be seen.
    MTCNNDetector(min_face=25).detect([astronaut.resize((2048, 2048))])
    assert seen == [(1638, 1638)]


def test_what_is_found_does_not_depend_on_the_other_pictures(detector, astronaut, collage, faceless):
    together = detector.detect([collage, astronaut, faceless, astronaut.resize((300, 400))])
    alone = [detector.detect([picture])[0] for picture in (collage, astronaut, faceless, astronaut.resize((300, 400)))]
    assert together == alone


def test_settings(collage, astronaut):
    picture = collage.copy()
    picture.paste(astronaut.resize((400, 400)), (0, 0))
    [faces] = MTCNNDetector(max_faces=2).detect([picture])
    assert len(faces) == 2
    assert faces[0].box[2] < 400  # the largest comes first
    assert all(face.score > 0.99999 for face in MTCNNDetector(threshold=0.99999).detect([collage])[0])
    assert MTCNNDetector(min_face=200).detect([astronaut]) == [[]]


@pytest.mark.parametrize(
    "setting", [{"min_face": 5}, {"threshold": 1.5}, {"threshold": float("nan")}, {"max_faces": 0}, {"max_size": 10}]
)
def test_settings_out_of_range_are_named(setting):
    [name] = setting
    with pytest.raises(ValueError, match=name):
        MTCNNDetector(**setting)


@pytest.mark.parametrize("size", [(1, 1), (12, 12), (13, 900), (900, 11), (40, 40), (47, 31)])
def test_pictures_of_any_size(size):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    assert MTCNNDetector(min_face=12).detect([Image.fromarray(noise)]) == [[]]


def test_grey_pictures_and_other_modes(detector, astronaut):
    for mode in ("L", "RGBA", "CMYK"):
        [[face]] = detector.detect([astronaut.convert(mode)])
        assert overlap(face.box, BOX) > 0.8


def test_nothing_is_trained_or_tracked(detector, astronaut):
    [[face]] = detector.detect([astronaut])
    assert isinstance(face.box[0], float)
    assert isinstance(face.landmarks[0][0], float)
    assert torch.is_grad_enabled()
    assert not any(parameter.requires_grad for parameter in detector._networks.parameters())


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


def test_the_crop_of_a_grey_picture(astronaut):
    crop = crop_face(astronaut.convert("L"), (-10, -10, 40, 40))
    assert crop.mode == "L"
    assert crop.size == (48, 48)


@pytest.mark.parametrize("box", [(10, 10, 10, 50), (50, 50, 10, 80), (float("nan"), 0, 9, 9), (600, 600, 700, 700)])
def test_boxes_without_pixels_are_refused(astronaut, box):
    with pytest.raises(ValueError, match="box"):
        crop_face(astronaut, box)
