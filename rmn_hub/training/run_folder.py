"""
The folder of a run: its best checkpoint, its state to go on from, its record and its curves.

Whatever is written is written beside and renamed. The order is: new checkpoint beside the old one, state, exchange of
the checkpoints. So the state always shows which of two checkpoints is the best one, and a kill at any point loses no
more than the current epoch.
"""

import csv
import json
import pickle
import shutil
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers.dynamic_module_utils import custom_object_save

from ..baselines.networks import Network
from ..errors import InputError
from ..files import naming_failures, replacing
from ..hub.checkpoint import CONFIG, WEIGHTS
from ..hub.records import BEST
from ..model.configuration_rmn import AUTO_MAP
from ..model.image_processing_rmn import RMNImageProcessor
from ..model.modeling_rmn import RMNModel
from .recipe import Recipe, recipe_names

METRICS = ("epoch", "minutes", "size", "learning_rate", "loss", "images_per_second", "accuracy", "validation_loss")
# Options of the command line that change fields of a recipe.
OVERRIDES = {"batch_size": "--batch-size", "learning_rate": "--learning-rate"}

# What a run puts beside its best checkpoint at its end.
_ADDED = {"run.json", "metrics.csv"}


class RunFolder:
    """
    The files of one run.

    Args:
        path: the folder; it is made when something is written.

    Raises:
        InputError: by whatever writes, when the folder cannot be written (it is a file, the disk is full, ...).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best, self.state = path / BEST, path / "state.pt"

    def prepare_best(self, model: Network, epoch: int) -> None:
        """Write configuration, weights and processor of a checkpoint beside the best one until now."""
        with naming_failures(self.path):
            beside = self._beside(epoch)
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            # What `save_pretrained` writes, without its progress bar on stderr.
            model.config.architectures = [type(model).__name__]
            model.config.dtype = model.dtype
            if isinstance(model, RMNModel):
                model.config.auto_map = dict(AUTO_MAP)
                custom_object_save(model, beside)
            model.config.save_pretrained(beside)
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
            try:
                save_file(tensors, beside / WEIGHTS, metadata={"format": "pt"})
            except SafetensorError as error:  # its own writer, on a full disk
                raise OSError(str(error)) from error
            # safetensors makes files that their owner alone can read.
            (beside / WEIGHTS).chmod((beside / CONFIG).stat().st_mode)
            size = model.config.image_size
            RMNImageProcessor(size={"height": size, "width": size}).save_pretrained(beside)

    def settle_best(self, epoch: int) -> Path | None:
        """
        Make the checkpoint of an epoch the best one, where it is still beside it, and remove what a kill has left.

        Returns:
            Where the best one until now is kept, if it holds files that no run writes (a card, numbers, ONNX files).
        """
        kept = None
        with naming_failures(self.path):
            beside, old = self._beside(epoch), self.path / "best.old"
            if beside.is_dir():
                if self.best.exists():
                    if {path.name for path in self.best.iterdir()} - {path.name for path in beside.iterdir()} - _ADDED:
                        kept = self._free_name()
                    shutil.rmtree(old, ignore_errors=True)
                    self.best.rename(kept or old)
                beside.rename(self.best)
            elif old.is_dir() and not self.best.exists():
                old.rename(self.best)
            for rest in (old, *self.path.glob("best.part*")):
                shutil.rmtree(rest, ignore_errors=True)
        return kept

    def _free_name(self) -> Path:
        names = (self.path / ("best.before" if number == 1 else f"best.before-{number}") for number in count(1))
        return next(path for path in names if not path.exists())

    def _beside(self, epoch: int) -> Path:
        return self.path / f"best.part-{epoch}"

    def write_metrics(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write one row per epoch."""
        metrics = self.path / "metrics.csv"
        with naming_failures(self.path), replacing(metrics) as beside, beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, METRICS)
            writer.writeheader()
            writer.writerows(history)

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write `run.json`: how the run is made again."""
        with naming_failures(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with replacing(self.path / "run.json") as beside:
                beside.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Write what a resumed run needs."""
        with naming_failures(self.path), replacing(self.state) as beside:
            try:
                torch.save(dict(state), beside)
            except RuntimeError as error:  # torch's own writer, on a full disk
                raise OSError(str(error)) from error

    def finish(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Draw the curves, and put record and curves beside the best checkpoint, for its model card."""
        with naming_failures(self.path):
            from ..drawing.figures import training_curves

            with replacing(self.path / "curves.png") as beside:
                training_curves(history).save(beside)
            if self.best.is_dir():
                for name in _ADDED:
                    with replacing(self.best / name) as beside:
                        shutil.copyfile(self.path / name, beside)

    def read_state(
        self, device: torch.device, settings: Mapping[str, Any], shapes: Mapping[str, torch.Size]
    ) -> dict[str, Any]:
        """
        Read what [`write_state`] wrote.

        Args:
            device: where its tensors go.
            settings: of the run that will go on; only its budget may have grown.
            shapes: of the tensors of the module that will go on.

        Raises:
            InputError: the file is damaged, something else, or of a run with other settings.
        """
        try:
            state = torch.load(self.state, map_location=device, weights_only=True)
        except (OSError, RuntimeError, ValueError, TypeError, EOFError, KeyError, pickle.UnpicklingError) as error:
            raise self._foreign() from error
        if not isinstance(state, dict):
            raise self._foreign()
        if "module" in state and "settings" not in state:
            raise InputError(
                f"{self.path} holds a run of an older version: finish it with that version, or give another --output"
            )
        kinds: dict[str, Any] = {
            "module": dict,
            "minutes": (int, float, type(None)),
            "average": (dict, type(None)),
            "optimizer": dict,
            "settings": dict,
            "history": list,
        }
        kinds |= dict.fromkeys(("epoch", "step", "best_size", "best_epoch"), int)
        kinds |= dict.fromkeys(("spent", "best"), (int, float))
        if any(not isinstance(state.get(name), kind) for name, kind in kinds.items()):
            raise self._foreign()
        if not all(isinstance(row, dict) and set(row) == set(METRICS) for row in state["history"]):
            raise self._foreign()
        try:
            changed = changed_settings(state["settings"], settings)
        except (InputError, KeyError, TypeError) as error:
            raise self._foreign() from error
        if changed:
            raise InputError(
                f"{self.path} holds a run with other settings: {'; '.join(changed)}. Give those, or another --output."
            )
        averages = state["average"] is not None
        if _shapes(state["module"]) != shapes or (averages and _shapes(state["average"].get("module")) != shapes):
            raise self._foreign()
        if averages != bool(state["settings"]["recipe"]["ema"]):
            raise self._foreign()
        return state

    def _foreign(self) -> InputError:
        return InputError(f"{self.state} cannot be read: it is damaged or of something else. Give another --output.")


def changed_settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return which settings of a run differ from those it began with, as `name (then, now)`."""
    found = []
    before_and_after = [Recipe.from_dict(settings["recipe"]) for settings in (then, now)]
    # A budget may grow; the recipe's own is only used when no other is given.
    for name, (before, after) in before_and_after[0].differences(before_and_after[1]).items():
        if name != "minutes":
            found.append(f"{name} of the recipe ({before} then, {after} now)")
    for name, value in now.items():
        if name != "recipe" and then.get(name) != value:
            found.append(f"{name} ({_shown(then.get(name))} then, {_shown(value)} now)")
    return found


def command_line(program: str, recipe: Recipe, options: Mapping[str, Any]) -> str:
    """
    Return the command that repeats a run. The recipe is named where it is one of this package's, with the options that
    change it; `RECIPE.yaml` stands for any other.
    """
    named, overrides = "RECIPE.yaml", {}
    for name in recipe_names():
        changed = recipe.differences(Recipe.load(name))
        changed.pop("minutes", None)  # the budget is an option anyway
        if set(changed) <= set(OVERRIDES):
            named, overrides = name, {OVERRIDES[field]: mine for field, (mine, _) in changed.items()}
            if not changed:
                break
    words = [f"rmn-hub {program}"]
    for option, value in {"--recipe": named, **overrides, **options}.items():
        if value is not None:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            words.append(f"{option} {text}" if not any(map(str.isspace, text)) else f"{option} '{text}'")
    return " ".join(words)


def _shown(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:  # a hash
        return value[:12]
    return str(value)


def _shapes(tensors: Any) -> dict[str, torch.Size] | None:
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        return None
    return {name: tensor.shape for name, tensor in tensors.items()}


__all__ = ["METRICS", "RunFolder", "changed_settings", "command_line"]
