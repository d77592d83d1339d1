"""`rmn-hub cross-validate`: folds, and each face scored by a network that was not trained or chosen on it."""

import json
import shutil

import numpy as np
import pytest
from cli_helpers import run
from evaluation_helpers import faces, save_checkpoint, write_set

from rmn_hub.data.folds import folds
from rmn_hub.data.sources import OpenedSet
from rmn_hub.errors import InputError
from rmn_hub.evaluation.crossvalidation import RESULTS

COUNT = 140


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A checkpoint, and a set whose first class is bright and whose others are dark: easily learnt in part."""
    root = tmp_path_factory.mktemp("folds")
    labels = np.arange(COUNT) % 7
    write_set(root / "faces.parquet", faces(COUNT, seed=1), labels)
    return root, save_checkpoint(root / "checkpoint"), root / "faces.parquet"


def test_every_face_is_scored_once_and_never_by_a_network_that_saw_it(world):
    parts = folds(OpenedSet.open(world[2]), 5)
    names = [{split: part.split(split).names for split in ("train", "public_test", "private_test")} for part in parts]
    everything = sorted(OpenedSet.open(world[2]).split("all").names)
    assert sorted(name for part in names for name in part["private_test"]) == everything
    for part in names:
        assert sorted(name for own in part.values() for name in own) == everything
    assert all(np.bincount(part.split("private_test").labels).tolist() == [4] * 7 for part in parts)


def test_copies_of_a_face_stay_in_one_part(tmp_path):
    pictures = faces(70, seed=1)
    write_set(
        tmp_path / "twice.parquet", [*pictures, *pictures[::-1]], [*(np.arange(70) % 7), *(np.arange(70)[::-1] % 7)]
    )
    for part in folds(OpenedSet.open(tmp_path / "twice.parquet"), 5):
        parts = [{face.tobytes() for face in part.split(split)} for split in ("train", "public_test", "private_test")]
        assert [len(own) for own in parts] == [42, 14, 14]
        assert sum(map(len, parts)) == len(set.union(*parts))
        assert np.bincount(part.split("private_test").labels).tolist() == [4] * 7
    with pytest.raises(InputError, match="10 different faces"):
        folds(OpenedSet.open(tmp_path / "twice.parquet"), 11)


@pytest.mark.parametrize(
    ("settings", "named"), [({"number": 2}, "folds"), ({"number": 21}, "folds"), ({"number": 5, "seed": 2**31}, "seed")]
)
def test_folds_that_cannot_be_made(world, settings, named):
    with pytest.raises(InputError, match=named):
        folds(OpenedSet.open(world[2]), **settings)


def test_the_command_goes_on_and_its_numbers_add_up(world):
    root, checkpoint, data = world
    words = ["cross-validate", checkpoint, "--data", data, "--folds", "3", "--epochs", "1", "--output", root / "runs"]
    result = run(*words)
    assert result.exit_code == 0, result.output
    document = json.loads((root / "runs" / RESULTS).read_text())
    assert document["data"]["faces"] == COUNT == len(document["after"]["right"])
    for when in ("before", "after"):
        accuracy = document[when]["single_view"]["accuracy"]
        assert accuracy == document[when]["right"].count("1") / COUNT
        assert accuracy == pytest.approx(np.mean([fold[when] for fold in document["folds"]]), abs=0.02)
    change = document["after"]["single_view"]["accuracy"] - document["before"]["single_view"]["accuracy"]
    assert document["difference"]["difference"] == pytest.approx(change)
    # What the checkpoint is worth without fine-tuning is what `evaluate` says of it.
    assert run("evaluate", checkpoint, "--data", data, "--split", "all", "--json", root / "all.json").exit_code == 0
    (numbers,) = json.loads((root / "all.json").read_text())["sets"].values()
    assert numbers["single_view"]["correct"] == document["before"]["single_view"]["correct"]
    states = {path: path.stat().st_mtime_ns for path in (root / "runs").glob("fold-*/state.pt")}
    assert len(states) == 3
    assert run(*words).exit_code == 0
    again = json.loads((root / "runs" / RESULTS).read_text())
    assert {path: path.stat().st_mtime_ns for path in states} == states  # nothing was trained again
    assert again["after"] == document["after"]


def test_a_start_that_was_trained_on_the_set_is_noted(world, tmp_path):
    _, checkpoint, data = world
    start = shutil.copytree(checkpoint, tmp_path / "start")
    words = ("--data", data, "--folds", "3", "--epochs", "1", "--output")
    for name, notes in ((data.name, 1), ("another", 0)):
        (start / "run.json").write_text(json.dumps({"data": {"name": name, "split": "train"}}))
        result = run("cross-validate", start, *words, tmp_path / name)
        assert result.exit_code == 0
        assert len(json.loads((tmp_path / name / RESULTS).read_text())["data"]["notes"]) == notes
        assert ("note: start was trained on" in result.stdout) == bool(notes)


def test_too_few_faces_for_a_batch(world):
    """`--batch-size` is of the scoring here."""
    root, checkpoint, data = world
    words = ("--recipe", "strong", "--folds", "3", "--epochs", "1", "--output", root / "few")
    result = run("cross-validate", checkpoint, "--data", data, *words)
    assert result.exit_code == 2
    assert "one batch" in result.stderr
    assert "--batch-size" not in result.stderr


def test_other_folds_in_the_same_folder_are_refused(world):
    root, checkpoint, data = world
    words = ["cross-validate", checkpoint, "--data", data, "--epochs", "1", "--output", root / "other", "--folds"]
    assert run(*words, "3").exit_code == 0
    result = run(*words, "4")
    assert result.exit_code == 2
    assert "other settings" in result.stderr
