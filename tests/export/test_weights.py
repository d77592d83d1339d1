"""Weights in 16 and 8 bits: fewer bytes, the same probabilities."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from space_helpers import EXAMPLES

from rmn_hub import BUNDLED_CHECKPOINT, MTCNNDetector
from rmn_hub.detection.detector import crop_face
from rmn_hub.detection.networks import FOLDER
from rmn_hub.engines.engine import softmax
from rmn_hub.engines.onnx import ONNX_FILE, OnnxEngine
from rmn_hub.engines.pixels import PixelProcessor
from rmn_hub.export.weights import TOLERANCE, rounded, stored
from rmn_hub.sessions import OnnxSession

onnx = pytest.importorskip("onnx", reason="the page in the browser needs rmn-hub[export]")
GRAPH = Path(BUNDLED_CHECKPOINT) / ONNX_FILE


def weights_of(graph):
    model = onnx.load_from_string(graph) if isinstance(graph, bytes) else onnx.load(graph)
    return {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}


@pytest.fixture(scope="module")
def pixel_values():
    crops = []
    for name in ("astronaut.jpg", "officer.jpg"):
        with Image.open(EXAMPLES / name) as image:
            [[face]] = MTCNNDetector().detect([image])
            crops.append(crop_face(image, face.box, MTCNNDetector.margin))
    return PixelProcessor.from_folder(BUNDLED_CHECKPOINT)(crops)


@pytest.mark.parametrize(("form", "share"), [("fp16", 0.51), ("int8", 0.27)])
def test_stored_weights_predict_the_same(form, share, pixel_values, tmp_path):
    content = stored(GRAPH, form)
    (tmp_path / "stored.onnx").write_bytes(content)
    assert len(content) < share * GRAPH.stat().st_size
    expected, found = (OnnxEngine(path)(pixel_values, attention=True) for path in (GRAPH, tmp_path / "stored.onnx"))
    assert np.abs(softmax(found.logits) - softmax(expected.logits)).max() < TOLERANCE[form]
    for ours, theirs in zip(found.maps, expected.maps, strict=True):
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.99


def test_bytes_of_a_channel_have_a_factor_of_its_own():
    before, after = weights_of(GRAPH), weights_of(stored(GRAPH, "int8"))
    whole = [name.removesuffix(".8") for name in after if name.endswith(".8")]
    assert len(whole) > 10
    for name in whole:
        values, factors = after[f"{name}.8"], after[f"{name}.factors"]
        assert (values.dtype, factors.shape[0]) == (np.int8, before[name].shape[0])
        assert np.all(np.abs(values * factors - before[name]) <= 0.501 * factors)


@pytest.mark.parametrize("name", ["pnet", "rnet", "onet"])
def test_rounded_weights_are_compressed_better(name, tmp_path):
    path = FOLDER / f"{name}.onnx"
    content = rounded(path)
    assert len(gzip.compress(content)) < 0.85 * len(gzip.compress(path.read_bytes()))
    (tmp_path / "rounded.onnx").write_bytes(content)
    size = {"pnet": 40, "rnet": 24, "onet": 48}[name]
    pixels = np.random.default_rng(0).uniform(-1, 1, (4, 3, size, size)).astype(np.float32)
    expected, found = (OnnxSession(each).run({"pixels": pixels}) for each in (path, tmp_path / "rounded.onnx"))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)
