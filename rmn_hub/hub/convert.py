"""Convert the authors' weights, a pickle of their training, into a checkpoint that `from_pretrained` loads."""

import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import RemoteEntryNotFoundError
from safetensors import SafetensorError
from torch import Tensor

from ..errors import InputError
from ..expressions import EXPRESSIONS
from ..files import file_hash, write_json
from ..model.configuration_rmn import RMNConfig
from ..model.image_processing_rmn import RMNImageProcessor
from ..model.modeling_rmn import RMNModel
from .files import check_reachable, explain_download
from .records import AUTHORS, SOURCE

# How many tensors a sentence names.
NAMED = 3
_ORIGINAL = "a checkpoint of resmasking_dropout1"


def convert(
    source: str | Path,
    output: str | Path,
    *,
    filename: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> Path:
    """
    Turn a checkpoint of the authors (`resmasking_dropout1`) into a folder with configuration, safetensors and image
    processor.

    Args:
        source: the file, or a Hub id (`owner/name`) or folder whose file is `filename`, or both in one
            (`owner/name/file`).
        output: the folder to make; it may exist when it is empty. Its `source.json` names the file.
        filename: the file in `source`; that of the authors' weights for the repositories in `records.AUTHORS` when not
            given.
        revision: branch, tag or commit of that repository.
        token: for a private one.

    Returns:
        `output`. Nothing is left there when the conversion fails.

    Raises:
        InputError: the source cannot be read or holds other tensors, or the folder cannot be made.
    """
    output = new_folder(output)
    repository = Path(source).as_posix()
    if filename is None and repository in AUTHORS and not Path(source).exists():
        filename = AUTHORS[repository]
    path = find_file(source, filename, revision, token)
    try:
        config, state_dict = convert_state_dict(load_original(path))
    except InputError as error:
        raise InputError(f"{source} cannot be converted: {error}") from error
    with torch.device("meta"):
        model = RMNModel(config)
    model.load_state_dict(state_dict, strict=True, assign=True)
    # A local folder's name is nobody else's business.
    on_hub = not Path(source).exists()
    record = {
        "repo_id": "/".join(repository.split("/")[:2]) if on_hub else None,
        "file": path.name,
        "revision": revision,
        "sha256": file_hash(path),
    }
    write_checkpoint(model, output, {SOURCE: record})
    return output


def new_folder(output: str | Path) -> Path:
    """
    Return the path of a folder that is to be made.

    Raises:
        InputError: it has content, or is a file.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"`output`={str(output)!r} must be a new or an empty folder")
    return output


def write_checkpoint(model: RMNModel, output: Path, records: Mapping[str, dict[str, Any]] | None = None) -> None:
    """
    Write a network, an image processor of its size and JSON `records` by their names into a new folder, all or nothing.

    Raises:
        InputError: the folder cannot be written.
    """
    # An existing folder stays, as it may be where somebody stands, a link, or another disk.
    parent = output if output.exists() else output.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".rmn-hub-") as beside:
            folder = Path(beside) / "checkpoint"
            model.save_pretrained(folder)
            size = {"height": model.config.image_size, "width": model.config.image_size}
            RMNImageProcessor(size=size).save_pretrained(folder)
            for name, record in (records or {}).items():
                write_json(folder / name, record)
            if parent == output:
                for path in folder.iterdir():
                    path.replace(output / path.name)
            else:
                folder.replace(output)
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error.strerror or error}.") from error
    except SafetensorError as error:  # what safetensors makes of a full disk
        raise InputError(f"{output} cannot be written: {error}.") from error


def load_original(path: str | Path) -> Mapping[str, Tensor]:
    """
    Read the state dict of a file that the authors' training wrote: `{"net": state_dict, ...}`, or the state dict alone.

    It is read with `weights_only=True`, which runs none of a pickle's code.

    Raises:
        InputError: it cannot be read so, or holds no state dict.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about a pickle's form; what counts is raised
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"it cannot be read ({error.strerror or error}). Check the file.") from error
    except Exception as error:  # the unpickler raises nearly everything on other files
        # torch's own text advises to run the pickle's code.
        if code := re.search(r"Unsupported global: GLOBAL (\S+)", str(error)):
            raise InputError(
                f"it holds {code[1]}, and none of a pickle's code is run. Give one of tensors and plain values alone."
            ) from error
        raise InputError(
            "it does not hold tensors and plain values alone, or it is damaged. Give a file that `torch.save` wrote."
        ) from error
    state_dict = content.get("net", content) if isinstance(content, dict) else None
    if not isinstance(state_dict, Mapping) or not any(isinstance(value, Tensor) for value in state_dict.values()):
        raise InputError('it holds no state dict, neither as "net" nor by itself. Give a checkpoint of the authors.')
    return state_dict


def convert_state_dict(
    original: Mapping[str, Tensor], *, allow_contradictions: bool = False
) -> tuple[RMNConfig, dict[str, Tensor]]:
    """
    Rename the tensors of the original's state dict, 740 by name: their shortcuts of masking blocks have two names each.

    Args:
        original: tensors by the authors' names.
        allow_contradictions: whether the two names of a masking block's shortcut may hold different values. The one
            that the original loads last counts: `mask1.conv1.downsample.*`, not `mask1.downsample1.*`.

    Returns:
        The configuration and its model's state dict, floats in float32. Every tensor of `original` is in it.

    Raises:
        InputError: tensors are missing, unknown, of another shape, or contradict each other; the message names them.
    """
    head = original.get("fc.1.bias")
    classes = head.numel() if isinstance(head, Tensor) else len(EXPRESSIONS)
    config = RMNConfig() if classes == len(EXPRESSIONS) else RMNConfig(num_labels=max(1, classes))
    with torch.device("meta"):
        expected = RMNModel(config).state_dict()
    names = {_original_name(name, config.resolved_mask_depths() or ()): name for name in expected}
    second_names = {}
    for name in names:
        match name.split("."):
            case [mask, layer, "downsample", *rest] if mask.startswith("mask"):
                second_names[".".join([mask, layer.replace("conv", "downsample"), *rest])] = name

    known = {name: names[second_names.get(name, name)] for name in (*names, *second_names)}
    if missing := [name for name in known if not isinstance(original.get(name), Tensor)]:
        raise InputError(f"it lacks {_some(missing)} of the original's {len(known)} tensors. Give {_ORIGINAL}.")
    if unknown := [name for name in original if name not in known]:
        raise InputError(f"it holds {_some(unknown)}, which the original network does not have. Give {_ORIGINAL}.")
    shapes = {name: (tuple(original[name].shape), tuple(expected[ours].shape)) for name, ours in known.items()}
    if wrong := [f"{name} of shape {given}, not {right}" for name, (given, right) in shapes.items() if given != right]:
        raise InputError(f"it holds {_some(wrong)}. Give {_ORIGINAL}.")
    if not allow_contradictions:
        pairs = {second: first for second, first in second_names.items() if not original[second].equal(original[first])}
        if pairs:
            differing = _some([f"{second} and {first}" for second, first in pairs.items()])
            raise InputError(f"two names of one tensor hold different values, {differing}. Give {_ORIGINAL}.")
    return config, {ours: original[name].to(expected[ours].dtype).contiguous() for name, ours in names.items()}


def find_file(source: str | Path, filename: str | None, revision: str | None, token: str | bool | None) -> Path:
    """
    Return the path of a file, downloaded if need be. Arguments are those of [`convert`].

    Raises:
        InputError: it is not there, or cannot be downloaded.
    """
    path = Path(source)
    if filename is not None and path.is_dir():
        source = path = path / filename
        filename = None
    here = path.exists() or len(path.parts) < 3 or path.is_absolute() or str(source).startswith((".", "~"))
    if filename is None and here:
        if path.is_file():
            return path
        reason = "is a folder" if path.is_dir() else "does not exist"
        remedy = "Give the authors' file, or a Hub id and the name of the file in it"
        raise InputError(f"{source} cannot be converted: it {reason}. {remedy}.")
    if filename is None:
        owner, name, *rest = str(source).split("/")
        source, filename = f"{owner}/{name}", "/".join(rest)
    try:
        check_reachable(str(source), filename, revision, token=token)
        return Path(hf_hub_download(str(source), filename, revision=revision, token=token))
    except RemoteEntryNotFoundError as error:
        raise InputError(
            f"{source} cannot be converted: it has no file {filename}. Look at its files on the Hub."
        ) from error
    except Exception as error:  # the client's own, and those of the network library under it
        reason, remedy = explain_download(error, revision or "main")
        raise InputError(f"{source} cannot be converted: {reason}. {remedy}.") from error


def _original_name(name: str, mask_depths: Sequence[int]) -> str:
    """Return the authors' name of one of our tensors. They count from 1, and a masking block's layers through its U."""
    match name.split("."):
        case ["embedder", "embedder", *rest]:
            return f"{_conv_or_bn(rest[0], 1)}.{rest[1]}"
        case ["stages", stage, "layers", block, *rest]:
            return f"layer{int(stage) + 1}.{block}.{_original_block(rest)}"
        case ["masking_blocks", stage, role, *rest]:
            depth = mask_depths[int(stage)]
            if role == "out_layer":
                layer = 2 * depth
            else:
                number, *rest = rest
                layer = int(number) + 1 + (0 if role == "down_layers" else depth)
            if role == "up_samplers":
                return f"mask{int(stage) + 1}.up_pool{layer}.{_POSITION[rest[0]]}.{rest[1]}"
            return f"mask{int(stage) + 1}.conv{layer}.{_original_block(rest)}"
        case ["classifier", part]:
            return f"fc.1.{part}"
    raise AssertionError(name)


def _original_block(parts: Sequence[Any]) -> str:
    """Return the rest of a name within a residual block: of `layer.0.convolution.weight`, `conv1.weight`."""
    match parts:
        case ["shortcut", kind, part]:
            return f"downsample.{_POSITION[kind]}.{part}"
        case ["layer", number, kind, part]:
            return f"{_conv_or_bn(kind, int(number) + 1)}.{part}"
    raise AssertionError(parts)


_POSITION = {"convolution": 0, "normalization": 1}


def _conv_or_bn(kind: str, number: int) -> str:
    return f"{('conv', 'bn')[_POSITION[kind]]}{number}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(str, names[:NAMED])) + more


__all__ = ["convert", "convert_state_dict", "find_file", "load_original", "new_folder", "write_checkpoint"]
