"""`rmn-hub calibrate`: the temperatures, and that they change nothing but the classifier."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import run
from evaluation_helpers import answers_of, faces, labels_for, save_checkpoint, write_set
from safetensors.torch import load_file, save_file

from rmn_hub import RMNModel
from rmn_hub.engines.views import averaged
from rmn_hub.errors import CheckpointError, InputError
from rmn_hub.evaluation import calibrate as room
from rmn_hub.evaluation.calibrate import calibrate, fit_temperatures
from rmn_hub.evaluation.metrics import calibration, softmax
from rmn_hub.expressions import EXPRESSIONS

COUNT = 300


def drawn(logits, rng):
    """Labels drawn from the probabilities of the logits."""
    return np.minimum((softmax(logits).cumsum(1) < rng.random((len(logits), 1))).sum(1), 6)


@pytest.mark.parametrize("common", [0.4, 1.0, 2.5])
def test_the_temperature_of_each_expression_is_found(common):
    rng = np.random.default_rng(0)
    temperatures = common * np.array([0.7, 1.3, 1.0, 0.9, 1.1, 0.8, 1.25])
    logits = rng.normal(size=(50_000, 7)) * 2
    found = fit_temperatures(logits[None], drawn(logits / temperatures, rng))
    np.testing.assert_allclose(found, temperatures, rtol=0.05)


def test_nothing_near_is_better():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(3000, 7)).astype(np.float32) * 5
    labels = np.where(rng.random(3000) < 0.6, logits.argmax(1), rng.integers(0, 7, 3000))
    best = fit_temperatures(logits[None], labels)

    def loss(temperatures):
        logarithms = np.log(temperatures)
        prior = ((logarithms - logarithms.mean()) ** 2).sum() / (2 * room.SPREAD**2)
        return prior - np.log(softmax(logits / temperatures)[np.arange(3000), labels]).sum()

    for index in range(7):
        for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2):
            assert loss(best) < loss(best * np.where(np.arange(7) == index, factor, 1))


def test_the_mean_of_two_views_is_calibrated():
    rng = np.random.default_rng(3)
    temperatures = np.array([0.7, 1.3, 1.0, 0.9, 1.1, 0.8, 1.25])
    # Views that differ: their mean is shyer than each of them, which a fit to one view would not see.
    views = rng.normal(size=(1, 50_000, 7)) * 2 + rng.normal(size=(2, 50_000, 7))
    mean = np.log(averaged(views / temperatures))
    np.testing.assert_allclose(fit_temperatures(views, drawn(mean, rng)), temperatures, rtol=0.05)


def test_few_faces_give_nearly_one_temperature():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(50_000, 7)) * 2
    labels = drawn(logits / np.array([0.5, 2.0, 1, 1, 1, 1, 1]), rng)

    def spread(count):
        return np.log(fit_temperatures(logits[None, :count], labels[:count])).std()

    assert spread(5) < 0.1 < 0.3 < spread(50_000)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A network that is far too sure: its logits are four times as large as the labels deserve."""
    root = tmp_path_factory.mktemp("calibration")
    checkpoint = save_checkpoint(root / "checkpoint", sharpness=8.0)
    pictures = faces(COUNT, seed=5)
    logits = answers_of(checkpoint, pictures)
    labels = labels_for(logits, 4)
    write_set(root / "data" / "public_test.parquet", pictures, labels)
    write_set(root / "data" / "private_test.parquet", pictures[:7], np.arange(7))
    write_set(root / "data" / "train.parquet", pictures[:7], np.arange(7))
    return {"checkpoint": checkpoint, "data": root / "data", "pictures": pictures, "logits": logits, "labels": labels}


@pytest.fixture
def world(original, tmp_path):
    """The same with a checkpoint that may be changed."""
    return {**original, "checkpoint": Path(shutil.copytree(original["checkpoint"], tmp_path / "checkpoint"))}


def test_calibration_changes_the_classifier_alone_and_mends_the_sureness(world):
    before = load_file(world["checkpoint"] / "model.safetensors")
    record = calibrate(world["checkpoint"], world["data"], views=1)
    temperatures = np.array([record["temperatures"][name] for name in EXPRESSIONS])
    assert 2.5 < np.exp(np.log(temperatures).mean()) < 6
    assert record["after"]["expected_calibration_error"] < record["before"]["expected_calibration_error"] / 2
    assert record["after"]["negative_log_likelihood"] < record["before"]["negative_log_likelihood"]

    logits = answers_of(world["checkpoint"], world["pictures"])
    np.testing.assert_allclose(logits, world["logits"] / temperatures, rtol=1e-4, atol=1e-4)
    assert record["after"]["correct"] == (logits.argmax(1) == world["labels"]).sum()
    after = load_file(world["checkpoint"] / "model.safetensors")
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    _, info = RMNModel.from_pretrained(world["checkpoint"], output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))

    error = calibration(softmax(logits), world["labels"])["expected_calibration_error"]
    assert error == pytest.approx(record["after"]["expected_calibration_error"], abs=1e-3)


def test_again_finds_nothing_left_to_do(world):
    first = calibrate(world["checkpoint"], world["data"])
    second = calibrate(world["checkpoint"], world["data"])
    assert second["temperatures"] == pytest.approx(first["temperatures"], rel=1e-3)
    for score, value in second["before"].items():
        assert second["after"][score] == pytest.approx(value, rel=1e-3), score
    assert second["sha256_before"] == first["sha256"]
    assert json.loads((world["checkpoint"] / "calibration.json").read_text()) == second


@pytest.mark.parametrize(
    ("split", "sentence"),
    [
        ("private_test", "scored"),
        ("PrivateTest", "scored"),
        ("test", "scored"),
        ("train", "trained on"),
        ("all", "trained on"),
    ],
)
def test_splits_that_must_not_be_fitted_on(world, split, sentence):
    before = (world["checkpoint"] / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match=sentence):
        calibrate(world["checkpoint"], world["data"], split)
    assert (world["checkpoint"] / "model.safetensors").read_bytes() == before
    assert not (world["checkpoint"] / "calibration.json").exists()


@pytest.mark.parametrize("trained", ["public_test", "all"])
def test_a_split_that_its_run_trained_on_is_not_fitted_on(world, tmp_path, trained):
    def record(name):
        (world["checkpoint"] / "run.json").write_text(json.dumps({"data": {"name": name, "split": trained}}))

    record(world["data"].name)
    with pytest.raises(InputError, match="split='public_test'"):
        calibrate(world["checkpoint"], world["data"])
    words = ("members", world["checkpoint"], "--data", world["data"], "--output", tmp_path / "members.md")
    assert run(*words).exit_code == 2
    record("another")
    calibrate(world["checkpoint"], world["data"])


def test_a_network_that_predicts_at_random_is_refused(world, tmp_path):
    labels = (world["logits"].argmax(1) + 1 + np.arange(COUNT) % 6) % 7
    write_set(tmp_path / "wrong" / "public_test.parquet", world["pictures"], labels)
    with pytest.raises(InputError, match="no temperature"):
        calibrate(world["checkpoint"], tmp_path / "wrong")


def test_a_broken_write_leaves_the_old_weights(world, monkeypatch):
    before = (world["checkpoint"] / "model.safetensors").read_bytes()
    files = set(world["checkpoint"].iterdir())

    def full(tensors, path, metadata=None):
        path.write_bytes(b"half a file")
        raise OSError("No space left on device")

    monkeypatch.setattr(room, "save_file", full)
    with pytest.raises(InputError, match="No space left"):
        calibrate(world["checkpoint"], world["data"])
    assert (world["checkpoint"] / "model.safetensors").read_bytes() == before
    assert set(world["checkpoint"].iterdir()) == files


def test_the_weights_are_not_mapped_when_they_are_replaced(world, monkeypatch):
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not list what a process has mapped")
    listed = []

    def save(tensors, path, metadata=None):
        listed.append(maps.read_text())
        save_file(tensors, path, metadata=metadata)

    monkeypatch.setattr(room, "save_file", save)
    calibrate(world["checkpoint"], world["data"])
    assert [str(world["checkpoint"]) in each for each in listed] == [False]


def test_command(world):
    words = ["calibrate", world["checkpoint"], "--data", world["data"]]
    result = run(*words)
    assert result.exit_code == 0
    assert "expected calibration error" in result.stdout
    result = run(*words, "--split", "private_test")
    assert result.exit_code == 2
    assert "--split private_test" in result.stderr


def test_only_a_folder_is_changed(world):
    for name in ("org/rmn-fer2013", world["checkpoint"] / "nowhere"):
        with pytest.raises(CheckpointError, match="checkpoint"):
            calibrate(name, world["data"])


def test_weights_in_several_files_are_refused(world):
    model = RMNModel.from_pretrained(world["checkpoint"])
    (world["checkpoint"] / "model.safetensors").unlink()
    model.save_pretrained(world["checkpoint"], max_shard_size="20KB")
    with pytest.raises(InputError, match=r"one file, model\.safetensors"):
        calibrate(world["checkpoint"], world["data"])


def test_a_record_edited_by_hand_is_refused(world):
    (world["checkpoint"] / "calibration.json").write_text('{"temperatures": [1, 2]}')
    with pytest.raises(InputError, match=r"calibration\.json"):
        calibrate(world["checkpoint"], world["data"])
