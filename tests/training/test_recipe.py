"""Recipes: those of the package, and files with every kind of mistake."""

import json

import pytest
from made_faces import RECIPE

from rmn_hub import RMNConfig
from rmn_hub.errors import InputError
from rmn_hub.training.recipe import RECIPES, Recipe, recipe_names
from rmn_hub.training.run_folder import command_line


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_describes_a_network(name):
    recipe = Recipe.load(name)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert recipe.differences(Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))) == {}
    RMNConfig(**recipe.model)
    # A comment on top states what it is for.
    assert (RECIPES / f"{name}.yaml").read_text().startswith("# ")


def test_a_base_is_merged_field_by_field(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "base: cpu\nlearning_rate: 0.5\nmodel: {dropout: 0.1}\naugmentation: {mixup: 1}\n"
    )
    (tmp_path / "next.yaml").write_text("base: mine.yaml\nsizes: [[1.0, 40]]\n")  # beside the file, wherever one is
    recipe, cpu = Recipe.load(tmp_path / "next.yaml"), Recipe.load("cpu")
    assert {name: mine for name, (mine, _) in recipe.differences(cpu).items()} == {
        "learning_rate": 0.5,
        "model.dropout": 0.1,
        "augmentation.mixup": 1,
        "sizes": [[1.0, 40]],
    }


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("lerning_rate: 1", "lerning_rate"),
        ("augmentation: {rotatoin: 1}", "rotatoin"),
        ("model: {hidden_size: 3}", "hidden_size"),
        ("model: {hidden_sizes: [8]}", "hidden_sizes"),
        ("model: {num_labels: 3}", "num_labels"),
        ("model: {num_channels: 1}", "num_channels"),
        ("sizes: [[0.5, 8], [0.5, 48]]", "mask_depths"),  # the first faces are too small to be masked
        ("model: [1]", "model"),
        ("optimizer: adam", "adamw"),
        ("flip: never", "alternate"),
        ("learning_rate: 1e-3", "1.0e-3"),  # which YAML takes for a word
        ("learning_rate: .nan", "learning_rate"),
        ("learning_rate: .inf", "learning_rate"),
        ("learning_rate: 0", "learning_rate"),
        ("learning_rate: true", "learning_rate"),
        ("weight_decay: -1", "weight_decay"),
        ("batch_size: 1", "batch_size"),
        ("batch_size: 2.5", "batch_size"),
        ("batch_size: 1000000000000000000000000000000", "batch_size"),
        ("warmup: 2", "warmup"),
        ("ema: 1", "ema"),
        ("label_smoothing: 1", "label_smoothing"),
        ("minutes: -3", "minutes"),
        ("evaluate_every: 0", "evaluate_every"),
        ("sizes: 48", "sizes"),
        ("sizes: []", "sizes"),
        ("sizes: [[1, 48, 3]]", "sizes"),
        ("sizes: [[0.5, 48]]", "sum to 1"),
        ("sizes: [[1.5, 48], [-0.5, 48]]", "sizes"),
        ("sizes: [[1.0, 48.5]]", "size"),
        ("sizes: [[1.0, 100000]]", "size"),
        ("augmentation: {erasing: 2}", "erasing"),
        ("augmentation: [1]", "augmentation"),
        ("[", "cannot be read"),
        ("- 1", "fields"),
        ("1: 2", "fields"),
        ("", "fields"),
        ("base: nowhere", "nowhere"),
        ("base: [cpu]", "base"),
        ("base: mine.yaml", "itself"),
        ("base: other.yaml", "itself"),
        ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]", "alias"),
        ("learning_rate: 2001-13-41", "cannot be read"),
        ("[" * 30_000, "cannot be read"),
        ("x: " + "y" * 200_000, "bytes"),
        ("minutes: \ud800".encode("utf-8", "surrogatepass"), "cannot be read"),
    ],
)
def test_a_recipe_with_a_mistake_names_it(tmp_path, text, named):
    (tmp_path / "mine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "other.yaml").write_text("base: mine.yaml")
    with pytest.raises(InputError, match=named.replace(".", r"\.")):
        Recipe.load(tmp_path / "mine.yaml")


@pytest.mark.parametrize("name", ["", "none", "../recipes/cpu", "x" * 5000, "a\0b", "."])
def test_a_recipe_that_is_not_there(name):
    with pytest.raises(InputError, match="recipe="):
        Recipe.load(name)


@pytest.mark.parametrize(
    ("sizes", "size", "scaled"),
    [((48,), 80, (80,)), ((32, 40, 48), 80, (56, 64, 80)), ((64, 80), 32, (24, 32)), ((32, 48), 48, (32, 48))],
)
def test_sizes_follow_the_network_that_a_run_starts_from(sizes, size, scaled):
    recipe = RECIPE.changed(sizes=tuple((1 / len(sizes), each) for each in sizes))
    assert tuple(each for _, each in recipe.for_size(size).sizes) == scaled


def test_the_network_is_of_the_last_size(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: quick\nsizes: [[0.5, 48], [0.5, 64]]\n")
    for name, size in ((tmp_path / "mine.yaml", 64), ("face-trunk", 80), ("student", 80), ("original", 224)):
        assert RMNConfig(**Recipe.load(name).network()).image_size == size


def test_changes_are_checked_too():
    with pytest.raises(InputError, match="learning_rate"):
        RECIPE.changed(learning_rate=float("nan"))


def test_the_command_line_of_a_recipe():
    assert command_line("train", Recipe.load("cpu"), {"--minutes": 116.0, "--seed": 0, "--epochs": None}) == (
        "rmn-hub train --recipe cpu --minutes 116 --seed 0"
    )
    assert "--recipe gpu --learning-rate 0.1" in command_line(
        "train", Recipe.load("gpu").changed(learning_rate=0.1), {}
    )
    assert "--recipe RECIPE.yaml" in command_line("train", Recipe.load("gpu").changed(warmup=0.1), {})
    assert command_line("train", Recipe.load("cpu"), {"--data": "my faces"}).endswith("--data 'my faces'")
    for name in recipe_names():
        assert f"--recipe {name}" in command_line("train", Recipe.load(name), {})
