"""What every test file shares."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Read when torch is imported: the workers share the cores, and threads that wait for one of them spin.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Read when Ray is imported: `uv run pytest` would have each of its workers start by `uv run`, too.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

import subprocess
import sys
import tempfile
import textwrap

import numpy as np
import pytest
import transformers_common
from evaluation_helpers import save_checkpoint
from PIL import Image
from skimage import data

from rmn_hub import ExpressionRecognizer

# Here browsers, servers, clusters and killed processes take turns on the cores of one machine.
SHARING = ("space", "cli", "test_distributed.py", "test_forking.py", "test_shell_docs.py", "training/test_processes.py")


def pytest_configure(config):
    transformers_common.config = config


def pytest_collection_modifyitems(config, items):
    """Run a test of real processes that failed once more; the summary names it, so that it is looked at."""
    sharing = tuple(config.rootpath / "tests" / name for name in SHARING)
    for item in items:
        if any(item.path.is_relative_to(place) for place in sharing):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session")
def astronaut():
    """A photo of 512 x 512 pixels with one smiling face of 90 x 113 pixels around (223, 116)."""
    return Image.fromarray(data.astronaut())


@pytest.fixture(scope="session")
def collage(astronaut):
    """Eight times the same photo, half as large: two rows of four faces in 1024 x 512 pixels."""
    picture = Image.new("RGB", (1024, 512))
    photo = astronaut.resize((256, 256))
    for number in range(8):
        picture.paste(photo, (number % 4 * 256, number // 4 * 256))
    return picture


@pytest.fixture(scope="session")
def faceless():
    """A photo of 600 x 400 pixels: a cup of coffee."""
    return Image.fromarray(data.coffee())


@pytest.fixture(scope="session")
def crops():
    """Forty grey crops of 48 x 48 pixels, all different."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8)).resize((48, 48)) for _ in range(40)]


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """The folder of a tiny network with random weights whose answers differ from face to face."""
    return save_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def recognizer(tiny_checkpoint):
    """A recognizer with the tiny network and the real detector."""
    return ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="session")
def bundled():
    """A recognizer with the bundled checkpoint and the real detector."""
    return ExpressionRecognizer.from_pretrained(device="cpu")


@pytest.fixture(scope="session")
def run_python():
    """A function that runs code in a fresh Python and returns what it prints."""

    def run(code):
        command = [sys.executable, "-c", textwrap.dedent(code)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.fixture(autouse=True)
def own_temporary_folder():
    """The page moves the process's temporary files into a folder of its own and removes it: not for the next test."""
    before = tempfile.tempdir
    yield
    tempfile.tempdir = before
