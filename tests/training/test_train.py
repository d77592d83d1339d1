"""Training on a set that is drawn here: seven patterns that a small network tells apart within seconds."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from rmn_hub import EXPRESSIONS, RMNConfig, RMNModel
from rmn_hub.baselines.ensemble import ensemble_probabilities
from rmn_hub.data.sources import load_faces
from rmn_hub.errors import InputError, TrainingError
from rmn_hub.training.augment import Augmentation, augment, mix
from rmn_hub.training.distill import Teacher, distill, make_view, teach
from rmn_hub.training.loop import schedule, train
from rmn_hub.training.recipe import RECIPES, Recipe

TINY = {
    "image_size": 32,
    "stem": "small",
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "mask_depths": [2, 1, 1, 1],
    "mask_ratio": 0.25,
    "dropout": 0.0,
}
RECIPE = Recipe(
    model=TINY,
    learning_rate=0.01,
    batch_size=32,
    ema=0.9,
    sizes=((0.5, 24), (0.5, 32)),
    augmentation=Augmentation(rotation=5, shift=0.05, brightness=0.1, erasing=0.1),
)


def draw(rng, label):
    """A "face" of a class: a bright bar at the class's angle, on noise."""
    angle = np.pi * label / len(EXPRESSIONS)
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    bar = np.abs(x * np.sin(angle) - y * np.cos(angle) + rng.normal(0, 0.05)) < 0.25
    return np.clip(80 + 120 * bar + rng.normal(0, 25, bar.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bars")
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 10)):
        for label, name in enumerate(EXPRESSIONS):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(draw(rng, label)).save(folder / split / name / f"{number}.png")
    return folder


def metrics(output):
    with (output / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(autouse=True)
def no_flips(monkeypatch):
    """The bars of a class, mirrored, are those of another: no face has that problem. So these tests do not mirror."""
    import rmn_hub.training.train as room

    monkeypatch.setattr(
        room, "augment", lambda images, flip, *rest: augment(images, torch.zeros_like(flip), *rest), raising=True
    )


def test_a_short_run_beats_chance_by_far(bars, tmp_path):
    result = train(bars, tmp_path / "run", RECIPE, epochs=8, cpu=True)
    assert result.accuracy > 0.7  # chance is 1 in 7
    model = RMNModel.from_pretrained(result.checkpoint)
    faces = load_faces(bars, "val")
    probabilities = ensemble_probabilities([model], faces.images)
    assert np.mean(probabilities.argmax(1) == faces.labels) == pytest.approx(result.accuracy, abs=0.05)
    rows = metrics(tmp_path / "run")
    assert [row["size"] for row in rows] == ["24"] * 4 + ["32"] * 4
    assert float(rows[-1]["learning_rate"]) < float(rows[1]["learning_rate"]) / 10
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert (tmp_path / "run" / "curves.png").is_file()
    # The model card tells of both, and a checkpoint goes to the Hub without the rest of its run.
    for name in ("run.json", "metrics.csv"):
        assert (result.checkpoint / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_a_run_that_stopped_goes_on_to_the_same_end(bars, tmp_path):
    whole = train(bars, tmp_path / "whole", RECIPE, epochs=3, cpu=True)
    train(bars, tmp_path / "parts", RECIPE, epochs=3, cpu=True, limit_steps=8)  # one epoch is 8 steps
    assert len(metrics(tmp_path / "parts")) == 1
    parts = train(bars, tmp_path / "parts", RECIPE, epochs=3, cpu=True)
    assert [row["learning_rate"] for row in metrics(tmp_path / "parts")] == [
        row["learning_rate"] for row in metrics(tmp_path / "whole")
    ]
    expected, found = (RMNModel.from_pretrained(run.checkpoint).state_dict() for run in (whole, parts))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=2e-3, rtol=2e-3)


def test_a_killed_run_loses_its_current_epoch_only(bars, tmp_path):
    train(bars, tmp_path, RECIPE, epochs=4, cpu=True, limit_steps=8)
    code = "import sys; from rmn_hub.cli import main; main()"
    command = [sys.executable, "-c", code, "train", "--data", str(bars), "--output", str(tmp_path), "--cpu"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(RECIPE.to_dict()))
    command += ["--recipe", str(recipe), "--minutes", "10"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:  # killed in the middle of some epoch after the second
        if line.startswith("epoch 2"):
            break
    process.kill()
    process.wait()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["epoch"] >= 2
    assert len(metrics(tmp_path)) in (state["epoch"], state["epoch"] + 1)
    assert not list(tmp_path.glob("best.*"))
    result = train(bars, tmp_path, RECIPE, minutes=10, limit_steps=2, cpu=True)
    assert result.epochs == state["epoch"] + 1


def test_a_budget_in_minutes_ends_with_a_learning_rate_near_zero(bars, tmp_path):
    train(bars, tmp_path, RECIPE, minutes=0.1, cpu=True)
    rows = metrics(tmp_path)
    assert float(rows[-1]["minutes"]) >= 0.1
    assert float(rows[-1]["learning_rate"]) < 0.1 * RECIPE.learning_rate


def test_two_processes(bars, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(RECIPE.to_dict()))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--num_cpu_threads_per_process", "1"]
    command = [*launch, "-m", "rmn_hub", "train", "--data", str(bars), "--recipe", str(recipe)]
    output = tmp_path / "run"
    done = subprocess.run(
        [*command, "--output", str(output), "--epochs", "2", "--cpu"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert len(metrics(output)) == 2
    assert RMNModel.from_pretrained(output / "best").config.hidden_sizes == (8, 8, 16, 16)


def test_the_original_recipe_trains_the_default_network(bars, tmp_path):
    recipe = Recipe.load("original")
    assert RMNConfig(**recipe.model) == RMNConfig()
    assert (recipe.optimizer, recipe.sizes) == ("radam", ((1.0, 224),))
    small = {**TINY, "image_size": 224, "stem": "imagenet"}
    result = train(bars, tmp_path, recipe.changed(model=small, batch_size=16), epochs=1, limit_steps=3, cpu=True)
    assert result.epochs == 1
    assert metrics(tmp_path)[0]["size"] == "224"


def test_a_loss_that_is_not_a_number_stops_with_a_sentence(bars, tmp_path):
    with pytest.raises(TrainingError, match=r"not a number.*learning-rate"):
        train(bars, tmp_path, RECIPE.changed(learning_rate=1e30, optimizer="sgd"), epochs=3, cpu=True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--recipe", "none"], "there is no recipe 'none'"),
        (["--validation-split", "private_test"], "scored once"),
        (["--batch-size", "5000"], "fewer than one batch"),
    ],
)
def test_bad_settings_end_with_a_sentence(bars, tmp_path, arguments, sentence):
    from typer.testing import CliRunner

    from rmn_hub.cli.shared import main

    result = CliRunner().invoke(main, ["train", "--data", str(bars), "--output", str(tmp_path / "run"), *arguments])
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert not (tmp_path / "run").exists()


def test_another_seed_does_not_go_on_with_a_run(bars, tmp_path):
    train(bars, tmp_path, RECIPE, epochs=1, limit_steps=1, cpu=True)
    with pytest.raises(InputError, match="another seed"):
        train(bars, tmp_path, RECIPE, epochs=1, seed=1, cpu=True)


@pytest.mark.parametrize("content", [b"", b"not a zip", {"of": "something else"}])
def test_a_state_of_something_else_is_refused(bars, tmp_path, content):
    if isinstance(content, bytes):
        (tmp_path / "state.pt").write_bytes(content)
    else:
        torch.save(content, tmp_path / "state.pt")
    with pytest.raises(InputError, match="is not what rmn-hub train wrote"):
        train(bars, tmp_path, RECIPE, epochs=1, cpu=True)


def test_an_ensemble_teaches_a_student(bars, tmp_path):
    """Two members, four views, one file; the student learns from it what the labels alone would not tell it so soon."""
    checkpoints = [
        train(bars, tmp_path / f"member{seed}", RECIPE, epochs=6, seed=seed, cpu=True).checkpoint for seed in (1, 2)
    ]
    models = [RMNModel.from_pretrained(checkpoint) for checkpoint in checkpoints]
    faces, held_out = load_faces(bars, "train"), load_faces(bars, "val")

    single = [ensemble_probabilities([model], held_out.images) for model in models]
    both = ensemble_probabilities(models, held_out.images)
    np.testing.assert_allclose(both, (single[0] + single[1]) / 2, atol=1e-6)
    np.testing.assert_allclose(both.sum(1), 1, atol=1e-5)

    how = Augmentation(rotation=5, shift=0.05)
    teach(models, ["1", "2"], faces, how, views=4).save(tmp_path / "teacher.npz")
    teacher = Teacher.load(tmp_path / "teacher.npz")
    assert teacher.probabilities.shape == (4, len(faces), 7)
    assert teacher.probabilities.dtype == np.float16
    assert teacher.augmentation == how
    result = distill(teacher, bars, tmp_path / "student", RECIPE, epochs=8, cpu=True)
    assert result.accuracy > 0.5
    with pytest.raises(InputError, match="other training faces"):
        distill(teacher, bars, tmp_path / "other", RECIPE, epochs=1, train_split="val", cpu=True)
    with pytest.raises(InputError, match="not a teacher's file"):
        Teacher.load(tmp_path / "member1" / "metrics.csv")


def test_a_view_is_the_same_every_time():
    images = np.random.default_rng(0).integers(0, 256, (5, 48, 48), dtype=np.uint8)
    how = Augmentation(rotation=10, scale=0.1, erasing=0.5)
    first, again, other = (make_view(images, view, 32, how, seed=3) for view in (0, 0, 1))
    assert first.shape == (5, 32, 32)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_augmentation_of_nothing_changes_nothing():
    images = torch.randint(0, 256, (3, 20, 20), dtype=torch.uint8)
    flip = torch.tensor([False, True, False])
    faces = augment(images, flip, 20, Augmentation(), torch.Generator())
    expected = images.float() / 255
    expected[1] = expected[1].flip(-1)
    torch.testing.assert_close(faces[:, 0], expected, atol=1e-5, rtol=0)


def test_every_augmentation_stays_in_range_and_differs_by_image():
    images = torch.full((64, 48, 48), 100, dtype=torch.uint8)
    images[:, 10:20, 5:40] = 200
    how = Augmentation(rotation=15, scale=0.2, shift=0.1, brightness=0.3, contrast=0.3, gamma=0.3, erasing=0.5)
    faces = augment(images, torch.zeros(64, dtype=torch.bool), 32, how, torch.Generator().manual_seed(0))
    assert faces.shape == (64, 1, 32, 32)
    assert faces.min() >= 0
    assert faces.max() <= 1
    assert len(torch.unique(faces.flatten(1), dim=0)) == 64


def test_mixup_mixes_faces_and_targets_alike():
    faces, targets = torch.eye(4)[:, None, None, :].contiguous(), torch.eye(4)
    mixed, labels = mix(faces, targets, 0.4, torch.Generator().manual_seed(1))
    torch.testing.assert_close(mixed[:, 0, 0], labels)
    torch.testing.assert_close(labels.sum(1), torch.ones(4))
    assert ((labels > 0) & (labels < 1)).any()


def test_the_schedule_warms_up_and_ends_at_zero():
    values = [schedule(progress, 0.1) for progress in np.linspace(0, 1, 101)]
    assert max(values) == pytest.approx(1, abs=0.01)
    assert values.index(max(values)) == 10
    assert values[-1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_describes_a_network(path):
    recipe = Recipe.load(path.stem)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    RMNConfig(**recipe.model)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("lerning_rate: 1", "unknown field lerning_rate"), ("optimizer: adam", "adamw"), ("[", "cannot be read")],
)
def test_a_recipe_with_a_mistake_names_it(tmp_path, text, sentence):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InputError, match=sentence):
        Recipe.load(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"validation_split": "test"}, "private_test is scored once"),
        ({"minutes": 1, "epochs": 1}, "one budget"),
    ],
)
def test_what_a_run_refuses(bars, tmp_path, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        train(bars, tmp_path / "run", RECIPE, cpu=True, **settings)
    assert not (tmp_path / "run").exists()
