"""Features, a face's embedding: those of the network without its head, by every engine, or one clear error."""

import numpy as np
import onnx
import pytest
import torch
from evaluation_helpers import faces, save_checkpoint
from PIL import Image

from rmn_hub import BUNDLED_CHECKPOINT, ExpressionRecognizer, RMNBaseModel, RMNImageProcessor
from rmn_hub.baselines.networks import network
from rmn_hub.checkpoints import weights_hash
from rmn_hub.engines.engine import EngineOutput
from rmn_hub.engines.onnx import OnnxEngine
from rmn_hub.engines.pixels import PixelProcessor
from rmn_hub.errors import InputError
from rmn_hub.export.onnx import export
from rmn_hub.hub import checkpoint as checkpoints
from rmn_hub.tables import to_records


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A tiny checkpoint without masks, with its ONNX file."""
    folder = save_checkpoint(tmp_path_factory.mktemp("features") / "plain", mask_depths=None)
    loaded = checkpoints.load(folder)
    pixel_values = loaded.processor(faces(4), return_tensors="np")["pixel_values"]
    export(loaded.model, folder / "onnx" / "model.onnx", pixel_values, weights_hash=weights_hash(folder))
    return folder


def recognizer_of(checkpoint, **settings):
    return ExpressionRecognizer.from_pretrained(checkpoint, device="cpu", **settings)


def expected_of(checkpoint, crops):
    """What transformers' `AutoModel` gives for crops."""
    model, processor = RMNBaseModel.from_pretrained(checkpoint).eval(), RMNImageProcessor.from_pretrained(checkpoint)
    with torch.inference_mode():
        return model(**processor(crops, return_tensors="pt")).pooler_output.numpy()


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_they_are_those_of_the_network_without_its_head(engine, crops, plain):
    for checkpoint, width in ((BUNDLED_CHECKPOINT, 256), (plain, 16)):
        results = recognizer_of(checkpoint, engine=engine)(crops[:5], faces_only=True, features=True)
        found = np.stack([result[0].features for result in results])
        assert (found.shape, found.dtype) == ((5, width), np.float32)
        np.testing.assert_allclose(found, expected_of(checkpoint, crops[:5]), atol=1e-4)
        assert np.ptp(found, 0).max() > 0.01


def test_both_engines_have_them_of_faces_of_a_photo(bundled, collage):
    in_torch = recognizer_of(BUNDLED_CHECKPOINT, engine="torch", detector=bundled.detector)
    assert (bundled.engine.name, in_torch.engine.name) == ("onnx", "torch")
    found, expected = bundled(collage, features=True, attention=True), in_torch(collage, features=True)
    assert len(found) == len(expected) == 8
    for face, other in zip(found, expected):
        np.testing.assert_allclose(face.features, other.features, atol=1e-4)
        assert face.attention is not None
        assert other.attention is None
        assert face.features.base is None  # a copy: the batch's array may go


def test_an_ensembles_are_its_members_one_after_the_other(plain, tiny_checkpoint, crops):
    members = [recognizer_of(each) for each in (plain, tiny_checkpoint)]
    together = recognizer_of([plain, tiny_checkpoint])
    [face] = together(crops[0], faces_only=True, features=True)
    own = [member(crops[0], faces_only=True, features=True)[0].features for member in members]
    np.testing.assert_allclose(face.features, np.concatenate(own), atol=1e-5)


def test_results_change_only_where_they_were_asked_for(recognizer, crops):
    [face], [asked] = (recognizer(crops[0], faces_only=True, features=features) for features in (False, True))
    assert face == asked
    assert face.features is None
    assert asked.features.any()
    assert asked.to_dict() == face.to_dict()
    assert to_records(asked) == to_records(face)


def test_a_file_of_an_earlier_version_says_what_to_do(plain, crops):
    model = onnx.load(plain / "onnx" / "model.onnx")
    kept = [output for output in model.graph.output if output.name != "features"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    onnx.save(model, plain / "onnx" / "old.onnx")
    engine = OnnxEngine.from_checkpoint(plain, file="onnx/old.onnx")
    recognizer = ExpressionRecognizer(engine, PixelProcessor.from_folder(plain))
    assert len(recognizer(crops[0], faces_only=True)) == 1
    with pytest.raises(InputError, match=r"features=True .*rmn-hub export"):
        recognizer(crops[0], faces_only=True, features=True)
    with pytest.raises(InputError, match="features"):
        engine(np.zeros((1, 3, engine.image_size, engine.image_size), np.float32), features=True)


def test_other_networks_and_engines_have_none():
    class Own:
        name, expressions, image_size, has_masks = "own", ("a", "b"), 8, False

        def __call__(self, pixel_values, *, attention=False):
            return EngineOutput(np.zeros((len(pixel_values), 2), np.float32))

    small = {"hidden_sizes": (8, 16), "embedding_size": 4, "stem": "small"}
    for model in (Own(), network("resattnet56", 32, **small)):
        size = model.image_size if isinstance(model, Own) else 32
        recognizer = ExpressionRecognizer(model, PixelProcessor(size, size), device="cpu")
        assert len(recognizer(Image.new("L", (32, 32)), faces_only=True)) == 1
        with pytest.raises(InputError, match="features=True"):
            recognizer(Image.new("L", (32, 32)), faces_only=True, features=True)
