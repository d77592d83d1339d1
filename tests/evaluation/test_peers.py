"""`rmn-hub evaluate --peer`: the network inside another package, on the same faces."""

import json
import sys
import types
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pytest
import torch
from cli_helpers import run
from evaluation_helpers import faces, save_checkpoint, write_set

from rmn_hub.errors import InputError, MissingPackageError
from rmn_hub.evaluation import peers
from rmn_hub.evaluation.evaluate import device_name, evaluate


class Interpreter:
    """As much of the interpreter as the engine uses: a network that is the surer of class 3 the brighter a face is."""

    def __init__(self, model_path):
        assert model_path.endswith(".tflite")
        self.shape = (1, 64, 64, 1)

    def get_input_details(self):
        return [{"index": 0}]

    def get_output_details(self):
        return [{"index": 1}]

    def resize_tensor_input(self, index, shape):
        self.shape = tuple(shape)

    def allocate_tensors(self):
        pass

    def set_tensor(self, index, values):
        assert values.shape == self.shape
        assert values.dtype == np.float32
        assert -1 <= values.min() <= values.max() <= 1
        self.values = values

    def invoke(self):
        bright = (self.values.mean(axis=(1, 2, 3)) + 1) / 2
        self.output = np.repeat((1 - bright)[:, None] / 6, 7, axis=1)
        self.output[:, 3] = bright

    def get_tensor(self, index):
        return self.output


@pytest.fixture
def fer(monkeypatch, tmp_path):
    """A made package: the real one brings 500 MB of others, and is not installed here."""
    module = types.ModuleType("ai_edge_litert.interpreter")
    module.Interpreter = Interpreter
    monkeypatch.setitem(sys.modules, "ai_edge_litert", types.ModuleType("ai_edge_litert"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", module)
    (tmp_path / "network.tflite").write_bytes(b"made")
    monkeypatch.setattr(peers, "_find", lambda package, suffix: (tmp_path / "network.tflite", "25.10"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("peers") / "faces.parquet"
    write_set(path, faces(35, seed=6), np.arange(35) % 7)
    return path


def test_numbers_of_a_peer_have_the_form_of_a_checkpoints(fer, data, tmp_path, monkeypatch):
    # A GPU changes nothing: the peer computes on the CPU.
    monkeypatch.setattr("rmn_hub.evaluation.evaluate.usable_device", lambda device: torch.device("cuda"))
    file = tmp_path / "fer.json"
    result = run("evaluate", "--peer", "fer", "--data", data, "--split", "all", "--json", file)
    assert result.exit_code == 0, result.output
    document = json.loads(file.read_text())
    (numbers,) = document["sets"].values()
    assert document["checkpoint"]["name"] == "fer 25.10"
    assert "--peer fer" in numbers["command"]
    assert numbers["milliseconds_per_face"]["device"] == device_name(torch.device("cpu"))
    engine = peers.peer("fer")
    images = [face.resize((64, 64), 2) for face in faces(35, seed=6)]
    bright = np.array([np.asarray(image).mean() / 255 for image in images])
    predicted = np.where(bright > (1 - bright) / 6, 3, 0)
    assert numbers["single_view"]["correct"] == (predicted == np.arange(35) % 7).sum()
    # Any batch size gives the same.
    values = engine.processor(images)
    whole = engine(values).logits
    parts = np.concatenate([engine(values[:4]).logits, engine(values[4:]).logits])
    np.testing.assert_allclose(whole, parts)


def test_what_cannot_be_scored(fer, data, tmp_path):
    checkpoint = save_checkpoint(tmp_path / "checkpoint")
    for subject, peer in (((), None), (checkpoint, "fer"), ((), "other")):
        with pytest.raises(InputError, match="peer"):
            evaluate(subject, data, "all", peer=peer)
    with pytest.raises(InputError, match="masks"):
        evaluate((), data, "all", peer="fer", with_faithfulness=True)


def test_a_package_that_is_missing_is_named(data):
    try:
        distribution("fer")
    except PackageNotFoundError:
        with pytest.raises(MissingPackageError, match="fer"):
            peers.peer("fer")
        result = run("evaluate", "--peer", "fer", "--data", data, "--split", "all")
        assert result.exit_code == 2
        assert "pip install" in result.stderr
    else:
        assert peers.peer("fer").version == distribution("fer").version


def test_a_peer_that_is_installed_is_timed_beside_the_network(fer, tiny_checkpoint):
    command = ("benchmark", tiny_checkpoint, "--no-compiled", "--seconds", 0, "--batch-size", 2, "--json", "--device")
    forms = [timing["form"] for timing in json.loads(run(*command, "cpu").stdout)["timings"]]
    assert forms[-1] == "fer"
