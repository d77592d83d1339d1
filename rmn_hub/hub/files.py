"""
Find the files of a checkpoint, in a folder or on the Hub, without torch and transformers.

An app that runs the ONNX file must start within a second: torch alone takes longer to import.
"""

import contextlib
import os
import re
from pathlib import Path

from huggingface_hub import (
    _CACHED_NO_EXIST,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
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

from ..checkpoints import CONFIG, COPY, INDEX, WEIGHTS, failure, has_weights, read_json, shards
from ..engines.onnx import ONNX_FILE
from ..errors import CheckpointError
from ..images import is_folder, shown

PROCESSOR = "preprocessor_config.json"
# The form of an id on the Hub: anything else that is not a folder is a mistyped path.
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
# How long the Hub may take to respond for the first time.
REACH_SECONDS = 3.0


def find(
    checkpoint: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    onnx: bool = False,
) -> Path:
    """
    Return the folder of a checkpoint: a local one, or the cache's snapshot of a Hub repository.

    The snapshot holds configuration, weights and image processor. It belongs to the cache and must not be changed.

    Args:
        checkpoint: a folder or a Hub id.
        revision: branch, tag or commit on the Hub; the main branch when not given.
        cache_dir: folder for downloads; Hugging Face's own when not given.
        local_files_only: never ask the Hub, use what the cache has.
        token: for private repositories; the one that is logged in when not given.
        onnx: whether an ONNX file will do: where the checkpoint has one, weights are neither required nor downloaded,
            and where it has none, the snapshot holds the configuration alone.

    Raises:
        CheckpointError: there is no such folder or repository, it cannot be downloaded, or it lacks configuration,
            weights, or the image processor of an ONNX file.
    """
    name = os.fspath(checkpoint)
    if not name or not is_folder(Path(name)):
        if not _HUB_ID.fullmatch(name):
            raise failure(name, "there is no such folder", "Give the folder of a checkpoint, or a Hub id")
        return _download(name, revision or "main", cache_dir, local_files_only, token, onnx)
    folder = Path(name)
    if onnx and (folder / ONNX_FILE).is_file():
        return folder
    if not (folder / CONFIG).is_file():
        raise failure(name, f"it has no {CONFIG}", "Give the folder of a checkpoint")
    if not has_weights(folder):
        raise _no_weights(name, any(folder.glob("*.bin")))
    return folder


def _no_weights(name: str, pickled: bool) -> CheckpointError:
    if pickled:
        reason = f"it has no {WEIGHTS}, only a pickle, which could run code"
        return failure(name, reason, "Turn weights of the original network into safetensors with `rmn-hub convert`")
    return failure(name, f"it has no {WEIGHTS}", "Give a checkpoint with weights")


def one_line(error: BaseException) -> str:
    """Return an error's text on one line, printable, without a full stop, and cut where it quotes long values."""
    text = shown(" ".join(str(error).split()).rstrip("."), 300)
    # A KeyError's text is the key alone.
    return f"{type(error).__name__}: {text}" if isinstance(error, KeyError) or not text else text


def _download(
    repo_id: str,
    revision: str,
    cache_dir: str | os.PathLike[str] | None,
    local_files_only: bool,
    token: str | bool | None,
    onnx: bool,
) -> Path:
    cache = None if cache_dir is None else Path(cache_dir)

    def fetch(filename: str, commit: str | None = None) -> Path:
        # The client asks the Hub each time for a file that a commit does not have.
        if commit and try_to_load_from_cache(repo_id, filename, cache, commit) is _CACHED_NO_EXIST:
            raise EntryNotFoundError(f"{repo_id} has no {filename}")
        path = hf_hub_download(
            repo_id,
            filename,
            revision=commit or revision,
            cache_dir=cache,
            local_files_only=local_files_only,
            token=token,
        )
        return Path(path)

    def fetch_weights(commit: str) -> None:
        try:
            fetch(WEIGHTS, commit)
        except EntryNotFoundError as missing:
            try:
                index = fetch(INDEX, commit)
            except EntryNotFoundError:
                if isinstance(missing, LocalEntryNotFoundError):
                    raise missing from None
                raise _no_weights(repo_id, pickled=True) from missing
            for shard in shards(repo_id, index):
                fetch(shard, commit)

    try:
        if not local_files_only:
            check_reachable(repo_id, CONFIG, revision, cache_dir, token)
        try:
            config = fetch(CONFIG)
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError as error:
            raise failure(repo_id, f"it has no {CONFIG}", "Give a repository with a checkpoint") from error
        # The rest by the commit, so that all files are of one: a warm load then asks the Hub once, a pinned one never.
        folder, commit = config.parent, config.parent.name
        if onnx:
            # The processor is fetched last: where it is not in the cache, no load of this commit came to its end, and
            # an ONNX file that is there was left by one that was interrupted, or downloaded by itself.
            unchecked = not all(
                isinstance(try_to_load_from_cache(repo_id, name, cache, commit), str) for name in (ONNX_FILE, PROCESSOR)
            )
            try:
                exported = fetch(ONNX_FILE, commit)
            except EntryNotFoundError:
                return folder
            if unchecked and not local_files_only and _may_have_other_weights(repo_id, exported, commit, token):
                # transformers' `push_to_hub` replaces the weights alone. The engine compares what lies in a folder.
                fetch_weights(commit)
            try:
                fetch(PROCESSOR, commit)
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError as error:
                raise failure(repo_id, f"it has no {PROCESSOR}", "Save its RMNImageProcessor there") from error
            return folder
        fetch_weights(commit)
        with contextlib.suppress(EntryNotFoundError):  # some callers do without; `load` reports it
            fetch(PROCESSOR, commit)
        return folder
    except CheckpointError:
        raise
    except Exception as error:  # the client's own, the network library's under it, a full disk
        raise failure(repo_id, *explain_download(error, revision)) from error


def _may_have_other_weights(repo_id: str, exported: Path, commit: str, token: str | bool | None) -> bool:
    """
    Return whether an ONNX file lacks the hash of the repository's weights, as far as the Hub has it.

    The Hub has none of weights in several files: those are compared once they are here.
    """
    try:
        etag = get_hf_file_metadata(hf_hub_url(repo_id, WEIGHTS, revision=commit), token=token).etag
    except EntryNotFoundError:
        try:
            get_hf_file_metadata(hf_hub_url(repo_id, INDEX, revision=commit), token=token)
        except EntryNotFoundError:
            return False
        return True
    return re.fullmatch("[0-9a-f]{64}", etag or "") is not None and str(etag).encode() not in exported.read_bytes()


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
        return  # the Hub responded; what that means shows in the download
    except Exception as error:  # of the network library under the client
        raise LocalEntryNotFoundError(f"{repo_id} cannot be reached: {one_line(error)}") from error


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
    return f"it could not be downloaded ({one_line(error)})", "Try again"


__all__ = [
    "CONFIG",
    "COPY",
    "INDEX",
    "PROCESSOR",
    "WEIGHTS",
    "check_reachable",
    "explain_download",
    "failure",
    "find",
    "one_line",
    "read_json",
    "shards",
]
