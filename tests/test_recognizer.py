"""The recognizer: the same face gets the same answer by every path, and every refusal is one sentence."""

import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.utils import logging

from rmn_hub import BUNDLED_CHECKPOINT, EXPRESSIONS, ExpressionRecognizer, Face, RMNImageProcessor, RMNModel
from rmn_hub import recognizer as room
from rmn_hub.detection.detector import crop_face
from rmn_hub.errors import InputError

EXIF_ORIENTATION = 0x0112


class CountingDetector:
    """An own detector: always the same boxes."""

    def __init__(self, *boxes):
        self.boxes = boxes
        self.calls = 0

    def detect(self, images):
        self.calls += len(images)
        return [[Face(box) for box in self.boxes] for _ in images]


def values(result):
    return np.array([list(face.probabilities.values()) for face in result])


def assert_same(first, second, tolerance=1e-4):
    assert len(first) == len(second)
    assert [face.expression for face in first] == [face.expression for face in second]
    np.testing.assert_allclose(values(first), values(second), atol=tolerance)


def encode(image, form="PNG", **settings):
    file = io.BytesIO()
    image.save(file, form, **settings)
    return file.getvalue()


def test_the_astronaut_is_happy(bundled, astronaut):
    result = bundled(astronaut)
    assert (result.width, result.height, result.message) == (512, 512, None)
    [face] = result
    x0, y0, x1, y1 = face.box
    assert x0 < 205 < 247 < x1
    assert y0 < 102 < 142 < y1
    assert face.expression == "happy"
    assert tuple(face.probabilities) == EXPRESSIONS
    assert face.probability == max(face.probabilities.values())
    assert sum(face.probabilities.values()) == pytest.approx(1, abs=1e-9)
    assert not face.uncertain
    assert face.attention is None


def test_eight_faces_from_left_to_right(bundled, collage):
    result = bundled(collage)
    assert len(result) == 8
    assert [face.box[0] for face in result] == sorted(face.box[0] for face in result)


def test_no_face_is_empty_with_a_sentence(recognizer, faceless):
    result = recognizer(faceless)
    assert result.faces == ()
    assert result.message.startswith("No face was found")
    assert result.to_dict()["message"] == result.message


def test_the_form_of_a_picture_makes_no_difference(bundled, astronaut, tmp_path):
    path = tmp_path / "astronaut.png"
    astronaut.save(path)
    expected = bundled(path)
    assert expected.source == str(path)
    for form in (str(path), path.read_bytes(), astronaut, Image.open(path), np.asarray(astronaut)):
        assert_same(bundled(form), expected)
    assert_same(bundled(np.asarray(astronaut) / 255), expected)
    assert_same(bundled(astronaut.convert("RGBA")), expected)


def test_turning_with_exif_makes_no_difference(bundled, astronaut):
    photo = astronaut.crop((60, 0, 400, 300))
    expected = bundled(photo)
    assert len(expected) == 1
    for orientation, turn in ((3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90)):
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation
        turned = bundled(encode(photo.transpose(turn), exif=exif))
        assert_same(turned, expected)
        assert (turned.width, turned.height) == (340, 300)


def test_grey_gives_the_same_labels(bundled, astronaut, collage):
    for photo in (astronaut, collage):
        expected = [face.expression for face in bundled(photo)]
        for grey in (photo.convert("L"), photo.convert("L").convert("RGB"), np.asarray(photo.convert("L"))):
            assert [face.expression for face in bundled(grey)] == expected


def test_grey_crops_answer_as_coloured_ones(bundled, astronaut):
    crop = astronaut.crop((170, 60, 275, 165))
    assert_same(bundled(crop, faces_only=True), bundled(crop.convert("L"), faces_only=True))


def test_the_batch_makes_no_difference(tiny_checkpoint, crops, bundled):
    one = ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu", batch_size=1)
    many = ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu", batch_size=32)
    alone = [one(crop, faces_only=True) for crop in crops]
    together = many(crops, faces_only=True)
    assert len({face.expression for result in alone for face in result}) > 1
    for first, second in zip(alone, together):
        assert_same(first, second)
    for first, second in zip([bundled(crop, faces_only=True) for crop in crops], bundled(crops, faces_only=True)):
        assert_same(first, second)


def test_other_pictures_in_the_list_make_no_difference(recognizer, astronaut, collage, faceless):
    together = recognizer([collage, faceless, astronaut, astronaut.resize((300, 300))])
    assert [len(result) for result in together] == [8, 0, 1, 1]
    assert [result.source for result in together] == ["image 1", "image 2", "image 3", "image 4"]
    assert_same(together[2], recognizer(astronaut))
    assert_same(together[0], recognizer(collage))


def test_it_answers_what_the_plain_model_answers(bundled, astronaut):
    [face] = bundled(astronaut)
    crop = crop_face(astronaut, face.box)
    model = RMNModel.from_pretrained(BUNDLED_CHECKPOINT).eval()
    pixel_values = RMNImageProcessor.from_pretrained(BUNDLED_CHECKPOINT)(crop, return_tensors="pt")
    with torch.no_grad():
        probabilities = model(**pixel_values).logits.softmax(-1)[0]
    np.testing.assert_allclose(list(face.probabilities.values()), probabilities, atol=1e-4)


def test_all_faces_go_through_the_model_together(tiny_checkpoint, collage, monkeypatch):
    recognizer = ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu", batch_size=16)
    sizes = []
    forward = recognizer.model.forward
    monkeypatch.setattr(
        recognizer.model, "forward", lambda pixels, **rest: sizes.append(len(pixels)) or forward(pixels, **rest)
    )
    assert [len(result) for result in recognizer([collage] * 5)] == [8] * 5
    assert sizes == [16, 16, 8]


def test_a_crop_of_48_pixels_is_not_searched(tiny_checkpoint, crops):
    detector = CountingDetector()
    recognizer = ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu", detector=detector)
    result = recognizer(crops[0], faces_only=True)
    [face] = result
    assert face.face == Face((0.0, 0.0, 48.0, 48.0))
    assert detector.calls == 0
    model = RMNModel.from_pretrained(tiny_checkpoint).eval()
    pixel_values = RMNImageProcessor.from_pretrained(tiny_checkpoint)(crops[0], return_tensors="pt")
    with torch.no_grad():
        probabilities = model(**pixel_values).logits.softmax(-1)[0]
    np.testing.assert_allclose(list(face.probabilities.values()), probabilities, atol=1e-4)


def test_a_crop_that_is_not_square_is_padded_and_not_distorted(recognizer, astronaut):
    crop = astronaut.crop((180, 60, 270, 170))
    [face] = recognizer(crop, faces_only=True, attention=True)
    assert face.box == (0.0, 0.0, 90.0, 110.0)
    assert face.attention.crop.shape == (110, 110, 3)
    np.testing.assert_array_equal(face.attention.crop[:, 10:100], np.asarray(crop))


def test_own_boxes(recognizer, astronaut, faceless):
    [found] = recognizer(astronaut)
    for boxes in ([found.box], np.array([found.box]), [list(found.box)]):
        assert_same(recognizer(astronaut, boxes=boxes), [found])
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
        ([(600, 600, 700, 700)], "outside image 1, which has 512 x 512 pixels"),
        ([(-300, 10, -200, 60)], "outside"),
        ([(0, 0, 5000, 5000)], "outside"),
        ([(-1e9, -1e9, 1e9, 1e9)], "outside"),
        ([(10, 10, 10, 60)], "no area"),
        ([(60, 10, 10, 60)], "no area"),
        ([(10, 10, 60)], "four finite numbers"),
        ([(10, 10, float("nan"), 60)], "four finite numbers"),
        ([(10, 10, "a", 60)], "four numbers"),
        ((10, 10, 60, 60), "four numbers"),
        (7, "no list"),
    ],
)
def test_boxes_that_cannot_be(recognizer, astronaut, boxes, words):
    with pytest.raises(InputError, match=words) as caught:
        recognizer(astronaut, boxes=boxes)
    assert "\n" not in str(caught.value)


def test_arguments_that_exclude_each_other(recognizer, astronaut, tiny_checkpoint):
    with pytest.raises(InputError, match="2 images but 1 lists of boxes"):
        recognizer([astronaut, astronaut], boxes=[[(0, 0, 9, 9)]])
    with pytest.raises(InputError, match="exclude"):
        recognizer(astronaut, boxes=[], faces_only=True)
    with pytest.raises(InputError, match="settings of MTCNN"):
        ExpressionRecognizer.from_pretrained(tiny_checkpoint, detector=CountingDetector(), min_face=20)


def test_an_own_detector(tiny_checkpoint, astronaut):
    detector = CountingDetector((300.0, 0.0, 400.0, 100.0), (180.0, 60.0, 270.0, 170.0))
    recognizer = ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu", detector=detector)
    results = recognizer([astronaut, astronaut])
    assert [[face.box[0] for face in result] for result in results] == [[180.0, 300.0]] * 2
    assert results[0][0].score is None
    assert detector.calls == 2


def test_what_is_no_detector_is_one_sentence(tiny_checkpoint, astronaut):
    with pytest.raises(InputError, match="a str is no detector"):
        ExpressionRecognizer.from_pretrained(tiny_checkpoint, detector="mtcnn")
    detector = CountingDetector()
    recognizer = ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu", detector=detector)
    # None, no picture's faces, and what facenet-pytorch's own MTCNN answers: arrays of boxes and of scores.
    for answer in (None, [], (np.zeros((1, 1, 4)), np.ones((1, 1)))):
        detector.detect = lambda images, answer=answer: answer
        with pytest.raises(InputError, match="one list of faces for each picture"):
            recognizer(astronaut)


def test_a_strip_is_no_face(recognizer, astronaut):
    # As a square it would have 400 million pixels.
    with pytest.raises(InputError, match="20000 x 10 pixels of image 1 are too many"):
        recognizer(np.zeros((10, 20_000), np.uint8), faces_only=True)
    assert len(recognizer(np.zeros((10, 2_000), np.uint8), faces_only=True)) == 1


def test_a_loaded_model_and_processor(tiny_checkpoint, crops, recognizer):
    model = RMNModel.from_pretrained(tiny_checkpoint).train()
    own = ExpressionRecognizer(model, RMNImageProcessor.from_pretrained(tiny_checkpoint), device="cpu")
    assert_same(own(crops[0], faces_only=True), recognizer(crops[0], faces_only=True))
    assert model.training  # the caller's own model stays as it was


def test_uncertain_answers_keep_the_best_guess(recognizer, crops):
    sure = recognizer(crops, faces_only=True)
    limit = float(np.median([result[0].probability for result in sure]))
    unsure = recognizer(crops, faces_only=True, min_confidence=limit)
    marked = [result[0].uncertain for result in unsure]
    assert 0 < sum(marked) < len(marked)
    assert marked == [result[0].probability < limit for result in sure]
    assert [result[0].expression for result in unsure] == [result[0].expression for result in sure]
    assert not any(result[0].uncertain for result in sure)


def test_attention_is_of_each_face_of_its_own(recognizer, collage, astronaut):
    together = recognizer([astronaut, collage], attention=True)
    assert [len(result) for result in together] == [1, 8]
    for result, photo in zip(together, (astronaut, collage)):
        for face in result:
            maps = face.attention.maps
            assert [len(values) for values in maps] == [16, 8, 4, 2]
            np.testing.assert_array_equal(face.attention.crop, np.asarray(crop_face(photo, face.box)))
            alone = recognizer(photo, boxes=[face.face], attention=True)[0].attention
            np.testing.assert_allclose(maps[0], alone.maps[0], atol=1e-3)
            np.testing.assert_allclose(face.attention.after[2], alone.after[2], atol=1e-3)


def test_attention_without_masks_is_refused(tmp_path, crops):
    from evaluation_helpers import save_checkpoint

    plain = ExpressionRecognizer.from_pretrained(save_checkpoint(tmp_path / "plain", mask_depths=None), device="cpu")
    assert plain(crops[0], faces_only=True)[0].attention is None
    with pytest.raises(InputError, match="masks"):
        plain(crops[0], faces_only=True, attention=True)


def test_a_bad_picture_in_a_stream_is_told_and_left_out(recognizer, crops, tmp_path):
    pictures = [crops[0], tmp_path / "missing.png", b"", crops[1]]
    errors = []
    results = list(recognizer.stream(pictures, faces_only=True, on_error=errors.append))
    assert [result.source for result in results] == ["image 1", "image 4"]
    assert [str(error).split(" ")[-1] for error in errors] == ["path", "file"]
    with pytest.raises(InputError, match="image 3 is empty"):
        recognizer([crops[0], crops[1], b""], faces_only=True)


def test_a_stream_reads_ahead_no_more_than_a_batch(tiny_checkpoint, crops):
    recognizer = ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu", batch_size=4)
    read = []

    def pictures():
        for number in range(1000):
            read.append(number)
            yield crops[number % len(crops)]

    stream = recognizer.stream(pictures(), faces_only=True)
    assert next(stream).source == "image 1"
    assert len(read) == 4
    for _ in range(4):
        next(stream)
    assert len(read) == 8


def test_large_crops_do_not_wait_for_a_full_batch(recognizer, astronaut, monkeypatch):
    monkeypatch.setattr(room, "MAX_WAITING_BYTES", 3 * 512 * 512)
    read = []
    stream = recognizer.stream((read.append(1) or astronaut for _ in range(9)), faces_only=True)
    next(stream)
    assert len(read) == 1


def test_any_iterable_is_a_list(recognizer, crops):
    assert [len(result) for result in recognizer((crop for crop in crops[:3]), faces_only=True)] == [1, 1, 1]
    assert recognizer([]) == []
    assert [len(result) for result in recognizer(crops[:1], faces_only=True)] == [1]


@pytest.mark.parametrize("image", [None, 7, [None]])
def test_what_is_no_picture(recognizer, image):
    with pytest.raises(InputError, match="image 1 is of type"):
        recognizer(image)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"device": "cuda:99"}, "device=cuda:99"),
        ({"device": "toaster"}, "device=toaster"),
        ({"min_confidence": 1.5}, "min_confidence=1.5"),
        ({"min_confidence": float("nan")}, "min_confidence"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"min_face": 3}, "min_face=3"),
        ({"max_faces": 0}, "max_faces=0"),
        ({"threshold": 2}, "threshold=2"),
        ({"margin": -1}, "margin=-1"),
    ],
)
def test_settings_out_of_range_are_named(tiny_checkpoint, setting, words):
    with pytest.raises(InputError, match=words):
        ExpressionRecognizer.from_pretrained(tiny_checkpoint, **setting)


def test_checkpoints_that_cannot_be_loaded(tiny_checkpoint, tmp_path, capfd):
    def broken(name, change):
        folder = tmp_path / name
        shutil.copytree(tiny_checkpoint, folder)
        change(folder)
        return folder

    def truncate(folder):
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])

    def set_in_config(**changes):
        def change(folder):
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(config | changes))

        return change

    cases = {
        tmp_path / "missing": "there is no checkpoint",
        "a/b/c": "there is no checkpoint",
        broken("no-weights", lambda folder: (folder / "model.safetensors").unlink()): "no model.safetensors",
        broken("no-config", lambda folder: (folder / "config.json").unlink()): "no config.json",
        broken("no-processor", lambda folder: (folder / "preprocessor_config.json").unlink()): "preprocessor_config",
        broken("truncated", truncate): "truncated or damaged",
        broken("other", set_in_config(model_type="vit")): "vit",
        broken("deeper", set_in_config(depths=[2, 1, 1, 1])): "tensors differ",
        broken("wider", set_in_config(hidden_sizes=[8, 8, 16, 32])): "tensors differ",
        broken("unmasked", set_in_config(mask_depths=None)): "tensors differ",
        broken("impossible", set_in_config(dropout=3)): "dropout",
        broken("list", lambda folder: (folder / "config.json").write_text("[]")): "cannot be loaded",
    }
    for checkpoint, words in cases.items():
        capfd.readouterr()
        with pytest.raises(InputError, match=words) as caught:
            ExpressionRecognizer.from_pretrained(checkpoint, local_files_only=True)
        assert "\n" not in str(caught.value)
        assert not re.search("MISSING|MISMATCH|UNEXPECTED", capfd.readouterr().err)  # transformers' table
        assert str(checkpoint) in str(caught.value)


def test_loading_from_the_disk_prints_nothing(tiny_checkpoint, capfd):
    logging.enable_progress_bar()
    ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu")
    assert capfd.readouterr() == ("", "")
    assert logging.is_progress_bar_enabled()


def test_weights_that_are_not_numbers_are_not_an_answer(tiny_checkpoint, crops):
    model = RMNModel.from_pretrained(tiny_checkpoint)
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    damaged = ExpressionRecognizer(model, RMNImageProcessor.from_pretrained(tiny_checkpoint), device="cpu")
    with pytest.raises(InputError, match="weights are damaged"):
        damaged(crops[0], faces_only=True)


def test_other_classes_than_the_seven(tmp_path, crops):
    from evaluation_helpers import save_checkpoint

    names = {0: "calm", 1: "not calm"}
    folder = save_checkpoint(tmp_path / "two", num_labels=2, id2label=names)
    [face] = ExpressionRecognizer.from_pretrained(folder, device="cpu")(crops[0], faces_only=True)
    assert tuple(face.probabilities) == ("calm", "not calm")


def test_importing_the_package_loads_and_prints_nothing_more():
    code = "import sys, rmn_hub; assert not {'gradio', 'facenet_pytorch', 'matplotlib'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
