"""The recognizer: the same face gets the same answer by every path, and every refusal is one sentence."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops, ImageSequence
from recognizer_helpers import CountingDetector, assert_same
from transformers.utils import logging

from rmn_hub import BUNDLED_CHECKPOINT, EXPRESSIONS, ExpressionRecognizer, Face, RMNImageProcessor, RMNModel
from rmn_hub import recognizer as room
from rmn_hub.detection.detector import crop_face
from rmn_hub.errors import CheckpointError, InputError
from rmn_hub.turning import lean

EXIF_ORIENTATION = 0x0112


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


def test_eight_faces_in_reading_order(bundled, collage):
    result = bundled(collage)
    assert [face.index for face in result] == list(range(1, 9))
    middles = [((face.box[0] + face.box[2]) // 512, (face.box[1] + face.box[3]) // 512) for face in result]
    assert middles == [(column, row) for row in range(2) for column in range(4)]


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


def of_both_sides(model, pixel_values):
    """Return the mean of the probabilities of a face and of its mirror image."""
    plain = pixel_values["pixel_values"]
    with torch.no_grad():
        return model(torch.cat([plain, plain.flip(-1)])).logits.softmax(-1).mean(0)


def test_it_answers_what_the_plain_model_answers(bundled, astronaut):
    [face] = bundled(astronaut)
    crop = crop_face(astronaut, face.box, turned=-lean(face.face))
    model = RMNModel.from_pretrained(BUNDLED_CHECKPOINT).eval()
    pixel_values = RMNImageProcessor.from_pretrained(BUNDLED_CHECKPOINT)(crop, return_tensors="pt")
    np.testing.assert_allclose(list(face.probabilities.values()), of_both_sides(model, pixel_values), atol=1e-4)


def test_all_faces_go_through_the_model_together(tiny_checkpoint, collage, monkeypatch):
    recognizer = ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu", batch_size=16)
    sizes = []
    engine = recognizer.engine
    monkeypatch.setattr(
        recognizer, "engine", lambda pixels, **rest: sizes.append(len(pixels)) or engine(pixels, **rest)
    )
    assert [len(result) for result in recognizer([collage] * 5)] == [8] * 5
    assert sizes == [16] * 5  # of each face two views


def test_a_crop_of_48_pixels_is_not_searched(tiny_checkpoint, crops):
    detector = CountingDetector()
    recognizer = ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu", detector=detector)
    result = recognizer(crops[0], faces_only=True)
    [face] = result
    assert face.face == Face((0.0, 0.0, 48.0, 48.0))
    assert detector.calls == 0
    model = RMNModel.from_pretrained(tiny_checkpoint).eval()
    pixel_values = RMNImageProcessor.from_pretrained(tiny_checkpoint)(crops[0], return_tensors="pt")
    np.testing.assert_allclose(list(face.probabilities.values()), of_both_sides(model, pixel_values), atol=1e-4)


def test_a_crop_that_is_not_square_is_what_the_image_processor_and_training_make_of_it(recognizer, astronaut):
    crop = astronaut.crop((180, 60, 270, 170))
    [face] = recognizer(crop, faces_only=True, attention=True)
    assert face.box == (0.0, 0.0, 90.0, 110.0)
    np.testing.assert_array_equal(face.attention.crop, np.asarray(crop))
    # Both stretch it to a square.
    side = recognizer.processor.width
    assert_same([face], recognizer(crop.convert("L").resize((side, side), Image.Resampling.BILINEAR), faces_only=True))


def test_ctrl_c_gives_what_has_been_read(recognizer, crops):
    def interrupted():
        yield from crops[:3]
        raise KeyboardInterrupt

    done = []
    with pytest.raises(KeyboardInterrupt):
        done.extend(recognizer.stream(interrupted(), faces_only=True))
    assert [result.source for result in done] == ["image 1", "image 2", "image 3"]


def test_a_loaded_model_and_processor(tiny_checkpoint, crops, recognizer):
    model = RMNModel.from_pretrained(tiny_checkpoint).train()
    own = ExpressionRecognizer(model, RMNImageProcessor.from_pretrained(tiny_checkpoint), device="cpu")
    assert_same(own(crops[0], faces_only=True), recognizer(crops[0], faces_only=True))
    assert model.training  # the caller's own model stays as it was


def test_uncertain_answers_keep_the_best_guess(recognizer, crops):
    sure = recognizer(crops, faces_only=True, min_confidence=0)
    limit = float(np.median([result[0].probability for result in sure]))
    unsure = recognizer(crops, faces_only=True, min_confidence=limit)
    marked = [result[0].uncertain for result in unsure]
    assert 0 < sum(marked) < len(marked)
    assert marked == [result[0].probability < limit for result in sure]
    assert [result[0].expression for result in unsure] == [result[0].expression for result in sure]
    assert not any(result[0].uncertain for result in sure)


def test_an_expression_is_uncertain_below_one_half(recognizer, crops, tiny_checkpoint):
    """Without a setting: in a recognizer of its own and in one that a call sets back."""
    assert recognizer.min_confidence == 0.5
    own = ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu", min_confidence=0.9)
    for asked, limit in ((recognizer(crops, faces_only=True), 0.5), (own(crops, faces_only=True), 0.9)):
        assert [result[0].uncertain for result in asked] == [result[0].probability < limit for result in asked]
    assert any(result[0].uncertain for result in own(crops, faces_only=True))


def test_attention_is_of_each_face_of_its_own(recognizer, collage, astronaut):
    together = recognizer([astronaut, collage], attention=True)
    assert [len(result) for result in together] == [1, 8]
    for result, photo in zip(together, (astronaut, collage)):
        for face in result:
            maps = face.attention.maps
            assert [len(values) for values in maps] == [16, 8, 4, 2]
            np.testing.assert_array_equal(
                face.attention.crop, np.asarray(crop_face(photo, face.box, turned=-lean(face.face)))
            )
            alone = recognizer(photo, boxes=[face.face], attention=True)[0].attention
            np.testing.assert_allclose(maps[0], alone.maps[0], atol=1e-3)
            np.testing.assert_allclose(face.attention.after[2], alone.after[2], atol=1e-3)


def test_attention_without_masks_is_refused(tmp_path, crops):
    from evaluation_helpers import save_checkpoint

    plain = ExpressionRecognizer.from_pretrained(save_checkpoint(tmp_path / "plain", mask_depths=None), device="cpu")
    assert plain(crops[0], faces_only=True)[0].attention is None
    with pytest.raises(InputError, match="masks"):
        plain(crops[0], faces_only=True, attention=True)


def test_an_image_that_cannot_be_used_is_left_out_or_kept(recognizer, crops, tmp_path):
    missing = tmp_path / "missing.png"
    images = [crops[0], missing, b"", crops[1]]
    for call in (recognizer, recognizer.stream):
        errors = []
        results = list(call(images, faces_only=True, on_error=errors.append))
        assert [result.source for result in results] == ["image 1", "image 4"]
        assert [type(error) for error in errors] == [InputError] * 2
        assert "missing.png" in str(errors[0])
        assert "image 3" in str(errors[1])
        kept = list(call(images, faces_only=True, on_error="keep"))
        assert [result.source for result in kept] == ["image 1", str(missing), "image 3", "image 4"]
        assert [result.failed for result in kept] == [False, True, True, False]
        assert [result.message for result in kept[1:3]] == [str(error) for error in errors]
        assert kept[1].image == missing
    with pytest.raises(InputError, match="image 3 is empty"):
        recognizer([crops[0], crops[1], b""], faces_only=True)
    with pytest.raises(InputError, match="on_error"):
        recognizer(crops[:1], on_error="ignore")


def test_one_image_that_cannot_be_used(recognizer):
    errors = []
    for on_error in (errors.append, "keep"):
        result = recognizer(b"", on_error=on_error)
        assert (result.failed, len(result), result.source) == (True, 0, "image 1")
        assert "empty" in result.message
    assert [str(error) for error in errors] == [result.message]
    # A strip is an error of the image, too: as a square it would have 400 million pixels.
    assert recognizer(np.zeros((10, 20_000), np.uint8), faces_only=True, on_error="keep").failed


def test_what_is_done_is_delivered_before_an_error(recognizer, crops):
    def broken():
        yield from crops[:3]
        raise ZeroDivisionError

    for images, error in (([*crops[:3], b""], InputError), (broken(), ZeroDivisionError)):
        stream = recognizer.stream(images, faces_only=True)
        assert [next(stream).source for _ in range(3)] == ["image 1", "image 2", "image 3"]
        with pytest.raises(error):
            next(stream)


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


def test_what_becomes_of_an_image_after_it_was_handed_over_makes_no_difference(recognizer, astronaut, faceless):
    """One object with other pixels each time: a canvas, the frames of an animation."""
    faceless = faceless.resize(astronaut.size)
    pages = [astronaut, faceless, astronaut.transpose(Image.Transpose.FLIP_LEFT_RIGHT), faceless]
    expected = [[face.box for face in recognizer(page)] for page in pages]
    assert [len(boxes) for boxes in expected] == [1, 0, 1, 0]

    def pasted():
        canvas = Image.new("RGB", astronaut.size)
        for page in pages:
            canvas.paste(page)
            yield canvas

    def turned():
        file = io.BytesIO()
        pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
        return ImageSequence.Iterator(Image.open(file))

    for images in (pasted, turned):
        for recognize in (recognizer, recognizer.stream):
            results = list(recognize(images()))
            assert [[face.box for face in result] for result in results] == expected
    for result, page in zip(results, pages):
        assert ImageChops.difference(result.image, page).getbbox() is None  # what it is drawn on
    for result, page in zip(recognizer(pasted(), faces_only=True), pages):
        assert_same(result, recognizer(page, faces_only=True))


@pytest.mark.parametrize("image", [None, 7, [None]])
def test_what_is_no_picture(recognizer, image):
    with pytest.raises(InputError, match="image 1 of type"):
        recognizer(image)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"device": "cuda:99"}, "device='cuda:99'"),
        ({"device": "toaster"}, "device='toaster'"),
        ({"views": 3}, "views=3"),
        ({"upright": "yes"}, "upright"),
        ({"min_confidence": 1.5}, "min_confidence=1.5"),
        ({"min_confidence": float("nan")}, "min_confidence"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.5}, r"batch_size=2\.5"),
        ({"batch_size": True}, "batch_size=True"),
        ({"threads": 0}, "threads=0"),
        ({"threads": 1.5}, r"threads=1\.5"),
        ({"threads": True}, "threads=True"),
        ({"threads": "two"}, "threads=two"),
        ({"max_pixels": -1}, "max_pixels=-1"),
        ({"engine": "steam"}, "engine=steam"),
        ({"min_face": 3}, "min_face=3"),
        ({"max_faces": 0}, "max_faces=0"),
        ({"threshold": 2}, "threshold=2"),
        ({"margin": -1}, "margin=-1"),
        ({"margin": "wide"}, "margin=wide"),
    ],
)
def test_settings_out_of_range_are_named(tiny_checkpoint, setting, words):
    with pytest.raises(InputError, match=words):
        ExpressionRecognizer.from_pretrained(tiny_checkpoint, **setting)


def test_a_checkpoint_that_cannot_be_loaded_is_named(tmp_path):
    """What can be wrong with one is tested with `hub.checkpoint`."""
    for checkpoint in (tmp_path / "missing", "a/b/c", "", "org/" + "long" * 50):
        with pytest.raises(CheckpointError, match="checkpoint") as caught:
            ExpressionRecognizer.from_pretrained(checkpoint, local_files_only=True)
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


def test_arrays_of_images_and_of_paths_are_lists(recognizer, crops, tmp_path):
    expected = recognizer([crop.convert("RGB") for crop in crops[:3]], faces_only=True)
    stack = np.stack([np.asarray(crop.convert("RGB")) for crop in crops[:3]])
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for crop, path in zip(crops, paths):
        crop.save(path)
    for images in (stack, torch.from_numpy(stack), torch.from_numpy(stack).permute(0, 3, 1, 2), np.array(paths)):
        results = recognizer(images, faces_only=True)
        for first, second in zip(results, expected):
            assert_same(first, second)
    assert [result.source for result in recognizer(np.array([str(path) for path in paths]), faces_only=True)] == [
        str(path) for path in paths
    ]


def test_a_huge_jpeg_has_boxes_in_its_own_pixels(tiny_checkpoint, astronaut):
    limited = ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu", max_pixels=512 * 512)
    large = astronaut.resize((1024, 1024), Image.Resampling.BICUBIC)
    result = limited(encode(large, "JPEG", quality=95))
    assert (result.width, result.height) == (1024, 1024)
    assert "half its size" in result.message
    [face] = result
    [expected] = limited(astronaut)
    np.testing.assert_allclose(face.box, np.array(expected.box) * 2, atol=8)
    np.testing.assert_allclose(face.landmarks, np.array(expected.landmarks) * 2, atol=8)
    [again] = limited(encode(large, "JPEG", quality=95), boxes=[face.face])
    assert again.box == pytest.approx(face.box)
    assert_same([again], [face])
    with pytest.raises(InputError, match="max_pixels"):
        limited(encode(large, "PNG"))
