"""
The model card: `rmn-hub card`. Every number in it comes from a file in the checkpoint's folder.

Beside the weights lie `eval.json` (of `rmn-hub evaluate`), and, where there are any, `calibration.json` (of
`rmn-hub calibrate`), `ablation.json` (of `rmn-hub card --ablation`), and `run.json` and `metrics.csv` (of
`rmn-hub train`). The text is `model_card_template.md`.
"""

import csv
import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..errors import CheckpointError, InputError
from ..expressions import EXPRESSIONS
from ..files import file_hash, write_text
from ..images import is_folder
from .checkpoint import WEIGHTS, find

EVALUATION = "eval.json"
CALIBRATION = "calibration.json"
ABLATION = "ablation.json"
RUN = "run.json"
METRICS = "metrics.csv"
TEMPLATE = Path(__file__).with_name("model_card_template.md")
_TITLES = {"public_test": "FER2013 PublicTest", "private_test": "FER2013 PrivateTest", "train": "FER2013 Training"}
_COVERAGE = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9)


def write_card(checkpoint: str | Path, output: str | Path | None = None) -> list[Path]:
    """
    Write the card as the checkpoint's `README.md` and, when given, as another file too; see [`make_card`].

    Returns:
        The files that were written.
    """
    card = str(make_card(checkpoint))
    written = [Path(checkpoint) / "README.md", *([Path(output)] if output is not None else [])]
    for path in written:
        write_text(path, card)
    return written


def make_card(checkpoint: str | Path) -> ModelCard:
    """
    Make the card of a checkpoint, with its results as metadata (`model-index`) for the Hub.

    Raises:
        CheckpointError: the folder holds no checkpoint.
        InputError: there is no `eval.json` of these weights, or a file cannot be read.
    """
    if not is_folder(Path(checkpoint)):
        raise CheckpointError(
            f"The card of {checkpoint} cannot be written: there is no such folder. Give a checkpoint's."
        )
    folder = find(checkpoint)
    document = read_json(folder / EVALUATION)
    if document is None:
        raise InputError(
            f"The card of {folder} cannot be written: it has no {EVALUATION}. Run rmn-hub evaluate {folder} --json "
            f"{folder / EVALUATION} first."
        )
    calibration, ablation, run = (read_json(folder / name) for name in (CALIBRATION, ABLATION, RUN))
    sha256 = file_hash(folder / WEIGHTS)
    try:
        if document["checkpoint"]["sha256"] != sha256:
            raise InputError(
                f"The card of {folder} cannot be written: {EVALUATION} is about other weights than {WEIGHTS}. Evaluate "
                "them again."
            )
        if calibration is not None and calibration["sha256"] != sha256:
            calibration = None  # of weights that were here before
        values = _values(folder, document, calibration, ablation, run)
        card = ModelCard.from_template(_metadata(folder, document), template_path=str(TEMPLATE), **values)
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"The card of {folder} cannot be written: a file of numbers lacks {error}. Make it again with rmn-hub "
            "evaluate, calibrate or card --ablation."
        ) from error
    return ModelCard(str(card).rstrip() + "\n")


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


# Metadata for the Hub


def _metadata(folder: Path, document: dict[str, Any]) -> ModelCardData:
    results = []
    for name, numbers in document["sets"].items():
        dataset = {
            "task_type": "image-classification",
            "task_name": "Facial expression recognition",
            "dataset_type": "fer2013" if name in _TITLES else name,
            "dataset_name": _title(name),
            "dataset_split": numbers["data"]["split"],
        }
        metrics = [
            ("accuracy", "Accuracy, single view", numbers["single_view"]["accuracy"]),
            ("accuracy", "Accuracy, flip-averaged", numbers["flip_averaged"]["accuracy"]),
            ("f1", "F1, mean over the expressions, single view", numbers["mean_f1"]),
            ("ece", "Expected calibration error, single view", numbers["single_view"]["expected_calibration_error"]),
        ]
        unique = (numbers["without_duplicates"] or {}).get("single_view")
        if unique is not None:
            metrics.append(("accuracy", "Accuracy, single view, without duplicates", unique["accuracy"]))
        for kind, metric, value in metrics:
            results.append(EvalResult(metric_type=kind, metric_name=metric, metric_value=round(value, 4), **dataset))
    return ModelCardData(
        license="mit",
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["facial-expression-recognition", "residual-masking-network", "fer2013", "face", "rmn"],
        metrics=["accuracy", "f1"],
        model_name=folder.resolve().name,
        eval_results=results,
    )


# Text


def _values(
    folder: Path,
    document: dict[str, Any],
    calibration: dict[str, Any] | None,
    ablation: dict[str, Any] | None,
    run: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return what the template asks for, in words and rounded numbers."""
    sets, model = document["sets"], document["checkpoint"]
    main = next((name for name in ("private_test", "public_test") if name in sets), next(iter(sets)))
    faithful = next((name for name in ("public_test", *sets) if name in sets and sets[name]["faithfulness"]), None)
    return {
        "name": folder.resolve().name,
        "expressions": f"{', '.join(EXPRESSIONS[:-1])} and {EXPRESSIONS[-1]}",
        "names": EXPRESSIONS,
        "model": {
            "masks": model["masks"],
            # Numbers of before have no such field, and are an RMN's.
            "network": model.get("network", "rmn"),
            "parameters": _in_words(model["parameters"]),
            "multiply_adds": _in_words(model["multiply_adds"]),
            "megabytes": f"{model['megabytes']:.1f}",
            "image_size": model["image_size"],
        },
        "sha256": model["sha256"],
        "bins": len(sets[main]["calibration"]["bins"]),
        "results": _results(sets),
        "paper": "private_test" in sets,
        "commands": [numbers["command"] for numbers in sets.values()],
        "main": _main(_title(main), sets[main]),
        "agreement": [
            {"title": _title(name), "share": f"{100 * numbers['data']['ferplus_agreement']:.0f}"}
            for name, numbers in sets.items()
            if numbers["data"]["ferplus_agreement"] is not None
        ],
        "duplicates": [
            {
                "title": _title(name),
                "count": numbers["without_duplicates"]["duplicates"],
                "faces": f"{numbers['data']['faces']:,}",
                "single_view": _accuracy(numbers["without_duplicates"]["single_view"]),
                "flip_averaged": _accuracy(numbers["without_duplicates"]["flip_averaged"]),
            }
            for name, numbers in sets.items()
            if numbers["without_duplicates"] is not None
        ],
        "notes": [
            {"title": _title(name), "note": note} for name, numbers in sets.items() for note in numbers["data"]["notes"]
        ],
        "training": _training(folder, run),
        "calibration": _calibration(calibration),
        "ablation": _ablation(ablation),
        "faithfulness": _faithfulness(_title(faithful), sets[faithful]["faithfulness"]) if faithful else None,
        "others": [
            {
                "title": _title(name),
                "faces": f"{numbers['data']['faces']:,}",
                "single_view": _accuracy(numbers["single_view"]),
            }
            for name, numbers in sets.items()
            if name not in _TITLES
        ],
    }


def _title(name: str) -> str:
    return _TITLES.get(name, name)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _in_words(value: float) -> str:
    for size, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if value >= size:
            return f"{value / size:.1f} {name}"
    return str(value)


def _accuracy(numbers: dict[str, Any] | None) -> str:
    if numbers is None:
        return "not known"
    low, high = numbers["interval"]
    return f"{_percent(numbers['accuracy'])}% ({_percent(low)} to {_percent(high)})"


def _results(sets: dict[str, Any]) -> list[dict[str, str]]:
    rows = []
    for name, numbers in sets.items():
        kinds = [("", numbers)]
        unique = numbers["without_duplicates"]
        if unique is not None and unique["duplicates"] and unique["single_view"] is not None:
            kinds.append((", without duplicates of training faces", unique))
        for suffix, kind in kinds:
            rows.append(
                {
                    "name": _title(name) + suffix,
                    "faces": f"{kind['single_view']['faces']:,}",
                    "single_view": _accuracy(kind["single_view"]),
                    "flip_averaged": _accuracy(kind["flip_averaged"]),
                    "ece": f"{kind['single_view']['expected_calibration_error']:.3f}",
                }
            )
    return rows


def _main(title: str, numbers: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of the set that most of the card is about."""
    expressions, speed = numbers["per_expression"], numbers["milliseconds_per_face"]
    present = {name: row for name, row in expressions.items() if row["faces"]}
    weakest = sorted(present, key=lambda name: present[name]["recall"])[:2]
    shown = " and ".join(f"{name} ({_percent(present[name]['recall'])}% of its faces are found)" for name in weakest)
    return {
        "title": title,
        "weakest": f"The expressions that it recognises least are {shown}, on {title}.",
        "per_expression": [
            {
                "name": name,
                **{key: _percent(row[key]) for key in ("precision", "recall", "f1")},
                "faces": f"{row['faces']:,}",
            }
            for name, row in expressions.items()
        ],
        "mean_recall": _percent(numbers["mean_recall"]),
        "mean_f1": _percent(numbers["mean_f1"]),
        "confusion_matrix": [
            {"name": name, "counts": row} for name, row in zip(EXPRESSIONS, numbers["confusion_matrix"])
        ],
        "coverage": [
            {
                "threshold": f"{row['threshold']:.1f}",
                "coverage": _percent(row["coverage"]),
                "accuracy": "" if row["accuracy"] is None else f"{_percent(row['accuracy'])}%",
            }
            for row in numbers["coverage"]
            if row["threshold"] in _COVERAGE
        ],
        "device": speed["device"],
        "threads": speed["threads"],
        "milliseconds": [
            {
                "batch": batch,
                "network": f"{speed[f'batch_{batch}']['network']:.2f}",
                "with_processor": f"{speed[f'batch_{batch}']['with_processor']:.2f}",
            }
            for batch in (1, 32)
        ],
        "bins": [
            {
                "range": f"{_percent(row['lower'])} to {_percent(row['upper'])}",
                "faces": f"{row['faces']:,}",
                "confidence": _percent(row["confidence"]),
                "accuracy": _percent(row["accuracy"]),
            }
            for row in numbers["calibration"]["bins"]
            if row["faces"]
        ],
    }


def _train_command(run: dict[str, Any]) -> str:
    """Return the command of a run, but for its data and its folder."""
    if "command" in run:
        return run["command"]
    budget = f"--minutes {run['minutes']:g}" if run["minutes"] else f"--epochs {run['epochs']}"
    return f"rmn-hub train --recipe RECIPE.yaml {budget} --seed {run['seed']}"  # `run.json` has the recipe


def _duration(trained: dict[str, float]) -> str:
    return f"{trained['epochs']} epochs in {trained['minutes']:.0f} minutes"


def _training(folder: Path, run: dict[str, Any] | None) -> str:
    if run is None:
        return ""
    text = f"`{_train_command(run)}`"
    trained = training_time(folder / METRICS)
    if trained is not None:
        text += f": {_duration(trained)}"
    recipe = run["recipe"]
    sizes = ", then ".join(f"{size} px for {100 * part:.0f}%" for part, size in recipe["sizes"])
    return (
        f"{text}. Optimizer {recipe['optimizer']}, learning rate {recipe['learning_rate']:g}, weight decay "
        f"{recipe['weight_decay']:g}, batch {recipe['batch_size']}, label smoothing {recipe['label_smoothing']:g}; "
        f"trained at {sizes} of the time. The whole recipe is in `run.json`. The checkpoint was chosen on PublicTest."
    )


def _calibration(record: dict[str, Any] | None) -> dict[str, Any] | None:
    if record is None:
        return None
    return {
        "temperatures": ", ".join(f"{name} {value:.3f}" for name, value in record["temperatures"].items()),
        "faces": f"{record['faces']:,}",
        "split": _title(record["split"]),
        "before": f"{record['before']['expected_calibration_error']:.3f}",
        "after": f"{record['after']['expected_calibration_error']:.3f}",
        "accuracy_before": f"{100 * record['before']['accuracy']:.1f}",
        "accuracy_after": f"{100 * record['after']['accuracy']:.1f}",
        "command": record["command"],
    }


def _ablation(ablation: dict[str, Any] | None) -> dict[str, Any] | None:
    if ablation is None:
        return None
    runs, differences = ablation["runs"], ablation["differences"]
    names = [difference["set"] for difference in differences]
    rows = [
        {
            "name": run["name"],
            "training": _duration(run["trained"]) if run["trained"] else "",
            "multiply_adds": _in_words(run["checkpoint"]["multiply_adds"]),
            "parameters": _in_words(run["checkpoint"]["parameters"]),
            "title": _title(name),
            "single_view": _accuracy(run["sets"][name]["single_view"]),
            "flip_averaged": _accuracy(run["sets"][name]["flip_averaged"]),
        }
        for name in names
        for run in runs
    ]
    commands = [_train_command(run["run"]) for run in runs if run["run"]]
    commands += [run["calibration"] for run in runs if run["calibration"]]
    commands += [run["sets"][name]["command"] for run in runs for name in names]
    return {"rows": rows, "verdicts": [_masks_verdict(values) for values in differences], "commands": commands}


def _masks_verdict(values: dict[str, Any]) -> str:
    """Put into words how two networks, with masks and without, differ on the same faces of one set."""
    low, high = values["interval"]
    chance = "Chance over these faces may explain it."
    verdict = chance if low <= 0 <= high else "Chance over these faces does not explain it."
    title, change, first, second = (
        _title(values["set"]),
        values["difference"],
        values["only_first"],
        values["only_second"],
    )
    return (
        f"On {title}, single view, the masks change the accuracy by {100 * change:+.1f} points (95% interval over the "
        f"faces {100 * low:+.1f} to {100 * high:+.1f}): {first} faces are right with masks only, {second} without only "
        f"(McNemar's exact test: p = {values['p_value']:.2g}). {verdict}"
    )


def _faithfulness(title: str, values: dict[str, Any]) -> dict[str, Any]:
    removals = values["removals"]
    return {
        "title": title,
        "faces": f"{values['faces']:,}",
        "grid": f"{values['blocks']} x {values['blocks']}",
        "probability": _percent(values["probability"]),
        "rows": [
            {
                "stage": removal["stage"],
                "fraction": f"{100 * removal['fraction']:.0f}%",
                **{name: _percent(removal[name]["mean"]) for name in ("map", "random", "features")},
                **{name: _points(removal[name]) for name in ("map_minus_random", "map_minus_features")},
            }
            for removal in removals
        ],
        "verdicts": [
            _verdict(removals, "map_minus_random", "random places"),
            _verdict(removals, "map_minus_features", "the places where the stage's features are strongest"),
        ],
    }


def _points(value: dict[str, Any]) -> str:
    low, high = value["interval"]
    return f"{100 * value['mean']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _verdict(removals: list[dict[str, Any]], difference: str, others: str) -> str:
    more = sum(removal[difference]["interval"][0] > 0 for removal in removals)
    less = sum(removal[difference]["interval"][1] < 0 for removal in removals)
    return (
        f"The places that the map ranks highest matter more than {others} in {more} of {len(removals)} rows, less in "
        f"{less}, and in the others the interval of the difference holds 0."
    )


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


__all__ = [
    "ABLATION",
    "CALIBRATION",
    "EVALUATION",
    "METRICS",
    "RUN",
    "make_card",
    "read_json",
    "training_time",
    "write_card",
]
