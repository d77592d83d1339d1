"""hub.checkpoint"""

import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError
from transformers.utils import SAFE_WEIGHTS_NAME

from ..errors import InputError
from ..expressions import EXPRESSIONS
from ..model.image_processing_rmn import RMNImageProcessor
from ..model.modeling_rmn import RMNModel


def loading_problem(name: str | os.PathLike | None, revision: str, error: BaseException) -> str:
    """One sentence that says what is wrong with a checkpoint and what to do, where transformers has several."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in chain)

    message = " ".join(str(error).split())
    if caused_by(SafetensorError):
        return f"the weights of {name} are truncated or damaged: copy or download them again ({message})"
    if caused_by(GatedRepoError):
        return f"{name} is gated: ask for access on its page and log in with `hf auth login`"
    if caused_by(RepositoryNotFoundError, HFValidationError):
        return (
            f"{name} is neither a local folder nor a model on the Hub that you may read: check the name, or log in "
            "with `hf auth login` if it is private"
        )
    if caused_by(RevisionNotFoundError):
        return f"{name} has no revision {revision}: give a branch, a tag or a commit of it"
    if caused_by(LocalEntryNotFoundError, OfflineModeIsEnabled):
        return f"the Hub cannot be reached and {name} at {revision} is not in the cache: go online, or give a folder"
    if "valid JSON" in message:
        return f"the config.json of {name} is damaged: copy or download it again"
    if SAFE_WEIGHTS_NAME in message:
        return f"{name} has no {SAFE_WEIGHTS_NAME}: turn an original pickle into it with `rmn-hub convert`"
    if message.startswith("Can't load"):
        return f"{name} could not be downloaded, try again: {' '.join(str(chain[-1]).split())}"
    return message


def weights_problem(name: str | os.PathLike, report: dict[str, Any]) -> str | None:
    """One sentence when `from_pretrained`'s loading info says that the weights are of another network, else `None`."""
    wrong = sorted([*report["missing_keys"], *report["unexpected_keys"]])
    wrong += sorted(tensor for tensor, *_ in report["mismatched_keys"])
    if not wrong:
        return None
    return (
        f"the weights of {name} are not of the network that its config.json describes: {len(wrong)} tensors differ, "
        f"{wrong[0]} for one"
    )


WEIGHTS = "model.safetensors"


def load_checkpoint(checkpoint: str | Path, device: str | None = None) -> tuple[RMNModel, RMNImageProcessor]:
    """
    The model, in evaluation mode, and the image processor of a checkpoint.

    Raises:
        InputError: the folder holds no RMN checkpoint, or the device does not exist.
    """
    folder = checkpoint_folder(checkpoint, download=True)
    try:
        model, report = RMNModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
        processor = RMNImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise InputError(f"{folder} cannot be loaded as an RMN checkpoint: {' '.join(str(error).split())}") from error
    if report["missing_keys"] or report["unexpected_keys"]:
        raise InputError(f"{folder} holds weights of another network than its config.json describes")
    names = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
    if names != EXPRESSIONS:
        raise InputError(f"{folder} answers {', '.join(names)}, not the seven expressions {', '.join(EXPRESSIONS)}")
    try:
        return model.to(device or "cpu").eval(), processor
    except RuntimeError as error:
        raise InputError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error


def checkpoint_folder(checkpoint: str | Path, download: bool = False) -> Path:
    """
    A checkpoint's folder: a local one or, with `download`, the Hub's cache of it, which is not to be changed.

    Raises:
        InputError: it is not a folder with a configuration and safetensors, nor a model on the Hub that can be read.
    """
    folder = Path(checkpoint)
    if download and not folder.exists():
        try:
            folder = Path(snapshot_download(str(checkpoint), allow_patterns=["*.json", WEIGHTS]))
        except (OSError, ValueError) as error:
            raise InputError(loading_problem(str(checkpoint), "main", error)) from error
    if not (folder / "config.json").is_file() or not (folder / WEIGHTS).is_file():
        raise InputError(f"{checkpoint} is not a checkpoint: give a folder with config.json and {WEIGHTS}")
    return folder
