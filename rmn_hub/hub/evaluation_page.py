"""The page beside a model card: every table that the card leaves out. The text is `evaluation_template.md`."""

from pathlib import Path
from typing import Any

from ..expressions import EXPRESSIONS
from .records import (
    METRICS,
    accuracy,
    duration,
    in_words,
    main_set,
    percent,
    title,
    titles,
    train_command,
    training_time,
)

FIGURES = "figures"
_COVERAGE = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9)


def evaluation_values(
    folder: Path,
    document: dict[str, Any],
    calibration: dict[str, Any] | None,
    ablation: dict[str, Any] | None,
    run: dict[str, Any] | None,
    peers: list[dict[str, str]],
) -> dict[str, Any]:
    """
    Return what the template asks for, in words and rounded numbers.

    Args:
        folder: of the checkpoint.
        document: its `eval.json`.
        calibration: its `calibration.json`.
        ablation: its `ablation.json`.
        run: its `run.json`.
        peers: rows about other networks on the same faces.
    """
    sets, model = document["sets"], document["checkpoint"]
    names, main = titles(sets), main_set(sets)
    faithful = next((name for name in ("public_test", *sets) if name in sets and sets[name]["faithfulness"]), None)
    return {
        "names": EXPRESSIONS,
        "sha256": model["sha256"],
        "bins": len(sets[main]["calibration"]["bins"]),
        "commands": [numbers["command"] for numbers in sets.values()],
        "results": _results(sets, names),
        "peers": peers,
        "main": _main(names[main], sets[main]),
        "agreement": [
            {"title": names[name], "share": f"{100 * numbers['data']['ferplus_agreement']:.0f}"}
            for name, numbers in sets.items()
            if numbers["data"]["ferplus_agreement"] is not None
        ],
        "duplicates": [{"title": names[name], "text": _duplicates(numbers)} for name, numbers in sets.items()],
        "notes": [
            {"title": names[name], "note": note} for name, numbers in sets.items() for note in numbers["data"]["notes"]
        ],
        "recipe": _recipe(folder, run),
        "calibration": _calibration(calibration),
        "ablation": _ablation(ablation, model["sha256"]),
        "faithfulness": _faithfulness(names[faithful], sets[faithful]["faithfulness"]) if faithful else None,
        "figures": [
            {"name": path.stem.replace("_", " "), "path": f"{FIGURES}/{path.name}"}
            for path in sorted((folder / FIGURES).glob("*.png"))
        ],
    }


def _results(sets: dict[str, Any], names: dict[str, str]) -> list[dict[str, str]]:
    rows = []
    for name, numbers in sets.items():
        kinds = [("", numbers)]
        unique = numbers["without_duplicates"]
        if unique is not None and unique["duplicates"] and unique["single_view"] is not None:
            kinds.append((", without duplicates of training faces", unique))
        for suffix, kind in kinds:
            rows.append(
                {
                    "name": names[name] + suffix,
                    "faces": f"{kind['single_view']['faces']:,}",
                    "two_views": accuracy(kind["flip_averaged"]),
                    "one_view": accuracy(kind["single_view"]),
                    "ece": f"{kind['single_view']['expected_calibration_error']:.3f}",
                }
            )
    return rows


def _duplicates(numbers: dict[str, Any]) -> str:
    unique = numbers["without_duplicates"]
    if unique is None:
        return "training faces among them were not looked for."
    return f"{unique['duplicates']} of {numbers['data']['faces']:,} faces are, byte for byte, training faces."


def _recipe(folder: Path, run: dict[str, Any] | None) -> str:
    if run is None:
        return ""
    text = f"`{train_command(run)}`"
    trained = training_time(folder / METRICS)
    if trained is not None:
        text += f": {duration(trained)}"
    recipe = run["recipe"]
    sizes = ", then ".join(f"{size} px for {100 * part:.0f}%" for part, size in recipe["sizes"])
    return (
        f"{text}. Optimizer {recipe['optimizer']}, learning rate {recipe['learning_rate']:g}, weight decay "
        f"{recipe['weight_decay']:g}, batch {recipe['batch_size']}, label smoothing {recipe['label_smoothing']:g}; "
        f"trained at {sizes} of the time. The whole recipe is in `run.json`."
    )


def _main(shown: str, numbers: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of the set that most of the card is about."""
    expressions, speed = numbers["per_expression"], numbers["milliseconds_per_face"]
    return {
        "title": shown,
        "per_expression": [
            {
                "name": name,
                **{key: percent(row[key]) for key in ("precision", "recall", "f1")},
                "faces": f"{row['faces']:,}",
            }
            for name, row in expressions.items()
        ],
        "mean_recall": percent(numbers["mean_recall"]),
        "mean_f1": percent(numbers["mean_f1"]),
        "confusion_matrix": [
            {"name": name, "counts": row} for name, row in zip(EXPRESSIONS, numbers["confusion_matrix"])
        ],
        "coverage": [
            {
                "threshold": f"{row['threshold']:.1f}",
                "coverage": percent(row["coverage"]),
                "accuracy": "" if row["accuracy"] is None else f"{percent(row['accuracy'])}%",
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
                "range": f"{percent(row['lower'])} to {percent(row['upper'])}",
                "faces": f"{row['faces']:,}",
                "confidence": percent(row["confidence"]),
                "accuracy": percent(row["accuracy"]),
            }
            for row in numbers["calibration"]["bins"]
            if row["faces"]
        ],
    }


def _calibration(record: dict[str, Any] | None) -> dict[str, Any] | None:
    if record is None:
        return None
    return {
        "temperatures": ", ".join(f"{name} {value:.3f}" for name, value in record["temperatures"].items()),
        "faces": f"{record['faces']:,}",
        "split": title(record["split"], record["faces"]),
        # Records of earlier versions do not have it.
        "views": "one view" if record.get("views", 1) == 1 else f"{record['views']} views",
        "before": f"{record['before']['expected_calibration_error']:.3f}",
        "after": f"{record['after']['expected_calibration_error']:.3f}",
        "accuracy_before": f"{100 * record['before']['accuracy']:.1f}",
        "accuracy_after": f"{100 * record['after']['accuracy']:.1f}",
        "command": record["command"],
    }


def _ablation(ablation: dict[str, Any] | None, sha256: str) -> dict[str, Any] | None:
    if ablation is None:
        return None
    runs, differences = ablation["runs"], ablation["differences"]
    names = [difference["set"] for difference in differences]
    shown = titles(runs[0]["sets"])
    rows = [
        {
            "name": run["name"],
            "training": duration(run["trained"]) if run["trained"] else "",
            "multiply_adds": in_words(run["checkpoint"]["multiply_adds"]),
            "parameters": in_words(run["checkpoint"]["parameters"]),
            "title": shown[name],
            "one_view": accuracy(run["sets"][name]["single_view"]),
            "two_views": accuracy(run["sets"][name]["flip_averaged"]),
        }
        for name in names
        for run in runs
    ]
    commands = [train_command(run["run"]) for run in runs if run["run"]]
    commands += [run["calibration"] for run in runs if run["calibration"]]
    commands += [run["sets"][name]["command"] for run in runs for name in names]
    own = any(run["checkpoint"]["sha256"] == sha256 for run in runs)
    what = "" if own else "These are two other networks, not the one of this checkpoint."
    return {
        "what": what,
        "rows": rows,
        "verdicts": [_masks_verdict(shown[values["set"]], values) for values in differences],
        "commands": commands,
    }


def _masks_verdict(shown: str, values: dict[str, Any]) -> str:
    """Put into words how two networks, with masks and without, differ on the same faces of one set."""
    low, high = values["interval"]
    chance = "Chance over these faces may explain it."
    verdict = chance if low <= 0 <= high else "Chance over these faces does not explain it."
    change, first, second = (values[name] for name in ("difference", "only_first", "only_second"))
    return (
        f"On {shown}, one view, the masks change the accuracy by {100 * change:+.1f} points (95% interval over the "
        f"faces {100 * low:+.1f} to {100 * high:+.1f}): {first} faces are right with masks only, {second} without only "
        f"(McNemar's exact test: p = {values['p_value']:.2g}). {verdict}"
    )


def _faithfulness(shown: str, values: dict[str, Any]) -> dict[str, Any]:
    removals = values["removals"]
    return {
        "title": shown,
        "faces": f"{values['faces']:,}",
        "grid": f"{values['blocks']} x {values['blocks']}",
        "probability": percent(values["probability"]),
        "rows": [
            {
                "stage": removal["stage"],
                "fraction": f"{100 * removal['fraction']:.0f}%",
                **{name: percent(removal[name]["mean"]) for name in ("map", "random", "features")},
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


__all__ = ["FIGURES", "evaluation_values"]
