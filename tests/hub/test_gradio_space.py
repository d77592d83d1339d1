"""The page as a Gradio Space: what its folder carries and asks for, and its upload by the real client."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from cli_helpers import run
from environments import requirements_in
from evaluation_helpers import faces, save_checkpoint
from hub_helpers import environment
from hub_helpers import run as run_client
from hub_server import Hub, serving
from packaging.requirements import Requirement

from rmn_hub import BUNDLED_CHECKPOINT
from rmn_hub.checkpoints import WEIGHTS, weights_hash
from rmn_hub.engines.onnx import ONNX_FILE
from rmn_hub.errors import CheckpointError, InputError
from rmn_hub.export.onnx import export
from rmn_hub.hub import checkpoint as checkpoints
from rmn_hub.hub.gradio_space import write_space

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A checkpoint that is not the bundled one, with its ONNX file."""
    folder = save_checkpoint(tmp_path_factory.mktemp("own") / "mine")
    loaded = checkpoints.load(folder)
    pixel_values = loaded.processor(faces(4), return_tensors="np")["pixel_values"]
    export(loaded.model, folder / "onnx" / "model.onnx", pixel_values, weights_hash=weights_hash(folder))
    return folder


@pytest.fixture(scope="module", params=["cpu", "zerogpu"])
def space(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spaces") / request.param
    write_space(BUNDLED_CHECKPOINT, folder, request.param, model="you/rmn")
    return request.param, folder


def front_matter(folder):
    _, front, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


def pinned(folder):
    lines = requirements_in((folder / "requirements.txt").read_text(encoding="utf-8"))
    return {each.name: each.specifier for each in map(Requirement, lines)}


def test_it_carries_the_package_and_asks_for_others_by_version(space):
    kind, folder = space
    asked = pinned(folder)
    assert "rmn-hub" not in asked
    for package in ("rmn_hub", "rmn_space"):
        assert (folder / package / "__init__.py").is_file()
    assert not list(folder.rglob("__pycache__"))
    for name, specifier in asked.items():
        operators = [each.operator for each in specifier]
        assert operators == ["=="] if name != "torch" else "<" in operators, name
    torch_side = {"torch", "transformers", "facenet-pytorch", "safetensors"}
    assert torch_side & set(asked) == (torch_side if kind == "zerogpu" else set())
    assert ("spaces" in asked) == (kind == "zerogpu")


def test_its_versions_are_those_that_the_package_allows(space):
    allowed = {each.name: each.specifier for each in map(Requirement, requires("rmn-hub"))}
    assert {"gradio", "onnxruntime", "transformers"} <= set(allowed)
    for name, specifier in pinned(space[1]).items():
        for each in specifier:
            if each.operator == "==" and name in allowed:
                assert each.version in allowed[name], name


def test_its_front_matter_names_gradio_and_the_model(space):
    kind, folder = space
    values, text = front_matter(folder)
    assert (values["sdk"], values["app_file"]) == ("gradio", "app.py")
    assert f"=={values['sdk_version']}" == str(pinned(folder)["gradio"])
    assert values["models"] == ["you/rmn"]
    assert values.get("suggested_hardware") == ("zero-a10g" if kind == "zerogpu" else None)
    assert "[you/rmn](https://huggingface.co/you/rmn)" in text
    for link in re.findall(r"\]\((?!https:)(.*?)\)", text):
        assert (folder / link).is_file(), link


def test_without_a_model_none_is_linked(own, tmp_path):
    write_space(own, tmp_path / "space")
    values, text = front_matter(tmp_path / "space")
    assert "models" not in values
    assert "https://huggingface.co/" not in text


def test_a_checkpoint_of_ones_own_goes_along(own, tmp_path):
    write_space(own, tmp_path / "space", "cpu")
    assert weights_hash(tmp_path / "space" / "checkpoint") == weights_hash(own)
    assert (tmp_path / "space" / "checkpoint" / "onnx" / "model.onnx").is_file()


def test_the_bundled_network_with_classes_of_ones_own_goes_along(tmp_path):
    folder = shutil.copytree(BUNDLED_CHECKPOINT, tmp_path / "renamed")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings, indent=4))
    write_space(folder, tmp_path / "same")
    assert not (tmp_path / "same" / "checkpoint").exists()
    settings["id2label"]["3"] = "Freude"
    (folder / "config.json").write_text(json.dumps({**settings, "label2id": None}))
    write_space(folder, tmp_path / "space")
    assert json.loads((tmp_path / "space" / "checkpoint" / "config.json").read_text())["id2label"]["3"] == "Freude"


def test_a_space_without_torch_needs_an_onnx_file(tmp_path):
    folder = save_checkpoint(tmp_path / "plain")
    with pytest.raises(InputError, match=r"onnx/model\.onnx"):
        write_space(folder, tmp_path / "space", "cpu")
    assert not (tmp_path / "space").exists()
    write_space(folder, tmp_path / "space", "zerogpu")
    with pytest.raises(InputError, match="kind='gpu'"):
        write_space(folder, tmp_path / "other", "gpu")


def test_a_checkpoint_of_the_hub_becomes_a_space_that_links_to_it(own, tmp_path):
    hub = Hub()
    hub.create("you/mine")
    # An earlier upload ran another checkpoint, and had a module that is gone.
    hub.create("you/page")
    hub.spaces["you/page"] = "gradio"
    kept = {"checkpoint/eval.json": b"{}", "rmn_hub/former.py": b"", "notes.md": b"mine"}
    hub.commit("you/page", "main", kept)
    files = [path for path in own.rglob("*") if path.is_file()]
    hub.commit("you/mine", "main", {path.relative_to(own).as_posix(): path.read_bytes() for path in files})
    code = os.pathsep.join([str(ROOT), str(ROOT / "space")])
    words = [sys.executable, "-m", "rmn_hub", "publish", "you/mine", "you/page", "--space", "cpu"]
    with serving(hub) as address:
        own_environment = environment(address, tmp_path / "home", PYTHONPATH=code)
        done = subprocess.run(words, env=own_environment, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        checked = run_client(address, tmp_path, {"card": ("validate", {"repo_id": "you/page", "kind": "space"})})
    assert checked == {"card": {"answer": None}}
    assert "/spaces/you/page/commit/" in done.stdout
    assert hub.spaces == {"you/page": "gradio"}
    uploaded = hub.repos["you/page"]["commits"][hub.resolve("you/page", "main")]
    assert {"app.py", "requirements.txt", "rmn_hub/__init__.py", "rmn_space/page.py"} <= set(uploaded)
    assert uploaded["checkpoint/model.safetensors"] == (own / "model.safetensors").read_bytes()
    assert b"models:\n- you/mine\n" in uploaded["README.md"]
    assert set(kept) & set(uploaded) == {"notes.md"}


def test_an_onnx_file_of_other_weights_does_not_run_in_a_space(own, tmp_path):
    folder = shutil.copytree(own, tmp_path / "mine")
    shutil.copyfile(save_checkpoint(tmp_path / "other", sharpness=2.0) / WEIGHTS, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=ONNX_FILE):
        write_space(folder, tmp_path / "space", "cpu")
    assert not (tmp_path / "space").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--space", "docker"], "--space docker"),
        (["--demo", "you/page", "--space", "cpu"], "--demo"),
        (["--space", "cpu", "--model", "you/rmn"], "no/such"),
    ],
)
def test_what_cannot_be_published_is_one_sentence(words, named):
    result = run("publish", "no/such/folder", "you/never", *words)
    assert result.exit_code == 2
    assert named in result.stderr
