"""The Hub, with the real client against a local server: loading, what can fail on the way, and publishing."""

import hashlib
import json
import re
import shutil
import socket
from pathlib import Path
from urllib.parse import quote

import pytest
import torch
from evaluation_helpers import faces as draw_faces
from evaluation_helpers import save_checkpoint, write_set
from hub_helpers import run
from hub_server import Hub, serving
from PIL import Image
from typer.testing import CliRunner

from rmn_hub import BUNDLED_CHECKPOINT, EXPRESSIONS, ExpressionRecognizer, RMNModel
from rmn_hub.cli.shared import main

TESTS = Path(__file__).parents[1]
OK = "org/rmn"
PROCESSOR, ONNX = "preprocessor_config.json", "onnx/model.onnx"
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
    repository("org/no-processor", preprocessor_config__json=None)
    repository("org/shards", model__safetensors=None, **_in_shards(checkpoint))
    repository("org/gated")
    bundled = {name: (Path(BUNDLED_CHECKPOINT) / name).read_bytes() for name in (PROCESSOR, ONNX, "model.safetensors")}
    repository("org/onnx", **bundled)
    # As transformers' `push_to_hub` leaves it: new weights beside the ONNX file of the old ones.
    repository("org/pushed-over", **{**bundled, "model.safetensors": weights})
    repository("org/pushed-over-in-shards", **{**bundled, "model.safetensors": None}, **_in_shards(checkpoint))
    repository("org/interrupted", **{**bundled, "model.safetensors": weights})
    repository("org/onnx-alone", **bundled, model__safetensors=None)
    repository("org/onnx-without-processor", **{**bundled, PROCESSOR: None})
    hub.gated.add("org/gated")
    hub.marks = {
        "breaks off": lambda: hub.broken.add("org/flaky"),
        "after it broke off": hub.broken.clear,
        "check breaks off": lambda: hub.broken.add("org/interrupted"),
        "check local files only": hub.broken.clear,
        "after it was repaired": lambda: hub.commit("org/truncated", "main", files),
    }
    with serving(hub) as hub.address:
        yield hub


def _with_other_weights(checkpoint):
    model = RMNModel.from_pretrained(checkpoint)
    torch.nn.init.ones_(model.classifier.bias)
    model.save_pretrained(checkpoint.parent / "other")
    return (checkpoint.parent / "other" / "model.safetensors").read_bytes()


def _in_shards(checkpoint):
    folder = checkpoint.parent / "shards"
    RMNModel.from_pretrained(checkpoint).save_pretrained(folder, max_shard_size="20KB")
    return {path.name.replace(".", "__"): path.read_bytes() for path in folder.glob("model*")}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def answers(hub, home, checkpoint, tmp_path_factory):
    """One program that does everything for which the Hub is there, step by step."""
    faces = tmp_path_factory.mktemp("faces") / "public_test.parquet"
    write_set(faces, draw_faces(14), [*range(7)] * 2)

    def own_cache(name, **settings):
        return "load", {"checkpoint": f"org/{name}", "cache_dir": str(home / "caches" / name), **settings}

    ok = {"checkpoint": OK}
    return run(
        hub.address,
        home,
        {
            "cold": ("load", ok),
            "warm": ("load", ok),
            "pinned cold": ("load", {**ok, "revision": hub.first}),
            "pinned": ("load", {**ok, "revision": hub.first}),
            "tag": ("load", {**ok, "revision": "v1"}),
            "local files only": ("load", {**ok, "local_files_only": True}),
            "from_pretrained": ("model", ok),
            "from_pretrained pinned": ("model", {**ok, "revision": hub.first}),
            "auto classes": ("auto", ok),
            "folder": ("load", {"checkpoint": str(checkpoint)}),
            "shards": own_cache("shards"),
            "truncated": own_cache("truncated"),
            "after it was repaired": own_cache("truncated"),
            "breaks off": own_cache("flaky"),
            "convert breaks off": ("convert", {"source": "org/flaky/model.safetensors", "output": "never"}),
            "after it broke off": own_cache("flaky"),
            "convert no checkpoint": ("convert", {"source": "org/no-weights/pytorch_model.bin", "output": "never"}),
            "convert no file": ("convert", {"source": OK, "filename": "no.pt", "output": "never"}),
            "no config": own_cache("no-config"),
            "no weights": own_cache("no-weights"),
            "no processor": own_cache("no-processor"),
            "damaged config": own_cache("damaged-config"),
            "other architecture": own_cache("bert"),
            "impossible config": own_cache("impossible"),
            "misfit": own_cache("misfit"),
            "401": own_cache("not-there"),
            "404": own_cache("rmn", revision="v9"),
            "gated": own_cache("gated"),
            "not in the cache": own_cache("flaky-too", local_files_only=True),
            "no folder": ("load", {"checkpoint": "./no/such/folder"}),
            "publish": ("publish", {"checkpoint": str(checkpoint), "repo_id": "org/published"}),
            "publish to a branch": (
                "publish",
                {"checkpoint": str(checkpoint), "repo_id": "org/published", "revision": "next"},
            ),
            "push": ("push", {"checkpoint": str(checkpoint), "repo_id": "org/pushed"}),
            "evaluate": ("evaluate", {"checkpoint": OK, "data": str(faces)}),
            "evaluate nothing": ("evaluate", {"checkpoint": "org/not-there", "data": str(faces)}),
            "end": ("load", {"checkpoint": "-"}),
        },
    )


@pytest.fixture(scope="module")
def recognized(hub, home):
    """A program that uses recognizers alone, which imports torch as late as it can."""
    onnx, without = {"checkpoint": "org/onnx"}, {"checkpoint": "org/shards"}
    first = hub.repos["org/onnx"]["refs"]["main"]
    return run(
        hub.address,
        home,
        {
            "onnx cold": ("recognize", onnx),
            "onnx warm": ("recognize", onnx),
            "onnx pinned": ("recognize", {**onnx, "revision": first, "engine": "onnx", "threads": 1}),
            "onnx local files only": ("recognize", {**onnx, "local_files_only": True}),
            "onnx alone": ("recognize", {"checkpoint": "org/onnx-alone", "engine": "onnx"}),
            "onnx of old weights": ("recognize", {"checkpoint": "org/pushed-over"}),
            "onnx of old weights again": ("recognize", {"checkpoint": "org/pushed-over"}),
            "onnx of old shards": ("recognize", {"checkpoint": "org/pushed-over-in-shards"}),
            "check breaks off": ("recognize", {"checkpoint": "org/interrupted"}),
            "check local files only": ("recognize", {"checkpoint": "org/interrupted", "local_files_only": True}),
            "check after it broke off": ("recognize", {"checkpoint": "org/interrupted"}),
            "new weights": ("recognize", {"checkpoint": "org/pushed-over", "engine": "torch"}),
            "onnx without processor": ("recognize", {"checkpoint": "org/onnx-without-processor"}),
            "only onnx is cached": ("recognize", {**onnx, "local_files_only": True, "engine": "torch"}),
            "no onnx": ("recognize", {**without, "engine": "onnx"}),
            "no such repository": ("recognize", {"checkpoint": "org/not-there"}),
            "fallback cold": ("recognize", without),
            "fallback warm": ("recognize", without),
            "fallback local files only": ("recognize", {**without, "local_files_only": True}),
            "command": ("predict", {"words": ["--checkpoint", "org/onnx"]}),
            "command pinned": ("predict", {"words": ["--checkpoint", "org/onnx", "--revision", first]}),
            "command local": ("predict", {"words": ["--checkpoint", "org/onnx", "--local-files-only"]}),
            "command of no revision": ("predict", {"words": ["--checkpoint", "org/onnx", "--revision", "v9"]}),
            "command not in the cache": (
                "predict",
                {"words": ["--checkpoint", "org/truncated", "--local-files-only"]},
            ),
            "end of recognizers": ("load", {"checkpoint": "-"}),
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
    for step in ("cold", "warm", "local files only", "folder", "from_pretrained", "shards"):
        assert answers[step].get("answer") == pytest.approx(newest, rel=1e-4), (step, answers[step])
    for step in ("pinned cold", "pinned", "tag", "from_pretrained pinned"):
        assert answers[step].get("answer") == pytest.approx(first, rel=1e-4), (step, answers[step])


def test_a_checkpoint_of_the_hub_is_evaluated_by_its_id(answers, checkpoint):
    weights = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    document = answers["evaluate"]["answer"]
    assert document["checkpoint"]["sha256"] == weights
    [numbers] = document["sets"].values()
    assert numbers["command"].startswith(f"rmn-hub evaluate {OK} ")
    refused = answers["evaluate nothing"]
    assert refused["error"] == "CheckpointError"
    assert "org/not-there" in refused["message"]


def test_it_asks_the_hub_for_no_more_than_it_needs(answers, hub):
    assert any(line.startswith("GET") and "model.safetensors" in line for line in requests(hub, "cold"))
    assert len(requests(hub, "warm")) == 1  # for the newest commit
    assert requests(hub, "pinned") == []
    assert len(requests(hub, "from_pretrained")) == 1
    assert requests(hub, "from_pretrained pinned") == []
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
            "warm": ("load", {"checkpoint": OK}),
            "pinned": ("load", {"checkpoint": OK, "revision": hub.first}),
            "tag": ("load", {"checkpoint": OK, "revision": "v1"}),
            "cold": ("load", {"checkpoint": "org/other"}),
        },
    )
    for step in ("warm", "pinned", "tag"):
        assert down[step]["answer"] == pytest.approx(answers[step]["answer"], rel=1e-4), step
    assert "cannot be reached" in down["cold"]["message"]
    assert_a_sentence(down["cold"]["message"])


def test_transformers_finds_it_without_being_told(answers):
    found = answers["auto classes"]["answer"]
    for name, module in (
        ("AutoConfig", "configuration_rmn.RMNConfig"),
        ("AutoModel", "modeling_rmn.RMNBaseModel"),
        ("AutoModelForImageClassification", "modeling_rmn.RMNForImageClassification"),
        ("AutoBackbone", "modeling_rmn.RMNBackbone"),
        ("AutoImageProcessor", "image_processing_rmn.RMNImageProcessor"),
    ):
        assert found[name] == f"rmn_hub.model.{module}"
    assert set(found["pipeline"]) == set(EXPRESSIONS)
    assert sum(found["pipeline"].values()) == pytest.approx(1, abs=1e-4)


# The ONNX file


def test_a_hub_id_runs_in_onnxruntime_without_torch(recognized):
    [face] = ExpressionRecognizer.from_pretrained(device="cpu")(Image.linear_gradient("L"), faces_only=True)
    for step in ("onnx cold", "onnx warm", "onnx pinned", "onnx local files only", "onnx alone"):
        engine, probabilities, imported = recognized[step].get("answer", recognized[step])
        assert (engine, imported) == ("onnx", []), step
        assert probabilities == pytest.approx(list(face.probabilities.values()), abs=1e-5), step


def test_the_onnx_file_is_downloaded_instead_of_the_weights(recognized, hub):
    assert any(line.startswith("GET") and ONNX in line for line in requests(hub, "onnx cold"))
    # Their hash alone is asked for.
    asked = [
        line for step in ("onnx cold", "onnx alone") for line in requests(hub, step) if "model.safetensors" in line
    ]
    assert [line.split()[0] for line in asked] == ["HEAD"] * 3  # of one alone, the index as well
    assert len(requests(hub, "onnx warm")) == 1  # for the newest commit
    for step in ("onnx pinned", "onnx local files only", "check local files only"):
        assert requests(hub, step) == []


def test_the_command_takes_an_id_a_revision_and_the_cache_alone(recognized, hub):
    [face] = ExpressionRecognizer.from_pretrained(device="cpu")(Image.linear_gradient("L"), faces_only=True)
    for step in ("command", "command pinned", "command local"):
        code, printed, warned = recognized[step]["answer"]
        assert code == 0, warned
        [answer] = json.loads(printed)["faces"]
        assert answer["probabilities"] == pytest.approx(face.probabilities, abs=1e-4), step
    assert len(requests(hub, "command")) == 1  # for the newest commit
    assert requests(hub, "command pinned") == requests(hub, "command local") == []
    for step, words in (("command of no revision", "v9"), ("command not in the cache", "not in the cache")):
        code, _, warned = recognized[step]["answer"]
        assert code == 2
        assert words in warned
        assert_a_sentence(warned.strip())


def test_a_repository_without_an_onnx_file_runs_in_torch(recognized, hub):
    steps = ("fallback cold", "fallback warm", "fallback local files only")
    answers = [recognized[step].get("answer", recognized[step]) for step in steps]
    assert [answer[0] for answer in answers] == ["torch"] * 3
    assert answers[0][1] == pytest.approx(answers[1][1], abs=1e-5)
    assert len(requests(hub, "fallback warm")) == 1
    assert requests(hub, "fallback local files only") == []


@pytest.mark.parametrize(
    ("step", "part"),
    [
        ("onnx of old weights", "model.onnx .*not of the weights"),
        ("onnx of old weights again", "model.onnx .*not of the weights"),
        ("onnx of old shards", "model.onnx .*not of the weights"),
        ("check breaks off", "org/interrupted .*download"),
        ("check local files only", "org/interrupted .*not in the cache"),
        ("check after it broke off", "model.onnx .*not of the weights"),
        ("onnx without processor", "org/onnx-without-processor .*preprocessor_config.json"),
        ("only onnx is cached", "org/onnx .*not in the cache"),
        ("no onnx", "org/shards .*onnx/model.onnx"),
        ("no such repository", "org/not-there .*hf auth login"),
    ],
)
def test_what_no_engine_can_run_is_named(recognized, step, part):
    assert recognized[step].get("error") == "CheckpointError", recognized[step]
    assert re.search(part, recognized[step]["message"])
    assert_a_sentence(recognized[step]["message"])


def test_new_weights_beside_an_old_onnx_file_run_in_torch(recognized):
    assert recognized["new weights"]["answer"][0] == "torch"


# What can fail


@pytest.mark.parametrize(
    ("step", "part"),
    [
        ("truncated", "org/truncated .*model.safetensors is truncated or damaged"),
        ("breaks off", "org/flaky .*download"),
        ("no config", "org/no-config .*config.json"),
        ("no weights", "org/no-weights .*model.safetensors.*rmn-hub convert"),
        ("no processor", "org/no-processor .*preprocessor_config.json"),
        ("damaged config", "org/damaged-config .*config.json is damaged"),
        ("other architecture", "org/bert .*model_type='bert'"),
        ("impossible config", "org/impossible .*mask_depths"),
        ("misfit", "org/misfit .*tensors differ"),
        ("401", "org/not-there .*hf auth login"),
        ("404", "org/rmn .*revision v9"),
        ("gated", "org/gated .*gated"),
        ("not in the cache", "org/flaky-too .*not in the cache"),
        ("no folder", "./no/such/folder .*folder"),
        ("convert breaks off", "org/flaky .*download"),
        ("convert no checkpoint", "org/no-weights/pytorch_model.bin "),
        ("convert no file", "org/rmn .*no.pt"),
    ],
)
def test_each_failure_is_one_sentence(answers, step, part):
    expected = "InputError" if step.startswith("convert") else "CheckpointError"
    assert answers[step].get("error") == expected, answers[step]
    assert re.search(part, answers[step]["message"])
    assert_a_sentence(answers[step]["message"])


def assert_a_sentence(message):
    assert "\n" not in message
    assert not re.search(r"Traceback|For more information|\.py\b", message)


def test_a_failure_leaves_nothing_half_written(answers, hub, home, checkpoint):
    assert not list(home.rglob("*.incomplete"))
    assert not (home / "never").exists()
    for snapshot in home.rglob("snapshots/*"):
        repo = snapshot.parents[1].name.removeprefix("models--").replace("--", "/")
        commit = hub.repos[repo]["commits"][snapshot.name]
        for link in (path for path in snapshot.rglob("*") if path.is_file()):
            assert link.read_bytes() == commit[link.relative_to(snapshot).as_posix()], link
    assert not (home / "caches" / "not-there" / "models--org--not-there" / "blobs").exists()
    # And the next try works.
    for step in ("after it broke off", "after it was repaired"):
        assert answers[step]["answer"] == pytest.approx(logits(checkpoint), rel=1e-4), step


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
        "layers_rmn.py",
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
    assert "README.md" in result.stderr


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("preprocessor_config.json", None),
        ("preprocessor_config.json", lambda content: b"[]"),
        ("config.json", None),
        ("config.json", lambda content: b"[]"),
        ("config.json", lambda content: json.dumps({**json.loads(content), "mask_depths": None}).encode()),
        ("model.safetensors", lambda content: content[:-9]),
    ],
)
def test_what_is_not_whole_is_not_published(name, change, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if change:
        assert change(content) != content
        (folder / name).write_bytes(change(content))
    result = CliRunner().invoke(main, ["publish", str(folder), "org/never"])
    assert result.exit_code == 2, result.output
    assert "config.json" in result.stderr or name in result.stderr
    assert "Traceback" not in result.output


def test_what_was_published_runs_without_the_package(answers, home, hub, tmp_path):
    alone = run(
        hub.address,
        tmp_path,
        {
            "trusted": ("auto", {"checkpoint": "org/published", "trust_remote_code": True}),
            "not trusted": ("auto", {"checkpoint": "org/published", "trust_remote_code": False}),
            "package": ("model", {"checkpoint": "org/published"}),
            "pushed": ("auto", {"checkpoint": "org/pushed", "trust_remote_code": True}),
        },
        "--without-package",
    )
    assert alone["package"]["error"] == "ModuleNotFoundError"  # it really was not there
    # What transformers pushed carries its code as well.
    assert alone["pushed"]["answer"]["logits"] == pytest.approx(answers["push"]["answer"], rel=1e-4)
    trusted = alone["trusted"]["answer"]
    assert trusted["logits"] == pytest.approx(answers["cold"]["answer"], rel=1e-4)
    assert trusted["pipeline"] == pytest.approx(answers["auto classes"]["answer"]["pipeline"])
    for name, module in (
        ("AutoModel", "modeling_rmn"),
        ("AutoBackbone", "modeling_rmn"),
        ("AutoImageProcessor", "image_processing_rmn"),
    ):
        assert re.fullmatch(rf"transformers_modules\..*\.{module}\.RMN\w+", trusted[name])
    assert "trust_remote_code" in alone["not trusted"]["message"]


def test_what_transformers_pushes_can_be_loaded(answers, hub, checkpoint):
    assert answers["push"].get("answer") == pytest.approx(logits(checkpoint), rel=1e-4), answers["push"]
    files = uploaded(hub, "org/pushed")
    assert {name for name in files if not name.endswith(".py")} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
