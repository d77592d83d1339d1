"""Calls that also work in a process made by fork, where the threads of OpenMP are missing."""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# In a process made by fork: the only thread that came along, and one that stands in for it.
_survivor: int | None = None
_stand_in: ThreadPoolExecutor | None = None


def _note_fork() -> None:
    global _survivor, _stand_in
    _survivor, _stand_in = threading.get_ident(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """
    Return `function(*args, **kwargs)`, and let it use torch after a fork.

    OpenMP keeps one pool of threads for each thread that has used it. After a fork the calling thread still has its
    pool, but the pool's threads exist in the parent alone, so that torch waits for them for ever. A new thread has a
    new pool: in a forked process the thread that came along hands its calls to one.
    """
    global _stand_in
    if threading.get_ident() != _survivor:
        return function(*args, **kwargs)
    if _stand_in is None:
        _stand_in = ThreadPoolExecutor(1, thread_name_prefix="rmn_hub-after-fork")
    return _stand_in.submit(function, *args, **kwargs).result()


def has_lost_cuda() -> bool:
    """
    Return whether the parent of this process used CUDA before the fork, so that this one cannot. One whose parent did
    not can: on Hugging Face's shared GPUs every call runs in such a process.
    """
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda._is_in_bad_fork()


__all__ = ["call", "has_lost_cuda"]
