"""Panels and figures: what they show, that all text can be read, and that nothing lies on anything else."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations, pairwise

import matplotlib
import numpy as np
import pytest
from drawing_helpers import SIZES, contrast, inside, make_attention, make_expression, overlap, texts_of
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from skimage import data

from rmn_hub.attention import place as place_map
from rmn_hub.drawing import figures, panels, sheet
from rmn_hub.drawing.palette import COLORS, THEMES
from rmn_hub.drawing.photo import annotate
from rmn_hub.errors import InputError
from rmn_hub.evaluation.faithfulness import Faithfulness, Removal
from rmn_hub.evaluation.metrics import Mean
from rmn_hub.expressions import EXPRESSIONS
from rmn_hub.results import FaceExpression, ImageResult

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
    return {
        "probability_chart": panels.probability_chart_figure(make_expression(), theme),
        "probability_chart_long": panels.probability_chart_figure(long, theme),
        "attention_panel": panels.attention_panel_figure(group[0], theme),
        "attention_panel_long": panels.attention_panel_figure(long, theme),
        "group_panel": panels.group_panel_figure(group, theme),
        "confusion_matrix": figures.confusion_matrix_figure(counts, title="PrivateTest", theme=theme),
        "failure_cases": figures.failure_cases_figure(faces, [*range(7), 0, 1], probabilities, theme=theme),
        "reliability_diagram": figures.reliability_diagram_figure(make_bins(), theme=theme),
        "coverage_curve": figures.coverage_curve_figure(COVERAGE, theme=theme),
        "faithfulness_chart": figures.faithfulness_chart_figure(make_removals().to_dict(), theme=theme),
        "training_curves": figures.training_curves_figure(make_history(60), theme=theme),
        "training_curves_first": figures.training_curves_figure(make_history(1), theme=theme),
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
        assert matplotlib.colors.to_hex(figure.get_facecolor()) == THEMES[theme].background
        cells = figure.axes[0].texts if name == "confusion_matrix" else []
        texts = {text for text in figure.findobj(Text) if text.get_text().strip()} - set(cells)
        assert len(texts) >= 5
        for text in texts:
            assert contrast(matplotlib.colors.to_hex(text.get_color()), THEMES[theme].background) >= 4.5, name


def test_images_are_their_figures() -> None:
    face = make_expression(attention=make_attention())
    matrix = np.eye(7, dtype=int)
    pairs = [
        (panels.probability_chart, panels.probability_chart_figure, (face, "dark")),
        (panels.attention_panel, panels.attention_panel_figure, (face,)),
        (panels.group_panel, panels.group_panel_figure, ([face, face],)),
        (figures.confusion_matrix, figures.confusion_matrix_figure, (matrix,)),
        (annotate, panels.annotate_figure, (data.astronaut(), [face])),
    ]
    for draw, draw_figure, values in pairs:
        image, figure = draw(*values), draw_figure(*values)
        assert image.mode == "RGB"
        assert isinstance(figure, Figure)
        assert image.size == tuple(round(side * figure.dpi) for side in figure.get_size_inches())
        np.testing.assert_array_equal(np.asarray(image), np.asarray(sheet.to_image(figure)))
        assert draw.__name__ + "_figure" == draw_figure.__name__
    background = Image.new("RGB", (1, 1), THEMES["dark"].background).getpixel((0, 0))
    chart = panels.probability_chart(face, theme="dark")
    assert {chart.getpixel((x, y)) for x in (0, chart.width - 1) for y in (0, chart.height - 1)} == {background}


def test_the_chart_has_all_expressions_in_order_with_percentages() -> None:
    expression = FaceExpression(
        box=(0, 0, 9, 9),
        expression="sad",
        probability=0.52,
        probabilities=dict(zip(EXPRESSIONS, (0.2, 0.004, 0.1, 0.05, 0.52, 0.026, 0.1))),
    )
    figure = panels.probability_chart_figure(expression)
    places = texts_of(figure)
    words = [text.get_text() for text in sorted(places, key=lambda text: (-round(places[text][1]), places[text][0]))]
    assert words[0] == "sad 52%"
    assert [word for word in words if word in EXPRESSIONS] == list(EXPRESSIONS)
    shares = [word for word in words[1:] if word.endswith("%")]
    assert shares == ["20.0%", "0.4%", "10.0%", "5.0%", "52.0%", "2.6%", "10.0%"]
    bars = [patch for patch in figure.axes[0].patches if patch.get_alpha() is None]
    assert [bar.get_width() for bar in bars] == pytest.approx(list(expression.probabilities.values()))
    assert [matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in bars] == list(COLORS.values())
    assert {text.get_text() for text in places if text.get_fontweight() == "bold"} == {*("sad 52%", "sad", "52.0%")}


def test_the_attention_panel_shows_every_stage_with_its_size() -> None:
    attention = make_attention()
    figure = panels.attention_panel_figure(make_expression(attention=attention))
    words = {text.get_text() for text in texts_of(figure)}
    assert {f"stage {number}" for number in (1, 2, 3, 4)} | {f"{size} x {size} px" for size in SIZES} <= words
    pictures = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(pictures) == 1 + 4 * 3 + 2  # crop, three rows of stages, two keys
    np.testing.assert_array_equal(pictures[0].get_array(), attention.crop)
    features = [picture for picture in pictures if picture.get_array().shape == (192, 192)]
    assert len(features) == 8
    assert {picture.get_clim() for picture in features} == {(0, 1)}  # one scale: after can be compared with before
    three = panels.attention_panel_figure(make_expression(attention=make_attention(sizes=(8, 4, 2))))
    assert "stage 4" not in {text.get_text() for text in texts_of(three)}


@pytest.mark.parametrize("count", [1, 2, 20])
def test_the_group_panel_has_every_face(count: int) -> None:
    # Numbers are those of the result, whichever faces of it are shown.
    faces = [
        make_expression(expression=EXPRESSIONS[i % 7], attention=make_attention(i), index=i + 3) for i in range(count)
    ]
    figure = panels.group_panel_figure(ImageResult("group", 9, 9, tuple(faces)))
    words = [text.get_text() for text in figure.texts]
    assert [word for word in words if word[0].isdigit()] == [
        f"{i + 3}.  {EXPRESSIONS[i % 7]} 93%" for i in range(count)
    ]
    pictures = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(pictures) == (1 + 4 + 1) * count + 2  # crop, map of each stage, features; two keys of colours
    for face, crop, strip in zip(faces, pictures[:-2:6], pictures[5::6]):
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
    for draw in (panels.attention_panel, lambda face: panels.group_panel([face])):
        with pytest.raises(InputError, match="attention=True"):
            draw(make_expression())
    with pytest.raises(InputError, match="at least one face"):
        panels.group_panel(ImageResult("empty", 9, 9))
    with pytest.raises(InputError, match="theme='blue'"):
        panels.probability_chart(make_expression(), theme="blue")


def test_the_confusion_matrix_has_counts_and_shares_of_rows() -> None:
    matrix = np.zeros((7, 7), dtype=int)
    matrix[0, :2] = 30, 10
    matrix[3, 3] = 1234
    figure = figures.confusion_matrix_figure(matrix)
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
    with pytest.raises(InputError, match=r"\(6, 7\).*7 x 7"):
        figures.confusion_matrix(matrix[:6])


def test_failure_cases_say_what_was_predicted_and_what_is_labelled() -> None:
    faces = [np.full((48, 48), 40 * index, np.uint8) for index in range(5)]
    probabilities = np.full((5, 7), 0.05)
    probabilities[:, 3] = 0.7
    figure = figures.failure_cases_figure(faces, [0, 1, 2, 4, 5], probabilities)
    words = [text.get_text() for text in figure.texts]
    assert words.count("predicted happy 70%") == 5
    assert "labelled surprise 5%" in words
    assert [int(axes.images[0].get_array().max()) for axes in figure.axes if axes.images] == [0, 40, 80, 120, 160]
    for images, labels in ((faces[:4], [0] * 5), ([], [])):
        with pytest.raises(InputError, match="at least one"):
            figures.failure_cases(images, labels, probabilities)


def test_curves_show_what_was_measured() -> None:
    figure = figures.training_curves_figure(make_history(60))
    words = {text.get_text() for text in texts_of(figure)}
    assert {"40 px", "48 px", "training loss", "validation loss"} <= words
    assert "validation accuracy, best 69.2% in epoch 60" in words
    curve = figure.axes[0].lines[0]
    np.testing.assert_allclose(curve.get_ydata(), [1 + 2 / epoch for epoch in range(1, 61)])
    # The rows of a CSV say the same.
    rows = [{key: "" if value is None else str(value) for key, value in row.items()} for row in make_history(60)]
    assert figures.training_curves(rows) == figures.training_curves(make_history(60))
    first = figures.training_curves_figure([{"epoch": 1, "loss": float("nan")}])
    assert [text.get_text() for text in first.texts].count("not measured yet") == 2

    coverage = figures.coverage_curve_figure(COVERAGE).axes[0].lines[0]
    assert len(coverage.get_xdata()) == 19  # the row without an accuracy is left out

    reliability = figures.reliability_diagram_figure(make_bins())
    assert "expected calibration error 2.7%" in {text.get_text() for text in reliability.texts}
    assert len(reliability.axes[0].patches) == 12  # the bins that hold faces


def test_faithfulness_is_shown_side_by_side() -> None:
    values = make_removals().to_dict()
    figure = figures.faithfulness_chart_figure(values)
    assert {"where the map is highest", "where the features are strongest", "at random"} <= {
        text.get_text() for text in texts_of(figure)
    }
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert heights == pytest.approx([0.12, 0.24, 0.36, 0.09, 0.18, 0.27, 0.06, 0.12, 0.18])
    assert figures.faithfulness_chart(json.loads(json.dumps(values))) == figures.faithfulness_chart(values)


# Nothing global


def test_pictures_are_the_same_from_many_threads_and_with_a_users_settings() -> None:
    faces = [make_expression(expression=name, attention=make_attention(i)) for i, name in enumerate(EXPRESSIONS[:4])]

    def draw(face: FaceExpression) -> list[Image.Image]:
        return [panels.group_panel([face]), panels.probability_chart(face), annotate(data.astronaut(), [face])]

    alone = [draw(face) for face in faces]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(draw, faces)) == alone
    own = {"font.family": "monospace", "text.color": "red", "axes.facecolor": "black", "figure.dpi": 50}
    with matplotlib.rc_context(own):
        assert draw(faces[0]) == alone[0]


def test_pyplot_stays_out_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that pyplot knows stay in memory until they are closed."""
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it raises
    for picture in (panels.probability_chart(make_expression()), figures.training_curves(make_history(4))):
        assert picture.width > 400
