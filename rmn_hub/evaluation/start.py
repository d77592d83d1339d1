"""
What a start costs: `rmn-hub benchmark --start`. Processes of their own, from their start to their end.

Compared are the help of the command line with that of a typer program of one command, which does the same with nothing
behind it, and one `predict` of one face, which is the way to the first result.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..progress import Progress, silent

ROUNDS = 5
BARE, FRONT_DOOR, FIRST_RESULT = "bare typer program, --help", "rmn-hub --help", "rmn-hub predict"
_BARE_PROGRAM = """
import typer

app = typer.Typer()


@app.command()
def hello(name: str = "world") -> None:
    "Say hello."
    print(f"hello {name}")


app()
"""


@dataclass(frozen=True)
class Start:
    """
    What one process costs.

    Args:
        name: what ran.
        cpu_seconds: user and system time, median of all rounds.
        seconds: time from its start to its end, median.
        peak_memory: most megabytes (1e6 bytes) in use, median.
    """

    name: str
    cpu_seconds: float
    seconds: float
    peak_memory: float

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers ready for JSON."""
        return asdict(self)


def measure_start(
    image: str | Path | None = None, *, rounds: int = ROUNDS, warm_up: bool = True, progress: Progress = silent
) -> tuple[Start, ...]:
    """
    Measure the start of a bare typer program, of the command line, and of a prediction, in turns.

    Args:
        image: a photo to predict, with detection; a made face of 48 pixels without detection when not given.
        rounds: how often each runs.
        warm_up: whether a round goes before them that fills the caches and is not counted.
        progress: called for every process.

    Raises:
        InputError: the system counts no processes (Windows), or a process fails.
    """
    if not hasattr(os, "wait4"):
        raise InputError("the start can be measured on Linux and macOS only: this system does not count a process")
    with tempfile.TemporaryDirectory() as folder:
        predicted = ["-m", "rmn_hub", "predict", "--json"]
        predicted += [str(image)] if image is not None else [_made_face(Path(folder)), "--faces-only"]
        commands = {BARE: ["-c", _BARE_PROGRAM, "--help"], FRONT_DOOR: ["-m", "rmn_hub", "--help"]}
        commands[FIRST_RESULT] = predicted
        taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
        for number in range(-int(warm_up), rounds):
            for name, words in commands.items():
                costs = _costs(words)
                progress("starting", 1, (rounds + warm_up) * len(commands))
                if number >= 0:
                    taken[name].append(costs)
    return tuple(Start(name, *map(statistics.median, zip(*costs))) for name, costs in taken.items())


def _costs(words: Sequence[str]) -> tuple[float, float, float]:
    """Run Python with these arguments; return its seconds of CPU, of time, and its peak megabytes."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    problem = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.stderr.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = problem.decode(errors="replace").strip().splitlines() or ["it printed nothing"]
        raise InputError(f"{' '.join(words[:4])} failed with exit code {process.returncode}: {lines[-1]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return usage.ru_utime + usage.ru_stime, seconds, usage.ru_maxrss * unit / 1e6


def _made_face(folder: Path) -> str:
    """Write an image of 48 pixels, which need not show a face: the network does the same work."""
    from PIL import Image

    path = folder / "face.png"
    Image.linear_gradient("L").resize((48, 48)).save(path)
    return str(path)


__all__ = ["BARE", "FIRST_RESULT", "FRONT_DOOR", "Start", "measure_start"]
