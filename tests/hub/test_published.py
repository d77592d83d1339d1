"""A published checkpoint in the hands of somebody who has never heard of this package."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from environments import fresh_environment
from evaluation_helpers import faces, save_checkpoint, write_set
from hub_helpers import TESTS, run
from hub_server import Hub, serving
from packaging.requirements import Requirement
from safetensors.torch import load_file, save_file

from rmn_hub import BUNDLED_CHECKPOINT, EXPRESSIONS, RMNImageProcessor, RMNModel
from rmn_hub.checkpoints import weights_hash
from rmn_hub.engines.onnx import OnnxEngine
from rmn_hub.errors import CheckpointError, InputError
from rmn_hub.evaluation import evaluate as evaluation
from rmn_hub.evaluation.calibrate import fold_temperatures
from rmn_hub.export.onnx import export
from rmn_hub.hub import checkpoint as checkpoints
from rmn_hub.hub.card import write_card
from rmn_hub.hub.publish import write_repository

ASTRONAUT = TESTS.parent / "space" / "examples" / "astronaut.jpg"
MODEL = TESTS.parent / "rmn_hub" / "model"
ID = "org/mine"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Runs steps of `hub_client` in a process of its own, against a local Hub."""
    hub = Hub()
    home = tmp_path_factory.mktemp("home")
    shutil.copyfile(ASTRONAUT, home / "photo.jpg")
    shutil.copyfile(ASTRONAUT, home / "face.jpg")

    def run_all(steps, **options):
        results = run(address, home, steps, **options)
        assert not {name: result for name, result in results.items() if "error" in result}
        return {name: result["answer"] for name, result in results.items()}

    run_all.hub = hub
    with serving(hub) as address:
        yield run_all


@pytest.fixture(scope="module")
def published(client, tmp_path_factory):
    """The files of a repository: a tiny checkpoint with all that can lie beside it."""
    root = tmp_path_factory.mktemp("published")
    folder = save_checkpoint(root / "tiny")
    model, processor = RMNModel.from_pretrained(folder), RMNImageProcessor.from_pretrained(folder)
    pixel_values = processor(faces(4), return_tensors="np")["pixel_values"]
    export(model, folder / "onnx" / "model.onnx", pixel_values, weights_hash=weights_hash(folder))
    write_set(root / "photos.parquet", faces(14), [index % 7 for index in range(14)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "TIMING_SECONDS", 0.0)
        evaluation.evaluate(
            folder, root / "photos.parquet", "all", json_file=folder / "eval.json", figures=folder / "figures"
        )
    (folder / "LICENSE").write_text("Do what you like.\n")
    write_card(folder, licence="mit", demo="org/page")
    client({"publish": ("publish", {"checkpoint": str(folder), "repo_id": ID}), "card": ("validate", {"repo_id": ID})})
    repository = client.hub.repos[ID]
    return folder, repository["commits"][repository["refs"]["main"]]


def test_everything_beside_the_weights_goes_along(published):
    folder, files = published
    figures = [f"figures/{path.name}" for path in (folder / "figures").iterdir()]
    assert len(figures) > 2
    for name in ("LICENSE", "onnx/model.onnx", "eval.json", *figures):
        assert files[name] == (folder / name).read_bytes(), name
    card, page = (files[name].decode() for name in ("README.md", "evaluation.md"))
    assert str(folder) not in card
    for text in (card, page):
        for link in re.findall(r"\]\((?!https:)(.*?)\)", text):
            assert link in files
    assert "(https://huggingface.co/spaces/org/page)" in card
    notebook = json.loads(files["notebook.ipynb"])
    code = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code[1:] == [block.rstrip() for block in blocks(card)]


def test_what_an_earlier_upload_had_of_its_weights_goes(published, client, tmp_path):
    folder = shutil.copytree(published[0], tmp_path / "next")
    for name in ("onnx", "figures"):
        shutil.rmtree(folder / name)
    for name in ("eval.json", "evaluation.md"):
        (folder / name).unlink()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# By hand\n")
    hub, repo = client.hub, "org/versions"
    hub.create(repo)
    several = {"model-00001-of-00002.safetensors": b"former", "model.safetensors.index.json": b"former"}
    former = {**several, "README.md": b"former"}
    hub.commit(repo, "main", {**published[1], **former, ".gitattributes": b"*", "notes.txt": b"mine"})
    client({"publish": ("publish", {"checkpoint": str(folder), "repo_id": repo})})
    files = hub.repos[repo]["commits"][hub.resolve(repo, "main")]
    gone = set(published[1]) - set(files)
    others = {name for name in gone if not name.startswith("figures/")}
    assert others == {"onnx/model.onnx", "eval.json", "evaluation.md", "notebook.ipynb"}
    assert gone > others
    assert not set(several) & set(files)
    assert {".gitattributes", "notes.txt", "model.safetensors", "config.json"} <= set(files)
    assert files["README.md"] == (folder / "README.md").read_bytes()


def test_a_demo_for_a_card_that_was_written_by_hand_is_refused(tmp_path):
    folder = save_checkpoint(tmp_path / "tiny")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# By hand\n")
    with pytest.raises(InputError, match="demo='org/page'"):
        write_repository(folder, tmp_path / "repository", ID, demo="org/page")
    assert not (tmp_path / "repository").exists()
    write_repository(folder, tmp_path / "repository", ID)


def test_an_onnx_file_of_other_weights_is_not_published(published, tmp_path):
    folder = shutil.copytree(published[0], tmp_path / "changed")
    (folder / "onnx" / "model.onnx").rename(folder / "onnx" / "model_fp16.onnx")
    write_repository(folder, tmp_path / "repository", ID)
    fold_temperatures(folder / "model.safetensors", np.full(7, 2.0))
    with pytest.raises(CheckpointError, match=r"onnx/model_fp16\.onnx.* weights .*rmn-hub export"):
        write_repository(folder, tmp_path / "never", ID)
    assert not (tmp_path / "never").exists()


def _in_bfloat16(folder):
    RMNModel.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)


def _without_metadata(folder):
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")


def _in_shards(folder):
    model = RMNModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")


@pytest.mark.parametrize("change", [_in_bfloat16, _without_metadata, _in_shards])
def test_the_weights_are_published_as_they_are(change, tmp_path):
    folder = save_checkpoint(tmp_path / "own")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# By hand\n")
    change(folder)
    loaded = checkpoints.load(folder)
    pixel_values = loaded.processor(faces(4), return_tensors="np")["pixel_values"]
    export(loaded.model, folder / "onnx" / "model.onnx", pixel_values, weights_hash=weights_hash(folder))
    write_repository(folder, tmp_path / "repository", ID)
    assert OnnxEngine.from_checkpoint(tmp_path / "repository").weights_hash == weights_hash(folder)
    own, published, code = ({path.name for path in each.iterdir()} for each in (folder, tmp_path / "repository", MODEL))
    assert published - own <= code
    expected, found = (RMNModel.from_pretrained(each) for each in (folder, tmp_path / "repository"))
    assert found.dtype == expected.dtype == (torch.bfloat16 if change is _in_bfloat16 else torch.float32)
    assert torch.equal(found.classifier.weight, expected.classifier.weight)


def blocks(card):
    return re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)


def installs(card):
    """What the card tells to install before each block of its Python."""
    parts = re.split(r"^```python\n.*?^```", card, flags=re.MULTILINE | re.DOTALL)[:-1]
    return [shlex.split(re.findall(r"pip install ([^`\n]+)", part)[-1]) for part in parts]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The Python of an environment that holds what `pip install` of some words would bring, and nothing else."""

    def made(words):
        packages = [TESTS.parent / "rmn_hub", TESTS.parent / "space" / "rmn_space"] if "rmn-hub" in words else []
        return fresh_environment(tmp_path_factory.mktemp("environment") / "fresh", words, packages)

    return made


def test_the_cards_code_runs_in_fresh_environments_of_what_it_names(published, client, environment):
    card = published[1]["README.md"].decode()
    code = {str(number): ("snippet", {"code": block}) for number, block in enumerate(blocks(card))}
    assert len(code) == 3
    wanted = installs(card)
    assert sorted(Requirement(word).name for word in wanted[1]) == ["pillow", "torch", "transformers"]
    printed = {}
    for words, (name, step) in zip(wanted, code.items()):
        printed |= client({name: step}, python=environment(words))
    assert printed["0"].split()[0] in EXPRESSIONS
    assert all(expression in printed["1"] for expression in EXPRESSIONS)
    # Where rmn-hub is, all of it runs.
    assert client(code, python=environment(["rmn-hub"])) == printed


def test_what_the_trainer_pushes_loads_without_the_package(published, client, environment, tmp_path):
    settings = {"checkpoint": str(published[0]), "repo_id": "org/trained", "output": str(tmp_path / "run")}
    trained = client({"train": ("train", settings)})["train"]
    checkpoints = {"auto": "org/trained", "bundled": BUNDLED_CHECKPOINT}
    steps = {name: ("auto", {"checkpoint": each, "trust_remote_code": True}) for name, each in checkpoints.items()}
    found = client(steps, python=environment(["torch", "transformers", "pillow"]))
    assert found["auto"]["logits"] == pytest.approx(trained, rel=1e-4, abs=1e-5)
    assert RMNModel.from_pretrained(tmp_path / "run").config.auto_map
    # So does the folder that the package brings along.
    assert set(found["bundled"]["pipeline"]) == set(EXPRESSIONS)


def test_an_old_transformers_is_named_in_one_sentence():
    code = """
import sys
sys.modules["transformers.backbone_utils"] = sys.modules["transformers.image_processing_backends"] = None
sys.path.insert(0, sys.argv[1])
for name in ("configuration_rmn", "image_processing_rmn"):
    try:
        __import__(name)
    except ImportError as error:
        print(error)
"""
    program = [sys.executable, "-c", code, str(TESTS.parent / "rmn_hub" / "model")]
    done = subprocess.run(program, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    for line in lines:
        assert re.search(r"needs transformers 5\.4 or newer, not \d.*pip install -U", line)
