"""MTCNN: what it finds, at which size, in both runtimes, alone and together with other images."""

import json
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from rmn_hub.detection import mtcnn
from rmn_hub.detection.detector import FaceDetector
from rmn_hub.detection.mtcnn import MTCNNDetector
from rmn_hub.errors import InputError
from rmn_hub.results import LANDMARKS
from rmn_hub.video.tracking import overlap

# Of the astronaut's face, as facenet-pytorch's own MTCNN gives it.
BOX = (181.1, 62.2, 267.7, 172.1)
POINTS = ((205.0, 101.7), (246.8, 103.7), (224.7, 129.0), (201.7, 139.2), (245.3, 141.9))


@pytest.fixture(scope="module")
def detector():
    return MTCNNDetector()


def assert_same_faces(found, expected, box=0.5, score=1e-4):
    assert len(found) == len(expected)
    for face, other in zip(found, expected):
        np.testing.assert_allclose(face.box, other.box, atol=box)
        np.testing.assert_allclose(face.landmarks, other.landmarks, atol=box)
        assert abs(face.score - other.score) < score


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
    image = collage.resize((1100, 500)).point(lambda value: value * 0.8)
    image.paste(collage.resize((600, 300)), (700, 260))
    image = image.crop((55, 0, 1100, 500))
    boxes, scores, points = MTCNN(min_face_size=20, keep_all=True).detect(image, landmarks=True)
    [faces] = MTCNNDetector(min_face=20).detect([image])
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


def test_a_face_is_found_near_where_it_was(detector, astronaut, faceless):
    (face,) = detector.detect([astronaut])[0]
    x0, y0, x1, y1 = face.box
    for move in (-20, 0, 20):
        for size in (0.8, 1, 1.25):
            half = size * (y1 - y0) / 2
            x, y = (x0 + x1) / 2 + move, (y0 + y1) / 2 - move / 2
            found, nothing = detector.near([astronaut, faceless], [(x - half, y - half, x + half, y + half)] * 2)
            assert overlap(found[0].box, face.box) > 0.75
            assert found[0].landmarks == pytest.approx(np.array(face.landmarks), abs=6)
            assert found[0].score > 0.9
            assert nothing == []
    assert detector.near([], []) == []
    assert detector.near([astronaut], [(300, 300, 400, 400)]) == [[]]


def test_no_face_is_an_empty_list(detector, faceless):
    assert detector.detect([faceless]) == [[]]
    assert detector.detect([]) == []


@pytest.mark.parametrize("size", [(640, 480), (3000, 2000)])
def test_a_face_of_24_pixels_is_found_when_asked_for(astronaut, faceless, size):
    image = faceless.resize(size)
    # 113 pixels become 24.
    image.paste(astronaut.resize((109, 109)), (size[0] // 2, size[1] // 3))
    [[face]] = MTCNNDetector(min_face=24).detect([image])
    scale = 109 / 512
    place = np.array(BOX) * scale + np.array([size[0] // 2, size[1] // 3] * 2)
    assert overlap(face.box, tuple(place)) > 0.7
    assert MTCNNDetector(min_face=60).detect([image]) == [[]]


@pytest.mark.parametrize(
    ("min_face", "size", "expected"),
    [
        (None, (4096, 4096), (1280, 1280)),
        (None, (512, 512), (512, 512)),
        (None, (300, 2700), (142, 1280)),
        # A smaller face that is asked for needs the pixels to be seen.
        (25, (2048, 2048), (1638, 1638)),
    ],
)
def test_large_photos_are_seen_small(min_face, size, expected):
    assert MTCNNDetector(min_face)._seen(*size, 1.0)[0] == expected


def test_boxes_of_large_photos_are_scaled_back(detector, astronaut):
    [[face]] = detector.detect([astronaut.resize((4096, 4096))])
    assert overlap(face.box, tuple(8 * value for value in BOX)) > 0.8


def test_what_is_found_does_not_depend_on_the_other_images(detector, astronaut, collage, faceless):
    images = [collage, astronaut, faceless, astronaut.resize((300, 400)), astronaut.transpose(0), astronaut] * 3
    together = detector.detect(images)
    alone = [detector.detect([image])[0] for image in images[:6]] * 3
    assert sum(map(len, together)) == 36
    for found, expected in zip(together, alone):
        assert_same_faces(found, expected, box=1e-3, score=1e-5)


def test_both_runtimes_find_the_same_faces(collage, astronaut, faceless):
    images = [collage.crop((60, 0, 1000, 480)), astronaut, faceless]
    found = [MTCNNDetector(30, runtime=runtime).detect(images) for runtime in ("onnx", "torch")]
    assert [len(faces) for faces in found[0]] == [8, 1, 0]
    for faces, expected in zip(*found):
        assert_same_faces(faces, expected)


def test_the_onnx_runtime_imports_no_torch(run_python):
    code = """
        import sys
        from PIL import Image
        from rmn_hub import MTCNNDetector
        MTCNNDetector().detect([Image.new("RGB", (99, 99))])
        print({"torch", "torchvision", "transformers", "facenet_pytorch"} & set(sys.modules))
    """
    assert run_python(code) == "set()"


def test_thousands_of_small_faces_are_bounded(astronaut, monkeypatch):
    monkeypatch.setattr(mtcnn, "_MOST_PROPOSALS", 300)
    monkeypatch.setattr(mtcnn, "_MOST_REFINED", 50)
    tile = astronaut.crop((170, 50, 282, 182)).resize((26, 30))
    tiles = Image.new("RGB", (26 * 20, 30 * 10))
    for number in range(200):
        tiles.paste(tile, (number % 20 * 26, number // 20 * 30))
    detector, sizes = MTCNNDetector(24), []
    refine, output = detector.networks.refine, detector.networks.output
    detector.networks = SimpleNamespace(
        level_pixels=detector.networks.level_pixels,
        propose=detector.networks.propose,
        refine=lambda crops: sizes.append(len(crops)) or refine(crops),
        output=lambda crops: sizes.append(len(crops)) or output(crops),
    )
    [faces] = detector.detect([tiles])
    assert sum(sizes) <= 300 + 50
    assert 20 <= len(faces) <= 50


@pytest.mark.parametrize("height", [12, 13, 25, 60, 61])
def test_strips_of_a_level_are_the_level(detector, monkeypatch, height):
    pixels = np.random.default_rng(height).uniform(-1, 1, (2, 3, height, 40)).astype(np.float32)
    expected = detector.networks.propose(pixels)
    for rows in (12, 15, 22):
        monkeypatch.setattr(detector.networks, "level_pixels", 2 * 40 * rows)
        for output, whole in zip(detector._in_strips(pixels), expected, strict=True):
            np.testing.assert_allclose(output, whole, atol=1e-5)


def test_a_detector_is_used_by_many_threads_pickled_and_forked(detector, astronaut):
    [expected] = detector.detect([astronaut])
    with ThreadPoolExecutor(4) as pool:
        for [found] in pool.map(detector.detect, [[astronaut]] * 8):
            assert_same_faces(found, expected)
    [found] = pickle.loads(pickle.dumps(detector)).detect([astronaut])
    assert_same_faces(found, expected)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        [found] = processes.submit(detector.detect, [astronaut]).result(timeout=120)
        assert_same_faces(found, expected)


def test_a_detector_works_after_a_fork(detector, astronaut):
    [expected] = detector.detect([astronaut])
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sending.send(detector.detect([astronaut])))
    child.start()
    try:
        assert receiving.poll(60)
        [found] = receiving.recv()
    finally:
        child.kill()
        child.join()
    assert_same_faces(found, expected)


def test_settings(collage, astronaut):
    image = collage.copy()
    image.paste(astronaut.resize((400, 400)), (0, 0))
    [faces] = MTCNNDetector(max_faces=2).detect([image])
    assert len(faces) == 2
    assert faces[0].box[2] < 400  # the largest comes first
    assert MTCNNDetector(min_face=200).detect([astronaut]) == [[]]


def test_the_threshold_keeps_what_scores_higher(detector, collage):
    [faces] = detector.detect([collage])
    least, *others = sorted(face.score for face in faces)
    assert others[0] - least > 1e-4
    [kept] = MTCNNDetector(threshold=(least + others[0]) / 2).detect([collage])
    assert sorted(face.score for face in kept) == pytest.approx(others, abs=1e-5)


@pytest.mark.parametrize(
    "setting",
    [
        {"min_face": 5},
        {"min_face": float("inf")},
        {"threshold": 1.5},
        {"threshold": float("nan")},
        {"max_faces": 0},
        {"max_size": 10},
        {"runtime": "tensorflow"},
        {"threads": 0},
        {"device": "cuda", "runtime": "onnx"},
    ],
)
def test_settings_out_of_range_are_named(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        MTCNNDetector(**setting)


@pytest.mark.parametrize("size", [(1, 1), (12, 12), (13, 900), (900, 11), (40, 40), (47, 31)])
def test_images_of_any_size(size):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    assert MTCNNDetector(min_face=12).detect([Image.fromarray(noise)]) == [[]]


def test_grey_images_and_other_modes(detector, astronaut):
    for mode in ("L", "RGBA", "CMYK"):
        [[face]] = detector.detect([astronaut.convert(mode)])
        assert overlap(face.box, BOX) > 0.8


def test_results_are_plain_numbers(detector, astronaut):
    [[face]] = detector.detect([astronaut])
    assert {type(value) for value in (*face.box, *face.landmarks[0], face.score)} == {float}
    assert json.dumps(face.to_dict())


def test_a_search_for_larger_faces_misses_the_smallest(detector, astronaut):
    """The face is 112 pixels high, of 512."""
    [[expected]], [[face]] = detector.detect([astronaut]), detector.detect_larger([astronaut])
    np.testing.assert_allclose(face.box, expected.box, atol=6)
    small = astronaut.resize((128, 128))
    assert [len(faces) for faces in detector.detect([small])] == [1]
    assert detector.detect_larger([small]) == [[]]
