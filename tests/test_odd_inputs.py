"""Seeded made-up inputs: whatever an image, a box, a checkpoint or a name is, the only error is the project's own."""

import io
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from rmn_hub import ExpressionRecognizer, Face, ImageResult
from rmn_hub.boxes import checked_faces
from rmn_hub.errors import InputError, RMNError
from rmn_hub.files import as_utf8, readable
from rmn_hub.hub import checkpoint
from rmn_hub.images import load_image, shown
from rmn_hub.results import FaceExpression
from rmn_hub.tables import to_csv, to_records

# Together with the 500 tables of tests/data/test_fuzz.py these are 2,000.
IMAGES, ARRAYS, BOXES, CHECKPOINTS, NAMES = 600, 200, 400, 100, 200
FORMS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF")
MODES = {"JPEG": "L RGB CMYK", "GIF": "L P", "PNG": "1 L LA P RGB RGBA I;16", "TIFF": "1 L LA P RGB RGBA CMYK I;16 F"}
ODD = (None, True, -1, 0, 0.5, 10**400, 1e308, float("nan"), float("inf"), "", "x" * 1000, "\0", [], {}, [[]], b"\xff")


@pytest.fixture
def memory():
    """The peak of this process's memory in bytes, which no input may raise by much."""
    resource = pytest.importorskip("resource")
    scale = 1 if sys.platform == "darwin" else 1024

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale

    before = peak()
    yield
    assert peak() - before < 1_000_000_000


def damaged(rng, whole):
    """Bytes with a few of them changed, left out, doubled or zeroed, more often near the beginning."""
    data = bytearray(whole)
    for _ in range(int(rng.integers(1, 5))):
        start = int(len(data) * rng.random() ** 3)
        length = int(rng.choice([1, 1, 2, 4, 50, len(data)]))
        kind = rng.integers(0, 5)
        if kind == 0:
            part = data[start : start + length]
            data[start : start + length] = rng.integers(0, 256, len(part), dtype=np.uint8).tobytes()
        elif kind == 1:
            del data[start : start + length]
        elif kind == 2:
            data[start:start] = data[start : start + min(length, 50)]
        elif kind == 3:
            data[start : start + min(length, 50)] = b"\xff" * min(length, 50)
        else:
            data[start : start + min(length, 8)] = bytes(min(length, 8))
    return bytes(data)


def attempt(call):
    """What a call returns, or `None` and the sentence of the project's own error; any other is raised."""
    try:
        return call(), ""
    except RMNError as error:
        return None, str(error)


def whole_images(rng):
    for form in FORMS:
        for mode in MODES.get(form, "L RGB").split():
            shape = (20, 30) if mode == "P" else (24, 30, len(Image.new(mode, (1, 1)).getbands()))
            pixels = np.squeeze(rng.integers(0, 256, shape, dtype=np.uint8))
            image = Image.fromarray(pixels) if mode in ("L", "P", "RGB", "LA", "RGBA") else Image.new(mode, (30, 24))
            buffer = io.BytesIO()
            try:
                image.convert(mode).save(buffer, form) if mode in ("P", "LA", "RGBA", "CMYK") else image.save(
                    buffer, form
                )
            except (OSError, KeyError, ValueError):  # this Pillow does not write it
                continue
            yield buffer.getvalue()


@pytest.mark.usefixtures("memory")
def test_damaged_images():
    rng = np.random.default_rng(0)
    wholes = list(whole_images(rng))
    assert len(wholes) >= 15
    read = refused = 0
    for number in range(IMAGES):
        data = damaged(rng, wholes[number % len(wholes)])
        loaded, sentence = attempt(lambda: load_image(data, "a.jpg", max_pixels=4_000_000))  # noqa: B023
        if loaded is None:
            refused += 1
            assert len(sentence) < 400
            continue
        read += 1
        assert loaded.image.mode == "RGB"
        assert loaded.image.width * loaded.image.height <= 4_000_000
    assert min(read, refused) > 50


@pytest.mark.usefixtures("memory")
def test_odd_arrays(recognizer):
    rng = np.random.default_rng(1)
    kinds = ["u1", "u2", ">u2", "f4", "f8", ">f4", "f2", "i4", "i8", "b1", "c8", "O", "U3"]
    refused = 0
    for _ in range(ARRAYS):
        shape = tuple(int(side) for side in rng.choice([0, 1, 2, 3, 4, 12, 30, 64], int(rng.integers(0, 5))))
        array = np.asarray(rng.random(shape) * rng.choice([0.5, 1, 1.00005, 300])).astype(str(rng.choice(kinds)))
        if array.dtype.kind == "f" and array.size and rng.random() < 0.2:
            array.flat[0] = np.nan
        results, _ = attempt(lambda: recognizer(array, faces_only=True))  # noqa: B023
        if results is None:
            refused += 1
            continue
        for result in [results] if isinstance(results, ImageResult) else results:
            assert len(result) == 1
    assert 50 < refused < ARRAYS


def test_odd_boxes():
    rng = np.random.default_rng(2)
    taken = refused = 0
    for _ in range(BOXES):
        values = rng.choice([-1e9, -1, 0, 0.5, 1, 10, 20, 50, 99, 100, 101, 1e9], 4).tolist()
        if rng.random() < 0.3:
            values[int(rng.integers(0, 4))] = ODD[int(rng.integers(0, len(ODD)))]
        if rng.random() < 0.1:
            values = values[: int(rng.integers(0, 4))]
        points = ODD[int(rng.integers(0, len(ODD)))] if rng.random() < 0.2 else None
        box = Face(tuple(values), points) if rng.random() < 0.3 else values
        boxes = box if rng.random() < 0.1 else [box]
        faces, sentence = attempt(lambda: checked_faces(boxes, 100, 100, "boxes"))  # noqa: B023
        if faces is None:
            refused += 1
            assert len(sentence) < 400
            continue
        for face in faces:
            taken += 1
            x0, y0, x1, y1 = face.box
            assert x0 < x1 <= 300
            assert y0 < y1 <= 300
    assert min(taken, refused) > 20


def classified(folder, crop):
    """The result of a crop by a checkpoint, on the way that all commands take."""
    loaded = checkpoint.load(folder)
    return ExpressionRecognizer(loaded.model, loaded.processor, device="cpu")(crop, faces_only=True)


@pytest.mark.usefixtures("memory")
def test_odd_checkpoints(tiny_checkpoint, tmp_path, crops):
    """Settings of other types and sizes, and damaged files: a network that works, or one sentence."""
    rng = np.random.default_rng(3)
    folder = tmp_path / "checkpoint"
    whole = {name: (tiny_checkpoint / name).read_bytes() for name in ("config.json", "preprocessor_config.json")}
    shutil.copytree(tiny_checkpoint, folder)
    weights = (tiny_checkpoint / "model.safetensors").read_bytes()
    refused = 0
    for number in range(CHECKPOINTS):
        name = list(whole)[number % 2]
        if number % 10 == 0:
            head = bytearray(weights)
            head[int(rng.integers(0, 400))] = int(rng.integers(0, 256))
            (folder / "model.safetensors").write_bytes(head[: int(rng.integers(8, len(head)))])
        elif number % 5 == 0:
            (folder / name).write_bytes(damaged(rng, whole[name]))
        else:
            settings = json.loads(whole[name])
            key = list(settings)[int(rng.integers(0, len(settings)))]
            value = ODD[int(rng.integers(0, len(ODD) - 1))]
            if isinstance(settings[key], list) and settings[key] and rng.random() < 0.5:
                settings[key][0] = value
            else:
                settings[key] = value
            (folder / name).write_text(json.dumps(settings))
        result, sentence = attempt(lambda: classified(folder, crops[0]))
        if result is None:
            refused += 1
            assert len(sentence) < 1000
            assert "\n" not in sentence
        (folder / name).write_bytes(whole[name])
        (folder / "model.safetensors").write_bytes(weights)
    assert 25 < refused < CHECKPOINTS


def test_odd_names(tmp_path):
    """Names of files with any characters, also bytes that are not UTF-8, in every form of a result."""
    rng = np.random.default_rng(4)
    characters = "aZ0 ./\\'\",;:\n\r\t\0\x1b[31m=-_%$\u00e9\u3042\u202e\U0001f600\udcff\udc80\ud800\u2028<>&#"
    for _ in range(NAMES):
        name = "".join(rng.choice(list(characters), int(rng.integers(0, 300))))
        assert shown(name).isprintable()
        assert len(shown(name)) < 800
        readable(name).encode()
        assert as_utf8(as_utf8(name)) == as_utf8(name)
        face = FaceExpression(box=(1, 2, 3, 4), expression="happy", probability=1.0, probabilities={"happy": 1.0})
        result = ImageResult(name, 10, 10, (face,))
        assert to_records(result)[0]["source"] == readable(name)
        assert len(json.loads(result.to_json())["faces"]) == 1
        to_csv(result, tmp_path / "a.csv")
        with pytest.raises(InputError) as refused:
            load_image(name)
        assert len(str(refused.value)) < 1000
