"""The original network's weights and input behind `reference/golden.npz`, which anybody can make again."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

REFERENCE = Path(__file__).parent / "reference"


def weight(name, shape, salt=0):
    """One tensor of the original's state dict, from nothing but its name and shape."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()) + salt))
    if name.endswith("num_batches_tracked"):
        return np.array(0, np.int64)
    values = rng.standard_normal(shape)
    if name.endswith("running_var"):
        values = 1 + 0.1 * np.abs(values)
    elif name.endswith(("running_mean", "bias")):
        values = 0.1 * values
    elif len(shape) == 1:
        values = 1 + 0.1 * values
    elif len(shape) == 4:
        values = values * np.sqrt(1 / (shape[1] * shape[2] * shape[3]))
    else:
        values = values * np.sqrt(1 / shape[1])
    return values.astype(np.float32)


def original_shapes():
    return json.loads((REFERENCE / "state_dict_shapes.json").read_text())


def original_state_dict(salt=0):
    """The 740 tensors by the authors' names."""
    return {name: torch.from_numpy(np.array(weight(name, shape, salt))) for name, shape in original_shapes().items()}


def consistent(state_dict):
    """The same with both names of a shortcut holding one value, as in the authors' own checkpoints."""
    same = dict(state_dict)
    for name in state_dict:
        mask, layer, *rest = name.split(".")
        if mask.startswith("mask") and layer.startswith("downsample"):
            same[name] = state_dict[".".join([mask, layer.replace("downsample", "conv"), "downsample", *rest])]
    return same


def pixel_values(salt=0):
    rng = np.random.Generator(np.random.PCG64(20201 + salt))
    return torch.from_numpy(rng.random((2, 3, 224, 224)).astype(np.float32))
