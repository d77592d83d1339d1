"""The training loop. On accelerate, so that `accelerate launch` spreads a run over processes and GPUs."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor
from torch.nn import functional as F

from ..baselines.networks import Network
from ..data.faces import FaceSet
from ..errors import InputError, TrainingError
from ..model.modeling_rmn import RMNModel
from ..progress import Progress
from .augment import augment, degrade, mix, resized
from .feeding import EpochFaces, Faces, Source, batches, faces_of_every_epoch, image_batches, steps_per_epoch
from .objective import FaceTrainer, distillation_loss
from .optimisation import Clock, MovingAverage, make_optimizer, schedule
from .recipe import Recipe
from .run_folder import RunFolder

MIXING_OFF = 0.9  # the last tenth of a run sees whole faces again
MAX_GRADIENT_NORM = 5.0
CHECK_EVERY = 20  # steps between two looks at the loss and at the others' clock: each look makes a GPU wait
VALIDATION_BATCH = 512
PROGRESS_PARTS = 1000  # a budget in minutes has no number of steps: its progress is counted in thousandths


@dataclass(frozen=True)
class TrainingResult:
    """
    What a run leaves.

    Args:
        checkpoint: folder of its best checkpoint.
        accuracy: the single-view accuracy (0..1) that chose it, on the validation split.
        epochs: number of epochs, over all sittings.
    """

    checkpoint: Path
    accuracy: float
    epochs: int


@dataclass(frozen=True)
class Budget:
    """How long a run lasts: minutes or epochs, over all sittings."""

    minutes: float | None
    epochs: int | None

    @property
    def kind(self) -> str:
        """`"minutes"` or `"epochs"`."""
        return "minutes" if self.epochs is None else "epochs"


@torch.inference_mode()
def validate(
    module: FaceTrainer, faces: Faces, size: int, accelerator: Accelerator, device: torch.device
) -> tuple[float, float]:
    """
    Return single-view accuracy (0..1) and cross-entropy at `size` pixels: a network that is trained at a small size is
    worse at 48. The processes share the faces, and all return the same.
    """
    was_training = module.training
    module.eval()
    mine = torch.arange(len(faces))[accelerator.process_index :: accelerator.num_processes]
    parts = list(mine.split(VALIDATION_BATCH))
    sums = torch.zeros(2, dtype=torch.float64)
    precision = accelerator.mixed_precision
    context = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    images = faces.images if isinstance(faces, FaceSet) else faces
    for part, batch in zip(parts, image_batches(images, parts, device)):
        labels = torch.from_numpy(faces.labels[part.numpy()]).to(device)
        with context:
            logits = module(resized(batch.unsqueeze(1), size))[0]
        sums[0] += int((logits.argmax(1) == labels).sum())
        sums[1] += F.cross_entropy(logits.float(), labels, reduction="sum").item()
    if accelerator.num_processes > 1:
        sums = accelerator.reduce(sums.to(device, torch.float32)).cpu().double()
    module.train(was_training)
    return float(sums[0]) / len(faces), float(sums[1]) / len(faces)


class TrainingRun:
    """
    One run in one folder. The arguments are those of [`train`], which is the way in.

    The schedule follows `Clock`, and everything random in an epoch follows from the seed and the epoch's number: so a
    run that was killed needs nothing but the state after its last whole epoch.
    """

    def __init__(
        self,
        model: Network,
        faces: Faces,
        validation: Faces,
        output: Path,
        recipe: Recipe,
        *,
        budget: Budget,
        settings: dict[str, Any],
        seed: int,
        source: Source | None,
        device: torch.device,
        accelerator: Accelerator,
        say: Callable[[str], None],
        progress: Progress,
    ) -> None:
        self.validation, self.recipe, self.seed, self.budget = validation, recipe, seed, budget
        self.settings, self.accelerator, self.device = settings, accelerator, device
        self.say, self.show = say, progress
        self.folder = RunFolder(output)
        self.epoch, self.step, self.shown, self.saved_spent = 0, 0, 0, 0.0
        self.best, self.best_size, self.best_epoch = -1.0, 0, 0
        self.history: list[dict[str, Any]] = []

        # A teacher's probabilities are worth more than votes: the auxiliary head is for labelled faces only.
        # It needs an RMN's features, too.
        use_votes = source is None and recipe.votes_weight > 0 and isinstance(model, RMNModel)
        self.module = FaceTrainer(model, votes=faces.votes.shape[1] if use_votes and faces.votes is not None else 0)
        self.module.to(self.device)
        self.module.to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(self.module, recipe)
        self.average = MovingAverage(self.module, recipe.ema) if recipe.ema else None
        if source is None:
            self.epoch_faces = faces_of_every_epoch(faces, model.config.num_labels, use_votes)
        elif isinstance(faces, FaceSet):
            self.epoch_faces = source.epochs(faces)
        else:
            raise InputError("in_memory=False must be left out here: a teacher's views are made in memory")
        # In even epochs these faces are mirrored, in odd epochs the others.
        self.parity = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, len(faces)).astype(bool))

        self.earlier_minutes: float | None = None
        resumed = self.folder.state.is_file()
        spent = self._resume() if resumed else 0.0
        self.wrapped, self.optimizer = accelerator.prepare(self.module, self.optimizer)
        per_epoch = steps_per_epoch(len(faces), recipe.batch_size, accelerator.num_processes)
        self.clock = Clock(budget.minutes, budget.epochs * per_epoch if budget.epochs else None, spent)
        if resumed:
            self._check_budget(per_epoch)
            done = f"epoch {self.epoch}, {spent:.1f} minutes"
            finished = self.clock.progress(self.step) >= 1
            self.say(
                f"{self.folder.path} is done: {done}. It goes on when it is given more."
                if finished
                else f"going on with {self.folder.path} after {done}"
            )

    @property
    def judged(self) -> FaceTrainer:
        """The weights that are evaluated and saved: the moving average, where the recipe has one."""
        return self.module if self.average is None else self.average.module

    def run(self, record: dict[str, Any], limit_steps: int | None = None) -> TrainingResult:
        """Train until the budget is spent, or for `limit_steps` more steps."""
        last_step = self.step + limit_steps if limit_steps else None
        if self.accelerator.is_main_process:
            self.folder.write_record(record)
        while self._progress() < 1 and self.step != last_step:
            row = self._train_epoch(last_step)
            if row is None:  # the clock ran out before the first step
                break
            self.epoch += 1
            finished = self._progress() >= 1 or self.step == last_step
            if finished or self.epoch % self.recipe.evaluate_every == 0:
                self._evaluate(row)
            self.history.append(row)
            if self.accelerator.is_main_process:
                self._save(row)
            self.accelerator.wait_for_everyone()
        if self.history and self.history[-1]["accuracy"] is None:  # the clock ran out while the last epoch was saved
            self._evaluate(self.history[-1])
            if self.accelerator.is_main_process:
                self._save(self.history[-1])
            self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process and self.history:
            if self.budget.minutes is not None and self.saved_spent < self.budget.minutes <= self.clock.elapsed:
                self._write_state()  # or the same command would go on for what was left when the last epoch was saved
            self.folder.finish(self.history)
        return TrainingResult(self.folder.best, self.best, self.epoch)

    def _progress(self) -> float:
        progress = self.clock.progress(self.step)
        if self.accelerator.num_processes > 1 and self.budget.kind == "minutes":
            # One clock decides, or a process that is done would let the others wait for ever.
            progress = float(broadcast(torch.tensor([progress], dtype=torch.float32, device=self.device)))
        return progress

    def _train_epoch(self, last_step: int | None) -> dict[str, Any] | None:
        """Train one epoch, or what the budget leaves of it. Returns its row of metrics, `None` without any step."""
        processes = self.accelerator.num_processes
        faces = self.epoch_faces(self.epoch)
        losses, seen, started, size = torch.zeros((), device=self.device), 0, time.monotonic(), 0
        self.module.train()
        for progress, loss, size, count in self._steps(faces, last_step):  # noqa: B007 - the last size is used
            losses += loss * count
            seen, self.step = seen + count, self.step + 1
            if self.step % CHECK_EVERY == 0:
                _require_finite(losses, self.step)
            self._show(progress)
        if not seen:
            return None
        _require_finite(losses, self.step)
        if processes > 1:
            losses = self.accelerator.reduce(losses, reduction="mean")
        return {
            "epoch": self.epoch + 1,
            "minutes": round(self.clock.elapsed, 2),
            "size": size,
            "learning_rate": round(self.optimizer.param_groups[0]["lr"], 7),
            "loss": round(losses.item() / seen, 5),
            "images_per_second": round(seen * processes / (time.monotonic() - started)),
            "accuracy": None,
            "validation_loss": None,
        }

    def _steps(self, faces: EpochFaces, last_step: int | None) -> Iterator[tuple[float, Tensor, int, int]]:
        """Take one step per batch. Yields the progress before it, its loss, and size and number of its faces."""
        recipe, processes, rank = self.recipe, self.accelerator.num_processes, self.accelerator.process_index
        number = self.seed * 1_000_003 + self.epoch
        torch.manual_seed(number * 64 + rank)  # dropout
        order = torch.Generator().manual_seed(number)
        generator = torch.Generator(device=self.device).manual_seed(number * 64 + rank)
        mixing = torch.Generator().manual_seed(number * 64 + rank)
        targets, votes, teacher = (
            None if array is None else torch.from_numpy(array).to(self.device)
            for array in (faces.targets, faces.votes, faces.teacher)
        )
        assert targets is not None
        parts = list(batches(len(targets), recipe.batch_size, processes, rank, order))
        progress = 0.0
        for place, (indices, images) in enumerate(zip(parts, image_batches(faces.images, parts, self.device))):
            if processes == 1 or self.budget.kind == "epochs" or place % CHECK_EVERY == 0:
                progress = self._progress()
            if progress >= 1 or self.step == last_step:
                return
            size = recipe.size_at(progress)
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.learning_rate * schedule(progress, recipe.warmup)
            batch = indices.to(self.device)
            mixed = [targets[batch]] if votes is None else [targets[batch], votes[batch]]
            images = degrade(images, recipe.augmentation, mixing)
            if not faces.augmented:
                inputs = resized(images.unsqueeze(1), size)
            else:
                if recipe.flip == "random":
                    flip = torch.rand(len(batch), generator=generator, device=self.device) < 0.5
                else:
                    flip = (self.parity[indices] ^ bool(self.epoch % 2)).to(self.device)
                inputs = augment(images, flip, size, recipe.augmentation, generator)
                if progress < MIXING_OFF:
                    inputs, mixed = mix(inputs, mixed, recipe.augmentation, mixing)
            logits, vote_logits = self.wrapped(inputs)
            if teacher is not None:
                loss = distillation_loss(logits, teacher[batch], mixed[0])
            else:
                loss = F.cross_entropy(logits, mixed[0], label_smoothing=recipe.label_smoothing)
            if votes is not None:
                loss = loss + recipe.votes_weight * F.cross_entropy(vote_logits, mixed[1])
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(self.wrapped.parameters(), MAX_GRADIENT_NORM)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.average is not None:
                self.average.update(self.module)
            yield progress, loss.detach(), size, len(batch)

    def _show(self, progress: float) -> None:
        done = int(min(1.0, progress) * PROGRESS_PARTS)
        if done > self.shown and self.accelerator.is_main_process:
            self.show("training", done - self.shown, PROGRESS_PARTS)
        self.shown = max(done, self.shown)

    def _evaluate(self, row: dict[str, Any]) -> None:
        """Add the accuracy to an epoch's row, and keep the checkpoint when it is the best one."""
        if self.accelerator.num_processes > 1:
            # The processes' running statistics of BatchNorm differ: those of the first are saved, so all take them.
            for buffer in self.judged.buffers():
                buffer.copy_(broadcast(buffer.clone()))
        accuracy, loss = validate(self.judged, self.validation, row["size"], self.accelerator, self.device)
        row.update(accuracy=round(accuracy, 5), validation_loss=round(loss, 5))
        # Accuracies at different sizes do not compare: a size that comes later in the recipe starts the choice anew; an
        # earlier one, to which a run with more budget goes back, has no part in it.
        later = self._place(row["size"]) - self._place(self.best_size)
        if later > 0 or (later == 0 and accuracy >= self.best):
            self.best, self.best_size, self.best_epoch = accuracy, row["size"], self.epoch
            if self.accelerator.is_main_process:
                self.folder.prepare_best(self.judged.model, self.epoch)

    def _place(self, size: int) -> int:
        """Return where a size comes last among the recipe's; -1 for any other."""
        return max((place for place, (_, own) in enumerate(self.recipe.sizes) if own == size), default=-1)

    def _settle_best(self) -> None:
        kept = self.folder.settle_best(self.best_epoch)
        if kept is not None:
            self.say(
                f"note: {self.folder.best} is a new checkpoint; the one before, with what was beside it, is {kept}"
            )

    def _save(self, row: dict[str, Any]) -> None:
        """Save what a resumed run needs; see `run_folder` for the order."""
        self.folder.write_metrics(self.history)
        self._write_state()
        self._settle_best()
        # Last: a line means that its epoch is safe.
        self.say("  ".join(f"{name} {value}" for name, value in row.items() if value is not None))

    def _write_state(self) -> None:
        self.saved_spent = self.clock.elapsed
        state = {
            "module": self.module.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "spent": self.saved_spent,
            "minutes": self.budget.minutes,
            "settings": self.settings,
        }
        state |= {name: getattr(self, name) for name in _COUNTERS}
        self.folder.write_state(state)

    def _resume(self) -> float:
        """Go on after the last saved epoch. Returns the minutes spent until then."""
        shapes = {name: tensor.shape for name, tensor in self.module.state_dict().items()}
        # The settings first: another recipe often has another network.
        state = self.folder.read_state(self.device, self.settings, shapes)
        try:
            self.module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            for parameter, values in self.optimizer.state.items():
                tensors = [value for value in values.values() if isinstance(value, Tensor) and value.ndim]
                if any(tensor.shape != parameter.shape for tensor in tensors):
                    raise ValueError("the optimizer's tensors have other shapes than the network's")
            if self.average is not None:
                self.average.load_state_dict(state["average"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.folder.state} cannot be read: it is damaged ({error}). Give another --output."
            ) from error
        for name in _COUNTERS:
            setattr(self, name, state[name])
        if self.accelerator.is_main_process:
            self._settle_best()
        self.accelerator.wait_for_everyone()
        self.saved_spent, self.earlier_minutes = float(state["spent"]), state.get("minutes")
        return self.saved_spent

    def _check_budget(self, per_epoch: int) -> None:
        """Refuse a budget that is spent already: the record would state less than the network was trained with."""
        minutes, earlier, spent = self.budget.minutes, self.earlier_minutes, self.clock.spent
        has = None
        if self.clock.steps is not None and self.step > self.clock.steps:
            has = f"{math.ceil(self.step / per_epoch)} epochs"
        # A clock runs over by the last epoch: the budget that it had is enough. Older states do not have it.
        elif minutes is not None and earlier is not None and minutes < min(earlier, spent):
            has = f"{earlier if earlier <= spent else math.ceil(100 * spent) / 100:g} minutes"
        if has is not None:
            raise InputError(f"{self.folder.path} has {has} already: give at least so many, or another --output.")


_COUNTERS = ("epoch", "step", "best", "best_size", "best_epoch", "history")


def _require_finite(losses: Tensor, step: int) -> None:
    if not math.isfinite(losses.item()):
        raise TrainingError(
            f"the loss is not a number after {step} steps: lower the recipe's learning rate and start again"
        )


__all__ = ["Budget", "TrainingResult", "TrainingRun"]
