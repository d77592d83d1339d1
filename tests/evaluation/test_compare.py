"""`rmn-hub compare`: networks on equal time, and what they are worth together."""

import json

import numpy as np
import pytest
import torch
from cli_helpers import run
from evaluation_helpers import faces, write_set
from PIL import Image

from rmn_hub.data.sources import load_face_images
from rmn_hub.evaluation.evaluate import predict
from rmn_hub.evaluation.metrics import scores
from rmn_hub.loading import load_engine, load_ensemble

RECIPE = """
model:
  {image_size: 32, stem: small, embedding_size: 8, hidden_sizes: [8, 8], depths: [1, 1], mask_depths: [2, 1]}
batch_size: 16
ema: 0.5
sizes: [[1.0, 32]]
"""
COUNT = 21


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two networks, each trained for two seconds."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("compare")
    (root / "tiny.yaml").write_text(RECIPE)
    write_set(root / "data" / "train.parquet", faces(70, seed=1), np.arange(70) % 7)
    write_set(root / "data" / "public_test.parquet", faces(COUNT, seed=2), np.arange(COUNT) % 7)
    words = ["compare", "--data", root / "data", "--output", root / "out", "--recipe", root / "tiny.yaml"]
    words += ["--minutes", 0.04, "--network", "rmn", "--network", "resnet18", "--device", "cpu"]
    result = run(*words)
    assert result.exit_code == 0, result.output
    return root, words, result, json.loads((root / "out" / "compare.json").read_text())


def test_each_network_is_scored(compared):
    root, _, _, document = compared
    assert [row["name"] for row in document["networks"]] == ["rmn", "resnet18"]
    assert document["minutes"] == 0.04
    for row in document["networks"]:
        own = scores_of(root, [row["name"]])
        assert row["single_view"]["correct"] == own["single_view"]["correct"]
        assert row["flip_averaged"]["correct"] == own["flip_averaged"]["correct"]
        assert row["epochs"] >= 1
    parameters = [row["parameters"] for row in document["networks"]]
    assert parameters[0] < 100_000 < 11_000_000 < parameters[1]


def test_the_ensemble_is_that_of_evaluate(compared):
    root, _, _, document = compared
    own = scores_of(root, ["rmn", "resnet18"])
    for view in ("single_view", "flip_averaged"):
        assert document["ensemble"][view]["correct"] == own[view]["correct"]
        assert document["ensemble"][view]["negative_log_likelihood"] == pytest.approx(
            own[view]["negative_log_likelihood"], rel=1e-3
        )


def scores_of(root, names):
    engine, processor = load_ensemble([str(root / "out" / name / "best") for name in names], {}, "torch", "cpu")
    scored = load_face_images(root / "data", "public_test")
    predicted = predict(engine, processor, scored)
    return {view: scores(getattr(predicted, view), scored.labels) for view in ("single_view", "flip_averaged")}


def test_the_table(compared):
    root, _, result, document = compared
    text = (root / "out" / "compare.md").read_text()
    assert result.stdout.strip() == text.strip()
    assert document["command"] in text
    best = max(document["networks"], key=lambda row: row["single_view"]["accuracy"])
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert rows[0].startswith(f"| {best['name']} | ")
    assert f"{100 * best['single_view']['accuracy']:.1f} (" in rows[0]
    assert rows[-1].startswith("| all 2")


def test_a_second_call_trains_no_more(compared):
    root, words, _, document = compared
    before = [(root / "out" / name / "metrics.csv").read_bytes() for name in ("rmn", "resnet18")]
    assert run(*words).exit_code == 0
    assert [(root / "out" / name / "metrics.csv").read_bytes() for name in ("rmn", "resnet18")] == before
    again = json.loads((root / "out" / "compare.json").read_text())
    assert [row["sha256"] for row in again["networks"]] == [row["sha256"] for row in document["networks"]]


def test_its_checkpoints_are_taken_as_an_rmns_are(compared, tmp_path):
    """Robustness, card, benchmark and predict."""
    root, *_ = compared
    folder = root / "out" / "resnet18" / "best"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rmn_hub.evaluation.evaluate.TIMING_SECONDS", 0.0)
        file = folder / "eval.json"
        words = ("--data", root / "data", "--json", file, "--robustness", "--device", "cpu")
        assert run("evaluate", folder, *words).exit_code == 0
    document = json.loads(file.read_text())
    assert document["checkpoint"]["network"] == "resnet18"
    assert len(document["sets"]["data_public_test"]["robustness"]["changes"]) > 10
    result = run("card", folder)
    assert result.exit_code == 0, result.output
    card = (folder / "README.md").read_text()
    assert "resnet18" in card
    assert "RMNModel" not in card
    result = run("benchmark", folder, "--no-compiled", "--json", "--seconds", 0, "--batch-size", 2, "--device", "cpu")
    assert json.loads(result.stdout)["parameters"] == document["checkpoint"]["parameters"]
    faces(1, seed=9)[0].save(tmp_path / "face.png")
    result = run("predict", tmp_path / "face.png", "--faces-only", "--json", "--checkpoint", folder, "--device", "cpu")
    assert result.exit_code == 0, result.output
    engine, processor = load_engine(str(folder), {}, "auto", "cpu")
    probability = json.loads(result.stdout)["faces"][0]["probability"]
    assert 1 / 7 < probability <= 1
    assert not engine.has_masks
    assert engine(processor([Image.open(tmp_path / "face.png")])).logits.shape == (1, 7)


def test_only_an_rmn_is_exported_and_calibrated(compared, tmp_path):
    root, *_ = compared
    folder = root / "out" / "resnet18" / "best"
    for words in (("export", folder, tmp_path / "x.onnx"), ("calibrate", folder, "--data", root / "data")):
        result = run(*words)
        assert result.exit_code == 2
        assert "timm_wrapper" in result.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--network", "alexnet"), "alexnet"),
        (("--network", "rmn", "--network", "rmn"), "rmn"),
        (("--data", "nowhere"), "nowhere"),
        (("--validation-split", "private_test"), "private_test"),
    ],
)
def test_bad_input_is_one_sentence(compared, tmp_path, words, sentence):
    root, *_ = compared
    result = run("compare", "--data", root / "data", "--output", tmp_path / "out", *words)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert not (tmp_path / "out").exists()
