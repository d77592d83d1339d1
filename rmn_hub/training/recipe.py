"""Recipes: everything that a training run is, but for its data, its budget and its seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from ..packages import data_folder
from .augment import Augmentation, check_number

RECIPES = data_folder("rmn_hub.training", "recipes")
OPTIMIZERS = ("adamw", "radam", "sgd")
FLIPS = ("alternate", "random")
# Pixels. A batch of larger faces fits into no memory.
MIN_SIZE, MAX_SIZE = 8, 1024
# Fields of `RMNConfig` that a run has no say in: what it is called, and what its outputs hold.
NOT_OF_THE_NETWORK = {"model_type", "output_masks"}
MAX_FILE = 100_000  # bytes of a recipe's file
MAX_DEPTH = 10  # lists in lists: YAML's parser takes minutes for thousands of them


@dataclass(frozen=True)
class Recipe:
    """
    A training recipe, as the files in `rmn_hub/training/recipes` have it.

    Args:
        minutes: wall-clock budget that drives the learning rate and the sizes, when none is given.
        model: fields of [`RMNConfig`] that differ from its defaults. The network's `image_size` is the last of `sizes`,
            whatever stands here.
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

    Raises:
        InputError: a value is not of its type or out of its range.
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
        for name, choices in (("optimizer", OPTIMIZERS), ("flip", FLIPS)):
            if getattr(self, name) not in choices:
                raise InputError(f"{name}={getattr(self, name)!r} must be one of {', '.join(choices)}")
        # The ranges are wide: they keep out mistakes, not experiments.
        for name, low, high in (
            ("minutes", 0.001, 1e6),
            ("learning_rate", 1e-9, 1e3),
            ("weight_decay", 0, 10),
            ("warmup", 0, 1),
            ("label_smoothing", 0, 0.99),
            ("votes_weight", 0, 100),
            ("ema", 0, 0.999999),
        ):
            check_number(name, getattr(self, name), low, high)
        check_number("batch_size", self.batch_size, 2, 65_536, whole=True)
        check_number("evaluate_every", self.evaluate_every, 1, 1_000_000, whole=True)
        if not isinstance(self.sizes, tuple) or not self.sizes:
            raise InputError(f"sizes={self.sizes!r} must be pairs of a part of the budget and a size in pixels")
        for part, size in self.sizes:
            check_number("a part of the budget in sizes", part, 1e-6, 1)
            check_number("a size in sizes", size, MIN_SIZE, MAX_SIZE, whole=True)
        if not math.isclose(sum(part for part, _ in self.sizes), 1, abs_tol=1e-6):
            raise InputError(f"sizes={[list(pair) for pair in self.sizes]} must have parts of the budget that sum to 1")
        if not isinstance(self.augmentation, Augmentation):
            raise InputError(f"augmentation={self.augmentation!r} must be an Augmentation")
        if not isinstance(self.model, dict):
            raise InputError(f"model={self.model!r} must hold fields of RMNConfig and their values")

    @classmethod
    def load(cls, name: str | Path) -> "Recipe":
        """
        Read a recipe by its name (`cpu`, `gpu`, `original`, ...) or from a YAML file.

        A file may name another recipe as its `base` and have only what differs; `model` and `augmentation` are merged
        field by field. A base that is a file is looked for beside the file that names it.

        Raises:
            InputError: there is no such recipe, or the file has a field that a recipe does not have, a value out of
                range, or a network that `RMNConfig` refuses.
        """
        path = _find(name, Path())
        recipe = cls.from_dict(_merged(path, ()), path)
        recipe.check_model(path)
        return recipe

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: object = "the recipe") -> "Recipe":
        """
        Return the recipe that [`to_dict`] wrote down.

        Raises:
            InputError: there is an unknown field, or a value out of range; the message begins with `where`.
        """
        try:
            _refuse_unknown(values, [item.name for item in fields(cls)])
            values = dict(values)
            augmentation = values.get("augmentation", {})
            if not isinstance(augmentation, Mapping):
                raise InputError(f"augmentation={augmentation!r} must hold fields and their values")
            _refuse_unknown(augmentation, [item.name for item in fields(Augmentation)])
            values["augmentation"] = Augmentation(**augmentation)
            sizes = values.get("sizes", cls.sizes)
            if not _are_pairs(sizes):
                raise InputError(f"sizes={sizes!r} must be pairs of a part of the budget and a size in pixels")
            values["sizes"] = tuple((part, size) for part, size in sizes)
            return cls(**values)
        except InputError as error:
            raise InputError(f"{where} cannot be used: {error}") from error

    def check_model(self, where: object = "the recipe") -> None:
        """
        Check the network's settings, which takes an import of transformers.

        Raises:
            InputError: `model` has an unknown field, describes a network that `RMNConfig` refuses or one that faces
                cannot be trained on.
        """
        from ..model.configuration_rmn import RMNConfig

        known = set(RMNConfig.__annotations__) - NOT_OF_THE_NETWORK
        try:
            _refuse_unknown(self.model, sorted(known))
            config = RMNConfig(**self.network())
            if config.num_channels != 3:
                raise InputError(f"`num_channels`={config.num_channels} must be 3: faces have three channels")
            # The masks' depths are those of the last size, the faces of every size.
            for _, size in self.sizes:
                RMNConfig(**{**self.network(), "image_size": size, "mask_depths": config.resolved_mask_depths()})
        except Exception as error:  # the strict configuration has several of its own around a ValueError or TypeError
            reason = " ".join(str(error.__cause__ or error).split())
            raise InputError(f"the network of {where} cannot be used: {reason}") from error

    def network(self) -> dict[str, Any]:
        """Return the settings of the RMN that is trained: `model`, for the last of `sizes`."""
        return {**self.model, "image_size": self.sizes[-1][1]}

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings, lists and dictionaries."""
        return {**asdict(self), "sizes": [list(pair) for pair in self.sizes]}

    def changed(self, **changes: Any) -> "Recipe":
        """Return the same recipe with other values for the fields that are not `None`."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def for_size(self, size: int) -> "Recipe":
        """Return the same recipe with sizes that end at another one, the earlier ones in proportion, in steps of 8."""
        last = self.sizes[-1][1]
        if size == last:
            return self
        *earlier, (rest, _) = self.sizes
        scaled = [(part, min(size, max(MIN_SIZE, 8 * round(each * size / last / 8)))) for part, each in earlier]
        return replace(self, sizes=(*scaled, (rest, size)))

    def size_at(self, progress: float) -> int:
        """Return the size in pixels trained at when `progress` (0..1) of the budget is spent."""
        end = 0.0
        for part, size in self.sizes:
            end += part
            if progress < end:
                return size
        return self.sizes[-1][1]

    def differences(self, other: "Recipe") -> dict[str, tuple[Any, Any]]:
        """Return the fields, with dots for nested ones, whose values differ: this recipe's and the other's."""
        mine, others = _flat(self.to_dict()), _flat(other.to_dict())
        names = dict.fromkeys([*mine, *others])
        return {name: (mine.get(name), others.get(name)) for name in names if mine.get(name) != others.get(name)}


def recipe_names() -> list[str]:
    """Return the names of the recipes in this package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _find(name: str | Path, beside: Path) -> Path:
    try:
        path = RECIPES / f"{name}.yaml"
        if path.parent == RECIPES and path.is_file():
            return path
        path = beside / name
        if path.is_file():
            return path
    except (OSError, ValueError):  # a name that no file can have
        pass
    raise InputError(f"recipe={str(name)[:200]!r} must be one of {', '.join(recipe_names())} or a YAML file")


def _merged(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """Return the fields of a file on top of those of its bases."""
    if path.resolve() in seen:
        raise InputError(f"the recipe {path} has itself as its base: name another one")
    values = _read(path)
    if "base" not in values:
        return values
    base_name = values.pop("base")
    if not isinstance(base_name, str):
        raise InputError(f"the recipe {path} cannot be read: base={base_name!r} must be a name or a file")
    base = _merged(_find(base_name, path.parent), (*seen, path.resolve()))
    for name in ("model", "augmentation"):
        if isinstance(base.get(name), dict) and isinstance(values.get(name, {}), dict):
            values[name] = {**base[name], **values.get(name, {})}
    return {**base, **values}


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_FILE:
            raise InputError(f"the recipe {path} cannot be read: it has more than {MAX_FILE:,} bytes")
        text = path.read_text(encoding="utf-8")
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            # A few lines of aliases of aliases would unfold into gigabytes.
            if isinstance(event, yaml.AliasEvent):
                raise InputError(f"the recipe {path} cannot be read: it has an alias (*name), write the value out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise InputError(f"the recipe {path} cannot be read: it has lists in lists, {MAX_DEPTH} deep")
        values = yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"the recipe {path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"the recipe {path} cannot be read: {' '.join(str(error).split())}") from error
    except InputError:
        raise
    except ValueError as error:  # a date or a number that YAML allows and Python does not
        raise InputError(f"the recipe {path} cannot be read: {error}") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"the recipe {path} cannot be read: it must hold fields and their values")
    return values


def _refuse_unknown(values: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = sorted(str(name) for name in set(values) - set(known))
    if unknown:
        raise InputError(f"unknown field {', '.join(unknown)}, the fields are {', '.join(known)}")


def _are_pairs(sizes: Any) -> bool:
    return isinstance(sizes, (list, tuple)) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in sizes
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            # A tuple that went through JSON or YAML is a list.
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


__all__ = ["RECIPES", "Recipe", "recipe_names"]
