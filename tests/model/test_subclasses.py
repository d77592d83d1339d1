"""A user's subclasses, saved: the code that goes along, and the names that lead to it."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_modeling import TINY
from torch import nn

from rmn_hub import RMNConfig, RMNForImageClassification, RMNImageProcessor

MODULE = """
from rmn_hub import RMNConfig, RMNForImageClassification, RMNImageProcessor

class MyConfig(RMNConfig):
    model_type = "mine"

class MyNet(RMNForImageClassification):
    pass

class MyProcessor(RMNImageProcessor):
    pass

class MyNetOfMyType(MyNet):
    config_class = MyConfig
    config: MyConfig
"""
LOAD = """
import json
from transformers import AutoImageProcessor, AutoModelForImageClassification

found = [
    type(cls.from_pretrained("saved", trust_remote_code=True)).__name__
    for cls in (AutoModelForImageClassification, AutoImageProcessor)
]
print(json.dumps(found))
"""


class NetInANotebook(RMNForImageClassification):
    __module__ = "__main__"


class WithLayers(RMNForImageClassification):
    """Has layers that the network itself has not."""

    def __init__(self, config):
        super().__init__(config)
        self.extra = nn.ModuleList(
            [
                *(nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.Embedding(3, 4), nn.Conv1d(2, 3, 1), nn.BatchNorm1d(4)),
                *(nn.Linear(4, 4, bias=False), nn.BatchNorm2d(4, affine=False)),
                nn.BatchNorm2d(4, track_running_stats=False),
            ]
        )
        self.post_init()


class ProcessorInANotebook(RMNImageProcessor):
    __module__ = "__main__"


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The module of a user."""
    (tmp_path / "my_net.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("my_net")
    del sys.modules["my_net"]


@pytest.fixture
def start(tmp_path):
    """A checkpoint of this package's classes."""
    RMNForImageClassification(RMNConfig(**TINY)).save_pretrained(tmp_path / "start")
    RMNImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "start")
    return tmp_path / "start"


def code(folder, name="config.json"):
    """The names of code in a file, and the files of code beside it."""
    return json.loads((folder / name).read_text()).get("auto_map"), {path.name for path in folder.glob("*.py")}


def test_a_subclass_is_saved_with_its_file_and_loaded_by_its_name(mine, start, tmp_path):
    saved = tmp_path / "saved"
    mine.MyNet.from_pretrained(start).save_pretrained(saved)
    names, files = code(saved)
    assert names == {
        "AutoConfig": "configuration_rmn.RMNConfig",
        "AutoModelForImageClassification": "my_net.MyNet",
    }
    assert files == {"configuration_rmn.py", "my_net.py"}
    mine.MyProcessor.from_pretrained(start).save_pretrained(saved)
    assert code(saved, "preprocessor_config.json")[0] == {"AutoImageProcessor": ["my_net.MyProcessor"] * 2}
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        cwd=tmp_path,
        # The package is there, for `my_net`.
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["MyNet", "MyProcessor"]


def test_a_subclass_in_a_notebook_has_no_file_to_be_named(start, tmp_path):
    saved = tmp_path / "saved"
    NetInANotebook.from_pretrained(start).save_pretrained(saved)
    assert code(saved) == ({"AutoConfig": "configuration_rmn.RMNConfig"}, {"configuration_rmn.py"})
    ProcessorInANotebook.from_pretrained(start).save_pretrained(saved)
    assert code(saved, "preprocessor_config.json")[0] is None
    assert RMNForImageClassification.from_pretrained(saved).config.hidden_sizes == TINY["hidden_sizes"]
    assert RMNImageProcessor.from_pretrained(saved).size["height"] == 32


def test_a_configuration_of_a_users_type_is_named(mine, tmp_path):
    RMNForImageClassification(mine.MyConfig(**TINY)).save_pretrained(tmp_path / "saved")
    names, files = code(tmp_path / "saved")
    assert names["AutoConfig"] == "my_net.MyConfig"
    assert names["AutoModelForImageClassification"] == "modeling_rmn.RMNForImageClassification"
    assert files >= {"my_net.py", "modeling_rmn.py", "layers_rmn.py", "configuration_rmn.py"}


def test_a_configuration_alone_is_saved_with_its_code(tmp_path):
    RMNConfig(**TINY).save_pretrained(tmp_path)
    assert code(tmp_path) == ({"AutoConfig": "configuration_rmn.RMNConfig"}, {"configuration_rmn.py"})


def test_every_layer_of_a_subclass_gets_initial_weights(start):
    model = WithLayers.from_pretrained(start)
    for name, tensor in model.extra.state_dict().items():
        assert tensor.isfinite().all(), name
        assert tensor.abs().max() < 10, name
    for norm in (model.extra[0], model.extra[1], model.extra[4]):
        assert torch.equal(norm.weight, torch.ones(4))
        assert torch.equal(norm.bias, torch.zeros(4))


def test_a_subclass_of_any_name_has_the_loss(mine, start):
    pixels, labels = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    model = mine.MyNet.from_pretrained(start).eval()
    expected = RMNForImageClassification.from_pretrained(start).eval()(pixels, labels=labels).loss
    assert torch.equal(model(pixels, labels=labels).loss, expected)


def test_a_subclass_of_a_users_type_starts_from_a_checkpoint_of_ours(mine, start, tmp_path):
    model = mine.MyNetOfMyType.from_pretrained(start)
    assert isinstance(model.config, mine.MyConfig)
    weights = RMNForImageClassification.from_pretrained(start).state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    model.save_pretrained(tmp_path / "saved")
    assert mine.MyNetOfMyType.from_pretrained(tmp_path / "saved").config.model_type == "mine"
    with pytest.raises(ValueError, match="model_type"):
        RMNConfig.from_pretrained(tmp_path / "saved")
