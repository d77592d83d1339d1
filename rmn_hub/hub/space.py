"""Upload the page of `rmn-hub export --browser` as a static Space: `rmn-hub publish --space static`."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from ..files import write_text
from .publish import upload

# What the build of the page always writes.
NEEDED = ("index.html", "js/settings.js", "kept.js", "models/rmn.onnx.gz")
# The card of a Space. The Hub sends these headers along with every file: the page may then use threads. A page within
# the Hub's own must be allowed to be shown there, hence `cross-origin`.
_FRONT_MATTER: dict[str, Any] = {
    "title": "Expressions in your browser",
    "emoji": "\U0001f642",
    "colorFrom": "blue",
    "colorTo": "gray",
    "sdk": "static",
    "app_file": "index.html",
    "license": "mit",
    "short_description": "Facial expressions; nothing leaves your device",
    "tags": ["facial-expression-recognition", "residual-masking-network", "onnxruntime-web"],
    "custom_headers": {
        "cross-origin-embedder-policy": "require-corp",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "cross-origin",
    },
}
_TEXT = """
# Expressions in your browser

A network finds the faces of a photo or of your camera and predicts the probabilities of their expressions, in your own
browser: images never leave your device. Made by `rmn-hub export --browser`.
"""


def publish_page(
    page: str | Path,
    repo_id: str,
    *,
    model: str | None = None,
    revision: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    message: str = "Upload the page in the browser",
) -> str:
    """
    Upload the folder of a page as a static Space, with the front matter that it needs, in one commit.

    Args:
        page: folder of `rmn-hub export --browser`.
        repo_id: `owner/name` of the Space; made when it is not there.
        model: `owner/name` of the checkpoint on the Hub, which the Space then links to.
        revision: branch to upload to, made when it is not there; the main one when not given.
        private: whether a Space that is made is private.
        token: of an account that may write there; the one that is logged in when not given.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        InputError: the folder holds no such page, or the Hub refuses the upload.
    """
    page = Path(page)
    for name in NEEDED:
        if not (page / name).is_file():
            raise InputError(f"{page} cannot be published: it has no {name}. Write it with `rmn-hub export --browser`.")
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "page"
        shutil.copytree(page, folder)
        write_text(folder / "README.md", card(model))
        return upload(
            folder, repo_id, page, space="static", revision=revision, private=private, token=token, message=message
        )


def card(model: str | None) -> str:
    """Return the README.md of the Space; `model` is the Hub id that it links to."""
    values = {**_FRONT_MATTER, **({} if model is None else {"models": [model]})}
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---\n{_TEXT}"


__all__ = ["card", "publish_page"]
