"""A process of its own that uses a local Hub: transformers and its Hub client read the Hub's address when imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def environment(hub_address, home, **more):
    """The variables of a process that uses a local Hub and nothing else of this machine's; `home` holds its cache."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    own = {"HF_ENDPOINT": hub_address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_of_nobody"}
    return kept | own | more


def run(hub_address, home, steps, *options, python=None):
    """
    What each step of `hub_client` answered, or its error; `home` is the working folder and holds the cache. With
    another environment's `python`, the package is what that environment has.
    """
    steps = [{"name": name, "do": do, "with": settings} for name, (do, settings) in steps.items()]
    package = "" if python else str(TESTS.parent)
    done = subprocess.run(
        [python or sys.executable, str(TESTS / "hub_client.py"), json.dumps(steps), *options],
        capture_output=True,
        text=True,
        env=environment(hub_address, home, OMP_NUM_THREADS="1", PYTHONPATH=package),
        cwd=home,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
