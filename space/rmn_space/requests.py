"""The bodies of requests: what they may hold, and sentences in place of what gradio would make of the rest."""

import json
import logging
import traceback
from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio import route_utils
from gradio.context import LocalContext
from gradio.route_utils import FnIndexInferError

from .safety import BAD_REQUEST, UNEXPECTED
from .turns import left

log = logging.getLogger(__name__)

# Names of sessions and events are made by gradio's clients: 11 to 32 characters. The server keeps them.
MAX_NAME = 100
# More values than any event of the page has.
MAX_VALUES = 32
# A file as gradio's clients send it: its fields, and the types that they may have.
_FILE_FIELDS: dict[str, tuple[type, ...]] = {
    "path": (str, type(None)),
    "url": (str, type(None)),
    "size": (int, type(None)),
    "orig_name": (str, type(None)),
    "mime_type": (str, type(None)),
    "is_stream": (bool,),
    "meta": (dict,),
}
_MAX_PATH = 4096
# What a request that names things that are not there makes of gradio's functions.
_FAULTS_OF_THE_REQUEST = (LookupError, ValueError, TypeError, OSError, RecursionError, FnIndexInferError)


def checked(body: bytes) -> bytes:
    """
    Return the body of a call, with its files in the form that gradio reads.

    Raises:
        ValueError: it is not JSON of the form that gradio's clients send, or a name in it is too long.
    """
    if not body:
        return body
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError(BAD_REQUEST) from None
    if not isinstance(values, dict):
        raise ValueError(BAD_REQUEST)
    for name in ("session_hash", "event_id", "oauth_token"):
        value = values.get(name)
        if value is not None and not (isinstance(value, str) and len(value) <= MAX_NAME):
            raise ValueError(BAD_REQUEST)
    for name in ("fn_index", "trigger_id"):
        value = values.get(name)
        if value is not None and not (isinstance(value, int) and abs(value) < 2**31):
            raise ValueError(BAD_REQUEST)
    data = values.get("data", [])
    if not isinstance(data, list) or len(data) > MAX_VALUES:
        raise ValueError(BAD_REQUEST)
    cleaned = {name: _cleaned(value) for name, value in values.items()}
    cleaned["data"] = [_cleaned(value) for value in data]
    if "data" not in values:
        del cleaned["data"]
    return body if cleaned == values else json.dumps(cleaned).encode()


def _cleaned(value: Any) -> Any:
    """Return a file without the fields that gradio would stumble over; anything else as it is."""
    if not isinstance(value, dict) or not {"path", "url", "meta"} & set(value):
        return value
    kept = {
        name: value[name]
        for name, types in _FILE_FIELDS.items()
        if name in value
        and isinstance(value[name], types)
        and not (isinstance(value[name], bool) and bool not in types)
    }
    path = kept.get("path")
    # A name that no file system takes; and gradio's clients always send a path, which it wants to be one.
    if path is not None and (len(path) > _MAX_PATH or "\0" in path or not path.isprintable()):
        kept["path"] = path[:100].encode("ascii", "replace").decode().replace("\0", "?")
    if isinstance(kept.get("orig_name"), str):
        kept["orig_name"] = kept["orig_name"][:_MAX_PATH]
    if kept.get("meta", {"_type": "gradio.FileData"}) != {"_type": "gradio.FileData"}:
        del kept["meta"]
    if "meta" in kept and not kept.get("path"):
        del kept["meta"]
    return kept


def fault(error: BaseException) -> tuple[int, str]:
    """
    Return the status and the sentence for what a request has raised inside of gradio, and log where, without the
    error's text: it holds what the visitor has sent.
    """
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, _FAULTS_OF_THE_REQUEST):
        log.info("a request was refused: %s in %s, line %s", type(error).__name__, frame.name, frame.lineno)
        return 400, BAD_REQUEST
    log.error("%s in %s of %s, line %s", type(error).__name__, frame.name, frame.filename, frame.lineno)
    return 500, UNEXPECTED


_call = route_utils.call_process_api


async def _call_with_sentences(*arguments: Any, **named: Any) -> Any:
    """Call an event as gradio does; whatever it raises becomes a sentence, not a traceback and `error: null`."""
    try:
        return await _call(*arguments, **named)
    except gr.Error:
        raise
    except Exception as error:
        raise gr.Error(fault(error)[1], print_exception=False) from None


route_utils.call_process_api = _call_with_sentences


def not_a_tool(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function of a public event, marked so that gradio does not list it as a tool for language models."""
    function._mcp_type = "event"  # type: ignore[attr-defined]
    return function


def visitor_stays() -> Callable[[], bool]:
    """Return a function for whether the visitor whose event is running still waits for its result."""
    blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    events = {} if blocks is None else blocks._queue.event_ids_to_events

    def stays() -> bool:
        event = events.get(event_id or "")
        return event is None or (event.alive and event not in left)

    return stays
