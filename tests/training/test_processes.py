"""Two processes against one."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from made_faces import RECIPE, TINY, metrics

from rmn_hub import RMNModel
from rmn_hub.data.sources import load_faces
from rmn_hub.training.augment import Augmentation
from rmn_hub.training.loop import validate
from rmn_hub.training.objective import FaceTrainer
from rmn_hub.training.optimisation import precision_of
from rmn_hub.training.recipe import Recipe
from rmn_hub.training.train import train

# Nothing random but the order, which the processes share, and a batch large enough for the statistics of its half.
QUIET = RECIPE.changed(
    model={**TINY, "dropout": 0.0}, batch_size=64, augmentation=Augmentation(), sizes=((1.0, 32),), ema=0.5
)


@pytest.fixture(scope="module")
def two(made, tmp_path_factory):
    """The folder of a run of two processes, of three epochs."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "recipe.yaml").write_text(json.dumps(QUIET.to_dict()))
    # `accelerate launch --cpu` starts a single process where there is no MPI, whatever the number asked for.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["-m", "rmn_hub", "train", "--data", str(made), "--recipe", str(folder / "recipe.yaml")]
    launch += ["--output", str(folder / "run"), "--epochs", "3"]
    done = subprocess.run(
        [*launch, "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 3") == 1  # the first process speaks for all
    assert json.loads((folder / "run" / "run.json").read_text())["processes"] == 2
    return folder / "run"


def test_two_processes_train_as_one_does(made, two, tmp_path):
    one = train(made, tmp_path / "run", QUIET, epochs=3, device="cpu")
    rows, expected = metrics(two), metrics(tmp_path / "run")
    assert [row["learning_rate"] for row in rows] == [row["learning_rate"] for row in expected]
    losses, lone = (np.array([float(row["loss"]) for row in each]) for each in (rows, expected))
    # BatchNorm sees 32 faces in each of two processes and 64 in one.
    np.testing.assert_allclose(losses, lone, rtol=0.08)
    assert lone[2] < 0.9 * lone[0]
    found, alone = (RMNModel.from_pretrained(folder / "best").state_dict() for folder in (two, tmp_path / "run"))
    assert {name: tensor.shape for name, tensor in found.items()} == {
        name: tensor.shape for name, tensor in alone.items()
    }
    assert Recipe.from_dict(json.loads((two / "best" / "run.json").read_text())["recipe"]) == QUIET
    assert sorted(path.name for path in (two / "best").iterdir()) == sorted(
        path.name for path in one.checkpoint.iterdir()
    )


def test_shared_validation_is_that_of_one_process(made, two):
    """70 faces for two processes, and the accuracy of the checkpoint that was saved."""
    best = max((row for row in metrics(two)), key=lambda row: float(row["accuracy"]))
    device = torch.device("cpu")
    accelerator = Accelerator(cpu=True, mixed_precision=precision_of(device))
    module = FaceTrainer(RMNModel.from_pretrained(two / "best"))
    accuracy, loss = validate(module, load_faces(made, "val"), 32, accelerator, device)
    assert accuracy == pytest.approx(float(best["accuracy"]), abs=1e-5)
    assert loss == pytest.approx(float(best["validation_loss"]), abs=1e-3)


def test_a_run_of_two_processes_goes_on_in_epochs_with_two_only(made, two):
    with pytest.raises(ValueError, match="processes"):
        train(made, two, QUIET, epochs=4, device="cpu")
