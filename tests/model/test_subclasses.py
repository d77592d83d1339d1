"""A user's subclasses, saved: the code that goes along, and the names that lead to it."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_modeling import TINY

from rmn_hub import RMNConfig, RMNForImageClassification, RMNImageProcessor

MODULE = """
from rmn_hub import RMNConfig, RMNForImageClassification, RMNImageProcessor

class MyConfig(RMNConfig):
    model_type = "mine"

class MyNet(RMNForImageClassification):
    pass

class MyProcessor(RMNImageProcessor):
    pass
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
