"""Runs on a made set, in one process."""

import copy
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from evaluation_helpers import save_checkpoint
from made_faces import RECIPE, TINY, metrics, write
from PIL import Image

from rmn_hub import EXPRESSIONS, RMNConfig, RMNImageProcessor, RMNModel
from rmn_hub.data.sources import load_face_images, load_faces
from rmn_hub.errors import CheckpointError, InputError, TrainingError
from rmn_hub.loading import load_engine
from rmn_hub.training import feeding, loop
from rmn_hub.training.augment import Augmentation
from rmn_hub.training.recipe import Recipe
from rmn_hub.training.train import train


def weights(folder):
    return RMNModel.from_pretrained(folder).state_dict()


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=0, rtol=0)


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """A run of eight epochs that nothing interrupted."""
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("whole") / "run"
    return train(made, output, RECIPE, epochs=8, device="cpu")


def test_a_short_run_beats_chance_by_far(made, whole):
    assert whole.accuracy > 0.7  # chance is 1 in 7
    faces = load_faces(made, "val")
    engine, processor = load_engine(str(whole.checkpoint), {}, "torch", "cpu")
    logits = engine(processor([Image.fromarray(face) for face in faces.images])).logits
    assert np.mean(logits.argmax(1) == faces.labels) == pytest.approx(whole.accuracy, abs=0.05)
    output = whole.checkpoint.parent
    rows = metrics(output)
    assert [row["size"] for row in rows] == ["24"] * 4 + ["32"] * 4
    assert float(rows[-1]["learning_rate"]) < float(rows[1]["learning_rate"]) / 10
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert max(float(row["accuracy"]) for row in rows[4:]) == pytest.approx(whole.accuracy, abs=1e-5)
    assert (output / "curves.png").is_file()
    # The model card has both, and a checkpoint goes to the Hub without the rest of its run.
    for name in ("run.json", "metrics.csv"):
        assert (whole.checkpoint / name).read_bytes() == (output / name).read_bytes()
    RMNImageProcessor.from_pretrained(whole.checkpoint)


def test_a_record_repeats_the_run(made, whole, tmp_path):
    record = json.loads((whole.checkpoint / "run.json").read_text())
    assert record["command"] == f"rmn-hub train --recipe RECIPE.yaml --data {made.name} --epochs 8 --seed 0"
    assert Recipe.from_dict(record["recipe"]) == RECIPE
    assert record["start_from"] is None
    assert record["data"]["name"] == made.name
    assert record["data"]["fingerprint"] == load_faces(made, "train").fingerprint()
    small = Recipe.load("cpu").changed(batch_size=64)
    first = save_checkpoint(tmp_path / "first" / "best", image_size=48)
    start = train(made, tmp_path / "run", small, minutes=116, seed=3, start_from=first, limit_steps=1, device="cpu")
    record = json.loads((start.checkpoint / "run.json").read_text())
    assert record["start_from"] == "first"
    # What was trained is the start's network, not the recipe's.
    described, config = RMNConfig(**record["recipe"]["model"]), RMNConfig.from_pretrained(first)
    assert all(getattr(described, name) == getattr(config, name) for name in RMNConfig.__annotations__)
    assert config.hidden_sizes != tuple(small.model["hidden_sizes"])
    assert record["command"] == (
        f"rmn-hub train --recipe cpu --batch-size 64 --data {made.name} --minutes 116 --seed 3 --start-from first"
    )


def test_a_run_that_stopped_goes_on_to_the_same_end_bit_for_bit(made, tmp_path):
    recipe = RECIPE.changed(
        model={**TINY, "dropout": 0.2}, augmentation=Augmentation(rotation=5, mixup=0.2, cutmix=0.5)
    )
    once = train(made, tmp_path / "once", recipe, epochs=3, device="cpu")
    for epochs in (1, 2):  # one epoch is 8 steps
        train(made, tmp_path / "parts", recipe, epochs=3, device="cpu", limit_steps=8)
        assert len(metrics(tmp_path / "parts")) == epochs
    parts = train(made, tmp_path / "parts", recipe, epochs=3, device="cpu")
    assert (parts.accuracy, parts.epochs) == (once.accuracy, once.epochs)
    assert_equal(weights(parts.checkpoint), weights(once.checkpoint))
    states = [torch.load(run.checkpoint.parent / "state.pt", weights_only=True) for run in (once, parts)]
    assert_equal(states[1]["module"], states[0]["module"])
    assert_equal(states[1]["average"]["module"], states[0]["average"]["module"])
    timeless = [[{**row, "minutes": 0, "images_per_second": 0} for row in state["history"]] for state in states]
    assert timeless[0] == timeless[1]


def test_a_finished_run_goes_on_with_a_larger_budget(made, tmp_path):
    train(made, tmp_path, RECIPE, epochs=1, device="cpu")
    assert train(made, tmp_path, RECIPE, epochs=2, device="cpu").epochs == 2


def test_a_larger_budget_leaves_the_best_checkpoint_until_its_own_size_comes_again(made, tmp_path):
    """More budget means a smaller size and a higher learning rate first."""
    lines = []
    console = SimpleNamespace(print=lambda text, **_: lines.append(text))
    finished = train(made, tmp_path, RECIPE, epochs=4, device="cpu")
    before = weights(finished.checkpoint)
    (finished.checkpoint / "README.md").write_text("a card")
    (finished.checkpoint / "onnx").mkdir()
    resumed = train(made, tmp_path, RECIPE, epochs=20, limit_steps=8, device="cpu", console=console)
    assert metrics(tmp_path)[-1]["size"] == "24"
    assert resumed.accuracy == finished.accuracy
    assert_equal(weights(resumed.checkpoint), before)
    assert (resumed.checkpoint / "README.md").read_text() == "a card"
    assert not any("best.before" in line for line in lines)
    last = train(made, tmp_path, RECIPE, epochs=20, device="cpu", console=console)
    assert last.accuracy > finished.accuracy
    assert not (last.checkpoint / "README.md").exists()
    # What other commands wrote is not the run's to remove.
    assert sorted(path.name for path in tmp_path.glob("best*")) == ["best", "best.before"]
    assert (tmp_path / "best.before" / "README.md").read_text() == "a card"
    assert (tmp_path / "best.before" / "onnx").is_dir()
    assert_equal(weights(tmp_path / "best.before"), before)
    assert len([line for line in lines if "best.before" in line]) == 1


def test_a_killed_run_loses_its_current_epoch_only(made, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(RECIPE.to_dict()))
    output = tmp_path / "run"
    command = [sys.executable, "-m", "rmn_hub", "train", "--data", str(made), "--output", str(output), "--device=cpu"]
    process = subprocess.Popen(
        [*command, "--recipe", str(recipe), "--minutes", "10"], stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:  # killed in the middle of some epoch after the second
        if line.startswith("epoch 2"):
            break
    process.kill()
    process.wait()
    state = torch.load(output / "state.pt", weights_only=True)
    assert state["epoch"] >= 2
    assert len(metrics(output)) in (state["epoch"], state["epoch"] + 1)
    result = train(made, output, RECIPE, minutes=10, limit_steps=2, device="cpu")
    assert result.epochs == state["epoch"] + 1
    assert sorted(path.name for path in output.iterdir() if path.name.startswith("best")) == ["best"]


@pytest.fixture(scope="module")
def two_epochs(made, tmp_path_factory):
    torch.set_num_threads(1)
    return train(made, tmp_path_factory.mktemp("two") / "run", RECIPE, epochs=2, device="cpu")


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("function", "call"),
    [("pathlib.Path.rename", 1), ("pathlib.Path.rename", 2), ("pathlib.Path.rename", 3), ("torch.save", 2)],
)
def test_a_kill_between_renames_loses_nothing(made, tmp_path, monkeypatch, two_epochs, function, call):
    """The second epoch trains at another size, so its checkpoint replaces the first one's."""
    calls = []
    real = {"pathlib.Path.rename": type(tmp_path).rename, "torch.save": torch.save}[function]

    def dying(*arguments, **options):
        calls.append(arguments)
        if len(calls) == call:
            raise Killed
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(function, dying)
        with pytest.raises(Killed):
            train(made, tmp_path / "killed", RECIPE, epochs=2, device="cpu")
    result = train(made, tmp_path / "killed", RECIPE, epochs=2, device="cpu")
    assert (result.accuracy, result.epochs) == (two_epochs.accuracy, 2)
    assert_equal(weights(result.checkpoint), weights(two_epochs.checkpoint))
    assert not [path.name for path in (tmp_path / "killed").iterdir() if path.name.startswith(("best.", "."))]


def test_a_budget_in_minutes_ends_with_a_learning_rate_near_zero(made, tmp_path):
    train(made, tmp_path, RECIPE, minutes=0.1, device="cpu")
    rows = metrics(tmp_path)
    # The clock may run out between two epochs, before the next one's first step.
    assert 0.07 <= float(rows[-1]["minutes"]) <= 0.5
    assert float(rows[-1]["learning_rate"]) < 0.2 * RECIPE.learning_rate


class HandClock(loop.Clock):
    """A clock that a test sets."""

    now = 0.0

    @property
    def elapsed(self):
        return self.spent + HandClock.now


@pytest.fixture
def clock(monkeypatch):
    """Nothing but writing a state takes time: 0.6 minutes."""
    real = loop.RunFolder.write_state

    def slow(folder, state):
        real(folder, state)
        HandClock.now += 0.6

    monkeypatch.setattr(loop, "Clock", HandClock)
    monkeypatch.setattr(HandClock, "now", 0.0)
    monkeypatch.setattr(loop.RunFolder, "write_state", slow)
    return HandClock


def test_a_clock_that_runs_out_while_an_epoch_is_saved_leaves_that_epoch_evaluated(made, tmp_path, clock):
    result = train(made, tmp_path, RECIPE.changed(evaluate_every=10), minutes=1, device="cpu")
    assert result.epochs == 2
    last = metrics(tmp_path)[-1]
    assert float(last["accuracy"]) == pytest.approx(result.accuracy, abs=1e-5)
    RMNModel.from_pretrained(result.checkpoint)
    assert (result.checkpoint / "run.json").is_file()


@pytest.mark.parametrize(("kind", "least"), [("epochs", "2 epochs"), ("minutes", "1 minutes")])
def test_a_budget_that_is_spent_already_is_refused_and_the_same_one_trains_no_more(made, tmp_path, clock, kind, least):
    first = train(made, tmp_path, RECIPE, **{kind: 2 if kind == "epochs" else 1}, device="cpu")
    assert first.epochs == 2

    def again(budget):
        """Call it anew; return the lines."""
        clock.now, lines = 0.0, []
        console = SimpleNamespace(print=lambda text, **_: lines.append(text))
        assert train(made, tmp_path, RECIPE, **{kind: budget}, device="cpu", console=console) == first
        return lines

    names = ("run.json", "best/run.json", "metrics.csv", "state.pt")
    before = [(tmp_path / name).read_bytes() for name in names]
    with pytest.raises(InputError, match=f"{least} already.*output"):
        again(1 if kind == "epochs" else 0.9)
    # 1.2 minutes are spent: the clock ran over by the last epoch.
    line = again(2 if kind == "epochs" else 1)[-1]
    assert "is done" in line
    assert [(tmp_path / name).read_bytes() for name in names] == before


def test_the_original_recipe_trains_the_original_network(tmp_path, monkeypatch):
    """One step of two faces. Nothing is written: weights and optimizer take 2 GB."""
    kept = []
    monkeypatch.setattr(loop.RunFolder, "prepare_best", lambda _, model, epoch: kept.append(model))
    monkeypatch.setattr(loop.RunFolder, "write_state", lambda _, state: kept.append(state))
    recipe = Recipe.load("original")
    data = write(tmp_path / "data", {"train": 1, "val": 1})
    train(data, tmp_path / "run", recipe.changed(batch_size=2), epochs=1, limit_steps=1, device="cpu")
    model, state = kept
    assert model.config.hidden_sizes == RMNConfig().hidden_sizes
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes_of_the_original()
    assert metrics(tmp_path / "run")[0]["size"] == "224"
    assert state["average"] is None  # the moving average is off, and costs nothing
    assert state["optimizer"]["param_groups"][0]["decoupled_weight_decay"] is False  # RAdam's, not AdamW's


def shapes_of_the_original():
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in RMNModel(RMNConfig()).state_dict().items()}


@pytest.mark.parametrize("name", ["face-trunk", "student", "strong"])
def test_a_few_steps_of_the_other_recipes(made, tmp_path, name):
    recipe = Recipe.load(name).changed(model=TINY, batch_size=16)
    result = train(made, tmp_path, recipe, epochs=1, limit_steps=3, device="cpu")
    # The network is made for the size that it is trained and judged at in the end, whatever `model` has.
    size = recipe.sizes[-1][1]
    assert RMNModel.from_pretrained(result.checkpoint).config.image_size == size
    assert RMNImageProcessor.from_pretrained(result.checkpoint).size["height"] == size
    record = json.loads((result.checkpoint / "run.json").read_text())
    assert record["recipe"]["model"] == {**TINY, "image_size": size}
    assert 0 < float(metrics(tmp_path)[0]["loss"]) < 10


def test_every_face_is_mirrored_in_every_second_epoch(made, tmp_path, monkeypatch):
    real, seen = loop.augment, []

    def watched(*arguments):
        seen.append(real(*arguments))
        return seen[-1]

    monkeypatch.setattr(loop, "augment", watched)
    recipe = RECIPE.changed(sizes=((1.0, 48),), batch_size=40, augmentation=Augmentation())
    train(made, tmp_path, recipe, epochs=2, device="cpu")
    faces = torch.from_numpy(load_faces(made, "train").images)
    known = {face.numpy().tobytes(): index for index, face in enumerate(faces)}
    mirrored_known = {face.flip(-1).contiguous().numpy().tobytes(): index for index, face in enumerate(faces)}
    epochs = []
    for start in (0, 7):
        shown = (torch.cat(seen[start : start + 7]) * 255).round().to(torch.uint8)[:, 0].numpy()
        straight = {known[face.tobytes()] for face in shown if face.tobytes() in known}
        mirrored = {mirrored_known[face.tobytes()] for face in shown if face.tobytes() in mirrored_known}
        assert straight | mirrored == set(range(280))
        assert not straight & mirrored
        epochs.append(mirrored)
    assert epochs[0] == set(range(280)) - epochs[1]
    assert 100 < len(epochs[0]) < 180


def test_an_image_that_a_worker_cannot_read_is_named_in_one_sentence(made, tmp_path):
    shutil.copytree(made, tmp_path / "data")
    (tmp_path / "data" / "train" / "happy" / "000.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"000\.png") as caught:
        train(tmp_path / "data", tmp_path / "run", RECIPE, epochs=1, in_memory=False, device="cpu")
    assert "Traceback" not in str(caught.value)


@pytest.mark.filterwarnings("error")
def test_decoded_faces_are_given_to_torch_as_it_likes_them(made, monkeypatch):
    monkeypatch.setattr(feeding, "MAX_WORKERS", 0)  # a worker's warnings are lost
    lazy = feeding.faces_for_training(load_face_images(made, "val"), 32, in_memory=False)
    torch.set_warn_always(True)
    try:
        (batch,) = feeding.image_batches(lazy, [torch.tensor([3, 1])], torch.device("cpu"))
    finally:
        torch.set_warn_always(False)
    np.testing.assert_array_equal(batch, load_faces(made, "val", 32).images[[3, 1]])


def test_faces_that_are_decoded_in_every_epoch_train_alike(made, tmp_path, monkeypatch):
    recipe = RECIPE.changed(model={**TINY, "dropout": 0.2})
    inside = train(made, tmp_path / "inside", recipe, epochs=1, device="cpu")
    lazy = train(made, tmp_path / "lazy", recipe, epochs=1, in_memory=False, device="cpu")
    assert lazy.accuracy == inside.accuracy
    assert_equal(weights(lazy.checkpoint), weights(inside.checkpoint))
    # The automatic choice.
    stored = feeding.faces_for_training
    monkeypatch.setattr(feeding, "MEMORY_LIMIT", 280 * 48 * 48 - 1)
    kinds = []
    monkeypatch.setattr(
        "rmn_hub.training.train.faces_for_training", lambda *words: kinds.append(stored(*words)) or kinds[-1]
    )
    train(made, tmp_path / "automatic", recipe, epochs=1, limit_steps=1, device="cpu")
    assert [type(faces).__name__ for faces in kinds] == ["LazyFaceSet", "FaceSet"]


def test_training_leaves_random_numbers_and_streams_alone(made, tmp_path, capfd):
    before = torch.get_rng_state()
    told = []
    train(*(made, tmp_path, RECIPE), epochs=1, device="cpu", progress=lambda *words: told.append(words))
    torch.testing.assert_close(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")
    assert told[-1][0] == "training"
    assert sum(more for _, more, _ in told) <= told[-1][2]


def test_a_loss_that_is_not_a_number_stops_with_a_sentence(made, tmp_path):
    with pytest.raises(TrainingError, match="learning rate"):
        train(made, tmp_path, RECIPE.changed(learning_rate=1e3, optimizer="sgd"), epochs=30, device="cpu")


@pytest.mark.parametrize(
    ("settings", "changes", "named"),
    [
        ({"seed": 1}, {}, "seed"),
        ({}, {"optimizer": "sgd"}, "optimizer"),
        ({}, {"learning_rate": 0.02}, "learning_rate"),
        ({}, {"ema": 0.0}, "ema"),
        ({}, {"augmentation": Augmentation(mixup=0.5)}, "augmentation.mixup"),
        ({}, {"model": {**TINY, "embedding_size": 16}}, "model.embedding_size"),
        ({"epochs": None, "minutes": 1}, {}, "budget"),
        ({"train_split": "test"}, {}, "data"),
        ({"start_from": "checkpoint"}, {}, "start_from"),
    ],
)
def test_a_run_does_not_go_on_with_other_settings(made, tmp_path, tiny_checkpoint, settings, changes, named):
    output = tmp_path / "run"
    train(made, output, RECIPE, epochs=2, limit_steps=1, device="cpu")
    before = (output / "run.json").read_bytes()
    if "start_from" in settings:
        settings = {"start_from": tiny_checkpoint}
    with pytest.raises(InputError, match=named.replace(".", r"\.")):
        train(made, output, RECIPE.changed(**changes), **{"epochs": 2, "device": "cpu", **settings})
    assert (output / "run.json").read_bytes() == before


@pytest.fixture(scope="module")
def good_state(made, tmp_path_factory):
    output = tmp_path_factory.mktemp("state")
    train(made, output, RECIPE, epochs=2, limit_steps=1, device="cpu")
    return torch.load(output / "state.pt", weights_only=True)


def changed_state(path, value):
    def change(state):
        state = copy.deepcopy(state)
        inner = state
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        return state

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"",
        lambda _: b"not a zip",
        lambda _: {"of": "something else"},
        lambda _: [1, 2],
        lambda _: torch.zeros(3),
        lambda state: {name: value for name, value in state.items() if name != "settings"},
        changed_state(["epoch"], "two"),
        changed_state(["history"], [{"epoch": 1}]),
        changed_state(["module"], {}),
        changed_state(["module", "model.classifier.weight"], torch.zeros(3, 3)),
        changed_state(["average"], {"module": 3}),
        changed_state(["average"], None),
        changed_state(["optimizer"], {"param_groups": []}),
        changed_state(["settings", "recipe"], {"lerning_rate": 1}),
        changed_state(["optimizer", "state", 0, "exp_avg"], torch.zeros(3)),
        changed_state(["settings", "recipe"], None),
    ],
)
def test_a_state_of_something_else_is_refused(made, tmp_path, good_state, change):
    content = change(good_state)
    if isinstance(content, bytes):
        (tmp_path / "state.pt").write_bytes(content)
    else:
        torch.save(content, tmp_path / "state.pt")
    with pytest.raises(InputError, match="output"):
        train(made, tmp_path, RECIPE, epochs=2, device="cpu")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"validation_split": "test"}, "validation_split"),
        ({"validation_split": "All"}, "validation_split"),
        ({"validation_split": "training"}, "validation_split"),
        ({"validation_split": "val", "train_split": "public_test"}, "validation_split"),
        ({"train_split": "all"}, "validation_split='public_test' must not be a part of"),
        ({"validation_split": "more", "train_split": "All"}, "validation_split='more' must not be a part of"),
        ({"minutes": 1, "epochs": 1}, "minutes"),
        ({"minutes": float("nan")}, "minutes"),
        ({"epochs": 0}, "epochs"),
        ({"seed": -1}, "seed"),
        ({"seed": 10**30}, "seed"),
        ({"device": "toaster"}, "device"),
        ({"device": "meta"}, "device"),
        ({"start_from": "no/where/at/all"}, "no/where/at/all"),
        ({"recipe": RECIPE.changed(batch_size=5000)}, "batch"),
        ({"recipe": RECIPE.changed(model={"hidden_sizes": [8]})}, "hidden_sizes"),
    ],
)
def test_what_a_run_refuses(made, tmp_path, settings, named):
    with pytest.raises(InputError, match=named):
        train(made, tmp_path / "run", **{"recipe": RECIPE, "device": "cpu", **settings})
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_be_written_is_refused(made, tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(InputError, match="run cannot be written"):
        train(made, tmp_path / "run", RECIPE, epochs=1, device="cpu")
    assert (tmp_path / "run").read_text() == "a file"


def test_bad_settings_of_the_command_end_with_a_sentence(made, tmp_path):
    from typer.testing import CliRunner

    from rmn_hub.cli.shared import main

    words = ["train", "--data", str(made), "--output", str(tmp_path / "run"), "--recipe", "none"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "--recipe none" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_start_with_other_classes_says_so(made, tmp_path):
    from rich.console import Console

    torch.manual_seed(0)
    start = RMNModel(RMNConfig(**TINY, id2label=dict(enumerate([*EXPRESSIONS, "contempt"]))))
    start.save_pretrained(tmp_path / "start")
    with (tmp_path / "lines.txt").open("w") as lines:
        result = train(
            *(made, tmp_path / "run", RECIPE),
            epochs=1,
            limit_steps=1,
            start_from=tmp_path / "start",
            device="cpu",
            console=Console(file=lines),
        )
    assert "contempt" in (tmp_path / "lines.txt").read_text()
    found = weights(result.checkpoint)
    assert found["classifier.weight"].shape[0] == 7
    name = "stages.0.layers.0.layer.0.convolution.weight"
    # One step of AdamW at a warming-up learning rate moves a weight by less than 0.01.
    torch.testing.assert_close(found[name], start.state_dict()[name], atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"do_normalize": True, "image_mean": 0.5, "image_std": 0.5},
        {"do_grayscale": False},
        {"rescale_factor": 1 / 127.5},
    ],
)
def test_a_start_that_sees_faces_in_another_way_is_refused(made, tmp_path, changes):
    start = save_checkpoint(tmp_path / "start")
    file = start / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(InputError, match="start_from"):
        train(made, tmp_path / "run", RECIPE, epochs=1, start_from=start, device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_start_that_does_not_fit_its_configuration_is_refused(made, tmp_path):
    RMNModel(RMNConfig(**TINY)).save_pretrained(tmp_path / "start")
    config = json.loads((tmp_path / "start" / "config.json").read_text())
    config["hidden_sizes"] = [8, 8, 16, 24]
    (tmp_path / "start" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError):
        train(made, tmp_path / "run", RECIPE, epochs=1, start_from=tmp_path / "start", device="cpu")
    assert not (tmp_path / "run").exists()


def test_transformers_trainer_trains_the_network(made, tmp_path):
    from transformers import Trainer, TrainingArguments

    faces = load_faces(made, "train")
    model = RMNModel(RMNConfig(**TINY, output_masks=True, output_hidden_states=True))
    processor = RMNImageProcessor(size={"height": 32, "width": 32})
    items = [
        {
            "pixel_values": processor(Image.fromarray(image), return_tensors="pt")["pixel_values"][0],
            "labels": int(label),
        }
        for image, label in zip(faces.images[::4], faces.labels[::4])
    ]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=12,
        per_device_train_batch_size=32,
        learning_rate=0.01,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    evaluated = []
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=items,
        eval_dataset=items[:9],
        compute_metrics=lambda found: evaluated.append(found) or {},
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    trainer.evaluate()
    # Neither masks nor hidden states beside the logits: they would be a tuple.
    assert [(found.predictions.shape, found.label_ids.shape) for found in evaluated] == [((9, 7), (9,))]
