"""The model card: it says what the files of numbers say, and the one in the repository is up to date."""

import json
import re
from pathlib import Path

import pytest
from evaluation_helpers import answers_of, faces, labels_for, save_checkpoint, write_set
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from rmn_hub import BUNDLED_CHECKPOINT
from rmn_hub.cli.shared import main
from rmn_hub.errors import InputError
from rmn_hub.evaluation import evaluate as evaluation
from rmn_hub.evaluation.ablation import write_ablation
from rmn_hub.evaluation.calibrate import calibrate
from rmn_hub.evaluation.evaluate import evaluate
from rmn_hub.expressions import EXPRESSIONS
from rmn_hub.hub.card import make_card, write_card

REPOSITORY = Path(__file__).parents[2]
SECTIONS = (
    "How to use it",
    "Results",
    "Training data",
    "Calibration",
    "Do the masks help?",
    "What it should not be used for",
    "Known weaknesses",
    "Citation",
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A calibrated tiny checkpoint with everything beside it that a card tells about."""
    root = tmp_path_factory.mktemp("card")
    folder = save_checkpoint(root / "rmn-tiny")
    pictures = faces(60, seed=6)
    labels = labels_for(answers_of(folder, pictures), 4)
    votes = [[1, 0, 0, 0, 0, 0, 0, 0, 0, 0]] * 60
    write_set(root / "data" / "train.parquet", pictures[:5], range(5))
    write_set(root / "data" / "public_test.parquet", pictures, labels, votes)
    write_set(root / "data" / "private_test.parquet", pictures[::-1], labels[::-1])
    write_set(root / "wild.parquet", faces(21, seed=7, size=64), [index % 7 for index in range(21)])
    calibrate(folder, root / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "TIMING_SECONDS", 0.0)
        for split in ("public_test", "private_test"):
            faithful = split == "public_test"
            evaluate(folder, root / "data", split, json_file=folder / "eval.json", with_faithfulness=faithful)
        evaluate(folder, root / "wild.parquet", "all", json_file=folder / "eval.json")
        plain = save_checkpoint(root / "plain", mask_depths=None)
        for name, network in (("on", folder), ("off", plain)):
            evaluate(network, root / "data", json_file=root / name / "eval.json")
    write_ablation(folder, [root / "on" / "eval.json", root / "off" / "eval.json"])
    return folder


def test_every_section_is_there(checkpoint):
    text = make_card(checkpoint).text
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert [title for title in titles if title in SECTIONS] == list(SECTIONS)
    for word in (
        "hiring",
        "policing",
        "lie detection",
        "diagnosis",
        "65 ± 5",
        "@inproceedings",
        "Rights",
        "Duplicates",
    ):
        assert word in text
    assert "{{" not in text
    assert "None" not in text
    assert "nan" not in text


def test_numbers_are_those_of_the_files(checkpoint):
    text = make_card(checkpoint).text
    document = json.loads((checkpoint / "eval.json").read_text())
    for numbers in document["sets"].values():
        assert numbers["command"] in text
        for view in ("single_view", "flip_averaged"):
            low, high = numbers[view]["interval"]
            assert f"{100 * numbers[view]['accuracy']:.1f}% ({100 * low:.1f} to {100 * high:.1f})" in text
    private = document["sets"]["private_test"]
    assert f"In FER2013 PrivateTest these are {private['without_duplicates']['duplicates']} of 60" in text
    for name in EXPRESSIONS:
        assert f"| {name} | {100 * private['per_expression'][name]['precision']:.1f} |" in text
    record = json.loads((checkpoint / "calibration.json").read_text())
    for name, temperature in record["temperatures"].items():
        assert f"{name} {temperature:.3f}" in text
    assert record["command"] in text
    assert "| masks off | " in text
    on, off = (run["sets"]["public_test"] for run in json.loads((checkpoint / "ablation.json").read_text())["runs"])
    only_on = sum(a > b for a, b in zip(on["right"], off["right"]))
    assert f"{only_on} faces are right with masks only" in text
    assert on["command"] in text
    assert off["command"] in text
    assert text.count("from chance.") + text.count("does not explain it.") == 1
    assert "| FER2013 PublicTest |" in text
    assert "On faces of another origin (wild, 21 faces)" in text


def test_tables_have_as_many_cells_as_heads(checkpoint):
    for table in re.findall(r"(?:^\|.*\|\n)+", make_card(checkpoint).text, re.MULTILINE):
        rows = table.splitlines()
        assert len(rows) > 2
        assert len({row.count("|") for row in rows}) == 1, table


def test_results_can_be_read_by_a_machine(checkpoint):
    data = ModelCard(str(make_card(checkpoint))).data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "image-classification"
    private = json.loads((checkpoint / "eval.json").read_text())["sets"]["private_test"]
    found = {
        result.metric_name: result.metric_value
        for result in data.eval_results
        if result.dataset_split == "private_test"
    }
    assert found["Accuracy, single view"] == pytest.approx(private["single_view"]["accuracy"], abs=1e-4)
    assert found["Accuracy, flip-averaged"] == pytest.approx(private["flip_averaged"]["accuracy"], abs=1e-4)
    assert {result.dataset_name for result in data.eval_results} == {
        "FER2013 PublicTest",
        "FER2013 PrivateTest",
        "wild",
    }


def test_missing_parts_are_said_to_be_missing(tmp_path):
    folder = save_checkpoint(tmp_path / "c", mask_depths=None)
    write_set(tmp_path / "photos.parquet", faces(14), [index % 7 for index in range(14)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "TIMING_SECONDS", 0.0)
        evaluate(folder, tmp_path / "photos.parquet", "all", json_file=folder / "eval.json")
    text = make_card(folder).text
    assert "no temperatures were fitted" in text
    assert "No network without masks was trained" in text
    assert "They were not looked for" in text
    assert "In this checkpoint the masks are off." in text


def test_training_is_told(checkpoint, tmp_path):
    run = {
        "recipe": {
            "optimizer": "adamw",
            "learning_rate": 0.003,
            "weight_decay": 0.05,
            "batch_size": 128,
            "label_smoothing": 0.1,
            "sizes": [[0.5, 32], [0.5, 48]],
        },
        "minutes": 90,
        "epochs": None,
        "seed": 7,
        "precision": "no",
    }
    try:
        (checkpoint / "run.json").write_text(json.dumps(run))
        (checkpoint / "metrics.csv").write_text("epoch,minutes,loss\n1,2.0,3\n41,89.6,1\n")
        text = make_card(checkpoint).text
    finally:
        (checkpoint / "run.json").unlink()
        (checkpoint / "metrics.csv").unlink()
    assert "`rmn-hub train --recipe RECIPE.yaml --minutes 90 --seed 7`: 41 epochs in 90 minutes" in text
    assert "32 px for 50%, then 48 px for 50%" in text


def test_command_writes_both_cards(checkpoint, tmp_path):
    result = CliRunner().invoke(main, ["card", str(checkpoint), "--out", str(tmp_path / "docs" / "card.md")])
    assert result.exit_code == 0
    card = (tmp_path / "docs" / "card.md").read_text()
    assert card == (checkpoint / "README.md").read_text() == str(make_card(checkpoint))


def test_numbers_of_other_weights_are_refused(tmp_path):
    folder = save_checkpoint(tmp_path / "c")
    with pytest.raises(InputError, match=r"rmn-hub evaluate .* first"):
        write_card(folder)
    (folder / "eval.json").write_text(json.dumps({"checkpoint": {"sha256": "0"}, "sets": {}}))
    with pytest.raises(InputError, match="is about other weights"):
        write_card(folder)
    (folder / "eval.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        write_card(folder)
    assert not (folder / "README.md").exists()


def test_ablation_needs_both_kinds_of_network(checkpoint, tmp_path):
    on = checkpoint / "eval.json"
    with pytest.raises(InputError, match="a network with masks and one without"):
        write_ablation(checkpoint, [on, on])
    with pytest.raises(InputError, match="rmn-hub evaluate"):
        write_ablation(checkpoint, [on, checkpoint / "config.json"])
    off = json.loads(on.read_text())
    off["checkpoint"]["masks"], off["sets"] = False, {"elsewhere": off["sets"]["wild"]}
    (tmp_path / "off.json").write_text(json.dumps(off))
    with pytest.raises(InputError, match="were not scored on one set"):
        write_ablation(checkpoint, [tmp_path / "off.json", on])
    off["sets"] = json.loads(on.read_text())["sets"]
    for numbers in off["sets"].values():
        numbers["data"]["sha256"] = "of other faces"
    (tmp_path / "off.json").write_text(json.dumps(off))
    with pytest.raises(InputError, match="were not scored on one set"):
        write_ablation(checkpoint, [tmp_path / "off.json", on])
    del off["sets"]["wild"]["right"]
    (tmp_path / "off.json").write_text(json.dumps(off))
    with pytest.raises(InputError, match="lacks 'right'"):
        write_ablation(checkpoint, [tmp_path / "off.json", on])


def test_the_card_of_the_bundled_checkpoint_says_what_its_numbers_say():
    card = str(make_card(BUNDLED_CHECKPOINT))
    command = "run rmn-hub card rmn_hub/checkpoints/rmn-fer2013"
    assert (Path(BUNDLED_CHECKPOINT) / "README.md").read_text(encoding="utf-8") == card, command
    assert (REPOSITORY / "model_card.md").read_text(encoding="utf-8") == card, command
    document = json.loads((Path(BUNDLED_CHECKPOINT) / "eval.json").read_text(encoding="utf-8"))
    assert {"public_test", "private_test"} <= set(document["sets"])
