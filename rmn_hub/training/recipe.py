"""Recipes: everything that a training run is, but for its data, its budget and its seed."""

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from .augment import Augmentation

RECIPES = Path(__file__).parent / "recipes"
OPTIMIZERS = ("adamw", "radam", "sgd")


@dataclass(frozen=True)
class Recipe:
    """
    A training recipe, as the files in `rmn_hub/training/recipes` have it.

    Args:
        minutes: wall-clock budget that drives the learning rate and the sizes, when none is given.
        model: fields of [`RMNConfig`] that differ from its defaults.
        optimizer: `adamw`, `radam` or `sgd` (with Nesterov momentum 0.9).
        learning_rate: peak of the cosine schedule.
        weight_decay: of convolutions and linear layers; normalisation and biases have none.
        batch_size: faces a step, over all processes.
        warmup: part of the budget in which the learning rate rises linearly.
        label_smoothing: of the expression labels.
        votes_weight: weight of the auxiliary cross-entropy against the FER+ votes, where the data has them.
        ema: decay of the weights' moving average a step; 0 is off.
        flip: `alternate` (every face is mirrored in every second epoch) or `random`.
        sizes: pairs of a part of the budget and the size in pixels trained at in it.
        evaluate_every: epochs between two evaluations on the validation split.
        augmentation: see [`Augmentation`].
    """

    minutes: float = 60
    model: dict[str, Any] = field(default_factory=dict)
    optimizer: str = "adamw"
    learning_rate: float = 0.002
    weight_decay: float = 0.05
    batch_size: int = 128
    warmup: float = 0.03
    label_smoothing: float = 0.1
    votes_weight: float = 0.0
    ema: float = 0.999
    flip: str = "alternate"
    sizes: tuple[tuple[float, int], ...] = ((1.0, 48),)
    evaluate_every: int = 1
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"optimizer {self.optimizer!r} is unknown: choose one of {', '.join(OPTIMIZERS)}")
        if self.flip not in ("alternate", "random"):
            raise InputError(f"flip {self.flip!r} is unknown: choose alternate or random")
        if abs(sum(part for part, _ in self.sizes) - 1) > 1e-6:
            raise InputError(f"the parts of the budget in sizes {self.sizes} must sum to 1")
        if self.minutes <= 0 or self.batch_size < 2 or self.learning_rate <= 0:
            raise InputError("minutes and learning_rate must be positive and batch_size at least 2")

    @classmethod
    def load(cls, name: str | Path) -> "Recipe":
        """
        Reads a recipe by its name (`cpu`, `gpu`, `original`, ...) or from a YAML file. A file may name another recipe
        as its `base` and say only what differs; `model` and `augmentation` are merged field by field.

        Raises:
            InputError: there is no such recipe, or the file has a field that a recipe does not know.
        """
        path = RECIPES / f"{name}.yaml"
        if not path.is_file():
            path = Path(name)
        if not path.is_file():
            names = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
            raise InputError(f"there is no recipe {str(name)!r}: give one of {names} or a YAML file")
        try:
            values = yaml.safe_load(path.read_text())
            if not isinstance(values, dict):
                raise InputError("it must hold fields and their values")
            if "base" in values:
                base = cls.load(values.pop("base")).to_dict()
                for name in ("model", "augmentation"):
                    values[name] = {**base[name], **values.get(name, {})}
                values = {**base, **values}
            return cls.from_dict(values)
        except (yaml.YAMLError, TypeError, ValueError) as error:
            raise InputError(f"the recipe {path} cannot be read: {' '.join(str(error).split())}") from error

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """The recipe that [`to_dict`] wrote down."""
        unknown = set(values) - {item.name for item in fields(cls)}
        if unknown:
            raise InputError(f"unknown field {', '.join(sorted(unknown))}")
        values = dict(values)
        values["augmentation"] = Augmentation(**values.get("augmentation", {}))
        values["sizes"] = tuple((float(part), int(size)) for part, size in values.get("sizes", cls.sizes))
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries."""
        return {**asdict(self), "sizes": [list(pair) for pair in self.sizes]}

    def changed(self, **changes: Any) -> "Recipe":
        """The same recipe with other values for the fields that are not `None`."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def size_at(self, progress: float) -> int:
        """Size in pixels trained at when `progress` (0..1) of the budget is spent."""
        end = 0.0
        for part, size in self.sizes:
            end += part
            if progress < end:
                return size
        return self.sizes[-1][1]
