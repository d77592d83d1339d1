"""
What a checkpoint costs: parameters, multiply-adds, milliseconds and memory. `rmn-hub benchmark`.

`take_turns` is the one way in which the project measures time: every number of milliseconds comes from it.
"""

import contextlib
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..baselines.networks import Network, for_inference
from ..engines.engine import Engine
from ..errors import InputError
from ..progress import Progress, silent

BATCH_SIZES = (1, 8, 32)
FORMS = ("plain", "folded", "compiled")
# What is compared takes turns in so many rounds, so that what else the machine does hits all alike.
ROUNDS = 5


@dataclass(frozen=True)
class Measured:
    """
    What one call costs.

    Args:
        milliseconds: median time of a call.
        peak_memory: megabytes (1e6 bytes) at most in use meanwhile: of the process on a CPU, of tensors on a GPU;
            `None` where that cannot be measured (Windows).
    """

    milliseconds: float
    peak_memory: float | None


def take_turns(
    calls: Mapping[str, Callable[[], object]], seconds: float, device: torch.device | None = None
) -> dict[str, Measured]:
    """
    Time calls that do the same work in different ways, in turns.

    Args:
        calls: functions by name; each returns when its work is done.
        seconds: about how long each is called, and at least `ROUNDS` times.
        device: where the work is done; the CPU when not given.
    """
    device = device or torch.device("cpu")
    times: dict[str, list[float]] = {name: [] for name in calls}
    memory: dict[str, float | None] = dict.fromkeys(calls)
    for _ in range(ROUNDS):
        for name, call in calls.items():
            _reset_peak_memory(device)
            call()  # warms the caches that the one before has filled
            end = time.perf_counter() + seconds / ROUNDS
            while True:
                start = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - start)
                if time.perf_counter() > end:
                    break
            peak = _peak_memory(device)
            memory[name] = None if peak is None else max(memory[name] or 0.0, peak / 1e6)
    return {name: Measured(1e3 * statistics.median(taken), memory[name]) for name, taken in times.items()}


@dataclass(frozen=True)
class Timing:
    """
    What one form of a network costs at one batch size.

    Args:
        form: `"plain"` as loaded, `"folded"` by `for_inference`, `"compiled"`: the folded one by `torch.compile`, or
            the name of an engine or of a peer.
        batch_size: images at once.
        milliseconds: median of a batch's time.
        peak_memory: see [`Measured`].
    """

    form: str
    batch_size: int
    milliseconds: float
    peak_memory: float | None


@dataclass(frozen=True)
class Benchmark:
    """
    The numbers of [`benchmark`].

    Args:
        parameters: trainable numbers of the network.
        multiply_adds: multiply-adds (MAC) of convolutions and linear layers for one image; twice that are the
            floating-point operations.
        image_size: height and width of the images in pixels.
        device: where the network ran.
        threads: threads that a CPU's operations used.
        timings: one for each form and batch size.
        skipped: a sentence when a form could not be measured.
    """

    parameters: int
    multiply_adds: int
    image_size: int
    device: str
    threads: int
    timings: tuple[Timing, ...]
    skipped: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers in dictionaries and lists, ready for JSON."""
        return asdict(self) | {"timings": [asdict(timing) for timing in self.timings]}


def benchmark(
    model: Network,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    forms: Sequence[str] = FORMS,
    engines: Sequence[Engine] = (),
    seconds: float = 2.0,
    progress: Progress = silent,
) -> Benchmark:
    """
    Measure a network on the device and in the dtype that it is in, with random images of its `image_size`.

    Args:
        model: the network; it is set to evaluation mode.
        batch_sizes: images at once.
        forms: any of `FORMS`.
        engines: what takes turns with them under its own name: an engine of the same network, or a peer, whose images
            have the size that it is made for.
        seconds: about how long each form runs at each batch size, compilation aside.
        progress: called for every batch size that is compiled and measured.

    Raises:
        InputError: a batch size is less than 1 or its images do not fit into memory, a form is unknown, or `seconds` is
            not a finite number of at least 0.
    """
    if not batch_sizes or min(batch_sizes) < 1:
        raise InputError(f"batch_sizes={tuple(batch_sizes)} must be numbers of at least 1")
    if unknown := set(forms) - set(FORMS):
        raise InputError(f"forms={tuple(forms)} must be some of {', '.join(FORMS)}: {unknown.pop()!r} is unknown")
    if not 0 <= seconds < math.inf:
        raise InputError(f"seconds={seconds} must be a finite number of at least 0")
    model.eval()
    skipped = None
    timings = []
    folded = for_inference(model)
    for batch_size in batch_sizes:
        pixel_values = _random_images(model, batch_size)
        networks: dict[str, Callable[[Tensor], Any]] = {}
        for form in forms:
            network: Callable[[Tensor], Any] = model if form == "plain" else folded
            if form == "compiled":
                if skipped is not None:
                    continue
                progress("compiling", 0, len(batch_sizes))
                torch.compiler.reset()  # or it would make one network for all batch sizes, a slower one
                network = torch.compile(folded, dynamic=False)
            try:
                _run(network, pixel_values)
            except Exception as error:
                if form != "compiled":
                    raise
                # Most often: no C++ compiler. Its message is pages long.
                skipped = f"the compiled form could not be made: {type(error).__name__}: {str(error).splitlines()[0]}"
                continue
            networks[form] = network
            if form == "compiled":
                progress("compiling", 1, len(batch_sizes))
        progress("measuring", 0, len(batch_sizes))
        calls: dict[str, Callable[[], object]] = {
            form: partial(_run, network, pixel_values) for form, network in networks.items()
        }
        for engine in engines:
            images = _random_images(model, batch_size, engine.image_size)
            calls[engine.name] = partial(engine, images.float().cpu().numpy())
        for form, cost in take_turns(calls, seconds, model.device).items():
            timings.append(Timing(form, batch_size, cost.milliseconds, cost.peak_memory))
        progress("measuring", 1, len(batch_sizes))
    return Benchmark(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        multiply_adds=multiply_adds(model),
        image_size=model.config.image_size,
        device=_device_name(model.device),
        threads=torch.get_num_threads(),
        timings=tuple(timings),
        skipped=skipped,
    )


def multiply_adds(model: Network, image_size: int | None = None) -> int:
    """Return the multiply-adds of the network's convolutions and linear layers for one image of `image_size` pixels."""
    with FlopCounterMode(display=False) as counter:
        _run(model.eval(), _random_images(model, 1, image_size))
    return counter.get_total_flops() // 2


def _random_images(model: Network, batch_size: int, image_size: int | None = None) -> Tensor:
    """Return noise in 0..1 of the shape `(batch_size, num_channels, image_size, image_size)`, on the model's device."""
    size = image_size or model.config.image_size
    shape = (batch_size, model.config.num_channels, size, size)
    with _within_memory(batch_size, model.device):
        return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(model.device, model.dtype)


def _run(network: Callable[[Tensor], Any], pixel_values: Tensor) -> None:
    """Run one pass without gradients, and wait for it."""
    with torch.inference_mode(), _within_memory(len(pixel_values), pixel_values.device):
        network(pixel_values)
    if pixel_values.is_cuda:
        torch.cuda.synchronize(pixel_values.device)


@contextlib.contextmanager
def _within_memory(batch_size: int, device: torch.device) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.cuda.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise InputError(
            f"batch_size={batch_size} must be smaller: its images do not fit into the memory of {device}"
        ) from error


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        with contextlib.suppress(OSError):  # some containers do not allow it
            Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is in use now


def _peak_memory(device: torch.device) -> float | None:
    """Return the most bytes in use since the last reset; `None` where that is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        if "VmHWM" in status:
            return int(status["VmHWM"].split()[0]) * 1024
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of the process so far
    return peak if sys.platform == "darwin" else peak * 1024


__all__ = [
    "BATCH_SIZES",
    "FORMS",
    "Benchmark",
    "Measured",
    "Timing",
    "benchmark",
    "multiply_adds",
    "take_turns",
]
