"""Which engine runs a checkpoint, and where."""

import ctypes
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .engines.engine import Engine
from .engines.pixels import PixelProcessor
from .errors import InputError
from .images import shown

if TYPE_CHECKING:
    import torch

    from .model.modeling_rmn import RMNModel


def engine_of(model: "RMNModel | Engine", device: "str | torch.device | None") -> Engine:
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
    checkpoint: str, where: dict[str, Any], engine: str, device: "str | torch.device | None"
) -> tuple[Engine, PixelProcessor]:
    """
    Return the engine and the pixel processor of a checkpoint.

    Args:
        checkpoint: a folder or a Hub id.
        where: `revision`, `cache_dir`, `local_files_only` and `token`, as `hub.checkpoint.load` takes them.
        engine: `"auto"`, `"torch"` or `"onnx"`.
        device: where the network runs; the GPU if there is one when not given.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        InputError: the engine or the device does not exist here.
    """
    if engine not in ("auto", "torch", "onnx"):
        raise InputError(f"engine={shown(engine)} must be 'auto', 'torch' or 'onnx'")
    if _takes_onnx(Path(checkpoint), engine, device):
        if str(device or "cpu") != "cpu":
            raise InputError(f"device={shown(device)} must be 'cpu' with engine='onnx': take engine='torch' for a GPU")
        from .engines.onnx import OnnxEngine

        onnx, processor = OnnxEngine.from_checkpoint(checkpoint), PixelProcessor.from_folder(checkpoint)
        if (processor.height, processor.width) == (onnx.image_size, onnx.image_size):
            return onnx, processor
        # The graph takes images of one size alone, torch those of any.
        if engine == "onnx":
            raise InputError(
                f"engine='onnx' needs a preprocessor_config.json in {shown(checkpoint)} whose size is "
                f"{onnx.image_size} x {onnx.image_size}: take engine='torch'"
            )
    from .engines.torch import TorchEngine
    from .hub import checkpoint as checkpoints

    loaded = checkpoints.load(checkpoint, **where)
    return TorchEngine(loaded.model, device), PixelProcessor.from_settings(loaded.processor.to_dict(), checkpoint)


def _takes_onnx(folder: Path, engine: str, device: "str | torch.device | None") -> bool:
    """Return whether the ONNX engine runs a checkpoint: on a CPU it is the faster one, and starts without torch."""
    if engine != "auto":
        return engine == "onnx"
    has_files = (folder / "onnx" / "model.onnx").is_file()
    if not has_files or importlib.util.find_spec("onnxruntime") is None:
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


__all__ = ["engine_of", "load_engine"]
