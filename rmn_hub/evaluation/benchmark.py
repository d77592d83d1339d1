"""What a checkpoint costs: parameters, multiply-adds, milliseconds and memory. `rmn-hub benchmark`."""

import contextlib
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..errors import InputError
from ..hub.checkpoint import weights_problem
from ..model.modeling_rmn import RMNModel

if TYPE_CHECKING:
    from rich.table import Table


BATCH_SIZES = (1, 8, 32)
FORMS = ("plain", "folded", "compiled")
# The forms take turns in so many rounds, so that what else the machine does hits them alike.
ROUNDS = 5


@dataclass(frozen=True)
class Timing:
    """
    How one form of a network does at one batch size.

    Args:
        form: `"plain"` as loaded, `"folded"` by `for_inference()`, or `"compiled"`: the folded one by `torch.compile`.
        batch_size: images at once.
        milliseconds: median of a batch's time.
        peak_memory: megabytes (1e6 bytes) at most in use meanwhile: of the process on a CPU, of tensors on a GPU.
    """

    form: str
    batch_size: int
    milliseconds: float
    peak_memory: float


@dataclass(frozen=True)
class Benchmark:
    """
    What [`benchmark`] measured.

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
        """The numbers in dictionaries and lists, ready for JSON."""
        return asdict(self) | {"timings": [asdict(timing) for timing in self.timings]}


def benchmark(
    model: RMNModel,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    forms: Sequence[str] = FORMS,
    seconds: float = 2.0,
    progress: Callable[[str], None] = lambda text: None,
) -> Benchmark:
    """
    Measures a network on the device and in the dtype that it is in, with random images of its `image_size`.

    Args:
        model: the network; it is set to evaluation mode.
        batch_sizes: images at once.
        forms: any of `FORMS`.
        seconds: about how long each form runs at each batch size, compilation aside.
        progress: is told what is being measured.

    Raises:
        InputError: a batch size is less than 1 or its images do not fit into memory, a form is unknown, or `seconds` is
            no time.
    """
    if not batch_sizes or min(batch_sizes) < 1:
        raise InputError(f"batch sizes {tuple(batch_sizes)} must be numbers of at least 1")
    if unknown := set(forms) - set(FORMS):
        raise InputError(f"the form {unknown.pop()!r} is unknown: choose of {', '.join(FORMS)}")
    if not 0 <= seconds < math.inf:
        raise InputError(f"seconds={seconds} must be a finite number of at least 0")
    model.eval()
    skipped = None
    timings = []
    folded = model.for_inference()
    for batch_size in batch_sizes:
        pixel_values = _random_images(model, batch_size)
        networks: dict[str, Callable[[Tensor], Any]] = {}
        for form in forms:
            network = {"plain": model, "folded": folded}.get(form)
            if network is None:
                if skipped is not None:
                    continue
                progress(f"compiling for batches of {batch_size}")
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
        progress(f"batches of {batch_size}")
        timings += _take_turns(networks, pixel_values, seconds)
    return Benchmark(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        multiply_adds=multiply_adds(model),
        image_size=model.config.image_size,
        device=_device_name(model.device),
        threads=torch.get_num_threads(),
        timings=tuple(timings),
        skipped=skipped,
    )


def load(checkpoint: str | os.PathLike[str], device: str | torch.device = "cpu") -> RMNModel:
    """
    The network of a checkpoint, a folder or a Hub id.

    Raises:
        InputError: it cannot be loaded, its weights are not those of its network, or the device is not there.
    """
    try:
        model, report = RMNModel.from_pretrained(checkpoint, output_loading_info=True)
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError, StrictDataclassError) as error:
        raise InputError(" ".join(str(error).split())) from error
    if problem := weights_problem(checkpoint, report):
        raise InputError(problem)
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device} cannot be used here: {str(error).splitlines()[0]}") from error


def table(numbers: Benchmark) -> "Table":
    """The numbers for a terminal."""
    from rich.table import Table

    where = f"{numbers.device}, {numbers.threads} threads" if numbers.device == "cpu" else numbers.device
    millions = (
        f"{numbers.parameters / 1e6:,.1f} M parameters, {numbers.multiply_adds / 1e6:,.0f} M multiply-adds an image"
    )
    images = f"Images of {numbers.image_size} x {numbers.image_size} pixels on {where}: time of a batch, peak memory"
    rows = Table(title=f"{millions}\n{images}", title_justify="left", min_width=72)
    batch_sizes = sorted({timing.batch_size for timing in numbers.timings})
    rows.add_column("")
    for batch_size in batch_sizes:
        rows.add_column(f"batch {batch_size}", justify="right")
    for form in dict.fromkeys(timing.form for timing in numbers.timings):
        cells = {timing.batch_size: timing for timing in numbers.timings if timing.form == form}
        rows.add_row(
            form,
            *(
                f"{cells[size].milliseconds:,.1f} ms {cells[size].peak_memory:6,.0f} MB" if size in cells else "-"
                for size in batch_sizes
            ),
        )
    return rows


def multiply_adds(model: RMNModel, image_size: int | None = None) -> int:
    """Multiply-adds of the network's convolutions and linear layers for one image of `image_size` pixels."""
    with FlopCounterMode(display=False) as counter:
        _run(model.eval(), _random_images(model, 1, image_size))
    return counter.get_total_flops() // 2


def _random_images(model: RMNModel, batch_size: int, image_size: int | None = None) -> Tensor:
    """Noise in 0..1 of the shape `(batch_size, num_channels, image_size, image_size)`, on the model's device."""
    size = image_size or model.config.image_size
    shape = (batch_size, model.config.num_channels, size, size)
    with _within_memory(batch_size, model.device):
        return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(model.device, model.dtype)


def _run(network: Callable[[Tensor], Any], pixel_values: Tensor) -> None:
    """One pass without gradients, waited for."""
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
        raise InputError(f"batches of {batch_size} do not fit into memory of {device}: give smaller ones") from error


def _take_turns(networks: dict[str, nn.Module], pixel_values: Tensor, seconds: float) -> list[Timing]:
    times: dict[str, list[float]] = {form: [] for form in networks}
    memory: dict[str, float] = {}
    for _ in range(ROUNDS):
        for form, network in networks.items():
            _reset_peak_memory(pixel_values.device)
            _run(network, pixel_values)  # warms the caches that the form before has filled
            end = time.perf_counter() + seconds / ROUNDS
            while True:
                start = time.perf_counter()
                _run(network, pixel_values)
                times[form].append(time.perf_counter() - start)
                if time.perf_counter() > end:
                    break
            memory[form] = max(memory.get(form, 0.0), _peak_memory(pixel_values.device))
    return [
        Timing(form, len(pixel_values), statistics.median(taken) * 1e3, memory[form] / 1e6)
        for form, taken in times.items()
    ]


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        with contextlib.suppress(OSError):  # some containers do not allow it
            Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is in use now


def _peak_memory(device: torch.device) -> float:
    """Bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        if "VmHWM" in status:
            return int(status["VmHWM"].split()[0]) * 1024
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of the process so far
    return peak if sys.platform == "darwin" else peak * 1024


__all__ = ["BATCH_SIZES", "FORMS", "Benchmark", "Timing", "benchmark", "load", "multiply_adds", "table"]
