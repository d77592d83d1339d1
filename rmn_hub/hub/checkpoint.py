"""
The one way to find, load and check a checkpoint, and to explain what is wrong with it.

    from rmn_hub.hub import checkpoint

    loaded = checkpoint.load("org/rmn-fer2013")  # or a folder
    loaded.model, loaded.processor, loaded.folder, loaded.expressions

`load` returns the network with its image processor, `load_model` the network alone, and `find` the folder of the files.
All three take a folder or a Hub id and raise [`CheckpointError`], whose message is one sentence. They touch no setting
of torch or transformers and no environment variable, print nothing, and can be called from many threads at once.

Tensors are read here instead of by `from_pretrained`, which prints a table of every tensor that does not fit, takes a
switch of the whole process to be quiet, and goes on with random weights.
"""

import contextlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import CheckpointError, InputError
from ..images import is_folder
from ..model.configuration_rmn import RMNConfig
from ..model.image_processing_rmn import RMNImageProcessor
from ..model.modeling_rmn import RMNModel

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# The form of an id on the Hub: whatever else is no folder is a path that was mistyped.
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_COPY = "Copy or download it again"
# How long the Hub may take to answer for the first time.
REACH_SECONDS = 3.0


@dataclass(frozen=True)
class LoadedCheckpoint:
    """
    What a checkpoint holds.

    Attributes:
        model: the network, in evaluation mode and float32.
        processor: the image processor that makes its `pixel_values`.
        folder: where the files are; for a Hub id a snapshot in the cache, which must not be changed.
    """

    model: RMNModel
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
        revision: branch, tag or commit on the Hub; the main branch when not given.
        cache_dir: folder for downloads; Hugging Face's own when not given.
        local_files_only: never ask the Hub, use what the cache has.
        token: for private repositories; the one that is logged in when not given.

    Raises:
        CheckpointError: it cannot be found, read or used, or predicts other expressions.
        InputError: the device does not exist.
    """
    folder = find(checkpoint, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only, token=token)
    model = _model(checkpoint, folder, expressions)
    return LoadedCheckpoint(_moved(model, device), _processor(checkpoint, folder, model.config), folder)


def load_model(
    checkpoint: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    expressions: Sequence[str] | None = None,
    **where: Any,
) -> RMNModel:
    """
    Load the network of a checkpoint that may lack an image processor: in evaluation mode and float32.

    Arguments and errors are those of [`load`], with its `revision`, `cache_dir`, `local_files_only` and `token`.
    """
    return _moved(_model(checkpoint, find(checkpoint, **where), expressions), device)


def find(
    checkpoint: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """
    Return the folder of a checkpoint: a local one, or the cache's snapshot of a Hub repository.

    The snapshot holds configuration, weights and image processor. It belongs to the cache and must not be changed.
    Arguments are those of [`load`].

    Raises:
        CheckpointError: there is no such folder or repository, it cannot be downloaded, or it lacks configuration or
            weights.
    """
    name = os.fspath(checkpoint)
    if not name or not is_folder(Path(name)):
        if not _HUB_ID.fullmatch(name):
            raise _failure(name, "there is no such folder", "Give the folder of a checkpoint, or a Hub id")
        return _download(name, revision or "main", cache_dir, local_files_only, token)
    folder = Path(name)
    if not (folder / CONFIG).is_file():
        raise _failure(name, f"it has no {CONFIG}", "Give the folder of a checkpoint")
    if not any((folder / weights).is_file() for weights in (WEIGHTS, INDEX)):
        raise _no_weights(name, any(folder.glob("*.bin")))
    return folder


def _class_names(config: RMNConfig) -> tuple[str, ...]:
    return tuple(config.id2label[index] for index in range(config.num_labels))


def _failure(name: str | os.PathLike[str], reason: str, remedy: str) -> CheckpointError:
    return CheckpointError(f"The checkpoint {os.fspath(name)} cannot be loaded: {reason}. {remedy}.")


def _no_weights(name: str, pickled: bool) -> CheckpointError:
    if pickled:
        reason = f"it has no {WEIGHTS}, only a pickle, which could run code"
        return _failure(name, reason, "Turn weights of the original network into safetensors with `rmn-hub convert`")
    return _failure(name, f"it has no {WEIGHTS}", "Give a checkpoint with weights")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    # A KeyError's text is the key alone.
    return f"{type(error).__name__}: {text}" if isinstance(error, KeyError) or not text else text


# The Hub


def _download(
    repo_id: str,
    revision: str,
    cache_dir: str | os.PathLike[str] | None,
    local_files_only: bool,
    token: str | bool | None,
) -> Path:
    def fetch(filename: str, revision: str) -> Path:
        path = hf_hub_download(
            repo_id,
            filename,
            revision=revision,
            cache_dir=None if cache_dir is None else Path(cache_dir),
            local_files_only=local_files_only,
            token=token,
        )
        return Path(path)

    try:
        if not local_files_only:
            check_reachable(repo_id, CONFIG, revision, cache_dir, token)
        try:
            config = fetch(CONFIG, revision)
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError as error:
            raise _failure(repo_id, f"it has no {CONFIG}", "Give a repository with a checkpoint") from error
        # The rest by the commit, so that all files are of one: a warm load then asks the Hub once, a pinned one never.
        folder, commit = config.parent, config.parent.name
        try:
            fetch(WEIGHTS, commit)
        except EntryNotFoundError as missing:
            try:
                index = fetch(INDEX, commit)
            except EntryNotFoundError:
                if isinstance(missing, LocalEntryNotFoundError):
                    raise missing from None
                raise _no_weights(repo_id, pickled=True) from missing
            for shard in _shards(repo_id, index):
                fetch(shard, commit)
        with contextlib.suppress(EntryNotFoundError):  # some callers do without; `load` reports it
            fetch(PROCESSOR, commit)
        return folder
    except CheckpointError:
        raise
    except Exception as error:  # the client's own, the network library's under it, a full disk
        raise _failure(repo_id, *explain_download(error, revision)) from error


def check_reachable(
    repo_id: str,
    filename: str,
    revision: str | None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
) -> None:
    """
    Ask the Hub once for a file that is not in the cache: its client goes on trying to connect for half a minute.

    Raises:
        LocalEntryNotFoundError: the Hub cannot be reached within `REACH_SECONDS`.
    """
    folder = None if cache_dir is None else Path(cache_dir)
    if isinstance(try_to_load_from_cache(repo_id, filename, cache_dir=folder, revision=revision), str):
        return
    try:
        get_hf_file_metadata(hf_hub_url(repo_id, filename, revision=revision), token=token, timeout=REACH_SECONDS)
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled):
        return  # an answer; what it means shows in the download
    except Exception as error:  # of the network library under the client
        raise LocalEntryNotFoundError(f"{repo_id} cannot be reached: {_one_line(error)}") from error


def explain_download(error: Exception, revision: str) -> tuple[str, str]:
    """
    Return why a download from the Hub failed and what to do about it, as two sentences without their ends.

    Args:
        error: what the Hub's client raised.
        revision: branch, tag or commit that was asked for.
    """
    if isinstance(error, GatedRepoError):
        return "its repository is gated", "Ask for access on its page and log in with `hf auth login`"
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        return (
            "it is neither a local folder nor a model on the Hub that you may read",
            "Check the name, or log in with `hf auth login` if it is private",
        )
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision {revision}", "Give a branch, a tag or a commit of it"
    if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
        return f"the Hub cannot be reached and {revision} is not in the cache", "Go online, or give a folder"
    return f"it could not be downloaded ({_one_line(error)})", "Try again"


def _shards(name: str | os.PathLike[str], index: Path) -> list[str]:
    """Return the names of the files that an index lists."""
    try:
        shards = sorted(set(_read_json(name, index)["weight_map"].values()))
        # Files beside the index only: a name with a path in it could lead anywhere.
        if shards and all(Path(shard).name == shard for shard in shards):
            return shards
    except (KeyError, TypeError, AttributeError):
        pass
    raise _failure(name, f"its {INDEX} lists no files", _COPY)


# Files


def _read_json(name: str | os.PathLike[str], path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _failure(name, f"its {path.name} cannot be read ({error.strerror or error})", _COPY) from error
    except (ValueError, RecursionError) as error:
        raise _failure(name, f"its {path.name} is damaged", _COPY) from error
    if not isinstance(content, dict):
        raise _failure(name, f"its {path.name} is damaged", _COPY)
    return content


def _config(name: str | os.PathLike[str], folder: Path) -> RMNConfig:
    content = _read_json(name, folder / CONFIG)
    architecture = content.get("model_type")
    if architecture != RMNConfig.model_type:
        reason = f"its {CONFIG} has model_type={architecture!r}, not {RMNConfig.model_type!r}"
        raise _failure(name, reason, "Give the checkpoint of a Residual Masking Network")
    try:
        config = RMNConfig.from_dict(content)
    except Exception as error:  # transformers stumbles over odd settings in many ways
        reason = _one_line(error.__cause__ or error)
        raise _failure(name, f"its {CONFIG} describes no network ({reason})", f"Correct its {CONFIG}") from error
    config.name_or_path = os.fspath(name)
    config.dtype = torch.float32
    return config


def _model(name: str | os.PathLike[str], folder: Path, expressions: Sequence[str] | None) -> RMNModel:
    config = _config(name, folder)
    if expressions is not None and _class_names(config) != tuple(expressions):
        reason = f"it predicts {', '.join(_class_names(config))}"
        raise _failure(name, reason, f"Give one that predicts {', '.join(expressions)}, in this order")
    # On the meta device, without values: the checkpoint brings them.
    with torch.device("meta"):
        model = RMNModel(config)
    tensors = _tensors(name, folder)
    expected = model.state_dict()
    wrong = sorted(expected.keys() ^ tensors.keys())
    wrong += sorted(key for key in expected.keys() & tensors.keys() if not _fits(tensors[key], expected[key]))
    if wrong:
        reason = f"its weights are of another network than its {CONFIG} describes"
        number = f"{len(wrong)} tensor differs" if len(wrong) == 1 else f"{len(wrong)} tensors differ"
        raise _failure(
            name, f"{reason}: {number}, {wrong[0]} for one", f"Give the {CONFIG} that belongs to the weights"
        )
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
    files = [WEIGHTS] if (folder / WEIGHTS).is_file() else _shards(name, folder / INDEX)
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors |= load_file(folder / file)
        except SafetensorError as error:
            raise _failure(name, f"its {file} is truncated or damaged", _COPY) from error
        except OSError as error:
            raise _failure(name, f"its {file} cannot be read ({error.strerror or error})", _COPY) from error
    return tensors


def _processor(name: str | os.PathLike[str], folder: Path, config: RMNConfig) -> RMNImageProcessor:
    if not (folder / PROCESSOR).is_file():
        raise _failure(name, f"it has no {PROCESSOR}", "Save its RMNImageProcessor there")
    content = _read_json(name, folder / PROCESSOR)
    kind = content.get("image_processor_type", RMNImageProcessor.__name__)
    if kind != RMNImageProcessor.__name__:
        reason = f"its {PROCESSOR} is of a {kind}, not of an {RMNImageProcessor.__name__}"
        raise _failure(name, reason, "Save its RMNImageProcessor there")
    try:
        processor = RMNImageProcessor.from_dict(content)
        # Most odd settings show only in use.
        shape = processor(Image.new("RGB", (8, 8)), return_tensors="pt")["pixel_values"].shape
    except Exception as error:  # transformers stumbles over odd settings in many ways
        reason = f"its {PROCESSOR} describes no image processor ({_one_line(error)})"
        raise _failure(name, reason, f"Correct its {PROCESSOR}") from error
    if shape[1] != config.num_channels:
        reason = f"its image processor makes {shape[1]} channels and its network takes {config.num_channels}"
        raise _failure(name, reason, f"Correct its {PROCESSOR}")
    return processor


def _moved(model: RMNModel, device: str | torch.device | None) -> RMNModel:
    if device is None:
        return model
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device={str(device)!r} must be a device of this machine: {reason}") from error


__all__ = [
    "CONFIG",
    "PROCESSOR",
    "WEIGHTS",
    "LoadedCheckpoint",
    "check_reachable",
    "explain_download",
    "find",
    "load",
    "load_model",
]
