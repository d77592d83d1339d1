"""The model card: it says what the files of numbers say, and the one in the repository is up to date."""

import copy
import json
import re
import shutil
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
SECTIONS = ["Results", "How to use it", "Training", "Limits", "Citation"]
PAGE_SECTIONS = [
    "Other networks on the same faces",
    "By expression",
    "Leaving uncertain predictions out",
    "Speed",
    "Labels and duplicates",
    "Calibration",
    "Do the masks help?",
    "Do the attention maps show what matters?",
]
RECIPE = {
    "optimizer": "adamw",
    "learning_rate": 0.003,
    "weight_decay": 0.05,
    "batch_size": 128,
    "label_smoothing": 0.1,
    "sizes": [[0.5, 32], [0.5, 48]],
}
DATA = {"name": "photos", "split": "train", "faces": 1200, "validation_split": "held_out"}


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
            evaluate(
                folder, root / "data", split, name=split, json_file=folder / "eval.json", with_faithfulness=faithful
            )
        evaluate(folder, root / "wild.parquet", "all", json_file=folder / "eval.json")
        plain = save_checkpoint(root / "plain", mask_depths=None)
        for name, network in (("on", folder), ("off", plain)):
            evaluate(network, root / "data", name="public_test", json_file=root / name / "eval.json")
    write_ablation(folder, [root / "on" / "eval.json", root / "off" / "eval.json"])
    return folder


def page_of(folder, **options):
    """The card and the page of tables, as they are written."""
    write_card(folder, **options)
    return [(folder / name).read_text(encoding="utf-8") for name in ("README.md", "evaluation.md")]


def test_every_section_is_there(checkpoint, tmp_path):
    (tmp_path / "peer.json").write_text((checkpoint.parent / "off" / "eval.json").read_text())
    card, page = page_of(checkpoint, peers=[tmp_path / "peer.json"])
    assert re.findall(r"^## (.*)$", card, re.MULTILINE) == SECTIONS
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == PAGE_SECTIONS
    assert "](evaluation.md)" in card
    for word in ("hiring", "policing", "lie detection", "diagnosis", "@inproceedings"):
        assert word in card
    for text in (card, page):
        assert not re.search(r"\{\{|\{%|None|nan\b", text)


def test_numbers_are_those_of_the_files(checkpoint):
    card, page = page_of(checkpoint)
    document = json.loads((checkpoint / "eval.json").read_text())
    for numbers in document["sets"].values():
        assert numbers["command"] in page
        for view in ("single_view", "flip_averaged"):
            low, high = numbers[view]["interval"]
            cell = f"{100 * numbers[view]['accuracy']:.1f}% ({100 * low:.1f} to {100 * high:.1f})"
            assert cell in card
            assert cell in page
    private = document["sets"]["private_test"]
    assert f"private_test: {private['without_duplicates']['duplicates']} of 60 faces" in page
    for name in EXPRESSIONS:
        assert f"| {name} | {100 * private['per_expression'][name]['precision']:.1f} |" in page
    record = json.loads((checkpoint / "calibration.json").read_text())
    for name, temperature in record["temperatures"].items():
        assert f"{name} {temperature:.3f}" in page
    assert record["command"] in page
    assert "| masks off | " in page
    on, off = (run["sets"]["public_test"] for run in json.loads((checkpoint / "ablation.json").read_text())["runs"])
    only_on = sum(a > b for a, b in zip(on["right"], off["right"]))
    assert f"{only_on} faces are right with masks only" in page
    assert on["command"] in page
    assert off["command"] in page
    assert page.count("may explain it.") + page.count("does not explain it.") == 1
    assert "On faces of another origin (wild, 21 faces)" in card


def test_the_page_lists_other_networks_on_the_same_faces_only(checkpoint, tmp_path):
    document = json.loads((checkpoint.parent / "off" / "eval.json").read_text())
    document["checkpoint"]["name"] = "fer 99"
    document["sets"]["wild"] = {**document["sets"]["public_test"], "data": {"sha256": "of others"}}
    (tmp_path / "peer.json").write_text(json.dumps(document))
    card, page = page_of(checkpoint, peers=[tmp_path / "peer.json"])
    assert card.count("fer 99") == page.count("fer 99") == 1
    assert (card, page) == tuple(page_of(checkpoint))  # they stay for the next time
    (tmp_path / "peer.json").write_text("{}")
    with pytest.raises(InputError, match="evaluate --json"):
        write_card(checkpoint, peers=[tmp_path / "peer.json"])


def test_tables_have_as_many_cells_as_heads(checkpoint):
    tables = [table for text in page_of(checkpoint) for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)]
    assert len(tables) >= 9
    for table in tables:
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
    assert found["Accuracy, one view"] == pytest.approx(private["single_view"]["accuracy"], abs=1e-4)
    assert found["Accuracy, two views"] == pytest.approx(private["flip_averaged"]["accuracy"], abs=1e-4)
    # 60 made faces are not FER2013.
    assert {result.dataset_name for result in data.eval_results} == {"public_test", "private_test", "wild"}


def test_missing_parts_are_not_claimed(tmp_path):
    folder = save_checkpoint(tmp_path / "c", mask_depths=None)
    write_set(tmp_path / "photos.parquet", faces(14), [index % 7 for index in range(14)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "TIMING_SECONDS", 0.0)
        evaluate(folder, tmp_path / "photos.parquet", "all", json_file=folder / "eval.json")
    card, page = page_of(folder)
    assert "no temperatures were fitted" in page
    assert "were not looked for" in page
    assert "Do the masks help?" not in page
    assert "Attention maps" not in card
    data = ModelCard(card).data
    assert (data.license, data.datasets, data.base_model) == (None, None, None)
    assert not re.search(r"FER2013|fer2013|bundled|from_pretrained\(\)|random weights|calibrated", card)
    assert "not recorded" in card


def test_sets_of_one_origin_are_told_by_their_data_not_by_their_names(tmp_path):
    folder = save_checkpoint(tmp_path / "own")
    pictures = faces(60, seed=6)
    labels = labels_for(answers_of(folder, pictures), 4)
    write_set(tmp_path / "mine" / "public_test.parquet", pictures, labels)
    write_set(tmp_path / "mine" / "private_test.parquet", pictures[::-1], labels[::-1])
    write_set(tmp_path / "wild.parquet", faces(14, seed=3), [index % 7 for index in range(14)])
    data = {"name": "mine", "split": "train", "faces": 99, "validation_split": "public_test"}
    (folder / "run.json").write_text(json.dumps({"recipe": RECIPE, "command": "rmn-hub train", "data": data}))
    calibrate(folder, tmp_path / "mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "TIMING_SECONDS", 0.0)
        for data, split in (("mine", "public_test"), ("mine", "private_test"), ("wild.parquet", "all")):
            evaluate(folder, tmp_path / data, split, json_file=folder / "eval.json")
    # Another set's PublicTest: not the one that the temperatures were fitted on.
    document = json.loads((folder / "eval.json").read_text())
    fer2013 = copy.deepcopy(document["sets"]["mine_public_test"])
    fer2013["data"] |= {"name": "fer2013", "faces": 3589}
    document["sets"]["public_test"] = fer2013
    (folder / "eval.json").write_text(json.dumps(document))
    card, page = page_of(folder)
    assert re.findall(r"On faces of another origin \((\w+),", card) == ["wild"]
    assert re.search(r"least are .* on mine_private_test\.", card)
    assert "mine_private_test, one view, in percent" in page
    assert "60 faces (public_test, 2 views)" in page


def test_no_file_beside_the_weights_has_the_place_of_a_folder(checkpoint, tmp_path):
    peer, on = checkpoint.parent / "off" / "eval.json", checkpoint.parent / "on"
    write_card(checkpoint, peers=[peer])
    for name in ("eval.json", "calibration.json", "ablation.json", "peers.json", "evaluation.md"):
        assert str(checkpoint.parent) not in (checkpoint / name).read_text(), name
    # Those of earlier versions have it.
    document = json.loads(peer.read_text())
    document["sets"]["public_test"]["command"] = f"rmn-hub evaluate {checkpoint} --data ../faces --json '/a b/c.json'"
    for name, content in (("off", document), ("on", json.loads((on / "eval.json").read_text()))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "eval.json").write_text(json.dumps(content))
    (tmp_path / "off" / "calibration.json").write_text(json.dumps({"command": f"rmn-hub calibrate {checkpoint}"}))
    copied = shutil.copytree(checkpoint, tmp_path / "copied")
    write_card(copied, peers=[tmp_path / "off" / "eval.json"])
    write_ablation(copied, [tmp_path / name / "eval.json" for name in ("on", "off")])
    for name in ("ablation.json", "peers.json"):
        text = (copied / name).read_text()
        assert str(checkpoint.parent) not in text
        assert f"rmn-hub evaluate {checkpoint.name} --data faces --json c.json" in text


def test_peers_join_those_that_are_there(checkpoint, tmp_path):
    (checkpoint / "peers.json").unlink(missing_ok=True)
    for name, sha256 in (("first", "1"), ("second", "2"), ("third", "1")):
        document = json.loads((checkpoint.parent / "off" / "eval.json").read_text())
        document["checkpoint"] |= {"name": name, "sha256": sha256}
        (tmp_path / "peer.json").write_text(json.dumps(document))
        write_card(checkpoint, peers=[tmp_path / "peer.json"])
    card, page = page_of(checkpoint)
    (checkpoint / "peers.json").unlink()
    for name, count in (("first", 0), ("second", 1), ("third", 1)):  # the last numbers of a network hold
        assert card.count(f"| {name} |") == page.count(f"| {name} |") == count


@pytest.fixture
def recorded(checkpoint):
    """Writes a `run.json` beside the weights for one test."""

    def record(**changes):
        run = {"recipe": RECIPE, "minutes": 90, "epochs": None, "seed": 7, "precision": "no", **changes}
        (checkpoint / "run.json").write_text(json.dumps(run))

    yield record
    for name in ("run.json", "metrics.csv"):
        (checkpoint / name).unlink(missing_ok=True)


def test_training_is_told(checkpoint, recorded):
    recorded()
    (checkpoint / "metrics.csv").write_text("epoch,minutes,loss\n1,2.0,3\n41,89.6,1\n")
    card, page = page_of(checkpoint)
    command = "rmn-hub train --recipe RECIPE.yaml --minutes 90 --seed 7"
    assert command in card
    assert f"`{command}`: 41 epochs in 90 minutes" in page
    assert "32 px for 50%, then 48 px for 50%" in page


@pytest.mark.parametrize(
    ("changes", "words", "data", "base"),
    [
        ({"start_from": None, "data": DATA}, ("random weights", "`photos` (1,200 faces", "held_out"), None, None),
        ({"start_from": "org/start", "data": DATA}, ("the checkpoint `org/start`",), None, "org/start"),
        ({"start_from": "mine", "data": {**DATA, "name": "org/faces"}}, ("`mine`",), ["org/faces"], None),
        ({"data": {**DATA, "name": "x", "faces": 28709}}, ("on FER2013 (28,709", "65 ± 5%"), ["fer2013"], None),
        (
            {"command": "rmn-hub distill TEACHER.npz --recipe cpu", "teacher": ["wide", "faces"], "data": DATA},
            ("student", "`wide`, `faces`"),
            None,
            None,
        ),
    ],
)
def test_data_start_and_teacher_come_from_the_record(checkpoint, recorded, changes, words, data, base):
    recorded(**changes)
    card, _ = page_of(checkpoint)
    for word in words:
        assert word in card
    found = ModelCard(card).data
    assert (found.datasets, found.base_model) == (data, base)
    assert ("FER2013" in card) == (data == ["fer2013"])


@pytest.mark.parametrize(
    ("origin", "words", "data"),
    [
        (
            {"repo_id": "py-feat/resmasknet", "file": "w.pth"},
            ("`py-feat/resmasknet`", "74.14%", "authors"),
            ["fer2013"],
        ),
        ({"repo_id": None, "file": "w.pth"}, ("converted from `w.pth`",), None),
    ],
)
def test_converted_weights_name_their_source(checkpoint, origin, words, data):
    (checkpoint / "source.json").write_text(json.dumps(origin))
    try:
        card, _ = page_of(checkpoint)
    finally:
        (checkpoint / "source.json").unlink()
    for word in words:
        assert word in card
    found = ModelCard(card).data
    assert (found.datasets, found.base_model) == (data, origin["repo_id"])


def test_licence_stays_until_another_is_given(checkpoint):
    def found():
        return ModelCard.load(checkpoint / "README.md").data.license

    write_card(checkpoint, licence="cc-by-nc-4.0")
    write_card(checkpoint)
    assert found() == "cc-by-nc-4.0"
    write_card(checkpoint, licence="apache-2.0")
    assert found() == "apache-2.0"
    for wrong in ({"licence": "My own!"}, {"repo_id": "no owner"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            write_card(checkpoint, **wrong)


def test_code_loads_what_the_card_is_about(checkpoint):
    card = str(make_card(checkpoint, repo_id="you/rmn-mine"))
    code = "".join(re.findall(r"^```(?:python|bash)\n(.*?)^```", card, re.MULTILINE | re.DOTALL))
    assert code.count("you/rmn-mine") >= 4
    assert str(checkpoint) not in code
    assert "# rmn-mine:" in card
    assert ModelCard(card).data.model_name == "rmn-mine"
    here = str(make_card(checkpoint))
    assert f'ExpressionRecognizer.from_pretrained("{checkpoint}")' in here
    assert "BUNDLED" not in here
    assert "from_pretrained()" in str(make_card(BUNDLED_CHECKPOINT))


def test_command_writes_both_cards(checkpoint, tmp_path):
    result = CliRunner().invoke(main, ["card", str(checkpoint), "--out", str(tmp_path / "docs" / "card.md")])
    assert result.exit_code == 0
    card = (tmp_path / "docs" / "card.md").read_text()
    assert (checkpoint / "README.md").read_text() == str(make_card(checkpoint))
    [link] = re.findall(r"\[evaluation.md\]\((.*?)\)", card)
    assert (tmp_path / "docs" / link).resolve() == (checkpoint / "evaluation.md").resolve()
    assert card.replace(link, "evaluation.md") == str(make_card(checkpoint))


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


def test_the_card_of_the_bundled_checkpoint_says_what_its_numbers_say(tmp_path):
    own = Path(BUNDLED_CHECKPOINT)
    write_card(own, folder=tmp_path)
    command = "run rmn-hub card rmn_hub/checkpoints/rmn-fer2013 --out model_card.md"
    for name in ("README.md", "evaluation.md"):
        assert (own / name).read_text(encoding="utf-8") == (tmp_path / name).read_text(encoding="utf-8"), command
    card, outside = (path.read_text(encoding="utf-8") for path in (own / "README.md", REPOSITORY / "model_card.md"))
    assert outside.replace("rmn_hub/checkpoints/rmn-fer2013/evaluation.md", "evaluation.md") == card, command
    document = json.loads((own / "eval.json").read_text(encoding="utf-8"))
    assert {"public_test", "private_test"} <= set(document["sets"])
