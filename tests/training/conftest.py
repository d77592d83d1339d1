import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from made_faces import write


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A set of 280 faces to train on, 70 to choose on, and 70 to score on."""
    return write(tmp_path_factory.mktemp("made"), {"train": 40, "val": 10, "test": 10})


@pytest.fixture(autouse=True)
def one_thread():
    """The networks here are so small that a second thread costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """accelerate keeps the first precision of a process, and other tests of the same process may have had another."""

    def reset():
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    reset()  # another room's test may have come first
    yield
    reset()
