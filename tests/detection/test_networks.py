"""MTCNN's networks: the same numbers in both runtimes, and facenet-pytorch's."""

import importlib.util

import numpy as np
import onnx
import pytest
import torch
from facenet_pytorch import MTCNN

from rmn_hub.detection.networks import FOLDER, OnnxNetworks, load_networks
from rmn_hub.detection.torch_networks import TorchNetworks
from rmn_hub.export.mtcnn import export_mtcnn


def pixels(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("kind", [OnnxNetworks, TorchNetworks])
@pytest.mark.parametrize(
    ("network", "theirs", "shape"),
    [
        ("propose", "pnet", (3, 3, 31, 46)),
        ("refine", "rnet", (5, 3, 24, 24)),
        ("output", "onet", (5, 3, 48, 48)),
    ],
)
def test_outputs_are_those_of_facenet_pytorch(kind, network, theirs, shape):
    values = pixels(*shape)
    outputs = getattr(kind(), network)(values)
    with torch.inference_mode():
        *expected, probabilities = getattr(MTCNN(), theirs)(torch.from_numpy(values))
    for output, tensor in zip(outputs, [*expected, probabilities[:, 1]], strict=True):
        np.testing.assert_allclose(output, tensor.numpy(), atol=1e-5)


def test_settings_of_torch_do_not_matter():
    values = pixels(5, 3, 24, 24)
    expected = TorchNetworks().refine(values)
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        networks = TorchNetworks()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = networks.refine(values)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    for output, same in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(output, same)


def test_no_crops_are_no_outputs():
    for networks in (OnnxNetworks(), TorchNetworks()):
        assert [output.shape for output in networks.refine(pixels(0, 3, 24, 24))] == [(0, 4), (0,)]
        assert [output.shape for output in networks.output(pixels(0, 3, 48, 48))] == [(0, 4), (0, 10), (0,)]


def test_auto_is_onnx_where_it_is_installed(monkeypatch):
    assert isinstance(load_networks(), OnnxNetworks)
    assert isinstance(load_networks(device="meta"), TorchNetworks)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find_spec(name))
    assert isinstance(load_networks(), TorchNetworks)


def test_the_files_of_the_package_are_those_that_the_export_writes(tmp_path):
    for path in export_mtcnn(tmp_path):
        made, kept = onnx.load(path).graph, onnx.load(FOLDER / path.name).graph
        assert [node.op_type for node in made.node] == [node.op_type for node in kept.node]
        weights = [[onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer] for graph in (made, kept)]
        for tensor, expected in zip(*weights, strict=True):
            np.testing.assert_array_equal(tensor, expected)
