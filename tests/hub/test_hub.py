"""The Hub, with the real client against a local server: loading, what can fail on the way, and publishing."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
import torch
from evaluation_helpers import faces as draw_faces
from evaluation_helpers import save_checkpoint, write_set
from hub_server import Hub, serve
from typer.testing import CliRunner

from rmn_hub import EXPRESSIONS, RMNModel
from rmn_hub.cli.shared import main

TESTS = Path(__file__).parents[1]
OK = "org/rmn"
README = "---\nlicense: mit\n---\n\n# The card of this checkpoint\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = save_checkpoint(tmp_path_factory.mktemp("hub") / "checkpoint")
    (folder / "README.md").write_text(README)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    return folder


@pytest.fixture(scope="module")
def hub(checkpoint):
    """A Hub with one good repository of two commits, and one repository for each thing that can be wrong."""
    hub = Hub()
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir() if path.suffix in (".json", ".safetensors")}
    weights, config = files["model.safetensors"], json.loads(files["config.json"])

    def repository(name, **changes):
        hub.create(name)
        changes = {name.replace("__", "."): content for name, content in changes.items()}
        content = {name: value for name, value in {**files, **changes}.items() if value is not None}
        return hub.commit(name, "main", content)

    def configured(**changes):
        return json.dumps({**config, **changes}).encode()

    hub.first = repository(OK, model__safetensors=_with_other_weights(checkpoint))
    hub.repos[OK]["refs"]["v1"] = hub.first
    hub.commit(OK, "main", files)
    repository("org/truncated", model__safetensors=weights[:-1000])
    repository("org/flaky")
    repository("org/no-config", config__json=None)
    repository("org/no-weights", model__safetensors=None, pytorch_model__bin=b"a pickle")
    repository("org/damaged-config", config__json=b"{")
    repository("org/bert", config__json=configured(model_type="bert"))
    repository("org/impossible", config__json=configured(mask_depths=[9, 9, 9, 9]))
    repository("org/misfit", config__json=configured(embedding_size=16))
    hub.marks = {
        "breaks off": lambda: hub.broken.add("org/flaky"),
        "after it broke off": hub.broken.clear,
        "after it was repaired": lambda: hub.commit("org/truncated", "main", files),
    }
    server = serve(hub)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    yield hub
    server.shutdown()
    server.server_close()


def _with_other_weights(checkpoint):
    model = RMNModel.from_pretrained(checkpoint)
    torch.nn.init.ones_(model.classifier.bias)
    model.save_pretrained(checkpoint.parent / "other")
    return (checkpoint.parent / "other" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


def run(hub_address, home, steps, *options):
    steps = [{"name": name, "do": do, "with": settings} for name, (do, settings) in steps.items()]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {
        "HF_ENDPOINT": hub_address,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "hf_of_nobody",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(TESTS.parent),
    }
    done = subprocess.run(
        [sys.executable, str(TESTS / "hub_client.py"), json.dumps(steps), *options],
        capture_output=True,
        text=True,
        env=environment,
        cwd=home,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def answers(hub, home, checkpoint, tmp_path_factory):
    """One program that does everything for which the Hub is there, step by step."""
    faces = tmp_path_factory.mktemp("faces") / "public_test.parquet"
    write_set(faces, draw_faces(14), [*range(7)] * 2)

    def own_cache(name, **settings):
        return "model", {"checkpoint": f"org/{name}", "cache_dir": str(home / "caches" / name), **settings}

    ok = {"checkpoint": OK}
    return run(
        hub.address,
        home,
        {
            "cold": ("model", ok),
            "warm": ("model", ok),
            "pinned cold": ("model", {**ok, "revision": hub.first}),
            "pinned": ("model", {**ok, "revision": hub.first}),
            "tag": ("model", {**ok, "revision": "v1"}),
            "local files only": ("model", {**ok, "local_files_only": True}),
            "auto classes": ("auto", ok),
            "folder": ("model", {"checkpoint": str(checkpoint)}),
            "truncated": own_cache("truncated"),
            "after it was repaired": own_cache("truncated"),
            "breaks off": own_cache("flaky"),
            "convert breaks off": ("convert", {"source": "org/flaky/model.safetensors", "output": "never"}),
            "after it broke off": own_cache("flaky"),
            "convert no checkpoint": ("convert", {"source": "org/no-weights/pytorch_model.bin", "output": "never"}),
            "convert no file": ("convert", {"source": OK, "filename": "no.pt", "output": "never"}),
            "no config": own_cache("no-config"),
            "no weights": own_cache("no-weights"),
            "damaged config": own_cache("damaged-config"),
            "other architecture": own_cache("bert"),
            "impossible config": own_cache("impossible"),
            "misfit": own_cache("misfit"),
            "401": own_cache("not-there"),
            "404": own_cache("rmn", revision="v9"),
            "not in the cache": own_cache("flaky-too", local_files_only=True),
            "no folder": ("model", {"checkpoint": "./no/such/folder"}),
            "a pickle": own_cache("no-weights", use_safetensors=False),
            "publish": ("publish", {"checkpoint": str(checkpoint), "repo_id": "org/published"}),
            "publish to a branch": (
                "publish",
                {"checkpoint": str(checkpoint), "repo_id": "org/published", "revision": "next"},
            ),
            "push": ("push", {"checkpoint": str(checkpoint), "repo_id": "org/pushed"}),
            "push others": ("push", {"checkpoint": str(checkpoint), "repo_id": "org/tuned", "changed": True}),
            "evaluate": ("evaluate", {"checkpoint": OK, "data": str(faces)}),
            "evaluate nothing": ("evaluate", {"checkpoint": "org/not-there", "data": str(faces)}),
            "end": ("model", {"checkpoint": "-"}),
        },
    )


def requests(hub, step):
    """What the client asked the Hub for during a step."""
    names = [line.split()[1] for line in hub.log]
    start = names.index(f"/-/{quote(step)}")
    end = next(i for i in range(start + 1, len(names)) if names[i].startswith("/-/"))
    return [line for line in hub.log[start + 1 : end] if "/api/models/" in line or "/resolve/" in line]


def logits(folder):
    model = RMNModel.from_pretrained(folder)
    with torch.inference_mode():
        return model(torch.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)).logits[0].tolist()


# Loading


def test_a_checkpoint_comes_from_the_hub_by_id_revision_and_folder(answers, checkpoint):
    newest, first = logits(checkpoint), logits(checkpoint.parent / "other")
    assert newest != first
    for step in ("cold", "warm", "local files only", "folder"):
        assert answers[step]["answer"] == newest, step
    for step in ("pinned cold", "pinned", "tag"):
        assert answers[step]["answer"] == first, step


def test_a_checkpoint_of_the_hub_is_evaluated_by_its_id(answers, checkpoint):
    weights = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    document = answers["evaluate"]["answer"]
    assert document["checkpoint"]["sha256"] == weights
    assert document["sets"]["public_test"]["command"].startswith(f"rmn-hub evaluate {OK} ")
    refused = answers["evaluate nothing"]
    assert refused["error"] == "InputError"
    assert "org/not-there is neither a local folder nor a model on the Hub" in refused["message"]


def test_it_asks_the_hub_for_no_more_than_it_needs(answers, hub):
    assert any(line.startswith("GET") and "model.safetensors" in line for line in requests(hub, "cold"))
    assert len(requests(hub, "warm")) == 1  # for the newest commit
    assert requests(hub, "pinned") == []
    assert requests(hub, "local files only") == []
    assert not any("model.safetensors" in line for line in requests(hub, "tag"))


def test_it_works_with_the_hub_down_after_the_first_time(answers, hub, home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    down = run(
        nobody,
        home,
        {
            "warm": ("model", {"checkpoint": OK}),
            "pinned": ("model", {"checkpoint": OK, "revision": hub.first}),
            "tag": ("model", {"checkpoint": OK, "revision": "v1"}),
            "cold": ("model", {"checkpoint": "org/other"}),
        },
    )
    for step in ("warm", "pinned", "tag"):
        assert down[step]["answer"] == answers[step]["answer"], step
    assert "cannot be reached" in down["cold"]["message"]
    assert_a_sentence(down["cold"]["message"])


def test_transformers_finds_it_without_being_told(answers):
    found = answers["auto classes"]["answer"]
    assert found["AutoConfig"] == "rmn_hub.configuration_rmn.RMNConfig"
    assert found["AutoModel"] == found["AutoModelForImageClassification"] == "rmn_hub.modeling_rmn.RMNModel"
    assert found["AutoImageProcessor"] == "rmn_hub.image_processing_rmn.RMNImageProcessor"
    assert set(found["pipeline"]) == set(EXPRESSIONS)
    assert sum(found["pipeline"].values()) == pytest.approx(1, abs=1e-4)


# What can fail


@pytest.mark.parametrize(
    ("step", "error", "sentence"),
    [
        ("truncated", "OSError", "the weights of org/truncated are truncated or damaged"),
        ("breaks off", "OSError", "org/flaky could not be downloaded, try again"),
        ("no config", "OSError", "org/no-config has no config.json"),
        ("no weights", "OSError", "org/no-weights has no model.safetensors.*rmn-hub convert"),
        ("damaged config", "OSError", "the config.json of org/damaged-config is damaged"),
        ("other architecture", "ValueError", "org/bert has model_type='bert'"),
        ("impossible config", "ValueError", "the configuration of org/impossible cannot work: .*mask_depths"),
        ("misfit", "RuntimeError", "tensors of org/misfit have other shapes than its configuration says"),
        ("401", "OSError", "org/not-there is neither a local folder nor a model on the Hub"),
        ("404", "OSError", "org/rmn has no revision v9"),
        ("not in the cache", "OSError", "org/flaky-too at main is not in the cache"),
        ("no folder", "OSError", "./no/such/folder is neither a local folder nor a model on the Hub"),
        ("a pickle", "ValueError", "RMN loads safetensors only"),
        ("convert breaks off", "InputError", "model.safetensors of org/flaky could not be downloaded, try again"),
        ("convert no checkpoint", "InputError", "org/no-weights/pytorch_model.bin: it is no checkpoint of tensors"),
        ("convert no file", "InputError", "org/rmn has no file no.pt"),
    ],
)
def test_each_failure_is_one_sentence(answers, step, error, sentence):
    assert answers[step].get("error") == error, answers[step]
    assert re.match(f"(the Hub cannot be reached and )?{sentence}", answers[step]["message"])
    assert_a_sentence(answers[step]["message"])


def assert_a_sentence(message):
    assert "\n" not in message
    assert not re.search(r"Traceback|For more information|\.py\b", message)


def test_a_failure_leaves_nothing_half_written(answers, hub, home, checkpoint):
    assert not list(home.rglob("*.incomplete"))
    assert not (home / "never").exists()
    for link in home.rglob("snapshots/*/*"):
        repo = link.parents[2].name.removeprefix("models--").replace("--", "/")
        assert link.read_bytes() == hub.repos[repo]["commits"][link.parent.name][link.name], link
    assert not (home / "caches" / "not-there" / "models--org--not-there" / "blobs").exists()
    # And the next try works.
    for step in ("after it broke off", "after it was repaired"):
        assert answers[step]["answer"] == logits(checkpoint), step


# Publishing


def uploaded(hub, repo, revision="main"):
    return hub.repos[repo]["commits"][hub.repos[repo]["refs"][revision]]


@pytest.mark.parametrize("revision", ["main", "next"])
def test_a_published_checkpoint_has_its_card_and_its_code(answers, hub, revision, checkpoint):
    assert "error" not in answers["publish"], answers["publish"]
    files = uploaded(hub, "org/published", revision)
    assert sorted(files) == [
        "README.md",
        "config.json",
        "configuration_rmn.py",
        "image_processing_rmn.py",
        "model.safetensors",
        "modeling_rmn.py",
        "preprocessor_config.json",
    ]
    assert files["README.md"].decode() == README
    assert files["model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()


@pytest.mark.parametrize("folder", ["no/such/folder", "without a card"])
def test_what_has_no_card_is_not_published(folder, tmp_path):
    (tmp_path / "without a card").mkdir()
    result = CliRunner().invoke(main, ["publish", str(tmp_path / folder), "org/never"])
    assert result.exit_code == 2
    assert "has no README.md: write its card" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("preprocessor_config.json", None, "has no preprocessor_config.json: save its RMNImageProcessor there"),
        ("preprocessor_config.json", lambda content: b"[]", "has an image processor that cannot be loaded"),
        ("config.json", None, "has no config.json"),
        ("config.json", lambda content: b"[]", "has no config.json with a model_type"),
        ("config.json", lambda content: json.dumps({**json.loads(content), "mask_depths": None}).encode(), "differ"),
        ("model.safetensors", lambda content: content[:-9], "are truncated or damaged"),
    ],
)
def test_what_is_not_whole_is_not_published(name, change, sentence, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if change:
        assert change(content) != content
        (folder / name).write_bytes(change(content))
    result = CliRunner().invoke(main, ["publish", str(folder), "org/never"])
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr
    assert "Traceback" not in result.output


def test_what_was_published_runs_without_the_package(answers, home, hub, tmp_path):
    alone = run(
        hub.address,
        tmp_path,
        {
            "trusted": ("auto", {"checkpoint": "org/published", "trust_remote_code": True}),
            "not trusted": ("auto", {"checkpoint": "org/published", "trust_remote_code": False}),
            "package": ("model", {"checkpoint": "org/published"}),
        },
        "--without-package",
    )
    assert alone["package"]["error"] == "ModuleNotFoundError"  # it really was not there
    trusted = alone["trusted"]["answer"]
    assert trusted["logits"] == answers["cold"]["answer"]
    assert trusted["pipeline"] == pytest.approx(answers["auto classes"]["answer"]["pipeline"])
    for name, module in (("AutoModel", "modeling_rmn"), ("AutoImageProcessor", "image_processing_rmn")):
        assert re.fullmatch(rf"transformers_modules\..*\.{module}\.RMN\w+", trusted[name])
    assert "trust_remote_code" in alone["not trusted"]["message"]


def test_push_to_hub_uploads_safetensors_and_our_card(answers, hub):
    for step, repo in (("push", "org/pushed"), ("push others", "org/tuned")):
        assert "error" not in answers[step], answers[step]
        files = uploaded(hub, repo)
        assert sorted(files) == ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert uploaded(hub, "org/pushed")["README.md"].decode() == README
    # The card tells of other weights than these.
    other = uploaded(hub, "org/tuned")["README.md"].decode()
    assert "No results are known for these weights" in other
    assert "automatically generated" not in other
