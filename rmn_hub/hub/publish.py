"""
Upload a checkpoint to the Hub with its card and its code, as a repository that needs no rmn_hub: `rmn-hub publish`.

`model.push_to_hub` of transformers uploads configuration, weights and code, with an automatic card.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from ..checkpoints import INDEX, WEIGHTS, read_json, weight_files
from ..engines.onnx import ONNX_FILE, OnnxEngine
from ..errors import InputError
from ..files import write_json
from . import card as cards
from . import checkpoint as checkpoints
from . import records
from .evaluation_page import FIGURES

# What a checkpoint has beside its network, and what to do where it is not there.
NEEDED = {
    "README.md": "Write its card with `rmn-hub card`, or by hand",
    checkpoints.PROCESSOR: "Save its RMNImageProcessor there",
}
# What else of a checkpoint's folder goes along: the numbers and images that its card refers to.
BESIDE = (".csv", ".jpg", ".json", ".md", ".png", ".svg")
LICENCE = "LICENSE"
# And whole folders: what runs it without torch (`rmn-hub export`), and the figures of `rmn-hub evaluate`.
FOLDERS = ("onnx", FIGURES)
# The card's Python, which the Hub opens in a notebook service under this name.
NOTEBOOK = "notebook.ipynb"
# What of an earlier upload goes where a new one does not have it: it is of the earlier weights. A CPU that loads from
# the Hub runs the ONNX file and never sees the weights. Those in one file are read rather than those in several.
OF_EARLIER = (
    *(WEIGHTS, INDEX, "model-*-of-*.safetensors"),
    *(f"{name}/*" for name in FOLDERS),
    *(cards.PAGE, NOTEBOOK, records.EVALUATION, records.CALIBRATION, records.ABLATION, records.PEERS),
    *(records.RUN, records.METRICS, records.SOURCE),
)


def publish(
    checkpoint: str | Path,
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    demo: str | None = None,
    message: str = "Upload the Residual Masking Network",
) -> str:
    """
    Upload a checkpoint in one commit: safetensors, configuration, image processor, its `README.md` as the card, and
    the code, so that transformers' Auto classes load it with `trust_remote_code=True` where rmn_hub is not installed.
    What else its folder holds of numbers, images, figures and ONNX files goes along, and its LICENSE. What an earlier
    upload had of these numbers, figures and ONNX files, and this one has not, goes from the repository.

    A card of `rmn-hub card` is written again for `repo_id`, so that its code loads the checkpoint from there; one that
    was written by hand goes as it is.

    Args:
        checkpoint: folder with configuration, weights, image processor and `README.md`.
        repo_id: `owner/name` on the Hub; made when it is not there.
        revision: branch to upload to, made when it is not there; the main one when not given.
        private: whether a repository that is made is private.
        token: of an account that may write there; the one that is logged in when not given.
        demo: `owner/name` of the Space that the card links to; that of the card which is there when not given.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: the folder holds no checkpoint that can be loaded, or an ONNX file that is not of its weights.
        InputError: it has no card, or one that was written by hand and `demo`, or the Hub refuses the upload.
    """
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "checkpoint"
        write_repository(checkpoint, folder, repo_id, demo)
        return upload(
            folder,
            repo_id,
            checkpoint,
            of_earlier=OF_EARLIER,
            revision=revision,
            private=private,
            token=token,
            message=message,
        )


def upload(
    folder: Path,
    repo_id: str,
    source: str | Path,
    *,
    space: str | None = None,
    of_earlier: Sequence[str] = (),
    revision: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    message: str,
) -> str:
    """
    Upload a folder in one commit, and return the address of the commit.

    Args:
        folder: what is uploaded, as it is.
        repo_id: `owner/name` on the Hub; made when it is not there.
        source: what an error calls it.
        space: the kind of a Space (`"static"`); a repository of a model when `None`.
        of_earlier: patterns of files of an earlier upload that go where `folder` does not have them.
        revision: branch to upload to, made when it is not there; the main one when not given.
        private: whether a repository that is made is private.
        token: of an account that may write there; the one that is logged in when not given.
        message: of the commit.

    Raises:
        InputError: the Hub refuses the upload.
    """
    api = HfApi(token=token)
    kind = "model" if space is None else "space"
    try:
        made = api.create_repo(repo_id, private=private, exist_ok=True, repo_type=kind, space_sdk=space)
        repo_id = made.repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True, repo_type=kind)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            delete_patterns=list(of_earlier),
            revision=revision,
            commit_message=message,
            repo_type=kind,
        )
    except Exception as error:  # the client's own, and those of the network library under it
        reason = " ".join(str(error).split()).rstrip(".")
        remedy = "Check the name and `hf auth login`"
        raise InputError(f"{source} cannot be uploaded to {repo_id}: {reason}. {remedy}.") from error
    return commit.commit_url


def write_repository(checkpoint: str | Path, folder: str | Path, repo_id: str, demo: str | None = None) -> None:
    """
    Write what the Hub repository `repo_id` of a checkpoint holds into a new folder; see [`publish`].

    Raises:
        CheckpointError: `checkpoint` holds no checkpoint that can be loaded, or an ONNX file of other weights.
        InputError: it has no card or no image processor, or `demo` is given and its card was written by hand.
    """
    checkpoint, folder = Path(checkpoint), Path(folder)
    for name, remedy in NEEDED.items():
        if not (checkpoint / name).is_file():
            raise InputError(f"{checkpoint} cannot be published: it has no {name}. {remedy}.")
    ours = cards.is_ours(checkpoint / cards.CARD)
    if demo is not None and not ours:
        raise InputError(
            f"demo={demo!r} must be left out: {checkpoint / cards.CARD} was written by hand. Put the link into it, or "
            "write the card with rmn-hub card"
        )
    loaded = checkpoints.load(checkpoint, rmn_only=True)
    for path in (checkpoint / ONNX_FILE).parent.glob("*.onnx"):
        OnnxEngine.from_checkpoint(checkpoint, file=path.relative_to(checkpoint).as_posix(), threads=1)
    folder.mkdir(parents=True)
    for path in checkpoint.iterdir():
        if path.suffix in BESIDE or path.name == LICENCE:
            shutil.copyfile(path, folder / path.name)
    for name in FOLDERS:
        if (checkpoint / name).is_dir():
            shutil.copytree(checkpoint / name, folder / name)
    if ours:
        cards.write_card(checkpoint, repo_id=repo_id, demo=demo, folder=folder)
        text = (folder / cards.CARD).read_text(encoding="utf-8")
        (folder / NOTEBOOK).write_text(json.dumps(_notebook(text), indent=1) + "\n", encoding="utf-8")
    # Both carry their code.
    loaded.model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    _keep_weights(checkpoint, folder)


def _keep_weights(checkpoint: Path, folder: Path) -> None:
    """Put a checkpoint's own weights where they were saved anew: its ONNX file and its numbers belong to their hash."""
    (folder / WEIGHTS).unlink()
    for name in weight_files(checkpoint):
        shutil.copyfile(checkpoint / name, folder / name)
    # They were saved in float32, whatever they are in.
    own, saved = (read_json(checkpoint, each / checkpoints.CONFIG) for each in (checkpoint, folder))
    dtype = own.get("dtype", own.get("torch_dtype"))
    write_json(folder / checkpoints.CONFIG, {**saved, "dtype": dtype})


def _notebook(card: str) -> dict[str, Any]:
    """Return a notebook of the card's title, what it installs, and its Python."""
    blocks = re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    title = next(line for line in card.splitlines() if line.startswith("# "))
    note = "Put a photo at `photo.jpg`, and the image of one face at `face.jpg`."
    code = ["%pip install -q rmn-hub onnxruntime", *blocks]
    cells: list[dict[str, Any]] = [{"cell_type": "markdown", "metadata": {}, "source": f"{title}\n\n{note}"}]
    cells += [
        {"cell_type": "code", "metadata": {}, "source": block.rstrip(), "outputs": [], "execution_count": None}
        for block in code
    ]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


__all__ = ["publish", "upload", "write_repository"]
