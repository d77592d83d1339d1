"""How the tests of the command line run it: in this process, but where the start itself is the subject."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from rmn_hub.cli import main

ROOT = Path(__file__).parents[1]


def run(*words, stdin=None, **environment):
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(word) for word in words], input=stdin, env={"COLUMNS": "200", **environment})


def start(*words, python=("-m", "rmn_hub"), environment=None, **settings):
    """Start a command as a process of its own."""
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **settings}
    own = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "space")]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *python, *map(str, words)], env={**os.environ, **own, **(environment or {})}, **settings
    )


def lines_of(result):
    """The objects of `--json`."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def rows_of(text):
    """The rows of a CSV text, as dictionaries."""
    return list(csv.DictReader(io.StringIO(text, newline="")))


def files_of(folder):
    """The paths of all files below a folder, sorted, hidden ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
