"""`rmn-hub members`: the table of networks and of what they are worth together."""

import json
import re

import numpy as np
import pytest
from cli_helpers import run
from evaluation_helpers import answers_of, faces, labels_for, save_checkpoint, write_set
from PIL import Image

COUNT = 60


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("members")
    first = save_checkpoint(root / "first" / "best", sharpness=2.0)
    second = save_checkpoint(root / "second", sharpness=3.0, mask_activation="sigmoid")
    pictures = faces(COUNT, seed=2)
    logits = [answers_of(folder, pictures) for folder in (first, second)]
    labels = labels_for(logits[0], 0.7)
    write_set(root / "data" / "public_test.parquet", pictures, labels)
    (first / "run.json").write_text(json.dumps({"command": "rmn-hub train --recipe cpu --seed 7"}))
    (first / "metrics.csv").write_text("epoch,minutes,accuracy\n1,2.0,0.3\n2,4.0,\n3,6.5,0.5\n")
    return root, (first, second), logits, labels


def test_rows_hold_what_the_networks_predict(world, tmp_path):
    root, folders, logits, labels = world
    file = tmp_path / "docs" / "members.md"
    result = run("members", *folders, "--data", root / "data", "--output", file)
    assert result.exit_code == 0, result.output
    rows = [
        [cell.strip() for cell in line.split("|")][1:]
        for line in file.read_text().splitlines()
        if re.match(r"\| (first|second|all)", line)
    ]
    assert [row[0] for row in rows] == ["first", "second", "all 2"]
    powers = [np.exp(values.astype(np.float64)) for values in logits]
    probabilities = [values / values.sum(1, keepdims=True) for values in powers]
    for row, expected in zip(rows, (*probabilities, np.mean(probabilities, axis=0))):
        share = (expected.argmax(1) == labels).mean()
        assert float(row[4].split()[0]) == pytest.approx(100 * share, abs=0.06)
    assert rows[0][3] == "3"
    differ = (probabilities[0].argmax(1) != probabilities[1].argmax(1)).mean()
    assert rows[0][6].startswith(f"{100 * differ:.0f}%")
    text = file.read_text()
    assert "rmn-hub train --recipe cpu --seed 7" in text
    assert "(members.png)" in text
    with Image.open(file.with_name("members.png")) as image:
        assert image.width > 500


@pytest.mark.parametrize("split", ["private_test", "train", "all"])
def test_splits_that_must_not_choose(world, tmp_path, split):
    folders = world[1]
    for name in ("train", "private_test"):
        write_set(tmp_path / f"{name}.parquet", faces(14), [*range(7)] * 2)
    result = run("members", *folders, "--data", tmp_path, "--split", split, "--output", tmp_path / "members.md")
    assert result.exit_code == 2
    assert f"--split {split}" in result.stderr
    assert not (tmp_path / "members.md").exists()


def test_names_must_differ(world):
    root, (first, _), *_ = world
    result = run("members", first, first, "--data", root / "data")
    assert result.exit_code == 2
    assert "names differ" in result.stderr
