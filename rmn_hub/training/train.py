"""Training: what `rmn-hub train` calls. Data, start and settings are checked here, then the loop runs."""

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console

from ..baselines.networks import NETWORKS, Network, name_of
from ..baselines.networks import network as make_network
from ..data.faces import FaceSet, check_choosing, check_seed
from ..data.sources import OpenedSet
from ..devices import usable_device
from ..engines.pixels import CONFIG as PROCESSOR
from ..engines.pixels import PixelProcessor
from ..errors import InputError, TrainingError
from ..expressions import EXPRESSIONS
from ..hub import checkpoint
from ..hub.records import BEST, public_name
from ..model.configuration_rmn import RMNConfig
from ..model.modeling_rmn import RMNModel
from ..progress import Progress, silent
from .feeding import Source, faces_for_training, share_of, size_for_training
from .loop import Budget, TrainingResult, TrainingRun
from .optimisation import precision_of
from .recipe import NOT_OF_THE_NETWORK, Recipe
from .run_folder import command_line


def train(
    data: str | Path | OpenedSet,
    output: str | Path,
    recipe: Recipe,
    *,
    network: str = "rmn",
    minutes: float | None = None,
    epochs: int | None = None,
    seed: int = 0,
    start_from: str | Path | None = None,
    train_split: str = "train",
    validation_split: str = "public_test",
    limit_steps: int | None = None,
    source: Source | None = None,
    in_memory: bool | None = None,
    device: str | None = None,
    console: Console | None = None,
    progress: Progress = silent,
) -> TrainingResult:
    """
    Train a network, or go on with the run found in `output`.

    The folder holds `state.pt` (to resume from), `run.json` (command, recipe, budget, seed, data), `metrics.csv`,
    `curves.png` and the checkpoint `best`: the moving average of the weights with the best single-view accuracy on the
    validation split, with a copy of `run.json` and `metrics.csv` at the end. A run that is killed loses the current
    epoch only.

    Args:
        data: file or folder, see [`load_faces`], or an opened set.
        output: folder of the run.
        recipe: see [`Recipe`]. Its `model` is an RMN's: another network has neither its dropout nor its head for votes.
            All are made for the last of its `sizes`.
        network: one of `rmn_hub.baselines.networks.NETWORKS`.
        minutes: wall-clock budget over all sittings; the recipe's when neither this nor `epochs` is given. A finished
            run goes on when it is given more.
        epochs: budget in epochs instead, for runs that have to be equal on any machine.
        seed: of weights, order, augmentation and dropout; 0 to 2**31 - 1.
        start_from: checkpoint (folder or Hub id) to start from; its configuration is used, not the recipe's model, and
            the recipe's sizes are scaled to end at its size. Its image processing must be that of training: grey,
            times 1/255, not normalised.
        train_split: split to train on.
        validation_split: split that chooses the checkpoint. Never the one that is reported, or one with training faces.
        limit_steps: stop after so many steps of this sitting, to try a recipe out.
        source: what every epoch trains on instead of the split itself.
        in_memory: decode all faces once, or in every epoch again; when not given, sets of up to 2 GiB once.
        device: where to train; the GPU when there is one.
        console: where the lines about epochs go; nowhere when not given.
        progress: called with the thousandths of the budget that are spent.

    Raises:
        InputError: the data or the settings cannot be used; the message states what to do.
        CheckpointError: `start_from` cannot be loaded.
        TrainingError: the loss is no longer a number.
    """
    check_choosing("validation_split", validation_split, train_split)
    if minutes is not None and epochs is not None:
        raise InputError(f"minutes={minutes} and epochs={epochs} are two budgets: give one")
    for name, value in (("minutes", minutes), ("epochs", epochs)):
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{name}={value} must be a finite number greater than 0")
    check_seed(seed)
    if network not in NETWORKS:
        raise InputError(f"network={network!r} must be one of {', '.join(NETWORKS)}")
    if network != "rmn" and start_from is not None:
        raise InputError(f"network={network!r} and start_from exclude each other: a checkpoint brings its network")
    recipe.check_model()
    named, start, start_hash = recipe, None, None
    if start_from is not None:
        folder = checkpoint.find(start_from)
        _check_processing(folder, str(start_from))
        start, start_hash = checkpoint.load_model(start_from), checkpoint.weights_hash(folder)
        recipe = recipe.for_size(start.config.image_size)
    chosen = usable_device(device)
    accelerator = _accelerator(chosen)
    if accelerator.num_processes > 1:
        chosen = accelerator.device

    def say(text: str) -> None:
        if console is not None and accelerator.is_main_process:
            console.print(text, markup=False, highlight=False, soft_wrap=True)

    if recipe is not named:
        sizes = ", ".join(str(size) for _, size in recipe.sizes)
        say(f"note: {start_from} is a network for {recipe.sizes[-1][1]} px: it is trained at {sizes} px.")
    opened = data if isinstance(data, OpenedSet) else OpenedSet.open(data)
    stored, held_out = opened.split(train_split), opened.split(validation_split)
    size = size_for_training(stored, max(size for _, size in recipe.sizes))
    faces = faces_for_training(stored, size if source is None else source.size or size, in_memory)
    validation = faces_for_training(held_out, size, in_memory)
    for note in dict.fromkeys((*faces.notes, *validation.notes)):
        say(f"note: {note}")
    batch = share_of(recipe.batch_size, accelerator.num_processes) * accelerator.num_processes
    if len(faces) < batch:
        raise InputError(
            f"{len(faces)} training faces are fewer than one batch of {batch}: add faces, or make the recipe's batches "
            "smaller"
        )
    budget = Budget(recipe.minutes if minutes is None and epochs is None else minutes, epochs)
    settings = {
        "recipe": recipe.to_dict(),
        "seed": seed,
        "budget": budget.kind,
        "start_from": start_hash,
        # None for an RMN: earlier runs have no such setting.
        "network": network if network != "rmn" else None,
        "data": faces.fingerprint(),
        "validation": validation.fingerprint(),
        "source": source.identity if source else None,
        "in_memory": isinstance(faces, FaceSet),
        # In epochs the number of steps hangs on it.
        "processes": accelerator.num_processes if budget.kind == "epochs" else None,
    }
    shown_start = None if start_from is None else public_name(start_from)
    record = {
        "command": command_line(
            source.program if source else "train",
            named,
            {
                "--network": network if network != "rmn" else None,
                "--data": public_name(opened.where),
                "--minutes": budget.minutes,
                "--epochs": budget.epochs,
                "--seed": seed,
                "--start-from": shown_start,
                "--train-split": train_split if train_split != "train" else None,
                "--validation-split": validation_split if validation_split != "public_test" else None,
            },
        ),
        "network": network if start is None else name_of(start.config),
        "recipe": {**recipe.to_dict(), "model": _trained_settings(network, recipe, start)},
        "minutes": budget.minutes,
        "epochs": budget.epochs,
        "seed": seed,
        "start_from": shown_start,
        "start_from_sha256": start_hash,
        # A member's folder is its run's `best`, as a rule, and may be gone.
        "teacher": [public_name(Path(name).parent if Path(name).name == BEST else name) for name in source.teacher]
        if source
        else None,
        "data": {
            "name": public_name(opened.where),
            "split": train_split,
            "faces": len(faces),
            "fingerprint": faces.fingerprint(),
            "validation_split": validation_split,
            "validation_fingerprint": validation.fingerprint(),
        },
        "precision": accelerator.mixed_precision,
        "processes": accelerator.num_processes,
    }
    # The caller's random numbers go on as if there had been no training.
    with torch.random.fork_rng(devices=[chosen] if chosen.type == "cuda" else []):
        torch.manual_seed(seed)
        model = _fresh_model(network, recipe) if start is None else _starting_model(start, str(start_from), say)
        run = TrainingRun(
            model,
            faces,
            validation,
            Path(output),
            recipe,
            budget=budget,
            settings=settings,
            seed=seed,
            source=source,
            device=chosen,
            accelerator=accelerator,
            say=say,
            progress=progress,
        )
        return run.run(record, limit_steps)


def _accelerator(device: torch.device) -> Accelerator:
    try:
        # Tensors are moved here: accelerate would take the first GPU, whichever was asked for.
        return Accelerator(cpu=device.type == "cpu", mixed_precision=precision_of(device), device_placement=False)
    except ValueError as error:  # its state belongs to the process and keeps the first device's precision
        raise TrainingError(
            f"this process has trained on another kind of device before: {' '.join(str(error).split())} Start anew."
        ) from error


def _settings_of(config: RMNConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in RMNConfig.__annotations__ if name not in NOT_OF_THE_NETWORK}


def _trained_settings(network: str, recipe: Recipe, start: Network | None) -> dict[str, Any]:
    """Return the settings of the RMN that is trained: a start's are its own, and another network has none."""
    if isinstance(start, RMNModel):
        return _settings_of(start.config)
    return recipe.network() if network == "rmn" and start is None else {}


def _fresh_model(network: str, recipe: Recipe) -> Network:
    return RMNModel(RMNConfig(**recipe.network())) if network == "rmn" else make_network(network, recipe.sizes[-1][1])


def _check_processing(folder: Path, start_from: str) -> None:
    """Refuse a start that sees faces in another way than training, which saves a processor of its own."""
    if not (folder / PROCESSOR).is_file():
        return
    own, usual = asdict(PixelProcessor.from_folder(folder)), asdict(PixelProcessor())
    others = [f"{name}={own[name]}" for name in own if name not in ("height", "width") and own[name] != usual[name]]
    if others:
        raise InputError(
            f"start_from={start_from!r} must see faces as training does (grey, bilinear, times 1/255, not normalised), "
            f"but its {PROCESSOR} leads to {', '.join(others)}: start from another checkpoint"
        )


def _starting_model(model: Network, start_from: str, say: Callable[[str], None]) -> Network:
    """Return a checkpoint's network, with a classifier of random weights where an RMN's expressions are others."""
    names = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
    if names == EXPRESSIONS:
        return model
    if not isinstance(model, RMNModel):
        return checkpoint.load_model(start_from, expressions=EXPRESSIONS)  # which refuses it
    fresh = RMNModel(RMNConfig(**_settings_of(model.config)))
    kept = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("classifier.")}
    fresh.load_state_dict({**fresh.state_dict(), **kept})
    say(f"{start_from} predicts {', '.join(names)}: its classifier is left out, a new one starts from random weights.")
    return fresh


__all__ = ["train"]
