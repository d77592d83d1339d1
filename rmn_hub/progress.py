"""The one signature of progress: whatever takes long takes a `Progress` and calls it."""

from collections.abc import Callable

# Called with what is being done, how many more of it are done since the last call, and how many there are in all.
Progress = Callable[[str, int, int], object]


def silent(description: str, more: int, total: int) -> None:
    """Do nothing: the progress of a call that is not watched."""


__all__ = ["Progress", "silent"]
