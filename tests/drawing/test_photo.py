"""The annotated image: what its labels show, that all of them can be read, and that nothing lies on anything else."""

import dataclasses
import io
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from drawing_helpers import contrast, inside, make_attention, make_expression, overlap
from PIL import Image, ImageCms
from skimage import data

from rmn_hub import ExpressionRecognizer, annotate
from rmn_hub.drawing import labels as layout
from rmn_hub.drawing import palette
from rmn_hub.drawing.labels import place_labels
from rmn_hub.errors import InputError
from rmn_hub.expressions import EXPRESSIONS
from rmn_hub.results import FaceExpression, ImageResult


def make_crowd(
    count: int, width: int, height: int, seed: int, largest: float = 0.3
) -> tuple[list[FaceExpression], list[tuple[int, int, int, int]]]:
    """Faces of all sizes anywhere in a picture (the first ones at its borders) that do not overlap."""
    rng = np.random.default_rng(seed)
    boxes: list[tuple[int, int, int, int]] = []
    shorter = min(width, height)
    for _ in range(400):
        side = int(shorter * rng.uniform(0.04, largest)) + 4
        x, y = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
        corner = len(boxes)
        if corner < 4:
            x, y = (0, width - side)[corner % 2], (0, height - side)[corner // 2]
        box = (x, y, x + side, y + side)
        if len(boxes) < count and not any(overlap(box, other) for other in boxes):
            boxes.append(box)
    return [
        make_expression(box, EXPRESSIONS[i % 7], 0.9 - i % 7 / 10, i % 3 == 0) for i, box in enumerate(boxes)
    ], boxes


# Colours and words


def test_colours_are_okabe_and_itos_in_class_order() -> None:
    assert list(palette.COLORS) == list(EXPRESSIONS)
    expected = ["#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#999999"]
    assert list(palette.COLORS.values()) == expected
    assert palette.color_of("happy") == "#0072B2"
    assert palette.color_of("contempt") not in expected


def test_all_text_has_the_contrast_that_wcag_aa_asks_for() -> None:
    for color in (*palette.COLORS.values(), palette.OTHER_COLOR, "#ffffff", "#000000", "#767676", "#777777"):
        ink = palette.ink_on(color)
        assert contrast(color, ink) >= 4.5
        assert contrast(color, ink) >= max(contrast(color, "#000000"), contrast(color, "#ffffff")) - 0.01
    for theme in palette.THEMES.values():
        assert contrast(theme.background, theme.text) >= 7
        assert contrast(theme.background, theme.muted) >= 4.5


def test_labels_never_claim_certainty() -> None:
    shares = {0.0: "<1%", 0.004: "<1%", 0.01: "1%", 0.434: "43%", 0.99: "99%", 0.9951: ">99%", 1.0: ">99%"}
    assert {share: palette.percent(share) for share in shares} == shares
    assert palette.label_of(make_expression()) == "happy 93%"
    assert palette.label_of(make_expression(expression="fear", probability=0.31, uncertain=True)) == "fear? 31%"


def test_an_uncertain_face_is_labelled_with_two_expressions_that_are_near() -> None:
    near = make_expression(expression="angry", probability=0.4, uncertain=True, second=("sad", 0.35))
    far = make_expression(expression="angry", probability=0.6, uncertain=True, second=("sad", 0.2))
    sure = make_expression(expression="angry", probability=0.4, second=("sad", 0.35))
    assert [palette.long_label_of(face) for face in (near, far, sure)] == ["angry or sad?", "angry? 60%", "angry 40%"]
    assert palette.near_expressions(near) == palette.near_expressions(sure) == ("angry", "sad")
    assert palette.near_expressions(far) == ("angry",)


def test_a_face_has_the_number_of_its_result_or_of_its_track() -> None:
    boxes = [(200, 0, 240, 40), (0, 0, 40, 40)]
    indexed = [make_expression(box, index=number) for box, number in zip(boxes, (5, 2))]
    tracked = [make_expression(box, index=number, track_id=9 - number) for box, number in zip(boxes, (1, 2))]
    assert palette.numbers_of(indexed) == [5, 2]
    assert palette.numbers_of(tracked) == [8, 7]
    # Without numbers of their own they get them in reading order.
    assert palette.numbers_of([make_expression(box) for box in boxes]) == [2, 1]


# The annotated photo


@pytest.mark.parametrize(
    ("width", "height", "count"),
    [(320, 320, 1), (320, 200, 6), (640, 480, 2), (640, 480, 20), (1280, 960, 20), (900, 6000, 1), (6000, 4000, 20)],
)
def test_labels_stay_in_the_picture_and_off_each_other(width: int, height: int, count: int) -> None:
    for seed in range(5):
        faces, boxes = make_crowd(count, width, height, seed)
        labels = place_labels([palette.label_of(face) for face in faces], boxes, width, height)
        assert None not in labels
        for index, label in enumerate(labels):
            assert inside(label.box, (0, 0, width, height))
            assert "".join(label.lines).replace(" ", "") == palette.label_of(faces[index]).replace(" ", "")
            for other, box in enumerate(boxes):
                assert other == index or not overlap(label.box, box)
            # Read by a person who sees the whole picture at 1000 pixels.
            assert label.size >= max(11, 0.0105 * max(width, height)) or inside(label.box, boxes[index])
            x0, y0, x1, y1 = boxes[index]
            touching = (x0 - 1, y0 - 1, x1 + 1, y1 + 1)
            assert overlap(label.box, touching) or label.pointer is not None
            if label.pointer is not None:
                (ax, ay), (bx, by) = label.pointer
                assert inside((ax, ay, ax, ay), label.box)
                assert inside((bx, by, bx, by), boxes[index])
        for one, other in combinations(labels, 2):
            assert not overlap(one.box, other.box)


def test_all_labels_of_a_roomy_picture_have_one_size_and_touch_their_boxes() -> None:
    boxes = [(100 + 300 * (i % 4), 150 + 400 * (i // 4), 250 + 300 * (i % 4), 300 + 400 * (i // 4)) for i in range(8)]
    labels = place_labels(["surprise? 48%"] * 8, boxes, 1280, 960)
    assert {label.size for label in labels} == {labels[0].size}
    assert labels[0].size >= 20
    assert all(label.pointer is None and label.box[3] == box[1] for label, box in zip(labels, boxes))


def test_in_a_crowd_without_any_room_labels_go_into_their_own_boxes() -> None:
    boxes = [(48 * (i % 10), 48 * (i // 10), 48 * (i % 10) + 48, 48 * (i // 10) + 48) for i in range(100)]
    labels = place_labels(["surprise? 48%", "sad 99%"] * 50, boxes, 480, 480)
    for label, box in zip(labels, boxes):
        assert inside(label.box, box)
        assert label.box[3] - label.box[1] <= 24  # half of the face is left
        assert label.size >= 6
    tiny = [(x, y, x + 6, y + 6) for x in range(0, 60, 6) for y in range(0, 60, 6)]
    assert place_labels(["happy 93%"] * 100, tiny, 60, 60) == [None] * 100


def test_a_small_picture_of_a_crowd_grows_until_all_labels_have_room() -> None:
    faces, _ = make_crowd(20, 160, 160, seed=0)
    factor = annotate(Image.new("RGB", (160, 160)), faces).width // 160
    rooms = {}
    for scale in range(2, factor + 1):
        boxes = [tuple(scale * value for value in face.box) for face in faces]
        rooms[scale] = None not in layout.label_faces(faces, boxes, 160 * scale, 160 * scale, numbers=True)
    assert list(rooms.values()) == [False] * (factor - 2) + [True]
    assert factor > 2


@pytest.mark.parametrize(("width", "height"), [(48, 48), (64, 20), (319, 100), (320, 200), (3000, 2000)])
def test_small_pictures_are_enlarged_until_labels_can_be_read(width: int, height: int) -> None:
    picture = Image.new("RGB", (width, height), "#404040")
    face = make_expression((4, 4, 16, 16), "surprise")
    shown = annotate(picture, [face])
    factor = shown.width // width
    assert shown.size == (factor * width, factor * height)
    assert max(shown.size) >= 320
    assert factor == 1 or (factor - 1) * max(width, height) < 320
    assert annotate(picture, [face], enlarge=False).size == (width, height)
    # The box is where the face is, in the expression's colour.
    color = tuple(int(palette.COLORS["surprise"][i : i + 2], 16) for i in (1, 3, 5))
    assert shown.getpixel((4 * factor, 14 * factor)) == color
    assert shown.getpixel((10 * factor, 16 * factor - 1)) == color


def test_only_the_box_and_its_label_change() -> None:
    picture = Image.fromarray(data.astronaut())
    before = picture.copy()
    face = make_expression((177.5, 59.5, 266.7, 171.8))
    shown = annotate(picture, ImageResult("astronaut", 512, 512, (face,)))
    assert picture == before
    assert shown.size == picture.size
    changed = (np.asarray(shown) != np.asarray(before)).any(2)
    (label,) = place_labels(["happy 93%"], [(178, 60, 267, 172)], 512, 512)
    x0, y0, x1, y1 = label.box
    changed[y0:y1, x0:x1] = False
    changed[58:174, 176:269] = False
    assert not changed.any()
    inner = np.s_[63:169, 181:264]
    assert not (np.asarray(shown) != np.asarray(before)).any(2)[inner].any()


def test_uncertain_answers_have_a_dashed_box_and_a_hollow_label() -> None:
    picture = Image.new("RGB", (640, 480), "#408040")
    color = [int(palette.COLORS["fear"][i : i + 2], 16) for i in (1, 3, 5)]
    box = (200, 200, 400, 400)
    lines, fills = {}, {}
    for uncertain in (False, True):
        shown = np.asarray(annotate(picture, [make_expression(box, "fear", 0.6, uncertain)]))
        lines[uncertain] = (shown[399, 200:400] == color).all(1)
        (label,) = place_labels(["fear? 60%" if uncertain else "fear 60%"], [box], 640, 480)
        x0, y0, x1, y1 = label.box
        fills[uncertain] = (shown[y0:y1, x0:x1] == color).all(2).mean()
    assert lines[False].all()
    assert 0.3 < lines[True].mean() < 0.8
    assert np.abs(np.diff(lines[True].astype(int))).sum() >= 6  # several dashes
    assert lines[True][[0, -1]].all()  # which meet in the corners
    assert fills[False] > 0.5 > fills[True] > 0


def test_pictures_of_every_kind_and_boxes_that_leave_them() -> None:
    astronaut = Image.fromarray(data.astronaut())
    stored = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    astronaut.rotate(90).save(stored, "JPEG", exif=exif, quality=95)
    upright = np.asarray(annotate(stored.getvalue(), []), dtype=int)
    assert np.abs(upright - np.asarray(astronaut)).mean() < 6
    face = make_expression((-20, -30, 700.2, 90))
    for picture in (astronaut.convert("L"), astronaut.convert("RGBA"), data.astronaut(), astronaut.convert("P")):
        assert annotate(picture, [face]).mode == "RGB"
    array = data.astronaut()
    annotate(array, [face])
    np.testing.assert_array_equal(array, data.astronaut())
    np.testing.assert_array_equal(np.asarray(annotate(array, [])), array)
    for far in ((600, 600, 700, 700), (-50, -50, -10, -10), (10, 10, 10, 10)):  # nothing to see, but no error
        assert annotate(astronaut, [make_expression(far)]).size == (512, 512)
    with pytest.raises(InputError):
        annotate(b"text", [face])


def test_an_attention_map_can_be_laid_over_the_photo() -> None:
    picture = Image.fromarray(data.astronaut())
    box = (165, 60, 275, 170)  # the middle of the crop of 130 pixels
    face = make_expression(box, attention=make_attention(margin=130 / 110 - 1))
    plain = np.asarray(annotate(picture, [face]), dtype=int)
    for stage in (1, 4):
        shown = np.asarray(annotate(picture, [face], stage=stage), dtype=int)
        changed = np.abs(shown - plain).sum(2)
        assert changed[70:160, 175:265].mean() > 50
        changed[60:170, 165:275] = 0
        assert not changed.any()
    with pytest.raises(InputError, match="stage=5"):
        annotate(picture, [face], stage=5)
    with pytest.raises(InputError, match="attention=True"):
        annotate(picture, [make_expression(box)], stage=1)


def assert_like(drawn: Image.Image, expected: Image.Image, box: tuple[float, ...]) -> None:
    """The same within a box of the first, which both show, whatever their sizes are."""
    x0, y0, x1, y1 = (round(value) for value in box)
    inner = (x0 + 8, y0 + 8, x1 - 8, y1 - 8)  # without the frame
    one, two = (np.asarray(image.resize(drawn.size).crop(inner), float) for image in (drawn, expected))
    assert np.abs(one - two).mean() < 8


@pytest.mark.parametrize("side", [300, 400, 1024])
def test_a_map_is_laid_over_the_same_place_in_every_size(
    recognizer: ExpressionRecognizer, astronaut: Image.Image, side: int
) -> None:
    other = astronaut.resize((side, side), Image.Resampling.BICUBIC)
    whole = recognizer(astronaut, attention=True)
    face = recognizer(astronaut.crop((150, 30, 300, 180)), faces_only=True, attention=True)
    expected = annotate(astronaut, whole, stage=3)
    assert_like(expected, annotate(other, whole, stage=3, enlarge=False), whole[0].box)
    assert_like(expected, annotate(other, whole.scaled(side, side), stage=3, enlarge=False), whole[0].box)
    enlarged = astronaut.crop((150, 30, 300, 180)).resize((side, side), Image.Resampling.BICUBIC)
    shown = annotate(astronaut.crop((150, 30, 300, 180)), face, stage=3, enlarge=False)
    assert_like(shown, annotate(enlarged, face, stage=3, enlarge=False), (0, 40, 150, 150))  # without the label


def test_a_map_of_a_huge_jpeg_lies_on_its_face(tiny_checkpoint: Path, astronaut: Image.Image) -> None:
    """The recognizer decodes it at half its size; `annotate` at half its size, or whole."""
    stored = io.BytesIO()
    astronaut.resize((1024, 1024), Image.Resampling.BICUBIC).save(stored, "JPEG", quality=95)
    limited = ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu", max_pixels=512 * 512)
    result = limited(stored.getvalue(), attention=True)
    half, whole = (annotate(stored.getvalue(), result, stage=3, max_pixels=side**2) for side in (512, 1024))
    assert (half.width, whole.width) == (512, 1024)
    assert_like(half, whole, result.scaled(512, 512)[0].box)


def texts_on(width: int, height: int, faces: list[FaceExpression], numbers: bool, alone: bool = False) -> list[str]:
    boxes = [tuple(round(value) for value in face.box) for face in faces]
    placed = layout.label_faces(faces, boxes, width, height, numbers, alone)
    return ["" if label is None else " ".join(label.lines) for label in placed]


def test_labels_of_several_faces_begin_with_their_numbers() -> None:
    faces = [make_expression((20 + 300 * i, 100, 170 + 300 * i, 250), index=i + 1) for i in range(3)]
    assert texts_on(960, 480, faces, numbers=True) == ["1: happy 93%", "2: happy 93%", "3: happy 93%"]
    photo = Image.new("RGB", (960, 480))
    assert annotate(photo, faces) == annotate(photo, faces, numbers=True) != annotate(photo, faces, numbers=False)
    assert annotate(photo, faces[:1]) == annotate(photo, faces[:1], numbers=False)


def test_labels_are_as_long_as_there_is_room_for() -> None:
    face = make_expression((200, 200, 300, 300), "surprise", 0.4, uncertain=True, second=("neutral", 0.39))
    assert texts_on(640, 480, [face], numbers=False) == ["surprise or neutral?"]
    crowd = [
        make_expression((60 * (i % 8), 60 * (i // 8), 60 * (i % 8) + 58, 60 * (i // 8) + 58), "surprise", 0.4, True)
        for i in range(64)
    ]
    crowd = [make_expression(face.box, "surprise", 0.4, True, second=("neutral", 0.39)) for face in crowd]
    assert set(texts_on(480, 480, crowd, numbers=False)) == {"surprise? 40%"}
    # No room but for a number.
    tight = [make_expression((18 * (i % 5), 18 * (i // 5), 18 * (i % 5) + 18, 18 * (i // 5) + 18)) for i in range(25)]
    assert set(texts_on(90, 90, tight, numbers=True)) == {""}
    assert texts_on(90, 90, tight, numbers=True, alone=True) == [str(i + 1) for i in range(25)]


def wide_gamut_profile() -> bytes:
    """An RGB profile like sRGB but with green and red exchanged, whose conversion nobody can miss."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"swap").replace(b"gXYZ", b"rXYZ").replace(b"swap", b"gXYZ")


def test_an_annotated_image_is_in_srgb_whatever_the_photo_was() -> None:
    photo = Image.new("RGB", (400, 400), (200, 60, 40))
    plain = annotate(photo, [])
    assert plain.getpixel((200, 200)) == (200, 60, 40)
    photo.info["icc_profile"] = wide_gamut_profile()
    stored = io.BytesIO()
    photo.save(stored, "JPEG", icc_profile=photo.info["icc_profile"], quality=95)
    for given in (photo, stored.getvalue()):
        shown = annotate(given, [make_expression((20, 150, 100, 230))])
        assert np.abs(np.subtract(shown.getpixel((200, 200)), (60, 200, 40))).max() <= 4
        # Boxes and labels keep their own colours.
        assert "#{:02X}{:02X}{:02X}".format(*shown.getpixel((60, 229))) == palette.COLORS["happy"]
        assert "icc_profile" not in shown.info
    assert photo.info["icc_profile"]
    for other in (b"no profile", ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()):
        photo.info["icc_profile"] = other
        shown = annotate(photo, [])
        assert shown.getpixel((200, 200)) == (200, 60, 40)
        assert "icc_profile" not in shown.info


def test_a_result_of_a_larger_image_is_drawn_on_the_smaller_one() -> None:
    face = make_expression((100, 100, 300, 300))
    small = Image.new("RGB", (400, 400), "white")
    large = ImageResult("large.jpg", 800, 800, (dataclasses.replace(face, box=(200, 200, 600, 600)),))
    assert np.array_equal(annotate(small, large), annotate(small, [face]))


def test_annotating_needs_neither_torch_nor_matplotlib() -> None:
    code = """
import sys
from PIL import Image
from rmn_hub import FaceExpression, annotate
face = FaceExpression(box=(9, 90, 99, 199), expression="sad", probability=0.9, probabilities={"sad": 0.9, "happy": 0.1})
annotate(Image.new("RGB", (400, 300)), [face])
print(sorted({"torch", "matplotlib", "transformers", "torchvision"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_matplotlib_labels_use_pillows_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    layout.font.cache_clear()
    try:
        assert layout.font(20).getlength("happy 93%") > 50
    finally:
        layout.font.cache_clear()
