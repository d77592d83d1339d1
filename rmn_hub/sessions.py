"""Sessions of onnxruntime that are opened when they are needed, once per process, and can be pickled."""

import os
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import CheckpointError, InputError

if TYPE_CHECKING:
    import onnxruntime


_SPIN_MICROSECONDS = 50


class OnnxSession:
    """
    A network in an ONNX file.

    The file is opened by the first call, and again by the first call after a fork or in the process that unpickles the
    session: the threads of onnxruntime exist only in the process that made them. Calls from several threads are safe.

    Args:
        path: the ONNX file.
        threads: threads that work on one call; all cores that the process may use when `None`.
        providers: onnxruntime's execution providers by name, the preferred one first; the CPU when `None`.

    Raises:
        InputError: `threads` is out of range; from the first call on, a provider does not exist here.
        CheckpointError: from the first call on, the file cannot be opened.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, threads: int | None = None, providers: Sequence[str] | None = None
    ) -> None:
        if threads is not None and not (isinstance(threads, int) and 1 <= threads <= 1024):
            raise InputError(f"threads={threads!r} must be a whole number of at least 1, or None for all cores")
        self.path = Path(path)
        self.threads = threads
        self.providers = tuple(providers) if providers is not None else ("CPUExecutionProvider",)
        self._lock = threading.Lock()
        self._opened: onnxruntime.InferenceSession | None = None
        _alive.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "threads": self.threads, "providers": self.providers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], threads=state["threads"], providers=state["providers"])  # type: ignore[misc]

    def run(self, inputs: dict[str, np.ndarray], outputs: Sequence[str] | None = None) -> list[np.ndarray]:
        """Return the outputs of these names, or all of them, in order."""
        return self._session().run(outputs, inputs)

    def metadata(self) -> dict[str, str]:
        """Return the metadata that the exporter wrote into the file."""
        return dict(self._session().get_modelmeta().custom_metadata_map)

    def outputs(self) -> dict[str, tuple[Any, ...]]:
        """Return the shape of every output by name; a size that is free is a string."""
        return {output.name: tuple(output.shape) for output in self._session().get_outputs()}

    def _session(self) -> "onnxruntime.InferenceSession":
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _open(self) -> "onnxruntime.InferenceSession":
        import onnxruntime

        missing = [name for name in self.providers if name not in onnxruntime.get_available_providers()]
        if missing:
            raise InputError(
                f"providers={list(self.providers)!r} must be among those of this onnxruntime: "
                f"{', '.join(onnxruntime.get_available_providers())}"
            )
        options = onnxruntime.SessionOptions()
        # A number, even for all cores: left to itself, onnxruntime counts cores that a container does not give it.
        options.intra_op_num_threads = self.threads or available_cores()
        # A thread waits for the next operation of the network actively, which is there at once, but not for the next
        # call: it would take the cores from decoding and detection. One face takes a quarter less than when threads
        # sleep at once, and a folder as long; with onnxruntime's own duration a folder takes 7% longer.
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_MICROSECONDS))
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(self.path, options, providers=list(self.providers))
        except Exception as error:  # onnxruntime's errors have no common base class
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{self.path} cannot be opened by onnxruntime: {reason}. Export it again.") from error


# All sessions of this process, and those that a process made by fork has of its parent.
_alive: weakref.WeakSet[OnnxSession] = weakref.WeakSet()
_of_parent: list[Any] = []


def _forget_parent() -> None:
    for session in _alive:
        # Kept: to close it is to wait for its threads, which do not exist here.
        _of_parent.append(session._opened)
        # Another thread of the parent may have held the lock at the fork.
        session._lock, session._opened = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


__all__ = ["OnnxSession", "available_cores"]
