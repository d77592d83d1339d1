"""Training: `rmn-hub train`. On accelerate, so that `accelerate launch` spreads a run over processes and GPUs."""

import csv
import json
import math
import pickle
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..baselines.ensemble import resized
from ..data.faces import FER_SIZE, FaceSet, looks_like_fer2013, split_role
from ..data.sources import load_face_images
from ..errors import InputError, TrainingError
from ..files import replacing
from ..model.configuration_rmn import RMNConfig
from ..model.image_processing_rmn import RMNImageProcessor
from ..model.modeling_rmn import RMNModel
from .augment import augment, mix
from .recipe import Recipe

METRICS = ("epoch", "minutes", "size", "learning_rate", "loss", "images_per_second", "accuracy", "validation_loss")
MIXUP_OFF = 0.9  # the last tenth of a run sees whole faces again
MAX_GRADIENT_NORM = 5.0
CHECK_EVERY = 20  # steps between two looks at the loss: each look makes a GPU wait


@dataclass(frozen=True)
class EpochFaces:
    """
    What one epoch trains on: uint8 faces `(N, S, S)`, one-hot or soft targets `(N, classes)` in float32, the FER+ votes
    as probabilities `(N, votes)` where there are any, the probabilities of a teacher `(N, classes)` for these very
    images when there is one, and whether the images are to be augmented (a teacher has seen them as they are).
    """

    images: np.ndarray
    targets: np.ndarray
    votes: np.ndarray | None = None
    teacher: np.ndarray | None = None
    augmented: bool = True


@dataclass(frozen=True)
class TrainingResult:
    """What a run leaves: the folder of its best checkpoint, and the accuracy that chose it, on `validation_split`."""

    checkpoint: Path
    accuracy: float
    epochs: int


class FaceTrainer(nn.Module):
    """
    The network and, where the data has FER+ votes, an auxiliary head on its pooled features, in one module: what
    accelerate wraps, and what the moving average averages. The head helps training only and is not saved.
    """

    def __init__(self, model: RMNModel, votes: int = 0) -> None:
        super().__init__()
        self.model = model
        self.votes_head = nn.Linear(model.config.hidden_sizes[-1], votes) if votes else None

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor | None]:
        """Faces `(batch, 1, S, S)` to expression logits `(batch, 7)` and vote logits `(batch, votes)`."""
        pixel_values = faces.expand(-1, self.model.config.num_channels, -1, -1)
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        if self.votes_head is None:
            return self.model(pixel_values, return_dict=False)[0], None
        logits, hidden_states = self.model(pixel_values, output_hidden_states=True, return_dict=False)
        return logits, self.votes_head(self.model.dropout(hidden_states[-1].mean(dim=(2, 3))))


def schedule(progress: float, warmup: float) -> float:
    """Share of the peak learning rate at `progress` (0..1) of the budget: linear warm-up, then a cosine to 0."""
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / max(1 - warmup, 1e-9))))


def make_optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer; only weights of convolutions and linear layers decay."""
    decayed = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in module.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9, nesterov=True)
    if recipe.optimizer == "radam":
        return torch.optim.RAdam(groups, lr=recipe.learning_rate)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


def moving_average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor], None]:
    """An update for `AveragedModel` whose decay rises to `decay`: a short run must not remember its random weights."""

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor) -> None:
        now = min(decay, (1 + int(count)) / (10 + int(count)))
        get_ema_multi_avg_fn(now)(averaged, current, count)

    return update


def precision_of(device: torch.device) -> str:
    """bf16 where the machine computes in it, not merely emulates it; else full precision."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bf16" if device.type == "cpu" and has_bf16 else "no"


@torch.inference_mode()
def validate(
    module: FaceTrainer, faces: FaceSet, size: int, device: torch.device, precision: str
) -> tuple[float, float]:
    """Single-view accuracy (0..1) and cross-entropy at `size` pixels: at small sizes a network knows less at 48."""
    was_training = module.training
    module.eval()
    losses, hits = 0.0, 0
    context = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    for start in range(0, len(faces.labels), 512):
        images = resized(torch.from_numpy(faces.images[start : start + 512]).to(device).unsqueeze(1), size)
        labels = torch.from_numpy(faces.labels[start : start + 512]).to(device)
        with context:
            logits = module(images)[0]
        losses += F.cross_entropy(logits.float(), labels, reduction="sum").item()
        hits += int((logits.argmax(1) == labels).sum())
    module.train(was_training)
    return hits / len(faces.labels), losses / len(faces.labels)


def batches(count: int, batch_size: int, processes: int, rank: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of one epoch's batches for one process: whole batches only, each shared out evenly."""
    order = torch.randperm(count, generator=generator)
    share = max(1, batch_size // processes)
    step = share * processes
    for start in range(0, count - step + 1, step):
        yield order[start + rank * share : start + (rank + 1) * share]


def save_checkpoint(module: FaceTrainer, folder: Path) -> None:
    """Writes configuration, weights and processor beside `folder` and renames, so that it is never half-written."""
    beside = folder.with_name(folder.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    module.model.save_pretrained(beside)
    size = module.model.config.image_size
    RMNImageProcessor(size={"height": size, "width": size}).save_pretrained(beside)
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    beside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def faces_of_every_epoch(faces: FaceSet, classes: int, use_votes: bool) -> Callable[[int], EpochFaces]:
    """The plain source of a run: the same labelled faces in every epoch."""
    votes = None
    if use_votes and faces.votes is not None:
        # Votes for "unknown" and "no face" are votes too; an image without votes teaches this head nothing.
        totals = faces.votes.sum(axis=1, keepdims=True)
        votes = np.divide(faces.votes, totals, out=np.zeros_like(faces.votes), where=totals > 0)
    epoch = EpochFaces(faces.images, np.eye(classes, dtype=np.float32)[faces.labels], votes)
    return lambda _: epoch


def distillation_loss(logits: Tensor, teacher: Tensor, targets: Tensor, temperature: float = 2.0) -> Tensor:
    """0.7 T^2 KL(teacher || student) at temperature T and 0.3 cross-entropy (Hinton et al., 2015), a mean per face."""
    soft = (teacher.clamp(min=1e-6).log() / temperature).softmax(1)
    divergence = F.kl_div((logits / temperature).log_softmax(1), soft, reduction="batchmean")
    return 0.7 * temperature**2 * divergence + 0.3 * F.cross_entropy(logits, targets)


class Clock:
    """
    Progress (0..1) of a run through its budget. In minutes it counts the time of earlier sittings up to their last
    saved epoch; in epochs it counts steps.
    """

    def __init__(self, minutes: float | None, steps: int | None, spent: float) -> None:
        self.minutes, self.steps, self.spent, self.start = minutes, steps, spent, time.monotonic()

    @property
    def elapsed(self) -> float:
        """Minutes over all sittings."""
        return self.spent + (time.monotonic() - self.start) / 60

    def progress(self, step: int) -> float:
        """Progress after `step` steps of the whole run."""
        return step / self.steps if self.steps else self.elapsed / self.minutes


class Trainer:
    """
    One run in one folder. The arguments are those of [`train`], which is the way in.

    The schedule follows `Clock`, and everything random in an epoch follows from the seed and the epoch's number: so a
    run that was killed needs nothing but the state after its last whole epoch.
    """

    def __init__(
        self,
        faces: FaceSet,
        validation: FaceSet,
        output: Path,
        recipe: Recipe,
        *,
        minutes: float | None,
        epochs: int | None,
        seed: int,
        start_from: str | Path | None,
        source: Callable[[FaceSet], Callable[[int], EpochFaces]] | None,
        accelerator: Accelerator,
        console: Console,
    ) -> None:
        self.validation, self.output, self.recipe, self.seed = validation, output, recipe, seed
        self.accelerator, self.console, self.device = accelerator, console, accelerator.device
        self.epoch, self.step = 0, 0
        self.best, self.best_size = -1.0, 0
        self.history: list[dict[str, Any]] = []

        torch.manual_seed(seed)
        model = RMNModel.from_pretrained(start_from) if start_from else RMNModel(RMNConfig(**recipe.model))
        # A teacher's probabilities say more than votes: the auxiliary head is for labelled faces only.
        use_votes = source is None and recipe.votes_weight > 0 and faces.votes is not None
        self.module = FaceTrainer(model, votes=faces.votes.shape[1] if use_votes else 0)
        self.module.to(device=self.device, memory_format=torch.channels_last)
        self.optimizer = make_optimizer(self.module, recipe)
        self.average = AveragedModel(self.module, multi_avg_fn=moving_average(recipe.ema), use_buffers=True)
        self.source = source(faces) if source else faces_of_every_epoch(faces, model.config.num_labels, use_votes)
        # In even epochs these faces are mirrored, in odd epochs the others.
        self.parity = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, len(faces)).astype(bool))

        spent = self._resume() if (output / "state.pt").is_file() else 0.0
        self.wrapped, self.optimizer = accelerator.prepare(self.module, self.optimizer)
        if minutes is None and epochs is None:
            minutes = recipe.minutes
        self.budget = {"minutes": minutes, "epochs": epochs}
        self.clock = Clock(minutes, epochs * max(1, len(faces) // recipe.batch_size) if epochs else None, spent)

    @property
    def judged(self) -> FaceTrainer:
        """The weights that are evaluated and saved: the moving average, where the recipe has one."""
        return self.average.module if self.recipe.ema else self.module

    def run(self, limit_steps: int | None = None) -> TrainingResult:
        """Trains until the budget is spent, or for `limit_steps` more steps."""
        last_step = self.step + limit_steps if limit_steps else None
        if self.accelerator.is_main_process:
            self.output.mkdir(parents=True, exist_ok=True)
            run = {"recipe": self.recipe.to_dict(), **self.budget, "seed": self.seed}
            run["precision"] = self.accelerator.mixed_precision
            with replacing(self.output / "run.json") as beside:
                beside.write_text(json.dumps(run, indent=2) + "\n")
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        visible = self.accelerator.is_main_process and self.console.is_terminal
        with Progress(*columns, console=self.console, disable=not visible) as bar:
            task = bar.add_task("training", total=1.0)
            while self._progress() < 1 and self.step != last_step:
                row = self._train_epoch(
                    last_step, lambda done, text: bar.update(task, completed=done, description=text)
                )
                if row is None:  # the clock ran out before the first step
                    break
                self.epoch += 1
                finished = self._progress() >= 1 or self.step == last_step
                if self.accelerator.is_main_process:
                    self._finish_epoch(row, evaluate=finished or self.epoch % self.recipe.evaluate_every == 0)
                self.accelerator.wait_for_everyone()
            bar.update(task, completed=min(1.0, self._progress()))
        if self.accelerator.is_main_process and self.history:
            from ..drawing.figures import training_curves

            with replacing(self.output / "curves.png") as beside:
                training_curves(self.history).save(beside)
            if (self.output / "best").is_dir():  # for its model card
                for name in ("run.json", "metrics.csv"):
                    with replacing(self.output / "best" / name) as beside:
                        shutil.copyfile(self.output / name, beside)
        return TrainingResult(self.output / "best", self.best, self.epoch)

    def _progress(self) -> float:
        progress = self.clock.progress(self.step)
        if self.accelerator.num_processes > 1:
            # One clock decides, or a process that thinks itself done would let the others wait for ever.
            progress = float(broadcast(torch.tensor([progress], dtype=torch.float64, device=self.device)))
        return progress

    def _train_epoch(self, last_step: int | None, show: Callable[[float, str], None]) -> dict[str, Any] | None:
        """One epoch, or what the budget leaves of it: its row of metrics, or `None` when there was no step."""
        recipe, processes, rank = self.recipe, self.accelerator.num_processes, self.accelerator.process_index
        number = self.seed * 1_000_003 + self.epoch
        torch.manual_seed(number * 64 + rank)  # dropout
        order = torch.Generator().manual_seed(number)
        generator = torch.Generator(device=self.device).manual_seed(number * 64 + rank)
        faces = self.source(self.epoch)
        images, targets, votes, teacher = (
            None if array is None else torch.from_numpy(array).to(self.device)
            for array in (faces.images, faces.targets, faces.votes, faces.teacher)
        )
        losses, seen, started, size = torch.zeros((), device=self.device), 0, time.monotonic(), 0
        self.module.train()
        for batch in batches(len(targets), recipe.batch_size, processes, rank, order):
            progress = self._progress()
            if progress >= 1 or self.step == last_step:
                break
            size = recipe.size_at(progress)
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.learning_rate * schedule(progress, recipe.warmup)
            flip = self.parity[batch] ^ bool(self.epoch % 2)
            batch = batch.to(self.device)
            inputs, target = images[batch], targets[batch]
            if not faces.augmented:
                inputs = resized(inputs.unsqueeze(1), size)
            else:
                if recipe.flip == "random":
                    flip = torch.rand(len(batch), generator=generator, device=self.device) < 0.5
                inputs = augment(inputs, flip.to(self.device), size, recipe.augmentation, generator)
                if recipe.augmentation.mixup and progress < MIXUP_OFF:
                    inputs, target = mix(inputs, target, recipe.augmentation.mixup, generator)
            logits, vote_logits = self.wrapped(inputs)
            if teacher is not None:
                loss = distillation_loss(logits, teacher[batch], target)
            else:
                loss = F.cross_entropy(logits, target, label_smoothing=recipe.label_smoothing)
            if votes is not None:
                loss = loss + recipe.votes_weight * F.cross_entropy(vote_logits, votes[batch])
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(self.wrapped.parameters(), MAX_GRADIENT_NORM)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.average.update_parameters(self.module)
            losses += loss.detach() * len(batch)
            seen, self.step = seen + len(batch), self.step + 1
            if self.step % CHECK_EVERY == 0:
                _require_finite(losses, self.step)
                show(min(1.0, progress), f"epoch {self.epoch + 1}, {size} px")
        if not seen:
            return None
        _require_finite(losses, self.step)
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

    def _finish_epoch(self, row: dict[str, Any], evaluate: bool) -> None:
        """Evaluates when it is time, keeps the best checkpoint, and saves what a resumed run needs."""
        if evaluate:
            precision = self.accelerator.mixed_precision
            accuracy, loss = validate(self.judged, self.validation, row["size"], self.device, precision)
            row.update(accuracy=round(accuracy, 5), validation_loss=round(loss, 5))
            # Accuracies at different sizes do not compare: a new size starts the choice anew.
            if accuracy >= self.best or row["size"] != self.best_size:
                self.best, self.best_size = accuracy, row["size"]
                save_checkpoint(self.judged, self.output / "best")
        self.history.append(row)
        with replacing(self.output / "metrics.csv") as beside, beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, METRICS)
            writer.writeheader()
            writer.writerows(self.history)
        state = {
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "spent": self.clock.elapsed,
            "best": self.best,
            "best_size": self.best_size,
            "history": self.history,
            "seed": self.seed,
        }
        with replacing(self.output / "state.pt") as beside:
            torch.save(state, beside)
        # Last: a line says that its epoch is safe.
        self.console.print(
            "  ".join(f"{name} {value}" for name, value in row.items() if value is not None), soft_wrap=True
        )

    def _resume(self) -> float:
        """Goes on after the last saved epoch. Returns the minutes spent on it."""
        path = self.output / "state.pt"
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            if not {"seed", "module", "average", "optimizer", "spent"} <= set(state):
                raise ValueError("it lacks parts of a run")
        except (OSError, RuntimeError, ValueError, TypeError, EOFError, pickle.UnpicklingError) as error:
            raise InputError(f"{path} is not what rmn-hub train wrote: give another --output") from error
        shapes = {name: tensor.shape for name, tensor in self.module.state_dict().items()}
        if state["seed"] != self.seed or {name: tensor.shape for name, tensor in state["module"].items()} != shapes:
            raise InputError(
                f"{self.output} holds a run with another seed or network: give its settings, or another --output"
            )
        self.module.load_state_dict(state["module"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in ("epoch", "step", "best", "best_size", "history"):
            setattr(self, name, state[name])
        if self.accelerator.is_main_process:
            self.console.print(f"going on with {self.output} after epoch {self.epoch}, {state['spent']:.1f} minutes")
        return state["spent"]


def train(
    data: str | Path,
    output: str | Path,
    recipe: Recipe,
    *,
    minutes: float | None = None,
    epochs: int | None = None,
    seed: int = 0,
    start_from: str | Path | None = None,
    train_split: str = "train",
    validation_split: str = "public_test",
    limit_steps: int | None = None,
    source: Callable[[FaceSet], Callable[[int], EpochFaces]] | None = None,
    cpu: bool = False,
    console: Console | None = None,
) -> TrainingResult:
    """
    Trains a network, or goes on with the run found in `output`.

    The folder holds `state.pt` (to resume from), `run.json` (recipe, budget, seed), `metrics.csv`, `curves.png` and
    the checkpoint `best`: the moving average of the weights with the best single-view accuracy on the validation
    split, with a copy of `run.json` and `metrics.csv` at the end. A run that is killed loses the current epoch only.

    Args:
        data: file or folder, see [`load_faces`].
        output: folder of the run.
        recipe: see [`Recipe`].
        minutes: wall-clock budget over all sittings; the recipe's when neither this nor `epochs` is given. A finished
            run goes on when it is given more.
        epochs: budget in epochs instead, for runs that have to be equal on any machine.
        seed: of weights, order, augmentation and dropout.
        start_from: checkpoint (folder or Hub id) to start from; the recipe's model is not used then.
        train_split: split to train on.
        validation_split: split that chooses the checkpoint. Never the one that is reported.
        limit_steps: stop after so many steps of this sitting, to try a recipe out.
        source: what every epoch trains on, made from the training split; the split itself when not given.
        cpu: stay on the CPU although there is a GPU.
        console: where the lines and the progress bar go; stderr when not given.

    Raises:
        InputError: the data or the settings cannot be used; the message says what to do.
        TrainingError: the loss is no longer a number.
    """
    if split_role(validation_split) == "private_test":
        raise InputError("private_test is scored once, at the end: choose the checkpoint on public_test")
    if minutes is not None and epochs is not None:
        raise InputError("a run has one budget: give minutes or epochs, not both")
    device = torch.device("cpu" if cpu or not torch.cuda.is_available() else "cuda")
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=precision_of(device))
    console = console or Console(stderr=True)
    # FER2013's 48 pixels are resized on the training device; photos are read at the size that is trained.
    size = max(max(size for _, size in recipe.sizes), FER_SIZE)
    pictures, held_out = load_face_images(data, train_split), load_face_images(data, validation_split)
    if looks_like_fer2013(pictures):
        size = FER_SIZE
    faces, validation = pictures.reduced(size), held_out.reduced(size)
    if accelerator.is_main_process:
        for note in (*faces.notes, *validation.notes):
            console.print(f"[yellow]note:[/] {note}", soft_wrap=True)
    if len(faces) < recipe.batch_size:
        raise InputError(
            f"{len(faces)} training faces are fewer than one batch of {recipe.batch_size}: "
            "add faces or give a smaller --batch-size"
        )
    trainer = Trainer(
        faces,
        validation,
        Path(output),
        recipe,
        minutes=minutes,
        epochs=epochs,
        seed=seed,
        start_from=start_from,
        source=source,
        accelerator=accelerator,
        console=console,
    )
    return trainer.run(limit_steps)


def _require_finite(losses: Tensor, step: int) -> None:
    if not math.isfinite(losses.item()):
        raise TrainingError(f"the loss is not a number after {step} steps: lower --learning-rate and start again")
