"""
The files of numbers beside a checkpoint's weights, and how their numbers are put into words.

`eval.json` is of `rmn-hub evaluate`, `calibration.json` of `rmn-hub calibrate`, `ablation.json` and `peers.json` of
`rmn-hub card --ablation` and `--peer`, `run.json` and `metrics.csv` of `rmn-hub train` or `distill`, and `source.json`
of `rmn-hub convert`.
"""

import csv
import json
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..data.faces import split_role
from ..errors import InputError

EVALUATION = "eval.json"
CALIBRATION = "calibration.json"
ABLATION = "ablation.json"
PEERS = "peers.json"
RUN = "run.json"
SOURCE = "source.json"
METRICS = "metrics.csv"
# What the checkpoint is called in the folder of its run.
BEST = "best"
# The repositories on the Hub with the authors' own weights, and the file of them there.
AUTHORS = {
    "phamquiluan/ResidualMaskingNetwork": "Z_resmasking_dropout1_rot30_2019Nov30_13.32",
    "py-feat/resmasknet": "ResMaskNet_Z_resmasking_dropout1_rot30.pth",
}
# FER2013's splits, and how many faces they have: another set of small grey faces is not called so.
FER2013 = {
    "private_test": ("FER2013 PrivateTest", 3589),
    "public_test": ("FER2013 PublicTest", 3589),
    "train": ("FER2013 Training", 28709),
}


def run_name(folder: Path) -> str:
    """Return the name of a checkpoint's folder, or of the run around it where it is called `BEST`."""
    folder = folder.resolve()
    return folder.parent.name if folder.name == BEST else folder.name


def public_name(path: str | Path) -> str:
    """
    Return a local path's last part (of a run's `best`, the run's name), and a Hub id as it is: a record goes out with
    its checkpoint.
    """
    return run_name(Path(path)) if Path(path).exists() else str(path)


def public_word(word: object) -> str:
    """
    Return a word of a recorded command: of a path that is absolute, or begins outside of the present folder, its last
    part as [`public_name`] has it; any other word as it is.
    """
    path = Path(str(word))
    return run_name(path) if path.is_absolute() or ".." in path.parts else str(word)


def public_command(command: str) -> str:
    """Return a command whose words are [`public_word`]s: it goes out with its checkpoint."""
    return shlex.join(map(public_word, shlex.split(command)))


def numbers_of(document: dict[str, Any], keys: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return some of the numbers of each set of an `eval.json`; the commands of earlier versions have whole paths."""
    sets = {title: {key: numbers[key] for key in keys} for title, numbers in document["sets"].items()}
    return {title: {**numbers, "command": public_command(numbers["command"])} for title, numbers in sets.items()}


def trained_on(checkpoint: Path) -> tuple[str | None, str]:
    """Return the set's name and the split that a checkpoint's `run.json` has; `(None, "train")` without one."""
    data = (read_json(checkpoint / RUN) or {}).get("data")
    known = data if isinstance(data, dict) else {}
    return known.get("name"), str(known.get("split", "train"))


def trained_split(checkpoint: Path, data: str | Path) -> str:
    """Return the split of a set that a checkpoint's run trained on, as its `run.json` has it for a set of this name."""
    name, split = trained_on(checkpoint)
    return split if name == public_name(data) else "train"


def read_json(path: Path) -> dict[str, Any] | None:
    """
    Read the object of a JSON file; `None` without a file.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}. Make it again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object. Make it again.")
    return content


def training_time(path: Path) -> dict[str, float] | None:
    """
    Read how long the run of a `metrics.csv` went: `epochs` and `minutes`; `None` without a file.

    Raises:
        InputError: it is not what `rmn-hub train` wrote.
    """
    if not path.exists():
        return None
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {"epochs": int(rows[-1]["epoch"]), "minutes": float(rows[-1]["minutes"])} if rows else None
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise InputError(f"{path} must be what rmn-hub train wrote. Restore it, or remove it.") from error


def is_fer2013(name: str, faces: int) -> bool:
    """Return whether a set of this name and number of faces is a whole split of FER2013."""
    return name in FER2013 and FER2013[name][1] == faces


def title(name: str, faces: int) -> str:
    """Return what a set is called in a text."""
    return FER2013[name][0] if is_fer2013(name, faces) else name


def titles(sets: dict[str, Any]) -> dict[str, str]:
    """Return what the sets of an `eval.json` are called, by their names there."""
    return {name: title(name, numbers["data"]["faces"]) for name, numbers in sets.items()}


def main_set(sets: dict[str, Any]) -> str:
    """Return the name of the set that most of a text is about: the one that is scored once, where it is there."""
    scored_once = (name for name, numbers in sets.items() if split_role(numbers["data"]["split"]) == "private_test")
    return next((name for name in ("private_test", *scored_once, "public_test") if name in sets), next(iter(sets)))


def origin(name: str, numbers: dict[str, Any]) -> str:
    """Return the name of the data that a set of an `eval.json` is of: of earlier ones, which lack it, the set's own."""
    return str(numbers["data"].get("name", name))


def percent(value: float | None) -> str:
    """Return a share in percent, with one decimal; nothing for `None`."""
    return "" if value is None else f"{100 * value:.1f}"


def in_words(value: float) -> str:
    """Return a large number with its unit: 4.9 million."""
    for size, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if value >= size:
            return f"{value / size:.1f} {name}"
    return str(value)


def accuracy(numbers: dict[str, Any] | None) -> str:
    """Return an accuracy with its interval, in percent."""
    if numbers is None:
        return "not known"
    low, high = numbers["interval"]
    return f"{percent(numbers['accuracy'])}% ({percent(low)} to {percent(high)})"


def train_command(run: dict[str, Any]) -> str:
    """Return the command of a run, but for its folder."""
    if "command" in run:
        return run["command"]
    budget = f"--minutes {run['minutes']:g}" if run["minutes"] else f"--epochs {run['epochs']}"
    return f"rmn-hub train --recipe RECIPE.yaml {budget} --seed {run['seed']}"  # `run.json` has the recipe


def duration(trained: dict[str, float]) -> str:
    """Return how long a run went, of what [`training_time`] returns."""
    return f"{trained['epochs']} epochs in {trained['minutes']:.0f} minutes"


__all__ = [
    "ABLATION",
    "AUTHORS",
    "BEST",
    "CALIBRATION",
    "EVALUATION",
    "FER2013",
    "METRICS",
    "PEERS",
    "RUN",
    "SOURCE",
    "accuracy",
    "duration",
    "in_words",
    "is_fer2013",
    "main_set",
    "numbers_of",
    "origin",
    "percent",
    "public_command",
    "public_name",
    "public_word",
    "read_json",
    "run_name",
    "title",
    "titles",
    "train_command",
    "trained_on",
    "trained_split",
    "training_time",
]
