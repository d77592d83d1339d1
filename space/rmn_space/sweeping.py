"""What is forgotten while the page runs: sessions, results that are not fetched, and requests that never end."""

import time
from typing import Any

import gradio as gr

# Seconds that a client may take for the head of a request.
HEAD_SECONDS = 30


class Sweeper:
    """
    Forgets what gradio and uvicorn would keep. Call [`sweep`] every few seconds.

    Args:
        page: the page.
        age: seconds for which sessions are kept that are not used, and results that are not fetched.
        head_seconds: seconds that a client may take for the head of a request.
    """

    def __init__(self, page: gr.Blocks, age: float, head_seconds: float = HEAD_SECONDS) -> None:
        self.page = page
        self.age = age
        self.head_seconds = head_seconds
        self._unread: dict[str, float] = {}
        self._half: dict[Any, float] = {}

    def sweep(self, now: float | None = None) -> None:
        """Forget what is too old at a moment of `time.time()`."""
        now = time.time() if now is None else now
        self.forget_sessions(now)
        self.forget_unread(now)
        self.close_half_requests(now)

    def forget_sessions(self, now: float) -> None:
        """Forget sessions that were not used: gradio keeps their last inputs and results as long as it runs."""
        holder = self.page.state_holder
        for session, used in list(holder.time_last_used.items()):
            if now - used.timestamp() > self.age:
                drop(holder, session)

    def forget_unread(self, now: float) -> None:
        """
        Forget results that are not fetched. A reader takes messages at once: where there are some at every look, there
        has been no reader since the first of them.
        """
        queue = self.page._queue
        working = {event.session_hash for job in queue.active_jobs if job for event in job}
        waiting = {event.session_hash for some in queue.event_queue_per_concurrency_id.values() for event in some.queue}
        unread = {
            session
            for session, messages in list(queue.pending_messages_per_session.items())
            if session not in working | waiting and not messages.empty()
        }
        self._unread = {session: self._unread.get(session, now) for session in unread}
        for session, since in list(self._unread.items()):
            if now - since > self.age:
                queue.pending_messages_per_session.pop(session, None)
                queue.pending_event_ids_session.pop(session, None)
                del self._unread[session]
        # Sessions whose messages are gone have no events to wait for.
        for session in list(queue.pending_event_ids_session):
            if session not in queue.pending_messages_per_session and session not in working | waiting:
                queue.pending_event_ids_session.pop(session, None)

    def close_half_requests(self, now: float) -> None:
        """Close connections whose client has not finished the head of a request for `head_seconds`."""
        server = getattr(self.page, "server", None)
        connections = list(server.server_state.connections) if server is not None else []
        self._half = {each: self._half.get(each, now) for each in connections if _is_half(each)}
        for connection, since in self._half.items():
            if now - since > self.head_seconds:
                connection.loop.call_soon_threadsafe(_close_half, connection)


def _is_half(connection: Any) -> bool:
    """Return whether one of uvicorn's connections waits for a head. Between two requests uvicorn has its own timer."""
    cycle = getattr(connection, "cycle", None)
    return (cycle is None or cycle.response_complete) and connection.timeout_keep_alive_task is None


def _close_half(connection: Any) -> None:
    """Close a connection from the server's own thread, unless its request has come meanwhile."""
    if _is_half(connection):
        connection.transport.close()


def drop(holder: Any, session: str) -> None:
    """Forget a session."""
    with holder.lock:
        holder.session_data.pop(session, None)
        holder.time_last_used.pop(session, None)
