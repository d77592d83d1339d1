"""evaluation.ablation"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import write_json
from ..hub.card import ABLATION, _read, _trained
from ..hub.checkpoint import checkpoint_folder
from .calibrate import RECORD
from .metrics import paired_difference


def write_ablation(checkpoint: str | Path, evaluations: Sequence[str | Path]) -> Path:
    """
    Puts the results of networks that differ in their masks only into the checkpoint's `ablation.json`.

    Args:
        checkpoint: folder of the checkpoint whose card is to tell about them.
        evaluations: files of `rmn-hub evaluate --json`. A `run.json`, a `metrics.csv` and a `calibration.json`
            beside one of them say how that network was trained and calibrated.

    Raises:
        InputError: a file cannot be read, they do not hold a network with masks and one without, or no set of which all
            of them scored the same faces.
    """
    runs = []
    for path in map(Path, evaluations):
        document = _read(path)
        if document is None or not {"checkpoint", "sets"} <= set(document):
            raise InputError(f"{path} is no file of rmn-hub evaluate --json")
        name = "masks on" if document["checkpoint"]["masks"] else "masks off"
        try:
            sets = {
                title: {key: numbers[key] for key in ("command", "data", "single_view", "flip_averaged", "right")}
                for title, numbers in document["sets"].items()
            }
        except KeyError as error:
            raise InputError(f"{path} lacks {error}: make it again with rmn-hub evaluate --json") from error
        calibration = _read(path.with_name(RECORD)) or {}
        runs.append(
            {
                "name": name,
                "checkpoint": document["checkpoint"],
                "run": _read(path.with_name("run.json")),
                "trained": _trained(path.parent),
                "calibration": calibration.get("command"),
                "sets": sets,
            }
        )
    if {run["name"] for run in runs} != {"masks on", "masks off"}:
        raise InputError("an ablation compares a network with masks and one without: give the results of both")
    if not _common_sets(runs):
        raise InputError("these networks were not scored on one set: evaluate them with the same --data and --split")
    runs.sort(key=lambda run: run["name"], reverse=True)  # with masks first
    path = checkpoint_folder(checkpoint) / ABLATION
    on, off = (next(run["sets"] for run in runs if run["name"] == kind) for kind in ("masks on", "masks off"))
    differences = [
        {"set": name, **paired_difference(*([digit == "1" for digit in kind[name]["right"]] for kind in (on, off)))}
        for name in _common_sets(runs)
    ]
    write_json(path, {"runs": runs, "differences": differences})
    return path


def _common_sets(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return the sets of which all runs hold the very same faces, the scored one of FER2013 first."""
    common = [
        name
        for name, numbers in runs[0]["sets"].items()
        if all(
            name in run["sets"] and run["sets"][name]["data"]["sha256"] == numbers["data"]["sha256"] for run in runs[1:]
        )
    ]
    return sorted(common, key=lambda name: name != "private_test")
