"""
Upload the page with a server as a Gradio Space: `rmn-hub publish --space cpu` and `--space zerogpu`.

The folder carries the packages `rmn_hub` and `rmn_space` beside `app.py`, which is where Python looks for them first.
A wheel in the folder would not do: when a Space is built, `pip` sees `requirements.txt` and no other file of it.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import SpaceCard, snapshot_download

from ..checkpoints import BUNDLED_CHECKPOINT, weights_hash
from ..engines.onnx import ONNX_FILE, OnnxEngine
from ..errors import InputError
from ..files import write_text
from ..images import is_folder
from ..packages import data_folder, page_part
from . import checkpoint as checkpoints
from .files import explain_download, failure
from .publish import BESIDE, LICENCE, upload

# What the requirements of each kind are called in the page's folder.
REQUIREMENTS = {"cpu": "requirements.txt", "zerogpu": "requirements-zerogpu.txt"}
# The checkpoint that the page's README.md links to, in whose place the published one comes.
MODEL = "org/rmn-fer2013"
# Where app.py looks for a checkpoint other than the bundled one.
CHECKPOINT = "checkpoint"
# What of an earlier upload goes where a new one does not have it: app.py would run that checkpoint.
_OF_EARLIER = (f"{CHECKPOINT}/*", "rmn_hub/*", "rmn_space/*")
_NO_CACHE = shutil.ignore_patterns("__pycache__")


def publish_space(
    checkpoint: str | Path,
    repo_id: str,
    kind: str = "cpu",
    *,
    model: str | None = None,
    revision: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    message: str = "Upload the page",
) -> str:
    """
    Upload the page as a Gradio Space that runs a checkpoint, in one commit.

    Args:
        checkpoint: folder or Hub id of what the page runs.
        repo_id: `owner/name` of the Space; made when it is not there.
        kind: `"cpu"`, in onnxruntime and without torch, or `"zerogpu"`, in torch.
        model: `owner/name` of the checkpoint on the Hub, which the Space links to; `checkpoint` if that is an id.
        revision: branch to upload to, made when it is not there; the main one when not given.
        private: whether a Space that is made is private.
        token: of an account that may write there; the one that is logged in when not given.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: the checkpoint cannot be loaded, or its ONNX file is not of its weights.
        InputError: it has no ONNX file for a Space on a CPU, or the Hub refuses the upload.
    """
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "space"
        write_space(checkpoint, folder, kind, model=model, token=token)
        return upload(
            folder,
            repo_id,
            checkpoint,
            space="gradio",
            of_earlier=_OF_EARLIER,
            revision=revision,
            private=private,
            token=token,
            message=message,
        )


def write_space(
    checkpoint: str | Path,
    folder: str | Path,
    kind: str = "cpu",
    *,
    model: str | None = None,
    token: str | bool | None = None,
) -> None:
    """
    Write the folder of a Space: `app.py`, both packages, the examples, pinned requirements, a README.md whose front
    matter links the model, and a checkpoint that is not the bundled one. See [`publish_space`].

    Args:
        checkpoint: folder or Hub id of what the page runs.
        folder: a new folder.
        kind: `"cpu"` or `"zerogpu"`.
        model: `owner/name` that README.md and its front matter link to.
        token: for a private `checkpoint`.

    Raises:
        CheckpointError: the checkpoint cannot be loaded, or its ONNX file is not of its weights.
        InputError: it has no ONNX file for a Space on a CPU, or `kind` is neither.
    """
    if kind not in REQUIREMENTS:
        raise InputError(f"kind={kind!r} must be {' or '.join(REQUIREMENTS)}")
    loaded = checkpoints.load(checkpoint, rmn_only=True, token=token)
    if not is_folder(Path(checkpoint)):
        model = model or str(checkpoint)
        _fetch_the_rest(str(checkpoint), loaded.folder.name, token)
    if kind == "cpu" and not (loaded.folder / ONNX_FILE).is_file():
        reason = f"it has no {ONNX_FILE}, and a Space on a CPU has no torch"
        raise InputError(f"{checkpoint} cannot be published: {reason}. Write it with `rmn-hub export`.")
    if (loaded.folder / ONNX_FILE).is_file():
        OnnxEngine.from_checkpoint(loaded.folder, threads=1)
    folder = Path(folder)
    app = page_part("app.py")
    folder.mkdir(parents=True)
    shutil.copyfile(app, folder / app.name)
    shutil.copyfile(page_part(REQUIREMENTS[kind]), folder / "requirements.txt")
    shutil.copytree(page_part("examples"), folder / "examples")
    shutil.copytree(data_folder("rmn_hub"), folder / "rmn_hub", ignore=_NO_CACHE)
    # A wheel has the parts of the page inside the package.
    parts = ("app.py", "README.md", "examples", "browser", *REQUIREMENTS.values())
    package = page_part("__init__.py").parent
    ignored = shutil.ignore_patterns("__pycache__", *parts)
    shutil.copytree(package, folder / package.name, ignore=ignored)
    if not _is_bundled(loaded):
        _carry(loaded.folder, folder / CHECKPOINT)
    write_text(folder / "README.md", readme(page_part("README.md"), kind, model))


def readme(path: Path, kind: str, model: str | None) -> str:
    """
    Return the README.md of a Space.

    Args:
        path: that of the page, which links to `MODEL`.
        kind: `"cpu"` or `"zerogpu"`.
        model: `owner/name` to link to instead; none is linked when not given.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    card = SpaceCard("".join(line for line in lines if model or f"[{MODEL}]" not in line))
    data: Any = card.data
    data.models = None if model is None else [model]
    if kind == "zerogpu":
        data.suggested_hardware = "zero-a10g"
    return str(card).replace(MODEL, model or MODEL).rstrip() + "\n"


def _is_bundled(loaded: checkpoints.LoadedCheckpoint) -> bool:
    """Return whether a checkpoint is the one that the package brings along, its settings and classes too."""
    if weights_hash(loaded.folder) != weights_hash(Path(BUNDLED_CHECKPOINT)):
        return False
    bundled = checkpoints.load(BUNDLED_CHECKPOINT)
    return (
        loaded.model.config.to_json_string() == bundled.model.config.to_json_string()
        and loaded.processor.to_json_string() == bundled.processor.to_json_string()
    )


def _fetch_the_rest(repo_id: str, commit: str, token: str | bool | None) -> None:
    """Download what a page shows or runs beside the network, into the snapshot that holds it."""
    try:
        snapshot_download(repo_id, revision=commit, token=token, allow_patterns=[ONNX_FILE, "*.json", "*.md", LICENCE])
    except Exception as error:  # the client's own, the network library's under it, a full disk
        raise failure(repo_id, *explain_download(error, commit)) from error


def _carry(checkpoint: Path, folder: Path) -> None:
    """Copy what the page reads of a checkpoint: network, image processor, ONNX file and results."""
    folder.mkdir()
    for path in checkpoint.iterdir():
        if path.suffix in (*BESIDE, ".safetensors") or path.name == LICENCE:
            shutil.copyfile(path, folder / path.name)
    if (checkpoint / ONNX_FILE).is_file():
        (folder / ONNX_FILE).parent.mkdir()
        shutil.copyfile(checkpoint / ONNX_FILE, folder / ONNX_FILE)


__all__ = ["REQUIREMENTS", "publish_space", "write_space"]
