"""The Hub out: a checkpoint with its card and the code that loads it, as a repository that needs no rmn-hub."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import HfApi

from ..errors import InputError
from ..evaluation.benchmark import load
from ..model.configuration_rmn import RMNConfig
from ..model.image_processing_rmn import RMNImageProcessor
from ..model.modeling_rmn import RMNModel

# What a checkpoint has beside its network, and what to do where it is not there.
NEEDED = {
    "README.md": "write its card with `rmn-hub card`, or by hand",
    "preprocessor_config.json": "save its RMNImageProcessor there",
}
# What else of a checkpoint's folder goes along: the numbers and pictures that its card tells of.
BESIDE = (".csv", ".jpg", ".json", ".md", ".png", ".svg")


def publish(
    checkpoint: str | Path,
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    message: str = "Upload the Residual Masking Network",
) -> str:
    """
    Uploads a checkpoint in one commit: safetensors, configuration, image processor, its `README.md` as the card, and
    the code, so that transformers' Auto classes load it with `trust_remote_code=True` where rmn_hub is not installed.

    Args:
        checkpoint: folder with configuration, weights, image processor and `README.md`.
        repo_id: `owner/name` on the Hub; made when it is not there.
        revision: branch to upload to, made when it is not there; the main one when not given.
        private: whether a repository that is made is private.
        token: of an account that may write there; the one that is logged in when not given.
        message: of the commit.

    Returns:
        the address of the commit.

    Raises:
        InputError: the folder is no checkpoint, has no card, or the Hub refuses the upload.
    """
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "checkpoint"
        write_repository(checkpoint, folder)
        try:
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            commit = api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message)
        except Exception as error:  # the client's own, and those of the network library under it
            reason = " ".join(str(error).split())
            raise InputError(
                f"{repo_id} cannot be uploaded to, check the name and `hf auth login`: {reason}"
            ) from error
    return commit.commit_url


def write_repository(checkpoint: str | Path, folder: str | Path) -> None:
    """
    Writes what a Hub repository of a checkpoint holds; see [`publish`].

    Raises:
        InputError: `checkpoint` is no checkpoint, or has no card or image processor.
    """
    checkpoint, folder = Path(checkpoint), Path(folder)
    for name, remedy in NEEDED.items():
        if not (checkpoint / name).is_file():
            raise InputError(f"{checkpoint} has no {name}: {remedy}")
    model = load(checkpoint)
    try:
        processor = RMNImageProcessor.from_pretrained(checkpoint)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{checkpoint} has an image processor that cannot be loaded: {error}") from error
    folder.mkdir(parents=True)
    for path in checkpoint.iterdir():
        if path.suffix in BESIDE:
            shutil.copyfile(path, folder / path.name)
    with _carrying_code():
        # A class registers for one Auto class only.
        model.config.auto_map = {"AutoModel": f"{RMNModel.__module__.rpartition('.')[2]}.{RMNModel.__name__}"}
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


@contextlib.contextmanager
def _carrying_code() -> Iterator[None]:
    """Within it, what is saved carries its code and says so in `auto_map`."""
    classes = {
        RMNConfig: "AutoConfig",
        RMNModel: "AutoModelForImageClassification",
        RMNImageProcessor: "AutoImageProcessor",
    }
    before = {registered: registered._auto_class for registered in classes}
    try:
        for registered, auto_class in classes.items():
            registered.register_for_auto_class(auto_class)
        yield
    finally:
        for registered, auto_class in before.items():
            registered._auto_class = auto_class


__all__ = ["publish", "write_repository"]
