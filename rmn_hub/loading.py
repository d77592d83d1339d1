"""Which engine runs a checkpoint, and where."""

import ctypes
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .engines.engine import Engine
from .engines.ensemble import Processor, combined
from .engines.onnx import ONNX_FILE, OnnxEngine
from .engines.pixels import PixelProcessor
from .errors import CheckpointError, InputError
from .images import is_folder, shown

if TYPE_CHECKING:
    import torch

    from .baselines.networks import Network


def engine_of(model: "Network | Engine", device: "str | torch.device | None") -> Engine:
    """
    Return an engine as it is, and the torch engine of a network.

    Raises:
        InputError: the device does not exist here.
    """
    if isinstance(model, Engine):
        return model
    from .engines.torch import TorchEngine

    return TorchEngine(model, device)


def load_engine(
    checkpoint: str,
    where: dict[str, Any],
    engine: str,
    device: "str | torch.device | None",
    threads: int | None = None,
    dtype: "torch.dtype | None" = None,
) -> tuple[Engine, PixelProcessor]:
    """
    Return the engine and the pixel processor of a checkpoint.

    Args:
        checkpoint: a folder or a Hub id.
        where: `revision`, `cache_dir`, `local_files_only` and `token`, as `hub.files.find` takes them.
        engine: `"auto"`, `"torch"` or `"onnx"`.
        device: where the network runs; the GPU if there is one when not given.
        threads: threads of onnxruntime; all cores when `None`. torch keeps its own setting.
        dtype: what torch computes in; what the weights are in when `None`.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        InputError: the engine or the device does not exist here.
    """
    if engine not in ("auto", "torch", "onnx"):
        raise InputError(f"engine={shown(engine)} must be 'auto', 'torch' or 'onnx'")
    if _takes_onnx(engine, device):
        if str(device or "cpu") != "cpu":
            raise InputError(f"device={shown(device)} must be 'cpu' with engine='onnx': take engine='torch' for a GPU")
        folder = Path(checkpoint)
        if not (folder / ONNX_FILE).is_file():
            # Here, because the Hub's client takes 0.2 s to import.
            from .hub.files import find

            folder = find(checkpoint, onnx=True, **where)
        has_file = (folder / ONNX_FILE).is_file()
        if engine == "onnx" and not has_file:
            raise CheckpointError(
                f"The checkpoint {checkpoint} cannot be run with engine='onnx': it has no {ONNX_FILE}. "
                "Export it with `rmn-hub export`, or take engine='torch'."
            )
        if has_file:
            onnx = OnnxEngine.from_checkpoint(folder, threads=threads)
            processor = PixelProcessor.from_folder(folder)
            if (processor.height, processor.width) == (onnx.image_size, onnx.image_size):
                return onnx, processor
            # The graph takes images of one size alone, torch those of any.
            if engine == "onnx":
                raise InputError(
                    f"engine='onnx' needs a preprocessor_config.json in {shown(checkpoint)} whose size is "
                    f"{onnx.image_size} x {onnx.image_size}: take engine='torch'"
                )
        if not is_folder(Path(checkpoint)):
            # By the commit that was found: the Hub is not asked again.
            where = {**where, "revision": folder.name}
    from .engines.torch import TorchEngine
    from .hub import checkpoint as checkpoints

    loaded = checkpoints.load(checkpoint, **where)
    return TorchEngine(loaded.model, device, dtype), PixelProcessor.from_settings(
        loaded.processor.to_dict(), checkpoint
    )


def load_ensemble(
    checkpoints: Sequence[str],
    where: dict[str, Any],
    engine: str,
    device: "str | torch.device | None",
    threads: int | None = None,
    dtype: "torch.dtype | None" = None,
) -> tuple[Engine, Processor]:
    """
    Return the engine and the processor of one checkpoint, or of the unweighted ensemble of several.

    Args:
        checkpoints: folders or Hub ids.
        where: as [`load_engine`] takes it, for each of them.
        engine: as [`load_engine`] takes it.
        device: as [`load_engine`] takes it.
        threads: as [`load_engine`] takes it.
        dtype: as [`load_engine`] takes it.

    Raises:
        CheckpointError: a checkpoint cannot be loaded.
        InputError: there are no checkpoints, they predict different expressions, or the engine or the device does not
            exist here.
    """
    if not checkpoints:
        raise InputError("checkpoints=[] must hold at least one folder or Hub id")
    return combined([load_engine(checkpoint, where, engine, device, threads, dtype) for checkpoint in checkpoints])


def _takes_onnx(engine: str, device: "str | torch.device | None") -> bool:
    """Return whether an ONNX file is looked for: on a CPU it is the faster engine, and starts without torch."""
    if engine != "auto":
        return engine == "onnx"
    if importlib.util.find_spec("onnxruntime") is None:
        return False
    return str(device) == "cpu" or (device is None and not _has_gpu())


def _has_gpu() -> bool:
    """Return whether torch can use a GPU, without importing it where there is no driver of one."""
    if "torch" not in sys.modules and not os.path.exists("/dev/kfd"):  # noqa: PTH110 - AMD's driver
        try:
            ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        except OSError:
            return False
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


__all__ = ["engine_of", "load_engine", "load_ensemble"]
