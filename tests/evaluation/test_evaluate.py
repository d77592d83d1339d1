"""`rmn-hub evaluate`: every number against another way to get it."""

import hashlib
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from cli_helpers import run
from evaluation_helpers import answers_of, faces, labels_for, save_checkpoint, write_set
from PIL import Image

from rmn_hub.cli import main
from rmn_hub.data.sources import OpenedSet
from rmn_hub.errors import CheckpointError, InputError
from rmn_hub.evaluation import evaluate as room
from rmn_hub.evaluation.evaluate import evaluate
from rmn_hub.expressions import EXPRESSIONS
from rmn_hub.hub import records

COUNT = 60
DUPLICATES = (3, 17, 42)


@pytest.fixture(autouse=True, scope="module")
def _short_timing():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "TIMING_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A checkpoint, a set with a training split of which three faces are tested, and what the network predicts."""
    root = tmp_path_factory.mktemp("evaluation")
    checkpoint = save_checkpoint(root / "checkpoint", sharpness=2.0)
    pictures = faces(COUNT, seed=3)
    logits, mirrored = answers_of(checkpoint, pictures), answers_of(checkpoint, pictures, flip=True)
    labels = labels_for(logits, 0.7)
    train = [*faces(20, seed=4), *(pictures[index] for index in DUPLICATES)]
    votes = np.eye(10, dtype=np.uint8)[np.array([4, 5, 6, 1, 3, 2, 0])[labels]]
    votes[:15] = np.eye(10, dtype=np.uint8)[8]
    write_set(root / "data" / "train.parquet", train, np.arange(23) % 7)
    write_set(root / "data" / "public_test.parquet", pictures, labels, votes.tolist())
    return {
        "checkpoint": checkpoint,
        "data": root / "data",
        "labels": labels,
        "single": softmax(logits),
        "averaged": (softmax(logits) + softmax(mirrored)) / 2,
    }


def softmax(logits):
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(1, keepdims=True)


@pytest.fixture(scope="module")
def document(world):
    return evaluate(world["checkpoint"], world["data"], device="cpu")


@pytest.fixture(scope="module")
def numbers(document):
    return document["sets"]["data_public_test"]


def wilson(correct, count):
    z, p = 1.959964, correct / count
    middle, width = p + z**2 / (2 * count), z * np.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    return (middle - width) / (1 + z**2 / count), (middle + width) / (1 + z**2 / count)


@pytest.mark.parametrize("view", ["single", "averaged"])
def test_accuracy_and_interval(world, numbers, view):
    block = numbers["single_view" if view == "single" else "flip_averaged"]
    right = world[view].argmax(1) == world["labels"]
    assert 0.3 < right.mean() < 0.95
    assert block["correct"] == right.sum()
    assert block["faces"] == COUNT
    assert block["accuracy"] == pytest.approx(right.mean())
    assert block["interval"] == pytest.approx(wilson(right.sum(), COUNT), abs=1e-6)
    own = world[view][np.arange(COUNT), world["labels"]]
    assert block["negative_log_likelihood"] == pytest.approx(-np.log(own).mean(), rel=1e-4)


def test_duplicates_are_left_out(world, numbers):
    kept = np.setdiff1d(np.arange(COUNT), DUPLICATES)
    block = numbers["without_duplicates"]
    assert block["duplicates"] == 3
    for view in ("single", "averaged"):
        values = block["single_view" if view == "single" else "flip_averaged"]
        assert values["faces"] == COUNT - 3
        assert values["correct"] == (world[view].argmax(1) == world["labels"])[kept].sum()


def test_no_training_faces_no_duplicates(world, tmp_path):
    alone = world["data"] / "public_test.parquet"
    found = evaluate(world["checkpoint"], alone)["sets"]["data_public_test"]
    assert found["without_duplicates"] is None
    document = evaluate(world["checkpoint"], alone, training_data=world["data"])
    assert document["sets"]["data_public_test"]["without_duplicates"]["duplicates"] == 3


def test_duplicates_in_a_set_without_splits(world, tmp_path):
    pictures = faces(70, seed=4)
    write_set(tmp_path / "twice.parquet", [*pictures, *pictures], [*range(7)] * 20)
    opened = OpenedSet.open(tmp_path / "twice.parquet")
    train, test = ({face.tobytes() for face in opened.split(split)} for split in ("train", "test"))
    assert train & test
    (numbers,) = evaluate(world["checkpoint"], tmp_path / "twice.parquet", "test")["sets"].values()
    assert numbers["without_duplicates"]["duplicates"] >= len(train & test)
    (numbers,) = evaluate(world["checkpoint"], tmp_path / "twice.parquet", "all")["sets"].values()
    assert numbers["without_duplicates"] is None


@pytest.fixture
def trained_on(world, tmp_path):
    """The checkpoint with a `run.json` that names a set and a split."""
    folder = shutil.copytree(world["checkpoint"], tmp_path / "trained")

    def record(name, split):
        (folder / "run.json").write_text(json.dumps({"data": {"name": name, "split": split}}))
        return folder

    return record


@pytest.mark.parametrize(
    ("name", "trained", "scored", "duplicates"),
    [
        ("d", "Training", "public_test", 0),
        ("d", "all", "public_test", 7),
        ("d", "mine", "public_test", 2),
        ("d", "mine", "train", 1),
        ("d", "mine", "Mine", None),
        ("d", "gone", "public_test", None),
        ("elsewhere", "train", "public_test", 0),
        ("elsewhere", "all", "public_test", None),
    ],
)
def test_duplicates_are_those_of_the_split_that_the_run_trained_on(
    trained_on, tmp_path, name, trained, scored, duplicates
):
    pictures = faces(28, seed=4)
    write_set(tmp_path / "d" / "train.parquet", pictures[:14], np.arange(14) % 7)
    write_set(tmp_path / "d" / "public_test.parquet", pictures[14:21], np.arange(7))
    write_set(tmp_path / "d" / "mine.parquet", [pictures[0], *pictures[19:]], np.arange(10) % 7)
    (numbers,) = evaluate(trained_on(name, trained), tmp_path / "d", scored)["sets"].values()
    found = numbers["without_duplicates"]
    assert (found and found["duplicates"]) == duplicates


def test_all_faces_duplicates(world, tmp_path):
    write_set(tmp_path / "d" / "train.parquet", faces(14, seed=4), np.arange(14) % 7)
    write_set(tmp_path / "d" / "public_test.parquet", faces(7, seed=8), np.arange(7))
    write_set(tmp_path / "d" / "private_test.parquet", faces(14, seed=4)[:7], np.arange(7))
    block = evaluate(world["checkpoint"], tmp_path / "d", "test")["sets"]["d_private_test"]["without_duplicates"]
    assert block == {"duplicates": 7, "single_view": None, "flip_averaged": None}


def test_per_expression_and_confusion_matrix(world, numbers):
    answers, labels = world["single"].argmax(1), world["labels"]
    matrix = np.zeros((7, 7), int)
    np.add.at(matrix, (labels, answers), 1)
    assert numbers["confusion_matrix"] == matrix.tolist()
    assert list(numbers["per_expression"]) == list(EXPRESSIONS)
    for index, row in enumerate(numbers["per_expression"].values()):
        assert row["faces"] == matrix[index].sum()
        assert row["recall"] == pytest.approx(matrix[index, index] / max(1, matrix[index].sum()))
        assert row["precision"] == pytest.approx(matrix[index, index] / max(1, matrix[:, index].sum()))


def test_coverage(world, numbers):
    right, confidence = world["single"].argmax(1) == world["labels"], world["single"].max(1)
    of_two = (np.argsort(-world["single"], axis=1)[:, :2] == world["labels"][:, None]).any(1)
    for row in numbers["coverage"]:
        answered = confidence >= row["threshold"]
        assert row["coverage"] == pytest.approx(answered.mean())
        for key, hits in (("accuracy_below", right), ("two_below", of_two)):
            assert row[key] == (None if answered.all() else pytest.approx(hits[~answered].mean()))
        assert row["accuracy"] == (pytest.approx(right[answered].mean()) if answered.any() else None)
    shares = [row["coverage"] for row in numbers["coverage"]]
    assert shares[0] == 1
    assert shares == sorted(shares, reverse=True)


def test_votes_agreement(numbers):
    assert numbers["data"]["ferplus_agreement"] == pytest.approx(45 / 60)


def test_every_number_has_its_origin(world, numbers):
    words = shlex.split(numbers["command"])
    # A folder's place on a disk is nobody else's business.
    assert words[:5] == ["rmn-hub", "evaluate", "checkpoint", "--data", "data"]
    assert words[words.index("--split") + 1] == "public_test"
    assert {"rmn-hub", "torch", "transformers", "python", "scikit-learn"} <= set(numbers["versions"])
    assert numbers["data"]["faces"] == COUNT
    assert sum(numbers["data"]["per_expression"].values()) == COUNT
    assert any("3,589" in note for note in numbers["data"]["notes"])
    assert set(numbers["milliseconds_per_face"]["batch_32"]) == {"network", "with_processor", "two_views"}


def test_checkpoint_is_described(world, document):
    weights = (world["checkpoint"] / "model.safetensors").read_bytes()
    assert document["checkpoint"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert document["checkpoint"]["masks"] is True
    assert document["checkpoint"]["multiply_adds"] > 1e5


def test_file_gathers_sets_of_the_same_weights(world, tmp_path):
    file = tmp_path / "numbers" / "eval.json"
    evaluate(world["checkpoint"], world["data"], json_file=file)
    photos = tmp_path / "my_photos"
    rng = np.random.default_rng(0)
    for index, name in enumerate(EXPRESSIONS):
        (photos / name).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (70 + index, 51, 3), dtype=np.uint8)).save(photos / name / "a.png")
    evaluate(world["checkpoint"], photos, "all", json_file=file)
    document = json.loads(file.read_text())
    assert list(document["sets"]) == ["data_public_test", "my_photos"]
    assert document["sets"]["my_photos"]["without_duplicates"] is None
    assert [path.name for path in file.parent.iterdir()] == ["eval.json"]

    other = save_checkpoint(tmp_path / "other", sharpness=3.0)
    words = ("--data", photos, "--split", "all", "--name", "portraits", "--json", file)
    assert "held results of other weights" in run("evaluate", other, *words).stderr
    assert list(json.loads(file.read_text())["sets"]) == ["portraits"]
    assert "held results" not in run("evaluate", other, *words).stderr


def test_small_grey_faces_are_not_called_fer2013(world, tmp_path, monkeypatch):
    file = tmp_path / "eval.json"
    for folder, seed in (("mine", 21), ("others", 22)):
        write_set(tmp_path / folder / "test.parquet", faces(14, seed=seed), np.arange(14) % 7)
        evaluate(world["checkpoint"], tmp_path / folder / "test.parquet", "test", json_file=file)
    assert list(json.loads(file.read_text())["sets"]) == ["mine_private_test", "others_private_test"]
    monkeypatch.setitem(records.FER2013, "private_test", ("FER2013 PrivateTest", 14))
    evaluate(world["checkpoint"], tmp_path / "mine", "test", json_file=file)
    assert "private_test" in json.loads(file.read_text())["sets"]


def test_results_of_other_faces_are_not_replaced_in_silence(world, tmp_path):
    file = tmp_path / "eval.json"
    for folder, seed in (("mine", 21), ("others", 22)):
        write_set(tmp_path / folder / "test.parquet", faces(14, seed=seed), np.arange(14) % 7)
        words = ("--data", tmp_path / folder, "--split", "test", "--name", "portraits", "--json", file)
        first, again = (run("evaluate", world["checkpoint"], *words).stderr for _ in range(2))
        assert ("other faces as portraits" in first) == (folder == "others")
        assert "other faces" not in again


def test_figures(world, tmp_path):
    evaluate(world["checkpoint"], world["data"], figures=tmp_path / "figures")
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    kinds = ("confusion_matrix", "reliability_diagram", "coverage", "failure_cases")
    assert names == {f"data_public_test_{kind}.png" for kind in kinds}
    for path in (tmp_path / "figures").iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 200
            assert len(np.unique(np.asarray(picture.convert("L")))) > 10


def test_faithfulness(world, tmp_path):
    block = evaluate(world["checkpoint"], world["data"], with_faithfulness=True, figures=tmp_path)["sets"][
        "data_public_test"
    ]
    assert block["faithfulness"]["faces"] == COUNT
    assert block["faithfulness"]["probability"] == pytest.approx(world["single"].max(1).mean(), abs=1e-4)
    assert "--faithfulness" in block["command"]
    assert (tmp_path / "data_public_test_faithfulness.png").exists()
    plain = save_checkpoint(tmp_path / "plain", mask_depths=None)
    with pytest.raises(InputError, match="with_faithfulness"):
        evaluate(plain, world["data"], with_faithfulness=True)


def test_command(world, monkeypatch):
    monkeypatch.chdir(world["data"].parent)
    file = Path("numbers", "eval.json")
    result = run("evaluate", "checkpoint", "--data", "data", "--json", file, "--split", "public_test")
    assert result.exit_code == 0
    assert "data_public_test: 60 faces" in result.stdout
    assert "single view without duplicates" in result.stdout
    document = json.loads(file.read_text())
    again = run(*shlex.split(document["sets"]["data_public_test"]["command"])[1:])
    assert again.exit_code == 0
    assert (
        json.loads(file.read_text())["sets"]["data_public_test"]["single_view"]
        == (document["sets"]["data_public_test"]["single_view"])
    )


def test_json_without_a_file_goes_to_stdout(world):
    result = run("evaluate", world["checkpoint"], "--data", world["data"], "--json", "--split", "public_test")
    assert json.loads(result.stdout)["sets"]["data_public_test"]["single_view"]["faces"] == COUNT


@pytest.mark.parametrize("words", [("--json",), ("--json", "--device", "cpu"), ("--json", "-")])
def test_json_may_stand_without_a_file(words):
    from rmn_hub.cli.shared import OptionalJsonFile

    [command] = [command for command in main.registered_commands if command.callback.__name__ == "evaluate"]
    assert command.cls is OptionalJsonFile
    context = typer.main.get_command(main).commands["evaluate"].make_context("evaluate", ["c", "--data", "d", *words])
    assert context.params["json"] == "-"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("{tmp}", "--data", "{data}"), "{tmp}"),
        (("{checkpoint}", "--data", "{tmp}/nowhere"), "nowhere"),
        (("{checkpoint}", "--data", "{data}", "--split", "monday"), "monday"),
        (("{checkpoint}", "--data", "{data}", "--device", "toaster"), "--device toaster"),
        (("{checkpoint}", "--data", "{data}", "--json", "{checkpoint}/config.json"), "config.json"),
        (("{checkpoint}", "--data", "{data}", "--figures", "{checkpoint}/config.json"), "config.json"),
        (("{checkpoint}", "--data", "{data}", "--batch-size", "0"), "--batch-size"),
        (("{checkpoint}",), "--data"),
    ],
)
def test_bad_input_is_one_sentence(world, tmp_path, words, sentence):
    known = {"tmp": tmp_path, "data": world["data"], "checkpoint": world["checkpoint"]}
    result = run("evaluate", *(word.format(**known) for word in words))
    assert result.exit_code == 2
    assert sentence.format(**known) in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_other_classes_are_refused(world, tmp_path):
    checkpoint = save_checkpoint(tmp_path / "c")
    config = json.loads((checkpoint / "config.json").read_text())
    config["id2label"] = dict(enumerate(reversed(EXPRESSIONS)))
    config["label2id"] = {name: index for index, name in config["id2label"].items()}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="neutral, surprise, sad"):
        evaluate(checkpoint, world["data"])


def test_truncated_weights_are_refused(world, tmp_path):
    checkpoint = save_checkpoint(tmp_path / "c")
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        evaluate(checkpoint, world["data"])


def test_weights_of_another_network_are_refused(world, tmp_path):
    checkpoint = save_checkpoint(tmp_path / "c")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "mask_depths": None}))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        evaluate(checkpoint, world["data"])


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"checkpoint": {"sha256": "x"}, "sets": {"a": {"data": 3}}}', "[" * 10000]
)
def test_a_file_of_something_else_stays_as_it_is(world, tmp_path, text):
    (tmp_path / "eval.json").write_text(text)
    with pytest.raises(InputError, match=r"eval\.json"):
        evaluate(world["checkpoint"], world["data"], json_file=tmp_path / "eval.json")
    assert (tmp_path / "eval.json").read_text() == text


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another member, of another size."""
    folder = save_checkpoint(tmp_path_factory.mktemp("other") / "checkpoint", sharpness=1.0, depths=(1, 1, 1, 2))
    processor = folder / "preprocessor_config.json"
    processor.write_text(json.dumps({**json.loads(processor.read_text()), "size": {"height": 40, "width": 40}}))
    return folder


def test_an_ensemble(world, document, other, tmp_path):
    """Two members at sizes of their own: the mean of their probabilities, in the form of one checkpoint's results."""
    file = tmp_path / "ensemble.json"
    words = ("--data", world["data"], "--split", "public_test", "--json", file, "--device", "cpu")
    assert run("evaluate", world["checkpoint"], other, *words).exit_code == 0
    found = json.loads(file.read_text())
    pictures = faces(COUNT, seed=3)
    mean = (world["single"] + softmax(answers_of(other, pictures))) / 2
    others_averaged = (softmax(answers_of(other, pictures)) + softmax(answers_of(other, pictures, flip=True))) / 2
    averaged = (world["averaged"] + others_averaged) / 2
    numbers = found["sets"]["data_public_test"]
    for view, probabilities in (("single_view", mean), ("flip_averaged", averaged)):
        assert numbers[view]["correct"] == (probabilities.argmax(1) == world["labels"]).sum()
        own = probabilities[np.arange(COUNT), world["labels"]]
        assert numbers[view]["negative_log_likelihood"] == pytest.approx(-np.log(own).mean(), rel=1e-3)
    assert set(numbers) == set(document["sets"]["data_public_test"])
    assert shlex.split(numbers["command"])[:4] == ["rmn-hub", "evaluate", world["checkpoint"].name, other.name]
    assert str(tmp_path) not in file.read_text()

    described = found["checkpoint"]
    alone = document["checkpoint"]
    assert described["members"][0] == {"name": world["checkpoint"].name, **alone}
    assert described["members"][1]["sha256"] == hashlib.sha256((other / "model.safetensors").read_bytes()).hexdigest()
    for key in ("parameters", "multiply_adds", "megabytes"):
        assert described[key] == sum(member[key] for member in described["members"]) > alone[key]
    assert described["masks"] is False

    # The order of the members does not matter; other members do.
    assert "held results" not in run("evaluate", other, world["checkpoint"], *words, "--name", "again").stderr
    assert list(json.loads(file.read_text())["sets"]) == ["data_public_test", "again"]
    assert "held results" in run("evaluate", other, *words).stderr


def test_an_ensemble_has_no_attention_maps(world, other):
    with pytest.raises(InputError, match="with_faithfulness"):
        evaluate([world["checkpoint"], other], world["data"], with_faithfulness=True)
    with pytest.raises(InputError, match="checkpoint"):
        evaluate([], world["data"])


def test_the_data_is_opened_once(world, monkeypatch):
    from rmn_hub.data import sources

    parts, opened = sources._parts_of, []
    monkeypatch.setattr(sources, "_parts_of", lambda where: (opened.append(where), parts(where))[1])
    assert evaluate(world["checkpoint"], world["data"])["sets"]["data_public_test"]["without_duplicates"]
    assert opened == [world["data"]]
