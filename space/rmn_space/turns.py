"""Who waits for a turn: how many at a time, and what a visitor waits for no longer."""

from typing import Any
from weakref import WeakSet

import gradio as gr
from gradio.server_messages import ProcessCompletedMessage

from .safety import FILE_AGE, TOO_MANY_WAITING, visitor_of

# Events of the page that may wait at all, and those of one visitor among them.
WAITING, OF_ONE_VISITOR = 32, 16
# What has its turns together.
PHOTO, FILM = "photo", "film"
# Likewise of the films: one takes half a minute and more, and 32 of them would keep everybody out for a quarter of an
# hour. The last one's turn comes before its file is deleted.
FILMS_WAITING, FILMS_OF_ONE_VISITOR = 3, 2
# Seconds of work for one film; a minute is for what comes before and after.
FILM_SECONDS = (FILE_AGE - 60) // FILMS_WAITING
# Running events whose visitor wants another result instead.
left: WeakSet[Any] = WeakSet()


def share_turns(page: gr.Blocks) -> None:
    """Bound what waits for a turn on a page with a queue, and let the last that a visitor asks for be what is shown."""
    queue = page._queue
    push = queue.push

    async def bounded(body: Any, request: Any, username: str | None) -> tuple[bool, Any, Any]:
        function = page.fns.get(body.fn_index)
        if function is not None:
            private = function.api_visibility == "private"
            if private and function.concurrency_id in (PHOTO, FILM):
                await _leave(queue, function.concurrency_id, body.session_hash)
            if _is_full(queue, function.concurrency_id, _visitor(request)):
                # Gradio's browser part has its own words for a full queue, and shows those of any other error.
                return False, TOO_MANY_WAITING, "error" if private else "queue_full"
        return await push(body, request, username)

    queue.push = bounded  # type: ignore[method-assign]


async def _leave(queue: Any, group: str, session: str | None) -> None:
    """Give up the photos, or the films, of a session: nobody sees their results any more."""
    for event in list(queue.event_ids_to_events.values()):
        if event.session_hash != session or event.fn.api_visibility != "private" or event.concurrency_id != group:
            continue
        left.add(event)
        if event in queue.event_queue_per_concurrency_id[group].queue:
            await queue.remove_from_queue(event._id)
            # The browser waits for its result.
            queue.send_message(event, ProcessCompletedMessage(output={"data": [gr.skip()]}, success=True))


def _is_full(queue: Any, group: str, visitor: str) -> bool:
    """Return whether one more event of a group would pass a limit."""
    waiting = [event for each in queue.event_queue_per_concurrency_id.values() for event in each.queue]
    films = [event for event in waiting if event.concurrency_id == group == FILM]
    return any(
        len(events) >= most or sum(_visitor(event.request) == visitor for event in events) >= own
        for events, most, own in ((waiting, WAITING, OF_ONE_VISITOR), (films, FILMS_WAITING, FILMS_OF_ONE_VISITOR))
    )


def _visitor(request: Any) -> str:
    return visitor_of(request.client.host if request.client else None, request.headers.get("x-forwarded-for"))
