"""Every picture: what it says, that all of it can be read, and that nothing lies on anything else."""

import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations, pairwise

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from skimage import data

from rmn_hub.attention import place as place_map
from rmn_hub.drawing import panels as plots
from rmn_hub.errors import InputError
from rmn_hub.evaluation.faithfulness import Faithfulness, Mean, Removal
from rmn_hub.expressions import EXPRESSIONS
from rmn_hub.results import Attention, FaceExpression, ImageResult

SIZES = (24, 12, 6, 3)


def make_attention(seed: int = 0, sizes: tuple[int, ...] = SIZES) -> Attention:
    rng = np.random.default_rng(seed)
    maps, before = (tuple(rng.random((size, size), dtype=np.float32) for size in sizes) for _ in range(2))
    after = tuple(np.minimum(1, stage * 1.4) for stage in before)
    return Attention(maps, before, after, crop=np.ascontiguousarray(data.astronaut()[50:180, 155:285]))


def make_expression(
    box: tuple[float, float, float, float] = (0, 0, 48, 48),
    expression: str = "happy",
    probability: float = 0.93,
    uncertain: bool = False,
    names: tuple[str, ...] = EXPRESSIONS,
    attention: Attention | None = None,
) -> FaceExpression:
    rest = (1 - probability) / (len(names) - 1)
    probabilities = {name: probability if name == expression else rest for name in names}
    return FaceExpression(
        box=box,
        expression=expression,
        probability=probability,
        probabilities=probabilities,
        uncertain=uncertain,
        attention=attention,
    )


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


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def inside(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return b[0] <= a[0] and b[1] <= a[1] and a[2] <= b[2] and a[3] <= b[3]


def texts_of(figure: Figure) -> dict[Text, tuple[float, float, float, float]]:
    """Every text that can be seen in a figure, with its place in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if not axes.axison or not low <= tick.get_loc() <= high:
                    hidden |= {tick.label1, tick.label2}
    found = {}
    for text in set(figure.findobj(Text)) - hidden:
        extent = text.get_window_extent(canvas.get_renderer())
        if text.get_text().strip() and text.get_visible() and extent.width > 0:
            found[text] = (extent.x0, extent.y0, extent.x1, extent.y1)
    return found


# Colours and words


def test_colours_are_okabe_and_itos_in_class_order() -> None:
    assert list(plots.COLORS) == list(EXPRESSIONS)
    expected = ["#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#999999"]
    assert list(plots.COLORS.values()) == expected
    assert plots.color_of("happy") == "#0072B2"
    assert plots.color_of("contempt") not in expected


def contrast(one: str, other: str) -> float:
    def luminance(color: str) -> float:
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_all_text_has_the_contrast_that_wcag_aa_asks_for() -> None:
    for color in (*plots.COLORS.values(), plots.OTHER_COLOR, "#ffffff", "#000000", "#767676", "#777777"):
        ink = plots.ink_on(color)
        assert contrast(color, ink) >= 4.5
        assert contrast(color, ink) >= max(contrast(color, "#000000"), contrast(color, "#ffffff")) - 0.01
    for theme in plots.THEMES.values():
        assert contrast(theme.background, theme.text) >= 7
        assert contrast(theme.background, theme.muted) >= 4.5


def test_labels_never_claim_certainty() -> None:
    shares = {0.0: "<1%", 0.004: "<1%", 0.01: "1%", 0.434: "43%", 0.99: "99%", 0.9951: ">99%", 1.0: ">99%"}
    assert {share: plots.percent(share) for share in shares} == shares
    assert plots.label_of(make_expression()) == "happy 93%"
    assert plots.label_of(make_expression(expression="fear", probability=0.31, uncertain=True)) == "fear? 31%"


# The annotated photo


@pytest.mark.parametrize(
    ("width", "height", "count"),
    [(320, 320, 1), (320, 200, 6), (640, 480, 2), (640, 480, 20), (1280, 960, 20), (900, 6000, 1), (6000, 4000, 20)],
)
def test_labels_stay_in_the_picture_and_off_each_other(width: int, height: int, count: int) -> None:
    for seed in range(5):
        faces, boxes = make_crowd(count, width, height, seed)
        labels = plots.place_labels([plots.label_of(face) for face in faces], boxes, width, height)
        assert None not in labels
        for index, label in enumerate(labels):
            assert inside(label.box, (0, 0, width, height))
            assert "".join(label.lines).replace(" ", "") == plots.label_of(faces[index]).replace(" ", "")
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
    labels = plots.place_labels(["surprise? 48%"] * 8, boxes, 1280, 960)
    assert {label.size for label in labels} == {labels[0].size}
    assert labels[0].size >= 20
    assert all(label.pointer is None and label.box[3] == box[1] for label, box in zip(labels, boxes))


def test_in_a_crowd_without_any_room_labels_go_into_their_own_boxes() -> None:
    boxes = [(48 * (i % 10), 48 * (i // 10), 48 * (i % 10) + 48, 48 * (i // 10) + 48) for i in range(100)]
    labels = plots.place_labels(["surprise? 48%", "sad 99%"] * 50, boxes, 480, 480)
    for label, box in zip(labels, boxes):
        assert inside(label.box, box)
        assert label.box[3] - label.box[1] <= 24  # half of the face is left
        assert label.size >= 6
    tiny = [(x, y, x + 6, y + 6) for x in range(0, 60, 6) for y in range(0, 60, 6)]
    assert plots.place_labels(["happy 93%"] * 100, tiny, 60, 60) == [None] * 100


def test_a_small_picture_of_a_crowd_grows_until_all_labels_have_room() -> None:
    faces, _ = make_crowd(20, 160, 160, seed=0)
    factor = plots.annotate(Image.new("RGB", (160, 160)), faces).width // 160
    rooms = {}
    for scale in range(2, factor + 1):
        boxes = [tuple(scale * value for value in face.box) for face in faces]
        labels = plots.place_labels([plots.label_of(face) for face in faces], boxes, 160 * scale, 160 * scale)
        rooms[scale] = None not in labels
    assert list(rooms.values()) == [False] * (factor - 2) + [True]
    assert factor > 2


@pytest.mark.parametrize(("width", "height"), [(48, 48), (64, 20), (319, 100), (320, 200), (3000, 2000)])
def test_small_pictures_are_enlarged_until_labels_can_be_read(width: int, height: int) -> None:
    picture = Image.new("RGB", (width, height), "#404040")
    face = make_expression((4, 4, 16, 16), "surprise")
    shown = plots.annotate(picture, [face])
    factor = shown.width // width
    assert shown.size == (factor * width, factor * height)
    assert max(shown.size) >= 320
    assert factor == 1 or (factor - 1) * max(width, height) < 320
    assert plots.annotate(picture, [face], enlarge=False).size == (width, height)
    # The box is where the face is, in the expression's colour.
    color = tuple(int(plots.COLORS["surprise"][i : i + 2], 16) for i in (1, 3, 5))
    assert shown.getpixel((4 * factor, 14 * factor)) == color
    assert shown.getpixel((10 * factor, 16 * factor - 1)) == color


def test_only_the_box_and_its_label_change() -> None:
    picture = Image.fromarray(data.astronaut())
    before = picture.copy()
    face = make_expression((177.5, 59.5, 266.7, 171.8))
    shown = plots.annotate(picture, ImageResult("astronaut", 512, 512, (face,)))
    assert picture == before
    assert shown.size == picture.size
    changed = (np.asarray(shown) != np.asarray(before)).any(2)
    (label,) = plots.place_labels(["happy 93%"], [(178, 60, 267, 172)], 512, 512)
    x0, y0, x1, y1 = label.box
    changed[y0:y1, x0:x1] = False
    changed[58:174, 176:269] = False
    assert not changed.any()
    inner = np.s_[63:169, 181:264]
    assert not (np.asarray(shown) != np.asarray(before)).any(2)[inner].any()


def test_uncertain_answers_have_a_dashed_box_and_a_hollow_label() -> None:
    picture = Image.new("RGB", (640, 480), "#408040")
    color = [int(plots.COLORS["fear"][i : i + 2], 16) for i in (1, 3, 5)]
    box = (200, 200, 400, 400)
    lines, fills = {}, {}
    for uncertain in (False, True):
        shown = np.asarray(plots.annotate(picture, [make_expression(box, "fear", 0.6, uncertain)]))
        lines[uncertain] = (shown[399, 200:400] == color).all(1)
        (label,) = plots.place_labels(["fear? 60%" if uncertain else "fear 60%"], [box], 640, 480)
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
    upright = np.asarray(plots.annotate(stored.getvalue(), []), dtype=int)
    assert np.abs(upright - np.asarray(astronaut)).mean() < 6
    face = make_expression((-20, -30, 700.2, 90))
    for picture in (astronaut.convert("L"), astronaut.convert("RGBA"), data.astronaut(), astronaut.convert("P")):
        assert plots.annotate(picture, [face]).mode == "RGB"
    array = data.astronaut()
    plots.annotate(array, [face])
    np.testing.assert_array_equal(array, data.astronaut())
    np.testing.assert_array_equal(np.asarray(plots.annotate(array, [])), array)
    for far in ((600, 600, 700, 700), (-50, -50, -10, -10), (10, 10, 10, 10)):  # nothing to see, but no error
        assert plots.annotate(astronaut, [make_expression(far)]).size == (512, 512)
    with pytest.raises(InputError, match="not a picture"):
        plots.annotate(b"text", [face])


def test_an_attention_map_can_be_laid_over_the_photo() -> None:
    picture = Image.fromarray(data.astronaut())
    box = (165, 60, 275, 170)  # the middle of the crop of 130 pixels
    face = make_expression(box, attention=make_attention())
    plain = np.asarray(plots.annotate(picture, [face]), dtype=int)
    for stage in (1, 4):
        shown = np.asarray(plots.annotate(picture, [face], stage=stage), dtype=int)
        changed = np.abs(shown - plain).sum(2)
        assert changed[70:160, 175:265].mean() > 50
        changed[60:170, 165:275] = 0
        assert not changed.any()
    with pytest.raises(ValueError, match="stage=5 does not exist: choose 1 to 4"):
        plots.annotate(picture, [face], stage=5)
    with pytest.raises(ValueError, match="attention=True"):
        plots.annotate(picture, [make_expression(box)], stage=1)


# Figures


def make_removals() -> Faithfulness:
    removals = []
    for stage in (1, 2, 3, 4):
        for fraction in (0.1, 0.2, 0.3):
            drops = {name: fraction * size for name, size in (("map", 1.2), ("random", 0.6), ("features", 0.9))}
            drops |= {"map_minus_random": 0.6 * fraction, "map_minus_features": -0.1 * fraction}
            means = {name: Mean(drop, (drop - 0.02, drop + 0.02)) for name, drop in drops.items()}
            removals.append(Removal(stage, fraction, **means))
    return Faithfulness(3589, 0.71, 8, 3, 0, tuple(removals))


def make_history(epochs: int) -> list[dict[str, object]]:
    rows = []
    for epoch in range(1, epochs + 1):
        measured = epoch % 3 == 0
        row = {"epoch": epoch, "size": 32 + 8 * (epoch > 20) + 8 * (epoch > 40), "loss": 1 + 2 / epoch}
        row["accuracy"] = 0.7 - 0.5 / epoch if measured else None
        row["validation_loss"] = 1 + 1 / epoch if measured else None
        rows.append(row)
    return rows


def make_bins() -> dict[str, object]:
    edges = np.linspace(0, 1, 16)
    bins = [
        {"lower": low, "upper": high, "faces": 0, "confidence": None, "accuracy": None}
        if high < 0.25
        else {"lower": low, "upper": high, "faces": int(1000 * low), "confidence": (low + high) / 2, "accuracy": low}
        for low, high in pairwise(edges)
    ]
    return {"expected_calibration_error": 0.0267, "bins": bins}


COVERAGE = [{"threshold": t / 20, "coverage": 1 - (t / 20) ** 2, "accuracy": 0.7 + 0.014 * t} for t in range(19)]
COVERAGE.append({"threshold": 0.95, "coverage": 0.0, "accuracy": None})
LONG = ("angry", "a rather long expression", "fear", "$happy$", "sad", "surprise", "neutral", "contempt")


def make_figures(theme: str) -> dict[str, Figure]:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(7), 9)
    faces = [rng.integers(0, 256, (48, 48), dtype=np.uint8) for _ in range(9)]
    attention = make_attention()
    group = [
        make_expression(expression=EXPRESSIONS[i % 7], uncertain=i % 2 == 0, attention=attention) for i in range(9)
    ]
    counts = rng.integers(0, 1000, (7, 7))
    long = make_expression(expression=LONG[1], probability=0.4, uncertain=True, names=LONG, attention=attention)
    seconds = np.arange(40) / 10
    timeline = rng.dirichlet(np.ones(7), 40)
    timeline[10:14] = np.nan
    return {
        "probability_chart": plots.probability_chart_figure(make_expression(), theme),
        "probability_chart_long": plots.probability_chart_figure(long, theme),
        "attention_panel": plots.attention_panel_figure(group[0], theme),
        "attention_panel_long": plots.attention_panel_figure(long, theme),
        "group_panel": plots.group_panel_figure(group, theme),
        "confusion_matrix": plots.confusion_matrix_figure(counts, title="PrivateTest", theme=theme),
        "failure_cases": plots.failure_cases_figure(faces, [*range(7), 0, 1], probabilities, theme=theme),
        "reliability_diagram": plots.reliability_diagram_figure(make_bins(), theme=theme),
        "coverage_curve": plots.coverage_curve_figure(COVERAGE, theme=theme),
        "faithfulness_chart": plots.faithfulness_chart_figure(make_removals(), theme=theme),
        "training_curves": plots.training_curves_figure(make_history(60), theme=theme),
        "training_curves_first": plots.training_curves_figure(make_history(1), theme=theme),
        "timeline": plots.timeline_figure(seconds, timeline, title="face 1", theme=theme),
    }


def test_all_text_of_all_figures_is_within_them_and_apart() -> None:
    for name, figure in make_figures("light").items():
        width, height = figure.canvas.get_width_height()
        texts = texts_of(figure)
        assert texts, name
        for text, place in texts.items():
            assert inside(place, (0, 0, width, height)), f"{name}: {text.get_text()!r} leaves the figure"
            assert text.get_fontsize() >= 7.5
            assert text.get_fontfamily() == ["DejaVu Sans"], f"{name}: {text.get_text()!r}"
        for (one, a), (other, b) in combinations(texts.items(), 2):
            # Extents are a little larger than the letters.
            shrunk = (a[0] + 1, a[1] + 2, a[2] - 1, a[3] - 2)
            assert not overlap(shrunk, b), f"{name}: {one.get_text()!r} lies on {other.get_text()!r}"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_can_be_read_on_its_theme(theme: str) -> None:
    for name, figure in make_figures(theme).items():
        assert matplotlib.colors.to_hex(figure.get_facecolor()) == plots.THEMES[theme].background
        cells = figure.axes[0].texts if name == "confusion_matrix" else []
        texts = {text for text in figure.findobj(Text) if text.get_text().strip()} - set(cells)
        assert len(texts) >= 5
        for text in texts:
            assert contrast(matplotlib.colors.to_hex(text.get_color()), plots.THEMES[theme].background) >= 4.5, name


def test_images_are_their_figures() -> None:
    face = make_expression(attention=make_attention())
    matrix = np.eye(7, dtype=int)
    pairs = [
        (plots.probability_chart, plots.probability_chart_figure, (face, "dark")),
        (plots.attention_panel, plots.attention_panel_figure, (face,)),
        (plots.group_panel, plots.group_panel_figure, ([face, face],)),
        (plots.confusion_matrix, plots.confusion_matrix_figure, (matrix,)),
        (plots.annotate, plots.annotate_figure, (data.astronaut(), [face])),
    ]
    for draw, draw_figure, values in pairs:
        image, figure = draw(*values), draw_figure(*values)
        assert image.mode == "RGB"
        assert isinstance(figure, Figure)
        assert image.size == tuple(round(side * figure.dpi) for side in figure.get_size_inches())
        np.testing.assert_array_equal(np.asarray(image), np.asarray(plots.to_image(figure)))
        assert draw.__name__ + "_figure" == draw_figure.__name__
    background = Image.new("RGB", (1, 1), plots.THEMES["dark"].background).getpixel((0, 0))
    chart = plots.probability_chart(face, theme="dark")
    assert {chart.getpixel((x, y)) for x in (0, chart.width - 1) for y in (0, chart.height - 1)} == {background}


def test_the_chart_has_all_expressions_in_order_with_percentages() -> None:
    expression = FaceExpression(
        box=(0, 0, 9, 9),
        expression="sad",
        probability=0.52,
        probabilities=dict(zip(EXPRESSIONS, (0.2, 0.004, 0.1, 0.05, 0.52, 0.026, 0.1))),
    )
    figure = plots.probability_chart_figure(expression)
    places = texts_of(figure)
    words = [text.get_text() for text in sorted(places, key=lambda text: (-round(places[text][1]), places[text][0]))]
    assert words[0] == "sad 52%"
    assert [word for word in words if word in EXPRESSIONS] == list(EXPRESSIONS)
    shares = [word for word in words[1:] if word.endswith("%")]
    assert shares == ["20.0%", "0.4%", "10.0%", "5.0%", "52.0%", "2.6%", "10.0%"]
    bars = [patch for patch in figure.axes[0].patches if patch.get_alpha() is None]
    assert [bar.get_width() for bar in bars] == pytest.approx(list(expression.probabilities.values()))
    assert [matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in bars] == list(plots.COLORS.values())
    assert {text.get_text() for text in places if text.get_fontweight() == "bold"} == {*("sad 52%", "sad", "52.0%")}


def test_the_attention_panel_shows_every_stage_with_its_size() -> None:
    attention = make_attention()
    figure = plots.attention_panel_figure(make_expression(attention=attention))
    words = {text.get_text() for text in texts_of(figure)}
    assert {f"stage {number}" for number in (1, 2, 3, 4)} | {f"{size} x {size} px" for size in SIZES} <= words
    pictures = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(pictures) == 1 + 4 * 3 + 2  # crop, three rows of stages, two keys
    np.testing.assert_array_equal(pictures[0].get_array(), attention.crop)
    features = [picture for picture in pictures if picture.get_array().shape == (192, 192)]
    assert len(features) == 8
    assert {picture.get_clim() for picture in features} == {(0, 1)}  # one scale: after can be compared with before
    three = plots.attention_panel_figure(make_expression(attention=make_attention(sizes=(8, 4, 2))))
    assert "stage 4" not in {text.get_text() for text in texts_of(three)}


@pytest.mark.parametrize("count", [1, 2, 20])
def test_the_group_panel_has_every_face(count: int) -> None:
    faces = [make_expression(expression=EXPRESSIONS[i % 7], attention=make_attention(i)) for i in range(count)]
    figure = plots.group_panel_figure(ImageResult("group", 9, 9, tuple(faces)))
    words = [text.get_text() for text in figure.texts]
    assert [word for word in words if word[0].isdigit()] == [
        f"{i + 1}.  {EXPRESSIONS[i % 7]} 93%" for i in range(count)
    ]
    pictures = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(pictures) == (1 + 4 + 1) * count  # crop, map of each stage, features
    for face, crop, strip in zip(faces, pictures[::6], pictures[5::6]):
        np.testing.assert_array_equal(crop, face.attention.crop)
        # Before and after from left to right, with space between them.
        gaps = strip.mask.all(0)
        parts = np.split(strip.data, np.flatnonzero(np.diff(gaps)) + 1, axis=1)[::2]
        side = strip.shape[0]
        expected = [
            place_map(features, side, side)
            for pair in zip(face.attention.before, face.attention.after)
            for features in pair
        ]
        np.testing.assert_array_equal(parts, expected)
    width, height = figure.get_size_inches()
    assert width / height < 10
    assert height / width < 2


def test_faces_without_maps_are_refused_with_a_sentence() -> None:
    for draw in (plots.attention_panel, lambda face: plots.group_panel([face])):
        with pytest.raises(ValueError, match="call the recognizer with attention=True"):
            draw(make_expression())
    with pytest.raises(ValueError, match="no face to show"):
        plots.group_panel(ImageResult("empty", 9, 9))
    with pytest.raises(ValueError, match="theme='blue' is unknown: choose one of light, dark"):
        plots.probability_chart(make_expression(), theme="blue")


def test_the_confusion_matrix_has_counts_and_shares_of_rows() -> None:
    matrix = np.zeros((7, 7), dtype=int)
    matrix[0, :2] = 30, 10
    matrix[3, 3] = 1234
    figure = plots.confusion_matrix_figure(matrix)
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array()[[0, 3, 5]].sum(1), [1, 1, 0])
    words = [text.get_text() for text in axes.texts]
    assert len(words) == 98
    assert words[:4] == ["75.0%", "30", "25.0%", "10"]
    assert "1,234" in words
    assert [label.get_text() for label in axes.get_xticklabels()] == list(EXPRESSIONS)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(EXPRESSIONS)
    # Every number can be read on the shade of its cell.
    picture = axes.images[0]
    for text in axes.texts:
        column, row = round(text.get_position()[0]), round(text.get_position()[1])
        shade = matplotlib.colors.to_hex(picture.cmap(picture.norm(picture.get_array()[row, column])))
        assert contrast(shade, text.get_color()) >= 4.5
    with pytest.raises(ValueError, match=r"shape \(6, 7\), but there are 7 names"):
        plots.confusion_matrix(matrix[:6])


def test_failure_cases_say_what_was_predicted_and_what_is_labelled() -> None:
    faces = [np.full((48, 48), 40 * index, np.uint8) for index in range(5)]
    probabilities = np.full((5, 7), 0.05)
    probabilities[:, 3] = 0.7
    figure = plots.failure_cases_figure(faces, [0, 1, 2, 4, 5], probabilities)
    words = [text.get_text() for text in figure.texts]
    assert words.count("predicted happy 70%") == 5
    assert "labelled surprise 5%" in words
    assert [int(axes.images[0].get_array().max()) for axes in figure.axes if axes.images] == [0, 40, 80, 120, 160]
    for images, labels in ((faces[:4], [0] * 5), ([], [])):
        with pytest.raises(ValueError, match="give at least one face"):
            plots.failure_cases(images, labels, probabilities)


def test_curves_show_what_was_measured() -> None:
    figure = plots.training_curves_figure(make_history(60))
    words = {text.get_text() for text in texts_of(figure)}
    assert {"40 px", "48 px", "training loss", "validation loss"} <= words
    assert "validation accuracy, best 69.2% in epoch 60" in words
    curve = figure.axes[0].lines[0]
    np.testing.assert_allclose(curve.get_ydata(), [1 + 2 / epoch for epoch in range(1, 61)])
    # The rows of a CSV say the same.
    rows = [{key: "" if value is None else str(value) for key, value in row.items()} for row in make_history(60)]
    assert plots.training_curves(rows) == plots.training_curves(make_history(60))
    first = plots.training_curves_figure([{"epoch": 1, "loss": float("nan")}])
    assert [text.get_text() for text in first.texts].count("not measured yet") == 2

    coverage = plots.coverage_curve_figure(COVERAGE).axes[0].lines[0]
    assert len(coverage.get_xdata()) == 19  # the row without an accuracy is left out

    reliability = plots.reliability_diagram_figure(make_bins())
    assert "expected calibration error 2.7%" in {text.get_text() for text in reliability.texts}
    assert len(reliability.axes[0].patches) == 12  # the bins that hold faces


def test_faithfulness_is_shown_side_by_side() -> None:
    values = make_removals()
    figure = plots.faithfulness_chart_figure(values)
    assert {"where the map is highest", "where the features are strongest", "at random"} <= {
        text.get_text() for text in texts_of(figure)
    }
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert heights == pytest.approx([0.12, 0.24, 0.36, 0.09, 0.18, 0.27, 0.06, 0.12, 0.18])
    from_json = json.loads(json.dumps(values.to_dict()))
    assert plots.faithfulness_chart(from_json) == plots.faithfulness_chart(values)


def test_the_timeline_leaves_gaps_where_there_was_no_face() -> None:
    probabilities = np.full((20, 7), 1 / 7)
    probabilities[8:12] = np.nan
    figure = plots.timeline_figure(np.arange(20) / 10, probabilities)
    assert len(figure.axes) == 7
    for axes in figure.axes:
        assert len(axes.collections[0].get_paths()) == 2
        assert axes.get_ylim() == (0, 1)
    for seconds, values in ((np.arange(19), probabilities), ([], np.zeros((0, 7)))):
        with pytest.raises(ValueError, match="do not fit"):
            plots.timeline(seconds, values)
    with pytest.raises(ValueError, match="must increase"):
        plots.timeline(np.zeros(20), probabilities)
    assert plots.timeline([0.0], np.full((1, 7), np.nan)).width > 0


# Nothing global


def test_pictures_are_the_same_from_many_threads_and_with_a_users_settings() -> None:
    faces = [make_expression(expression=name, attention=make_attention(i)) for i, name in enumerate(EXPRESSIONS[:4])]

    def draw(face: FaceExpression) -> list[Image.Image]:
        return [plots.group_panel([face]), plots.probability_chart(face), plots.annotate(data.astronaut(), [face])]

    alone = [draw(face) for face in faces]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(draw, faces)) == alone
    own = {"font.family": "monospace", "text.color": "red", "axes.facecolor": "black", "figure.dpi": 50}
    with matplotlib.rc_context(own):
        assert draw(faces[0]) == alone[0]


def test_pyplot_stays_out_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that pyplot knows stay in memory until they are closed."""
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it raises
    for picture in (plots.probability_chart(make_expression()), plots.training_curves(make_history(4))):
        assert picture.width > 400
