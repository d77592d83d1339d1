import pytest
import torch
from made_faces import write


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A set of 280 faces to train on and 70 to choose on."""
    return write(tmp_path_factory.mktemp("made"), {"train": 40, "val": 10})


@pytest.fixture(autouse=True)
def one_thread():
    """The networks here are so small that a second thread costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
