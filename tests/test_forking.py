"""A recognizer in many threads, in other processes, and beside a caller's own settings of torch."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
import threading

import pytest
import torch
from recognizer_helpers import assert_same
from transformers.utils import logging

from rmn_hub import ExpressionRecognizer, InputError, forking
from rmn_hub.preparing import Preparation

# A parent that has used all of torch's threads, then a child that uses the parent's recognizer and one of its own.
PROGRAM = """
    import multiprocessing, sys
    import numpy as np
    from PIL import Image
    from rmn_hub import ExpressionRecognizer

    checkpoint, photo = sys.argv[1], sys.argv[2]

    def work(recognizer, queue):
        own = ExpressionRecognizer.from_pretrained(checkpoint, device="cpu")
        queue.put([each(photo, attention=True)[0].probability for each in (recognizer, own)])

    if __name__ == "__main__":
        recognizer = ExpressionRecognizer.from_pretrained(checkpoint, device="cpu")
        expected = recognizer(photo)[0].probability
        context = multiprocessing.get_context("{method}")
        queue = context.Queue()
        child = context.Process(target=work, args=(recognizer, queue))
        child.start()
        np.testing.assert_allclose(queue.get(timeout=100), expected, atol=1e-5)
        child.join(100)
        assert child.exitcode == 0, child.exitcode
        assert recognizer(photo)[0].probability == expected
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_recognizer_works_in_a_child(method, tiny_checkpoint, astronaut, tmp_path):
    astronaut.save(tmp_path / "photo.png")
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM).replace("{method}", method))
    command = [sys.executable, "-W", "ignore", program, tiny_checkpoint, tmp_path / "photo.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_child_of_a_fork_calls_in_another_thread(monkeypatch):
    assert forking.call(threading.get_ident) == threading.get_ident()
    monkeypatch.setattr(forking, "_survivor", threading.get_ident())
    monkeypatch.setattr(forking, "_stand_in", None)
    first, second = (forking.call(threading.get_ident) for _ in range(2))
    assert first == second != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        forking.call(divmod, 1, 0)
    # Threads that were started since have threads of OpenMP of their own.
    idents = []
    thread = threading.Thread(target=lambda: idents.append(forking.call(threading.get_ident)))
    thread.start()
    thread.join()
    assert idents == [thread.ident]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")
@pytest.mark.parametrize("lost", [False, True])
def test_a_gpu_after_a_fork(lost, recognizer, astronaut, monkeypatch):
    """A process of a shared GPU is made by fork before anything has used CUDA. Only one whose parent has is refused."""

    def search(queue):
        on_gpu = Preparation(recognizer.detector, "cuda", 0.1, False, 1_000_000, 8)
        try:
            queue.put([len(prepared.faces) for prepared in on_gpu.searched([astronaut], None)])
        except InputError as error:
            queue.put(str(error))

    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: lost)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=search, args=(queue,))
    child.start()
    outcome = queue.get(timeout=100)
    child.join(100)
    assert outcome == ("device='cuda' cannot be used after fork: start processes with spawn" if lost else [1])


def test_it_can_be_pickled(recognizer, astronaut):
    recognizer(astronaut)
    copy = pickle.loads(pickle.dumps(recognizer))
    assert_same(copy(astronaut, attention=True), recognizer(astronaut))
    assert copy.expressions == recognizer.expressions


def test_many_threads_load_and_call(tiny_checkpoint, recognizer, astronaut, collage):
    expected = [recognizer(photo) for photo in (astronaut, collage)]
    results, errors = [], []

    def work():
        try:
            own = ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu")
            for each in (own, recognizer):
                results.append([each(photo, attention=True) for photo in (astronaut, collage)])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(results) == 8
    for pair in results:
        for result, same in zip(pair, expected):
            assert_same(result, same)


def test_settings_of_torch_and_transformers_neither_matter_nor_change(tiny_checkpoint, recognizer, crops):
    expected = recognizer(crops[0], faces_only=True)
    threads, verbosity = torch.get_num_threads(), logging.get_verbosity()
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_num_threads(1)
        logging.set_verbosity_debug()
        logging.disable_progress_bar()
        own = ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu")
        for each in (own, recognizer):
            assert_same(each(crops[0], faces_only=True, attention=True), expected)
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_default_device() == torch.device("meta")
        assert torch.get_num_threads() == 1
        assert logging.get_verbosity() == logging.DEBUG
        assert not logging.is_progress_bar_enabled()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.set_num_threads(threads)
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
