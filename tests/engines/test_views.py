"""Views: which there are, that their average has no left and right, and that all paths agree."""

import numpy as np
import pytest
from PIL import ImageOps

from rmn_hub import BUNDLED_CHECKPOINT, ExpressionRecognizer
from rmn_hub.engines.onnx import OnnxEngine
from rmn_hub.engines.pixels import PixelProcessor
from rmn_hub.engines.views import CHOICES, averaged, check_views, run, views_of
from rmn_hub.errors import InputError


@pytest.fixture(scope="module")
def engine():
    return OnnxEngine.from_checkpoint(BUNDLED_CHECKPOINT)


@pytest.fixture(scope="module")
def pixel_values(crops):
    return PixelProcessor.from_folder(BUNDLED_CHECKPOINT)(crops[:6])


def test_what_the_views_are(pixel_values):
    assert views_of(pixel_values, 1)[0] is pixel_values
    face, mirrored = views_of(pixel_values, 2)
    assert face is pixel_values
    np.testing.assert_array_equal(mirrored, pixel_values[..., ::-1])
    six = views_of(pixel_values, 6)
    assert len(six) == 6
    for view, plain in zip(six, [face, mirrored]):
        np.testing.assert_array_equal(view, plain)
    down, up, step = six[2], six[4], round(pixel_values.shape[2] / 48)
    np.testing.assert_array_equal(down[:, :, step:], pixel_values[:, :, :-step])
    np.testing.assert_array_equal(down[:, :, :step], np.repeat(pixel_values[:, :, :1], step, axis=2))
    np.testing.assert_array_equal(up[:, :, :-step], pixel_values[:, :, step:])


@pytest.mark.parametrize("views", CHOICES[1:])
def test_a_face_and_its_mirror_image_are_one(engine, pixel_values, views):
    plain, mirrored = (
        averaged(run(engine, values, views)[1]) for values in (pixel_values, pixel_values[..., ::-1].copy())
    )
    np.testing.assert_allclose(plain, mirrored, atol=1e-5)
    single = averaged(run(engine, pixel_values, 1)[1])
    assert np.abs(single - averaged(run(engine, pixel_values[..., ::-1].copy(), 1)[1])).max() > 0.01
    assert np.abs(single - plain).max() > 0.01


@pytest.mark.parametrize("views", CHOICES)
def test_attention_changes_no_probability(engine, pixel_values, views):
    plain, logits = run(engine, pixel_values, views)
    shown, others = run(engine, pixel_values, views, attention=True)
    assert logits.shape == (views, len(pixel_values), 7)
    np.testing.assert_allclose(others, logits, atol=1e-4)
    np.testing.assert_allclose(shown.logits, engine(pixel_values).logits, atol=1e-4)
    np.testing.assert_allclose(plain.logits, logits[0])
    assert [len(maps) for maps in shown.maps] == [len(pixel_values)] * 4


@pytest.mark.parametrize("views", CHOICES)
def test_every_path_of_a_recognizer_averages_the_same_views(crops, engine, views):
    """The network alone, both engines, one by one and together, with attention maps and without."""
    values = PixelProcessor.from_folder(BUNDLED_CHECKPOINT)(crops)
    expected = averaged(np.stack([engine(view).logits for view in views_of(values, views)]))

    def assert_expected(results, tolerance=1e-4):
        found = np.array([list(result[0].probabilities.values()) for result in results])
        np.testing.assert_allclose(found, expected[: len(found)], atol=tolerance)

    onnx = ExpressionRecognizer.from_pretrained(device="cpu", views=views)
    assert onnx.engine.name == "onnx"
    assert_expected(onnx(crops, faces_only=True))
    assert_expected([onnx(crop, faces_only=True) for crop in crops[:5]])
    assert_expected(onnx(crops[:9], faces_only=True, attention=True))
    for batch_size in (1, 5):
        small = ExpressionRecognizer.from_pretrained(device="cpu", views=views, batch_size=batch_size)
        assert_expected(small(crops[:9], faces_only=True))
    torch = ExpressionRecognizer.from_pretrained(device="cpu", engine="torch", views=views)
    assert_expected(torch(crops, faces_only=True))


def test_a_recognizer_takes_a_face_and_its_mirror_image(bundled, crops):
    assert bundled.views == 2
    mirrored = [ImageOps.mirror(crop) for crop in crops]
    pairs = zip(bundled(crops, faces_only=True), bundled(mirrored, faces_only=True))
    for plain, other in pairs:
        assert list(plain[0].probabilities.values()) == pytest.approx(list(other[0].probabilities.values()), abs=1e-5)


def test_a_batch_holds_views(crops):
    """The setting bounds what the network gets at once."""

    class Counting:
        name, expressions, image_size, has_masks = "counting", tuple("abc"), 48, False

        def __init__(self):
            self.sizes = []

        def __call__(self, pixel_values, *, attention=False):
            from rmn_hub.engines.engine import EngineOutput

            self.sizes.append(len(pixel_values))
            return EngineOutput(np.zeros((len(pixel_values), 3), np.float32))

    for batch_size, views, largest in ((8, 1, 8), (8, 2, 8), (7, 2, 6), (1, 2, 2), (8, 6, 6)):
        counting = Counting()
        recognizer = ExpressionRecognizer(counting, PixelProcessor(48, 48), batch_size=batch_size, views=views)
        recognizer(crops[:20], faces_only=True)
        assert (max(counting.sizes), sum(counting.sizes)) == (largest, 20 * views)


@pytest.mark.parametrize("views", [0, 3, True, "2", 2.5, None])
def test_other_numbers_are_refused(views):
    with pytest.raises(InputError, match="views="):
        check_views(views)
