"""Ensembles: each member sees the crop at its own size, and probabilities are averaged."""

import pickle

import numpy as np
import pytest
import torch
from cli_helpers import lines_of, run
from evaluation_helpers import faces
from PIL import Image, ImageOps

from rmn_hub import ExpressionRecognizer, RMNConfig, RMNImageProcessor, RMNModel
from rmn_hub.engines.engine import Engine, EngineOutput, softmax
from rmn_hub.engines.ensemble import EnsembleEngine, combined
from rmn_hub.engines.pixels import PixelProcessor, mirrored
from rmn_hub.engines.torch import TorchEngine
from rmn_hub.errors import InputError
from rmn_hub.loading import load_ensemble

TINY = {"stem": "small", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "mask_depths": [2, 1]}


def network(size, **changes):
    torch.manual_seed(size)
    return RMNModel(RMNConfig(**{**TINY, "image_size": size, "initializer_range": 1.0, **changes})).eval()


def member(size, **changes):
    return TorchEngine(network(size, **changes), "cpu"), PixelProcessor(size, size)


@pytest.fixture(scope="module")
def members():
    """Two of one size and one of another."""
    return [member(32), member(40), member(32, depths=[1, 2])]


@pytest.fixture(scope="module")
def images():
    return [image.convert("RGB") for image in faces(9)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("members")
    for size in (32, 40):
        network(size).save_pretrained(root / str(size))
        RMNImageProcessor(size={"height": size, "width": size}).save_pretrained(root / str(size))
    return [root / "32", root / "40"]


def test_the_mean_of_the_members(members, images):
    ensemble, processor = combined(members)
    output = ensemble(processor(images))
    singles = [softmax(engine(own(images)).logits) for engine, own in members]
    np.testing.assert_allclose(softmax(output.logits), sum(singles) / 3, atol=1e-6)
    assert np.abs(singles[0] - singles[1]).max() > 0.05
    assert (output.logits.dtype, output.maps) == (np.float32, ())


def test_it_is_an_engine(members):
    ensemble, _ = combined(members)
    assert isinstance(ensemble, Engine)
    assert (ensemble.expressions, ensemble.image_size, ensemble.has_masks) == (members[0][0].expressions, 40, False)


def test_members_of_one_size_share_their_pixels(members, images):
    _, processor = combined(members)
    records = processor(images)
    assert len(records) == len(images)
    assert [records[name].shape[1:] for name in records.dtype.names] == [(3, 32, 32), (3, 40, 40)]


def test_mirrored_pixels(members, images):
    for _, processor in (members[0], combined(members)):
        records, expected = mirrored(processor(images)), processor([ImageOps.mirror(image) for image in images])
        if records.dtype.names is None:
            np.testing.assert_allclose(records, expected, atol=1.01 / 255)
        for name in records.dtype.names or ():
            # Pillow's rounding may differ from side to side.
            np.testing.assert_allclose(records[name], expected[name], atol=1.01 / 255)


def test_one_member_stays_as_it_is(members):
    assert combined(members[:1]) == members[0]


def test_a_copy_in_another_process_predicts_the_same(members, images):
    engine, processor = pickle.loads(pickle.dumps(combined(members)))
    expected, own = combined(members)
    np.testing.assert_allclose(engine(processor(images)).logits, expected(own(images)).logits, atol=1e-6)


def test_a_probability_of_zero_has_a_finite_logit():
    class Certain:
        name, expressions, image_size, has_masks = "own", ("a", "b"), 8, False

        def __call__(self, pixel_values, *, attention=False):

            return EngineOutput(np.array([[2000.0, 0.0]], np.float32).repeat(len(pixel_values), 0))

    engine = EnsembleEngine([(Certain(), PixelProcessor(8, 8))] * 2)
    output = engine(engine.processor([Image.new("L", (8, 8))]))
    assert np.isfinite(output.logits).all()
    np.testing.assert_allclose(softmax(output.logits), [[1, 0]], atol=1e-9)


def test_what_is_no_ensemble(members, images):
    with pytest.raises(InputError, match="members"):
        EnsembleEngine([])
    other = member(32, id2label={0: "cat", 1: "dog"})
    with pytest.raises(InputError, match="cat, dog"):
        combined([members[0], other])
    with pytest.raises(InputError, match="pixel_values"):
        combined(members)[0](members[0][1](images))
    with pytest.raises(InputError, match="checkpoints"):
        load_ensemble([], {}, "torch", "cpu")


def test_a_recognizer_takes_several_checkpoints(folders, images):
    recognizer = ExpressionRecognizer.from_pretrained(folders, device="cpu")
    assert not recognizer.has_masks
    found = recognizer(images, faces_only=True)
    singles = [ExpressionRecognizer.from_pretrained(folder, device="cpu") for folder in folders]
    for image, result in zip(images, found):
        own = [list(single(image, faces_only=True)[0].probabilities.values()) for single in singles]
        np.testing.assert_allclose(list(result[0].probabilities.values()), np.mean(own, 0), atol=1e-5)
    with pytest.raises(InputError, match="attention"):
        recognizer(images[0], faces_only=True, attention=True)


def test_predict_takes_several_checkpoints(folders, images, tmp_path):
    images[0].save(tmp_path / "face.png")
    words = [word for folder in folders for word in ("--checkpoint", folder)]
    result = run("predict", tmp_path / "face.png", "--faces-only", "--json", "--device", "cpu", *words)
    assert result.exit_code == 0, result.output
    expected = ExpressionRecognizer.from_pretrained(folders, device="cpu")(images[0], faces_only=True)[0]
    [line] = lines_of(result)
    assert line["faces"][0]["expression"] == expected.expression
    assert line["faces"][0]["probability"] == pytest.approx(expected.probability, abs=1e-3)
