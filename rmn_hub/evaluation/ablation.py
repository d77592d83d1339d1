"""
The ablation: networks that differ in their masks only, compared face by face. `rmn-hub card --ablation`.

`ablation.json` in a checkpoint's folder holds `runs`, one for each network, and `differences`, one for each set of
which all of them scored the same faces: the accuracy with masks less that without, single view, as `paired_difference`
returns it. The model card repeats both.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import write_json
from ..hub.card import ABLATION, CALIBRATION, METRICS, RUN, read_json, training_time
from ..hub.records import numbers_of, public_command
from .calibrate import own_folder
from .metrics import paired_difference

WITH, WITHOUT = "masks on", "masks off"


def write_ablation(checkpoint: str | Path, evaluations: Sequence[str | Path]) -> Path:
    """
    Write the results of networks that differ in their masks only into the checkpoint's `ablation.json`.

    Args:
        checkpoint: folder of the checkpoint whose card is to report them.
        evaluations: files of `rmn-hub evaluate --json`. A `run.json`, a `metrics.csv` and a `calibration.json`
            beside one of them hold how that network was trained and calibrated.

    Raises:
        InputError: a file cannot be read, they do not hold a network with masks and one without, or no set of which all
            of them scored the same faces.
    """
    runs = [_run(Path(path)) for path in evaluations]
    if {run["name"] for run in runs} != {WITH, WITHOUT}:
        raise InputError("an ablation compares a network with masks and one without: give the results of both")
    runs.sort(key=lambda run: run["name"], reverse=True)  # with masks first
    names = common_sets(runs)
    if not names:
        raise InputError("these networks were not scored on one set: evaluate them with the same --data and --split")
    path = own_folder(checkpoint) / ABLATION
    write_json(path, {"runs": runs, "differences": differences(runs)})
    return path


def differences(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Return, for each set of which all runs scored the same faces, its name as `set` and the `paired_difference` of the
    accuracies with and without masks, single view: `only_first` counts the faces that are right with masks only.
    """
    on, off = (next(run["sets"] for run in runs if run["name"] == kind) for kind in (WITH, WITHOUT))
    return [
        {"set": name, **paired_difference(*([digit == "1" for digit in kind[name]["right"]] for kind in (on, off)))}
        for name in common_sets(runs)
    ]


def common_sets(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return the sets of which all runs hold the very same faces, the scored one of FER2013 first."""
    common = [
        name
        for name, numbers in runs[0]["sets"].items()
        if all(
            name in run["sets"] and run["sets"][name]["data"]["sha256"] == numbers["data"]["sha256"] for run in runs[1:]
        )
    ]
    return sorted(common, key=lambda name: name != "private_test")


def _run(path: Path) -> dict[str, Any]:
    """Return the entry of one network."""
    document = read_json(path)
    try:
        if document is None:
            raise KeyError("checkpoint")
        sets = numbers_of(document, ("command", "data", "single_view", "flip_averaged", "right"))
        calibration = read_json(path.with_name(CALIBRATION)) or {}
        return {
            "name": WITH if document["checkpoint"]["masks"] else WITHOUT,
            "checkpoint": document["checkpoint"],
            "run": read_json(path.with_name(RUN)),
            "trained": training_time(path.with_name(METRICS)),
            "calibration": public_command(calibration["command"]) if "command" in calibration else None,
            "sets": sets,
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} lacks {error}: make it with rmn-hub evaluate --json") from error


__all__ = ["common_sets", "differences", "write_ablation"]
