"""
The one way to load and check a checkpoint, and to explain what is wrong with it.

    from rmn_hub.hub import checkpoint

    loaded = checkpoint.load("org/rmn-fer2013")  # or a folder
    loaded.model, loaded.processor, loaded.folder, loaded.expressions

`load` returns the network with its image processor, `load_model` the network alone, and `find` the folder of the files.
All three take a folder or a Hub id and raise [`CheckpointError`], whose message is one sentence. They touch no setting
of torch or transformers and no environment variable, print nothing, and can be called from many threads at once.

Tensors are read here instead of by `from_pretrained`, which prints a table of every tensor that does not fit, takes a
switch of the whole process to be quiet, and goes on with random weights.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor
from transformers import PreTrainedConfig

from ..baselines.networks import MODEL_TYPES, Network, from_config, read_config
from ..checkpoints import WEIGHTS, weight_files, weights_hash
from ..devices import usable_device
from ..errors import MissingPackageError
from ..images import shown
from ..model.configuration_rmn import RMNConfig
from ..model.image_processing_rmn import RMNImageProcessor
from .files import CONFIG, COPY, PROCESSOR, failure, find, one_line, read_json


@dataclass(frozen=True)
class LoadedCheckpoint:
    """
    What a checkpoint holds.

    Attributes:
        model: the network, in evaluation mode and float32: an RMN, or another of `rmn_hub.baselines.networks`.
        processor: the image processor that makes its `pixel_values`.
        folder: where the files are; for a Hub id a snapshot in the cache, which must not be changed.
    """

    model: Network
    processor: RMNImageProcessor
    folder: Path

    @property
    def expressions(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return _class_names(self.model.config)


def load(
    checkpoint: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    expressions: Sequence[str] | None = None,
    rmn_only: bool = False,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> LoadedCheckpoint:
    """
    Load the network and the image processor of a checkpoint.

    Args:
        checkpoint: a folder or a Hub id.
        device: where the network goes; the CPU when not given.
        expressions: the class names that the caller needs, in their order; any when not given.
        rmn_only: whether no other network will do than an RMN.
        revision: branch, tag or commit on the Hub; the main branch when not given.
        cache_dir: folder for downloads; Hugging Face's own when not given.
        local_files_only: never ask the Hub, use what the cache has.
        token: for private repositories; the one that is logged in when not given.

    Raises:
        CheckpointError: it cannot be found, read or used, or predicts other expressions.
        InputError: the device does not exist.
    """
    folder = find(checkpoint, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only, token=token)
    model = _model(checkpoint, folder, expressions, rmn_only)
    return LoadedCheckpoint(_moved(model, device), _processor(checkpoint, folder, model.config), folder)


def load_model(
    checkpoint: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    expressions: Sequence[str] | None = None,
    rmn_only: bool = False,
    **where: Any,
) -> Network:
    """
    Load the network of a checkpoint that may lack an image processor: in evaluation mode and float32.

    Arguments and errors are those of [`load`], with its `revision`, `cache_dir`, `local_files_only` and `token`.
    """
    return _moved(_model(checkpoint, find(checkpoint, **where), expressions, rmn_only), device)


def weights_megabytes(folder: Path) -> float:
    """Return the size of a checkpoint's weights in megabytes (1e6 bytes)."""
    return sum((folder / file).stat().st_size for file in weight_files(folder)) / 1e6


def _class_names(config: PreTrainedConfig) -> tuple[str, ...]:
    return tuple(config.id2label[index] for index in range(config.num_labels))


def _config(name: str | os.PathLike[str], folder: Path, rmn_only: bool) -> PreTrainedConfig:
    content = read_json(name, folder / CONFIG)
    architecture = content.get("model_type")
    if architecture != RMNConfig.model_type and (rmn_only or architecture not in MODEL_TYPES):
        reason = f"its {CONFIG} has model_type={shown(repr(architecture))}, not {RMNConfig.model_type!r}"
        raise failure(name, reason, "Give the checkpoint of a Residual Masking Network")
    try:
        config = read_config(content)
    except MissingPackageError:
        raise
    except Exception as error:  # transformers stumbles over odd settings in many ways
        reason = one_line(error.__cause__ or error)
        raise failure(name, f"its {CONFIG} describes no network ({reason})", f"Correct its {CONFIG}") from error
    config.name_or_path = os.fspath(name)
    config.dtype = torch.float32
    return config


def _model(name: str | os.PathLike[str], folder: Path, expressions: Sequence[str] | None, rmn_only: bool) -> Network:
    config = _config(name, folder, rmn_only)
    if expressions is not None and _class_names(config) != tuple(expressions):
        reason = f"it predicts {shown(', '.join(_class_names(config)), 300)}"
        raise failure(name, reason, f"Give one that predicts {', '.join(expressions)}, in this order")
    # On the meta device, without values: the checkpoint brings them.
    with torch.device("meta"):
        model = from_config(config)
    tensors = _tensors(name, folder)
    expected = model.state_dict()
    wrong = sorted(expected.keys() ^ tensors.keys())
    wrong += sorted(key for key in expected.keys() & tensors.keys() if not _fits(tensors[key], expected[key]))
    if wrong:
        reason = f"its weights are of another network than its {CONFIG} describes"
        number = f"{len(wrong)} tensor differs" if len(wrong) == 1 else f"{len(wrong)} tensors differ"
        raise failure(name, f"{reason}: {number}, {wrong[0]} for one", f"Give the {CONFIG} that belongs to the weights")
    model.load_state_dict(
        # In float32 whatever the caller's default dtype is, which `expected` has.
        {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()},
        strict=True,
        assign=True,
    )
    return model.eval()


def _fits(tensor: Tensor, expected: Tensor) -> bool:
    return tensor.shape == expected.shape and tensor.is_floating_point() == expected.is_floating_point()


def _tensors(name: str | os.PathLike[str], folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder, name):
        try:
            # Read, not mapped: Windows does not replace a file that is, and what is copied over it would change the
            # network.
            tensors |= load_tensors((folder / file).read_bytes())
        except SafetensorError as error:
            raise failure(name, f"its {file} is truncated or damaged", COPY) from error
        except OSError as error:
            raise failure(name, f"its {file} cannot be read ({error.strerror or error})", COPY) from error
    return tensors


def _processor(name: str | os.PathLike[str], folder: Path, config: PreTrainedConfig) -> RMNImageProcessor:
    if not (folder / PROCESSOR).is_file():
        raise failure(name, f"it has no {PROCESSOR}", "Save its RMNImageProcessor there")
    content = read_json(name, folder / PROCESSOR)
    kind = content.get("image_processor_type", RMNImageProcessor.__name__)
    if kind != RMNImageProcessor.__name__:
        reason = f"its {PROCESSOR} is of a {shown(str(kind))}, not of an {RMNImageProcessor.__name__}"
        raise failure(name, reason, "Save its RMNImageProcessor there")
    try:
        processor = RMNImageProcessor.from_dict(content)
        # Most odd settings show only in use.
        shape = processor(Image.new("RGB", (8, 8)), return_tensors="pt")["pixel_values"].shape
    except Exception as error:  # transformers stumbles over odd settings in many ways
        reason = f"its {PROCESSOR} describes no image processor ({one_line(error)})"
        raise failure(name, reason, f"Correct its {PROCESSOR}") from error
    if shape[1] != config.num_channels:
        reason = f"its image processor makes {shape[1]} channels and its network takes {config.num_channels}"
        raise failure(name, reason, f"Correct its {PROCESSOR}")
    return processor


def _moved(model: Network, device: str | torch.device | None) -> Network:
    return model if device is None else model.to(usable_device(device))


__all__ = [
    "CONFIG",
    "PROCESSOR",
    "WEIGHTS",
    "LoadedCheckpoint",
    "find",
    "load",
    "load_model",
    "weights_hash",
    "weights_megabytes",
]
