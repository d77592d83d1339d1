"""Sessions of onnxruntime: the first calls after a fork, from many threads at once."""

import multiprocessing
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import numpy as np

from rmn_hub.detection.networks import FOLDER
from rmn_hub.sessions import OnnxSession

ROUNDS, THREADS = 20, 8


def first_calls(sessions, pixels, sending):
    """Call each session from all threads at once, and send how often the files were opened and what came out."""
    sys.setswitchinterval(1e-6)
    barrier = threading.Barrier(THREADS)

    def call(session):
        barrier.wait(30)
        return session.run({"pixels": pixels})[0]

    try:
        with (
            mock.patch.object(OnnxSession, "_open", autospec=True, side_effect=OnnxSession._open) as opened,
            ThreadPoolExecutor(THREADS) as pool,
        ):
            found = [list(pool.map(call, [session] * THREADS)) for session in sessions]
        sending.send((opened.call_count, found))
    except BaseException as error:
        sending.send((0, repr(error)))


def test_threads_that_make_the_first_calls_after_a_fork_share_one_session():
    pixels = np.random.default_rng(0).random((1, 3, 24, 24), dtype=np.float32)
    sessions = [OnnxSession(FOLDER / "rnet.onnx", threads=1) for _ in range(ROUNDS)]
    expected, *_ = [session.run({"pixels": pixels})[0] for session in sessions]
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=first_calls, args=(sessions, pixels, sending))
    with sessions[0]._lock:  # as another thread of the parent may, in the middle of its first call
        child.start()
    try:
        assert receiving.poll(60)
        opened, found = receiving.recv()
    finally:
        child.kill()
        child.join()
    assert opened == ROUNDS, found
    np.testing.assert_allclose(found, np.broadcast_to(expected, np.shape(found)), atol=1e-6)
