"""Optimizer, learning-rate schedule, moving average, precision, and the clock that drives them."""

import copy
import math
import time
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .recipe import Recipe

Averaged = TypeVar("Averaged", bound=nn.Module)


def schedule(progress: float, warmup: float) -> float:
    """Return the share of the peak learning rate at `progress` (0..1): a linear warm-up, then a cosine to 0."""
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / max(1 - warmup, 1e-9))))


def make_optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimizer; only weights of convolutions and linear layers decay."""
    decayed = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in module.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9, nesterov=True)
    if recipe.optimizer == "radam":
        return torch.optim.RAdam(groups, lr=recipe.learning_rate)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


class MovingAverage(Generic[Averaged]):
    """
    An exponential moving average of a module's parameters and buffers.

    The decay rises to `decay` as (1 + n) / (10 + n) after n updates: a short run must not remember its random weights.
    The count is a number of Python's: torch's `AveragedModel` keeps it on the device and waits for it at every step.

    Args:
        module: what is averaged; the average begins as a copy of it.
        decay: largest decay a step, in 0..1.
    """

    def __init__(self, module: Averaged, decay: float) -> None:
        self.module: Averaged = copy.deepcopy(module).requires_grad_(False).eval()
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module's present weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.updates else 0.0
        averaged, current = self._tensors(self.module), self._tensors(module)
        floats = [index for index, tensor in enumerate(averaged) if tensor.is_floating_point()]
        get_ema_multi_avg_fn(decay)([averaged[i] for i in floats], [current[i] for i in floats], 0)
        for index in set(range(len(averaged))) - set(floats):
            averaged[index].copy_(current[index])
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Return what [`load_state_dict`] takes."""
        return {"updates": self.updates, "module": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved average."""
        self.updates = int(state["updates"])
        self.module.load_state_dict(state["module"])

    @staticmethod
    def _tensors(module: nn.Module) -> list[Tensor]:
        return [*(parameter.detach() for parameter in module.parameters()), *module.buffers()]


class Clock:
    """
    Progress (0..1) of a run through its budget, which is either `minutes` or `steps`. In minutes it counts the time of
    earlier sittings up to their last saved epoch.

    Args:
        minutes: wall-clock budget over all sittings.
        steps: budget in optimizer steps.
        spent: minutes of earlier sittings.
    """

    def __init__(self, minutes: float | None, steps: int | None, spent: float) -> None:
        self.minutes, self.steps, self.spent, self.start = minutes, steps, spent, time.monotonic()

    @property
    def elapsed(self) -> float:
        """Minutes over all sittings."""
        return self.spent + (time.monotonic() - self.start) / 60

    def progress(self, step: int) -> float:
        """Return the progress after `step` steps of the whole run."""
        if self.minutes is not None:
            return self.elapsed / self.minutes
        return step / self.steps if self.steps else 1.0


def precision_of(device: torch.device) -> str:
    """Return bf16 where the machine computes in it, not merely emulates it; else full precision."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # a machine may have GPUs of different ages
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bf16" if device.type == "cpu" and has_bf16 else "no"


__all__ = ["Clock", "MovingAverage", "make_optimizer", "precision_of", "schedule"]
