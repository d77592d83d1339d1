"""What a visitor sends, turned into bytes and images: gradio's image component with the page's own limits."""

import base64
import binascii
import io
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import gradio as gr
from gradio import component_meta, processing_utils
from gradio.data_classes import ImageData
from gradio.utils import get_upload_folder
from PIL import Image
from pydantic import BaseModel, ConfigDict, model_validator

from .render import limited
from .safety import (
    GONE,
    MAX_BODY,
    MAX_BYTES,
    NO_ADDRESSES,
    NOT_AN_IMAGE,
    NOT_UPLOADED,
    TOO_LARGE,
)

# For every subclass of a component gradio writes a .pyi file beside its module. This page writes nothing.
component_meta.create_or_modify_pyi = lambda *_: None


async def _open_no_address(*_: Any, **__: Any) -> str:
    """Refuse an address: for any component that a request names, even a slider, gradio would download it."""
    raise gr.Error(NO_ADDRESSES, print_exception=False)


processing_utils.async_ssrf_protected_download = _open_no_address

# The browser's camera is asked for this size; larger frames are made smaller, much larger ones are not opened.
FRAME_SIZE = (640, 480)
MAX_FRAME_BYTES = 4 * 1024 * 1024
MAX_FRAME_PIXELS = 4_000_000


@dataclass(frozen=True)
class Photo:
    """
    What a visitor sent, unopened.

    Args:
        name: the file's name without its folders; `"photo"` when it has none.
        data: the file's bytes, empty when there is a problem.
        problem: why it cannot be used, as a sentence for the visitor, or `None`.
    """

    name: str
    data: bytes = b""
    problem: str | None = None


class PhotoData(ImageData):
    """What the browser or a program sends for a photo; whatever is none of gradio's forms is taken for a path."""

    model_config = ConfigDict(json_schema_extra={"description": "An uploaded file, or an image as a data: URL."})

    @model_validator(mode="before")
    @classmethod
    def _from_anything(cls, value: Any) -> Any:
        return value if isinstance(value, (dict, BaseModel)) else {"path": str(value)[:100]}


class PhotoInput(gr.Image):
    """
    The image component of gradio, but the server hands over the file as it came (so that a photo is read in one place,
    by `rmn_hub`, and the result is the command line's), opens no address and turns every problem into a sentence.
    """

    # The browser shows the component of gradio.Image.
    is_template = True
    data_model = PhotoData

    # What gradio calls preprocess may return anything that the page's own functions take.
    def preprocess(self, payload: ImageData | None) -> Photo | None:  # type: ignore[override]
        """Return the bytes behind an upload (a file of this server's private folder) or a `data:` URL."""
        if payload is None or not (payload.path or payload.url):
            return None
        name = PurePath((payload.orig_name or payload.path or "").replace("\\", "/")).name or "photo"
        try:
            return Photo(name, read(payload))
        except ValueError as error:
            return Photo(name, problem=str(error))

    def example_payload(self) -> Any:
        """Return the photo of the page's own API description; gradio's is an address on another host."""
        return {"path": "photo.jpg", "url": "photo.jpg", "meta": {"_type": "gradio.FileData"}}

    def example_value(self) -> Any:
        """Return the photo of the page's own API description."""
        return "photo.jpg"


def read(payload: ImageData) -> bytes:
    """
    Return the bytes of an upload or of a `data:` URL that keep the limit on their size.

    Raises:
        ValueError: it does not; the message is a sentence for the visitor.
    """
    if payload.url and payload.url.startswith("data:"):
        data = decoded(payload.url)
    elif payload.path and not payload.path.lower().startswith(("http:", "https:")):
        path = Path(payload.path).resolve()
        # Gradio looks at files that are marked as gradio's, and lets any other path through.
        if not path.is_relative_to(Path(get_upload_folder()).resolve()):
            raise ValueError(NOT_UPLOADED)
        if not path.is_file():
            raise ValueError(GONE)
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(TOO_LARGE)
        data = path.read_bytes()
    else:
        raise ValueError(NO_ADDRESSES)
    return data


def decoded(url: str) -> bytes:
    """
    Return the bytes of a `data:` URL that keep the limit on their size.

    Raises:
        ValueError: they do not, or they are not in base64; the message is a sentence for the visitor.
    """
    head, _, body = url.partition(",")
    if not head.endswith(";base64"):
        raise ValueError(NOT_AN_IMAGE)
    if len(body) > MAX_BODY:
        raise ValueError(TOO_LARGE)
    try:
        data = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(NOT_AN_IMAGE) from None
    if len(data) > MAX_BYTES:
        raise ValueError(TOO_LARGE)
    return data


class CameraInput(gr.Image):
    """The camera of gradio, whose frames arrive as `data:` URLs and stay in memory. A broken frame is `None`."""

    is_template = True

    def preprocess(self, payload: ImageData | None) -> Image.Image | None:
        """Return the frame as RGB, at most as large as `FRAME_SIZE`, or `None`."""
        url = payload.url if payload is not None and payload.url else ""
        head, _, body = url.partition(",")
        if not (head.startswith("data:image/jpeg") and head.endswith(";base64")) or len(body) > MAX_FRAME_BYTES:
            return None
        try:
            frame = Image.open(io.BytesIO(base64.b64decode(body)), formats=["JPEG"])
            if frame.width * frame.height > MAX_FRAME_PIXELS or min(frame.size) < 16:
                return None
            # Browsers send frames in one scan. Each scan of a progressive JPEG costs as much as a frame.
            if frame.info.get("progressive"):
                return None
            # A JPEG is decoded at half its size for nothing.
            frame.draft("RGB", FRAME_SIZE)
            return limited(frame.convert("RGB"), max(FRAME_SIZE))
        except (binascii.Error, ValueError, OSError, SyntaxError, Image.DecompressionBombError):
            return None

    async def async_move_resource_to_block_cache(self, url_or_file_path: Any) -> str | None:
        """Return nothing: frames are not files, and whatever claims to be one is left alone."""
        return None if url_or_file_path is None else ""


class FacesOutput(gr.JSON):
    """The result of `/predict`, with its type in the API's description."""

    is_template = True

    def api_info(self) -> dict[str, Any]:
        """Return the JSON schema of `rmn_hub.results.ImageResult.to_dict`."""
        number, text, nothing = {"type": "number"}, {"type": "string"}, {"type": "null"}
        numbers = {"type": "array", "items": number}
        face = {
            "index": {"type": "integer", "description": "number of the face, from 1, in reading order"},
            "box": {**numbers, "description": "x0, y0, x1, y1 in pixels of the upright image"},
            "landmarks": {"anyOf": [{"type": "array", "items": numbers}, nothing], "description": "eyes, nose, mouth"},
            "score": {"anyOf": [number, nothing], "description": "of the detector, 0 to 1"},
            "expression": text,
            "probability": number,
            "probabilities": {"type": "object", "additionalProperties": number},
            "uncertain": {"type": "boolean"},
        }
        result = {
            "source": text,
            "width": {"type": "integer"},
            "height": {"type": "integer"},
            "faces": {"type": "array", "items": {"type": "object", "properties": face, "required": list(face)}},
            "message": {**text, "description": "only where there is something to say, such as what was left out"},
            "turned": {"type": "integer", "description": "only where the photo was turned: degrees, clockwise"},
        }
        required = ["source", "width", "height", "faces"]
        return {"type": "object", "properties": result, "required": required, "description": "all faces of the photo"}
