"""Training: `rmn-hub train`. On accelerate, so that `accelerate launch` spreads a run over processes and GPUs."""

import csv
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..configuration_rmn import RMNConfig
from ..image_processing_rmn import RMNImageProcessor
from ..modeling_rmn import RMNModel
from ..results import InputError
from .augment import augment, mix
from .data import FaceSet, load_faces
from .recipe import Recipe

METRICS = ("epoch", "minutes", "size", "learning_rate", "loss", "images_per_second", "accuracy", "validation_loss")
MIXUP_OFF = 0.9  # the last tenth of a run sees whole faces again


class TrainingError(RuntimeError):
    """A run that cannot go on; its message is a sentence for the user."""


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
        images = torch.from_numpy(faces.images[start : start + 512]).to(device).unsqueeze(1).float() / 255
        labels = torch.from_numpy(faces.labels[start : start + 512]).to(device)
        if size != images.shape[-1]:
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)
        with context:
            logits = module(images)[0]
        losses += F.cross_entropy(logits.float(), labels, reduction="sum").item()
        hits += int((logits.argmax(1) == labels).sum())
    module.train(was_training)
    return hits / len(faces.labels), losses / len(faces.labels)


def batches(count: int, batch_size: int, processes: int, rank: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of one epoch's batches for one process: whole batches only, unless there is less than one."""
    order = torch.randperm(count, generator=generator)
    share = max(1, batch_size // processes)
    step = share * processes
    for start in range(0, max(count - step, 0) + 1, step):
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
        totals = faces.votes.sum(1, keepdims=True)
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
    split. A run that is killed loses the current epoch only.

    Args:
        data: folder or file, see [`load_faces`].
        output: folder of the run.
        recipe: see [`Recipe`].
        minutes: wall-clock budget over all sittings; the recipe's when neither this nor `epochs` is given. A finished
            run goes on when it is given more.
        epochs: budget in epochs instead, for runs that have to be equal on any machine.
        seed: of weights, order, augmentation and dropout.
        start_from: checkpoint (folder or Hub id) to start from; the recipe's model is not used then.
        train_split: split to train on.
        validation_split: split that chooses the checkpoint. Never the one that is reported.
        limit_steps: stop each sitting after so many steps, to try a recipe out.
        source: what every epoch trains on, made from the training split; the split itself when not given.
        cpu: stay on the CPU although there is a GPU.
        console: where the lines and the progress bar go.

    Raises:
        InputError: the data or the settings cannot be used; the message says what to do.
        TrainingError: the loss is no longer a number.
    """
    output = Path(output)
    console = console or Console(stderr=True)
    device = torch.device("cpu" if cpu or not torch.cuda.is_available() else "cuda")
    precision = precision_of(device)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=precision)
    device, is_main = accelerator.device, accelerator.is_main_process
    processes, rank = accelerator.num_processes, accelerator.process_index

    if "private" in validation_split.lower():
        raise InputError("PrivateTest is scored once, at the end: choose the checkpoint on public_test")
    size = RMNConfig(**recipe.model).image_size
    faces, validation = load_faces(data, train_split, size), load_faces(data, validation_split, size)
    if is_main:
        for note in (*faces.notes, *validation.notes):
            console.print(f"[yellow]note:[/] {note}")
    if len(faces.labels) < recipe.batch_size:
        raise InputError(
            f"{len(faces.labels)} training faces are fewer than one batch of {recipe.batch_size}: "
            "add faces or give a smaller --batch-size"
        )

    torch.manual_seed(seed)
    model = RMNModel.from_pretrained(start_from) if start_from else RMNModel(RMNConfig(**recipe.model))
    use_votes = recipe.votes_weight > 0 and faces.votes is not None
    module = FaceTrainer(model, votes=faces.votes.shape[1] if use_votes else 0)
    module.to(device=device, memory_format=torch.channels_last)
    make_epoch = source(faces) if source else faces_of_every_epoch(faces, model.config.num_labels, use_votes)
    optimizer = make_optimizer(module, recipe)
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)

    state_path, metrics_path = output / "state.pt", output / "metrics.csv"
    epoch, step, spent, best, best_size, history = 0, 0, 0.0, -1.0, 0, []
    if state_path.is_file():
        state = torch.load(state_path, map_location=device, weights_only=True)
        if state["seed"] != seed or json.loads(state["model"])["hidden_sizes"] != list(model.config.hidden_sizes):
            raise InputError(f"{output} holds a run with another seed or network: give another folder, or its settings")
        module.load_state_dict(state["module"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        epoch, step, spent, history = (state[key] for key in ("epoch", "step", "spent", "history"))
        best, best_size = state["best"], state["best_size"]
        if is_main:
            console.print(f"resuming {output} after epoch {epoch} and {spent:.1f} minutes")
    wrapped, optimizer = accelerator.prepare(module, optimizer)

    steps_an_epoch = max(1, len(faces.labels) // max(recipe.batch_size, processes))
    if minutes is None and epochs is None:
        minutes = recipe.minutes
    clock = Clock(minutes, epochs * steps_an_epoch if epochs else None, spent)
    if is_main:
        output.mkdir(parents=True, exist_ok=True)
        run = {"recipe": recipe.to_dict(), "minutes": minutes, "epochs": epochs, "seed": seed, "precision": precision}
        _write(output / "run.json", json.dumps(run, indent=2) + "\n")
        _write_metrics(metrics_path, history)

    # The split whose turn each face's mirror image has: half of the faces in even epochs, half in odd ones.
    parity = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, len(faces.labels)).astype(bool))
    last_step = step + limit_steps if limit_steps else None
    progress = clock.progress(step)
    with _progress_bar(console, is_main and console.is_terminal) as bar:
        task = bar.add_task("training", total=1.0, completed=min(1.0, progress))
        while progress < 1 and step != last_step:
            # Everything random in an epoch follows from its number: a resumed run needs no generator's state.
            torch.manual_seed(hash((seed, epoch, rank)) % 2**63)
            order = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            generator = torch.Generator(device=device).manual_seed((seed * 1_000_003 + epoch) * 64 + rank)
            epoch_faces = make_epoch(epoch)
            images = torch.from_numpy(epoch_faces.images).to(device)
            targets = torch.from_numpy(epoch_faces.targets).to(device)
            votes = (
                torch.from_numpy(epoch_faces.votes).to(device) if use_votes and epoch_faces.votes is not None else None
            )
            teacher = None if epoch_faces.teacher is None else torch.from_numpy(epoch_faces.teacher).to(device)
            seen, losses, started = 0, torch.zeros((), device=device), time.monotonic()
            module.train()
            count = len(targets)
            for batch in batches(count, recipe.batch_size, processes, rank, order):
                progress = clock.progress(step)
                if processes > 1:  # one clock decides, or one process would wait for the others for ever
                    progress = float(broadcast(torch.tensor([progress], dtype=torch.float64, device=device)))
                if progress >= 1 or step == last_step:
                    break
                train_size = recipe.size_at(progress)
                for group in optimizer.param_groups:
                    group["lr"] = recipe.learning_rate * schedule(progress, recipe.warmup)
                if recipe.flip == "alternate":
                    flip = parity[batch] ^ bool(epoch % 2)
                else:
                    flip = torch.rand(len(batch), generator=generator, device=device) < 0.5
                batch, flip = batch.to(device), flip.to(device)
                target = targets[batch]
                if epoch_faces.augmented:
                    inputs = augment(images[batch], flip, train_size, recipe.augmentation, generator)
                else:
                    inputs = _resized(images[batch], train_size)
                if epoch_faces.augmented and recipe.augmentation.mixup and progress < MIXUP_OFF:
                    inputs, target = mix(inputs, target, recipe.augmentation.mixup, generator)
                logits, vote_logits = wrapped(inputs)
                if teacher is not None:
                    loss = distillation_loss(logits, teacher[batch], target)
                else:
                    loss = F.cross_entropy(logits, target, label_smoothing=recipe.label_smoothing)
                if votes is not None:
                    loss = loss + recipe.votes_weight * F.cross_entropy(vote_logits, votes[batch])
                elif vote_logits is not None:
                    loss = loss + 0 * vote_logits.sum()  # every parameter takes part, as accelerate wants it
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(wrapped.parameters(), 5.0)
                optimizer.step()
                optimizer.zero_grad()
                average.update_parameters(module)
                losses += loss.detach() * len(batch)
                seen, step = seen + len(batch), step + 1
                if step % 20 == 0 or device.type == "cpu":  # asking a GPU every step would make it wait
                    if not math.isfinite(losses.item()):
                        raise TrainingError(
                            f"the loss is not a number after {step} steps: lower --learning-rate and start again"
                        )
                    bar.update(task, completed=min(1.0, progress), description=f"epoch {epoch + 1}, {train_size} px")
            if not seen:
                break
            epoch += 1
            progress = clock.progress(step)
            if processes > 1:
                progress = float(broadcast(torch.tensor([progress], dtype=torch.float64, device=device)))
            if is_main:
                rate = seen * processes / (time.monotonic() - started)
                row = {
                    "epoch": epoch,
                    "minutes": round(clock.elapsed, 2),
                    "size": train_size,
                    "learning_rate": round(optimizer.param_groups[0]["lr"], 7),
                    "loss": round(losses.item() / seen, 5),
                    "images_per_second": round(rate),
                    "accuracy": None,
                    "validation_loss": None,
                }
                if epoch % recipe.evaluate_every == 0 or progress >= 1 or step == last_step:
                    judged = average.module if recipe.ema else module
                    accuracy, validation_loss = validate(judged, validation, train_size, device, precision)
                    row.update(accuracy=round(accuracy, 5), validation_loss=round(validation_loss, 5))
                    # Accuracies at different sizes do not compare: a new size starts the choice anew.
                    if accuracy >= best or train_size != best_size:
                        best, best_size = accuracy, train_size
                        save_checkpoint(judged, output / "best")
                history.append(row)
                _write_metrics(metrics_path, history)
                console.print("  ".join(f"{name} {value}" for name, value in row.items() if value is not None))
                state = {
                    "module": module.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "model": model.config.to_json_string(),
                    "epoch": epoch,
                    "step": step,
                    "spent": clock.elapsed,
                    "best": best,
                    "best_size": best_size,
                    "history": history,
                    "seed": seed,
                }
                torch.save(state, state_path.with_suffix(".part"))
                state_path.with_suffix(".part").replace(state_path)
            accelerator.wait_for_everyone()
        bar.update(task, completed=min(1.0, progress))
    if is_main and history:
        from ..plots import training_curves

        training_curves(history).save(output / "curves.png")
    accelerator.end_training()
    return TrainingResult(output / "best", best, epoch)


def _resized(images: Tensor, size: int) -> Tensor:
    """uint8 `(B, S, S)` to floats in 0..1 `(B, 1, size, size)`."""
    faces = images.unsqueeze(1).float() / 255
    if size == faces.shape[-1]:
        return faces
    return F.interpolate(faces, (size, size), mode="bilinear", antialias=True, align_corners=False)


def _progress_bar(console: Console, visible: bool) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, disable=not visible)


def _write(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_text(text)
    beside.replace(path)


def _write_metrics(path: Path, history: list[dict]) -> None:
    beside = path.with_name(path.name + ".part")
    with beside.open("w", newline="") as file:
        writer = csv.DictWriter(file, METRICS)
        writer.writeheader()
        writer.writerows(history)
    beside.replace(path)
