"""A connection to Ray: an embedded cluster or one that is joined, and everything as it was afterwards."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from ..errors import InputError, RMNError
from ..images import shown
from ..packages import require

# Shards are names, and results numbers: an embedded cluster stores little. Ray would take 30% of the memory.
STORE_BYTES = 200_000_000


@contextlib.contextmanager
def connected(address: str | None, cores: int | None = None) -> Iterator[None]:
    """
    Join a Ray cluster for a block, or start one on this machine. A connection that the caller has is used and stays.

    Args:
        address: of the cluster (`"auto"`, `"HOST:6379"`, `"ray://HOST:10001"`); `None` starts one here.
        cores: how many cores an embedded cluster has; all that the process may use when `None`.

    Raises:
        InputError: there is no such cluster, or Ray does not start.
        MissingPackageError: Ray is not installed.
    """
    with _same_environment():
        if address is None:
            # Ray's workers would each start by `uv run` where this process was, with a copy of the working folder: on
            # one machine they find everything as it is, seven times sooner. Ray reads this when it is imported.
            os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        require("ray", "batches", extra="cluster")
        with _connection(address, cores):
            yield


@contextlib.contextmanager
def _connection(address: str | None, cores: int | None) -> Iterator[None]:
    import ray
    import ray.data
    from ray.exceptions import RayError

    with _data_settings():
        own = not ray.is_initialized()
        try:
            if own:
                with _same_signals():
                    _init(address, cores)
            yield
        except RayError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            reason = shown(lines[-1].strip() if lines else type(error).__name__, 300)
            raise RMNError(f"Ray ended the batch: {reason}. Start again to go on.") from error
        finally:
            if own:
                ray.shutdown()


def _init(address: str | None, cores: int | None) -> None:
    import ray

    from ..sessions import available_cores

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {
            "num_cpus": cores or available_cores(),
            "include_dashboard": False,
            "object_store_memory": STORE_BYTES,
        }
    try:
        ray.init(address or "local", **options)
    except Exception as error:  # ConnectionError, RuntimeError, ValueError, OSError, and gRPC's own
        reason = shown(" ".join(str(error).split()), 200)
        if address is None:
            raise InputError(f"Ray cannot be started: {reason}. Look for room in /dev/shm and /tmp.") from error
        # Ray looks for a token by itself with "auto" only, and does not say that it was refused for want of one.
        token = "" if "RAY_AUTH_MODE" in os.environ else " If the cluster wants a token, set RAY_AUTH_MODE=token."
        raise InputError(f"address={address!r} must be that of a Ray cluster: {reason}.{token}") from error


@contextlib.contextmanager
def _same_signals() -> Iterator[None]:
    """Keep what happens at SIGTERM: `ray.init` has the process end with code 15 from then on."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as end:
        if end.code == signal.SIGTERM and callable(handler):
            handler(signal.SIGTERM, None)
        raise
    finally:
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _same_environment() -> Iterator[None]:
    """Put the environment back: `ray.init` sets RAY_AUTH_MODE, RAY_USAGE_STATS_ENABLED (to 0) and PYTHONBREAKPOINT."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in {*os.environ} - {*before}:
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _data_settings() -> Iterator[None]:
    """Run a block with Ray Data's settings for results of a few numbers, without its bars and its log of each step."""
    import ray.data

    logger = logging.getLogger("ray.data")
    level = logger.level
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    # By Ray's estimate of 128 MB for each result, a small store would hold back all actors but one.
    context.target_max_block_size = 1_000_000
    try:
        logger.setLevel(logging.CRITICAL)
        with ray.data.DataContext.current(context):
            yield
    finally:
        logger.setLevel(level)


__all__ = ["connected"]
