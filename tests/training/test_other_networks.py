"""Runs of the networks that the RMN is compared with."""

import json

import pytest
import torch
from cli_helpers import run
from made_faces import RECIPE, metrics

from rmn_hub.baselines.networks import name_of
from rmn_hub.errors import CheckpointError, InputError
from rmn_hub.hub import checkpoint
from rmn_hub.training.recipe import Recipe
from rmn_hub.training.train import train

OWN = RECIPE.changed(votes_weight=0.4)


@pytest.fixture(scope="module")
def trained(made, tmp_path_factory):
    """A ResNet18 of two epochs, interrupted after the first."""
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("resnet18") / "run"
    options = {"network": "resnet18", "epochs": 2, "validation_split": "val", "device": "cpu"}
    train(made, output, OWN, limit_steps=8, **options)
    assert len(metrics(output)) == 1
    return train(made, output, OWN, **options)


def test_a_run_of_another_network(trained):
    output = trained.checkpoint.parent
    first, second = metrics(output)
    assert (first["epoch"], second["epoch"]) == ("1", "2")
    # So few steps leave BatchNorm's running statistics behind: the loss shows what was learned, the accuracy does not.
    assert float(second["loss"]) < 0.8 * float(first["loss"])
    model = checkpoint.load(trained.checkpoint).model
    assert (name_of(model.config), model.config.image_size) == ("resnet18", 32)
    record = json.loads((output / "run.json").read_text())
    assert (record["network"], record["recipe"]["model"]) == ("resnet18", {})  # a recipe's model is an RMN's
    assert "--network resnet18" in record["command"]


def test_a_run_does_not_go_on_with_another_network(made, trained):
    with pytest.raises(InputError, match="network"):
        train(made, trained.checkpoint.parent, OWN, network="resnet34", epochs=2, validation_split="val", device="cpu")


def test_another_network_is_a_start(made, trained, tmp_path):
    options = {"start_from": trained.checkpoint, "epochs": 1, "validation_split": "val", "device": "cpu"}
    result = train(made, tmp_path / "run", RECIPE, limit_steps=1, **options)
    assert name_of(checkpoint.load(result.checkpoint).model.config) == "resnet18"
    record = json.loads((result.checkpoint / "run.json").read_text())
    assert (record["network"], record["recipe"]["model"]) == ("resnet18", {})
    config = trained.checkpoint / "config.json"
    before = config.read_text()
    config.write_text(before.replace('"sad"', '"tired"'))
    try:
        with pytest.raises(CheckpointError, match="tired"):
            train(made, tmp_path / "other", RECIPE, **options)
    finally:
        config.write_text(before)


def test_bad_networks_are_one_sentence(made, trained, tmp_path):
    words = ("train", "--data", made, "--output", tmp_path / "run", "--device", "cpu")
    result = run(*words, "--network", "alexnet")
    assert result.exit_code == 2
    assert "--network alexnet" in result.stderr
    result = run(*words, "--network", "vgg19", "--start-from", trained.checkpoint)
    assert result.exit_code == 2
    assert "--start-from" in result.stderr
    assert not (tmp_path / "run").exists()


def test_the_quick_recipe_is_the_same_for_every_network():
    recipe = Recipe.load("quick")
    assert recipe.votes_weight == 0
    assert {size for _, size in recipe.sizes} == {recipe.model["image_size"]} == {48}
