"""
The model card: `rmn-hub card`. Every number in it comes from a file in the checkpoint's folder (see `records`), and so
does what it says of data, start, teacher and source; what no file holds, it does not claim.

The card (`card_template.md`) goes with a page of all tables, `evaluation.md`, which `evaluation_page` fills in.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..checkpoints import BUNDLED_CHECKPOINT, WEIGHTS, weights_hash
from ..errors import CheckpointError, InputError
from ..expressions import EXPRESSIONS
from ..files import write_json, write_text
from ..images import is_folder
from ..model.configuration_rmn import MINIMUM_TRANSFORMERS
from ..packages import data_folder
from .checkpoint import CONFIG, PROCESSOR, find
from .evaluation_page import evaluation_values
from .files import ONNX_FILE
from .records import (
    ABLATION,
    AUTHORS,
    CALIBRATION,
    EVALUATION,
    METRICS,
    PEERS,
    RUN,
    SOURCE,
    accuracy,
    in_words,
    is_fer2013,
    main_set,
    numbers_of,
    origin,
    percent,
    read_json,
    run_name,
    titles,
    train_command,
    training_time,
)

CARD = "README.md"
PAGE = "evaluation.md"
# How a card of this command is told from one that was written by hand.
MARKER = "Written by `rmn-hub card`"
ARXIV = "2603.05937"
_TEMPLATES = data_folder("rmn_hub.hub")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
# The link to a Space, as the template writes it.
_DEMO = re.compile(r"\(https://huggingface\.co/spaces/([\w-][\w.-]*/[\w.-]+)\)")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")


def write_card(
    checkpoint: str | Path,
    output: str | Path | None = None,
    *,
    repo_id: str | None = None,
    licence: str | None = None,
    demo: str | None = None,
    peers: Sequence[str | Path] = (),
    folder: str | Path | None = None,
) -> list[Path]:
    """
    Write the card as `README.md` and the page of its tables as `evaluation.md` beside it; see [`make_card`].

    Args:
        checkpoint: folder of the checkpoint.
        output: another file for the card; its links lead to the files beside the checkpoint.
        repo_id: as [`make_card`] takes it.
        licence: as [`make_card`] takes it.
        demo: as [`make_card`] takes it.
        peers: files of `rmn-hub evaluate --json` about other networks, which join those in the checkpoint's
            `peers.json` and stay there.
        folder: where both go; beside the checkpoint when not given.

    Returns:
        The files that were written.
    """
    if peers:
        _write_peers(checkpoint, peers)
    material = _Material(checkpoint, repo_id, licence, demo)
    beside = Path(checkpoint) if folder is None else Path(folder)
    written = {beside / CARD: material.card(PAGE), beside / PAGE: material.page()}
    if output is not None:
        link = Path(os.path.relpath(beside / PAGE, Path(output).parent)).as_posix()
        written[Path(output)] = material.card(link)
    for path, text in written.items():
        write_text(path, text)
    return list(written)


def make_card(
    checkpoint: str | Path, *, repo_id: str | None = None, licence: str | None = None, demo: str | None = None
) -> ModelCard:
    """
    Make the card of a checkpoint, with its results as metadata (`model-index`) for the Hub.

    Args:
        checkpoint: folder of the checkpoint.
        repo_id: the id that it is, or will be, published under, which the card's code loads; its folder when not given.
        licence: of the weights, as the Hub abbreviates it; that of the card which is there, else MIT for the bundled
            checkpoint and none for others, when not given.
        demo: `owner/name` of the Space that the card links to; that of the card which is there when not given.

    Raises:
        CheckpointError: the folder holds no checkpoint.
        InputError: there is no `eval.json` of these weights, a file cannot be read, or `repo_id`, `licence` or `demo`
            cannot be one.
    """
    return ModelCard(_Material(checkpoint, repo_id, licence, demo).card(PAGE))


def is_ours(card: Path) -> bool:
    """Return whether a card was written by this command, and may be written again."""
    return MARKER in card.read_text(encoding="utf-8", errors="replace")


class _Material:
    """All that a card and its page are made of."""

    def __init__(
        self, checkpoint: str | Path, repo_id: str | None, licence: str | None, demo: str | None = None
    ) -> None:
        if not is_folder(Path(checkpoint)):
            raise CheckpointError(
                f"The card of {checkpoint} cannot be written: there is no such folder. Give a checkpoint's."
            )
        for name, value in (("repo_id", repo_id), ("demo", demo)):
            if value is not None and not _HUB_ID.fullmatch(value):
                raise InputError(f"{name}={value!r} must be an id on the Hub, owner/name")
        if licence is not None and not _LICENCE.fullmatch(licence):
            raise InputError(f"licence={licence!r} must be an abbreviation such as mit, apache-2.0 or cc-by-nc-4.0")
        self.folder, self.repo_id = find(checkpoint), repo_id
        self.source = repo_id or str(checkpoint)
        document = read_json(self.folder / EVALUATION)
        if document is None:
            raise InputError(
                f"The card of {self.folder} cannot be written: it has no {EVALUATION}. Run rmn-hub evaluate "
                f"{self.folder} --json {self.folder / EVALUATION} first."
            )
        self.document = document
        self.calibration, self.ablation, self.run, self.origin, peers = (
            read_json(self.folder / name) for name in (CALIBRATION, ABLATION, RUN, SOURCE, PEERS)
        )
        self.peers = peers or {"networks": []}
        sha256 = weights_hash(self.folder)
        self.bundled = sha256 == weights_hash(Path(BUNDLED_CHECKPOINT))
        former = self._former_card()
        licence = licence or _licence_of(former)
        self.licence = licence or ("mit" if self.bundled else None)
        self.demo = demo or _demo_of(former)
        with self._naming_gaps():
            if document["checkpoint"]["sha256"] != sha256:
                raise InputError(
                    f"The card of {self.folder} cannot be written: {EVALUATION} is about other weights than {WEIGHTS}. "
                    "Evaluate them again."
                )
            if self.calibration is not None and self.calibration["sha256"] != sha256:
                self.calibration = None  # of weights that were here before

    @property
    def name(self) -> str:
        """The repository's name, or that of the folder, of the run around it where it is called `best`."""
        if self.repo_id:
            return self.repo_id.rpartition("/")[2]
        return run_name(self.folder)

    def card(self, page: str) -> str:
        """Return the card, whose link to the page of tables is `page`."""
        with self._naming_gaps():
            values = {**self._card_values(), "evaluation_file": page, "evaluation_name": PAGE}
            card = ModelCard.from_template(
                self._metadata(), template_path=str(_TEMPLATES / "card_template.md"), **values
            )
        return str(card).rstrip() + "\n"

    def page(self) -> str:
        """Return the page of tables."""
        with self._naming_gaps():
            rows = [row for row in _peer_rows(self.document["sets"], self.peers) if row["command"]]
            numbers = (self.calibration, self.ablation, self.run)
            values = evaluation_values(self.folder, self.document, *numbers, rows)
        template = jinja2.Template((_TEMPLATES / "evaluation_template.md").read_text(encoding="utf-8"))
        return template.render(name=self.name, marker=MARKER, **values).rstrip() + "\n"

    @contextlib.contextmanager
    def _naming_gaps(self) -> Iterator[None]:
        try:
            yield
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise InputError(
                f"The card of {self.folder} cannot be written: a file of numbers lacks {error}. Make it again with "
                "rmn-hub evaluate, calibrate or card --ablation."
            ) from error

    def _former_card(self) -> ModelCard | None:
        try:
            return ModelCard.load(self.folder / CARD)
        except Exception:  # no card, or one whose front matter is no YAML
            return None

    # Metadata for the Hub

    def _metadata(self) -> ModelCardData:
        results = []
        sets = self.document["sets"]
        for name, numbers in sets.items():
            dataset = {
                "task_type": "image-classification",
                "task_name": "Facial expression recognition",
                "dataset_type": "fer2013" if is_fer2013(name, numbers["data"]["faces"]) else name,
                "dataset_name": titles(sets)[name],
                "dataset_split": numbers["data"]["split"],
            }
            two, one = numbers["flip_averaged"], numbers["single_view"]
            metrics = [
                ("accuracy", "Accuracy, two views", two["accuracy"]),
                ("accuracy", "Accuracy, one view", one["accuracy"]),
                ("f1", "F1, mean over the expressions, one view", numbers["mean_f1"]),
                ("ece", "Expected calibration error, two views", two["expected_calibration_error"]),
            ]
            for kind, metric, value in metrics:
                value = round(value, 4)
                results.append(EvalResult(metric_type=kind, metric_name=metric, metric_value=value, **dataset))
        tags = ["facial-expression-recognition", "residual-masking-network", "face", "rmn", f"arxiv:{ARXIV}"]
        tags += ["fer2013"] if self._trained_on_fer2013() else []
        tags += ["onnx"] if (self.folder / ONNX_FILE).is_file() else []
        start = (self.run or {}).get("start_from") or (self.origin or {}).get("repo_id")
        return ModelCardData(
            license=self.licence,
            library_name="transformers",
            pipeline_tag="image-classification",
            tags=tags,
            datasets=self._datasets(),
            base_model=start if isinstance(start, str) and _HUB_ID.fullmatch(start) else None,
            metrics=["accuracy", "f1"],
            model_name=self.name,
            eval_results=results,
        )

    def _data(self) -> dict[str, Any]:
        return (self.run or {}).get("data") or {}

    def _trained_on_fer2013(self) -> bool:
        data = self._data()
        if self.run is None and (self.origin or {}).get("repo_id") in AUTHORS:
            return True
        return is_fer2013(str(data.get("split")), data.get("faces", 0))

    def _datasets(self) -> list[str] | None:
        name = str(self._data().get("name", ""))
        return [name] if _HUB_ID.fullmatch(name) else ["fer2013"] if self._trained_on_fer2013() else None

    # Text

    def _card_values(self) -> dict[str, Any]:
        """Return what the card's template asks for, in words and rounded numbers."""
        sets, model = self.document["sets"], self.document["checkpoint"]
        names, main = titles(sets), main_set(sets)
        own = {self._data().get("name"), origin(main, sets[main])}
        speed = sets[main]["milliseconds_per_face"]
        config = read_json(self.folder / CONFIG) or {}
        processor = read_json(self.folder / PROCESSOR) or {}
        return {
            "name": self.name,
            "marker": MARKER,
            "id": self.repo_id,
            "demo": self.demo,
            "source": self.source,
            "bundled": self.bundled,
            "carries_code": "AutoModelForImageClassification" in config.get("auto_map", {}),
            "onnx": (self.folder / ONNX_FILE).is_file(),
            "grey": processor.get("do_grayscale", True),
            "transformers": MINIMUM_TRANSFORMERS,
            "arxiv": ARXIV,
            "expressions": f"{', '.join(EXPRESSIONS[:-1])} and {EXPRESSIONS[-1]}",
            "model": {
                "masks": model["masks"],
                # Numbers of before have no such field, and are an RMN's.
                "network": model.get("network", "rmn"),
                "parameters": in_words(model["parameters"]),
                "multiply_adds": in_words(model["multiply_adds"]),
                "megabytes": f"{model['megabytes']:.1f}",
                "image_size": model["image_size"],
            },
            "results": self._results(),
            "paper": any(is_fer2013(name, sets[name]["data"]["faces"]) for name in sets if name == "private_test"),
            "speed": {
                "device": speed["device"],
                "threads": speed["threads"],
                "one": f"{speed['batch_1']['with_processor']:.1f}",
                "many": f"{speed['batch_32']['with_processor']:.1f}",
            },
            "training": self._training(),
            "fer2013": self._trained_on_fer2013(),
            "weakest": _weakest(names[main], sets[main]["per_expression"]),
            "others": [
                {
                    "title": names[name],
                    "faces": f"{numbers['data']['faces']:,}",
                    "two_views": accuracy(numbers["flip_averaged"]),
                }
                for name, numbers in sets.items()
                if name not in (main, "private_test", "public_test", "train") and origin(name, numbers) not in own
            ],
        }

    def _results(self) -> list[dict[str, str]]:
        """Return the rows of the table: each set, the one that is scored once first, with all networks on it."""
        sets = self.document["sets"]
        main, rows = main_set(sets), []
        peers = _peer_rows(sets, self.peers)
        for name in sorted(sets, key=lambda name: name != main):
            numbers = sets[name]
            shown = f"{titles(sets)[name]} ({numbers['data']['faces']:,})"
            rows.append({"set": shown, "network": f"**{self.name}**", **_numbers_of(numbers)})
            rows += [{**row, "set": ""} for row in peers if row["name"] == name]
            if name == "private_test" and is_fer2013(name, numbers["data"]["faces"]):
                blank = {"set": "", "one_view": "", "ece": ""}
                rows.append({**blank, "network": "RMN of the paper", "two_views": "74.14%"})
        return rows

    def _training(self) -> dict[str, str]:
        """Return what the records say of start, teacher and data, and the command."""
        run, origin = self.run, self.origin
        if run is None:
            if origin is None:
                return {"start": "How it was trained is not recorded beside it.", "data": "", "command": ""}
            return {"start": _converted(origin), "data": "", "command": ""}
        command, start = train_command(run), run.get("start_from")
        if start:
            text = f"Its training started from the checkpoint `{start}`."
        elif "--start-from" in command:
            text = "Its training started from another checkpoint."
        else:
            text = "Its training started from random weights."
        if command.startswith("rmn-hub distill"):
            members = ", ".join(f"`{name}`" for name in run.get("teacher") or ())
            text += (
                f" It is a student: it was trained on labels and on the probabilities of {members or 'an ensemble'}."
            )
        data, words = self._data(), ""
        if data:
            name = "FER2013" if self._trained_on_fer2013() else f"`{data['name']}`"
            words = f"It was trained on {name} ({data['faces']:,} faces of the split {data['split']})"
            words += f" and chosen on the split {data['validation_split']}."
        calibrated = "Its probabilities are calibrated." if self.calibration else ""
        return {"start": text, "data": f"{words} {calibrated}".strip(), "command": command}


def _licence_of(former: ModelCard | None) -> str | None:
    licence = getattr(former and former.data, "license", None)
    return licence if isinstance(licence, str) and _LICENCE.fullmatch(licence) else None


def _demo_of(former: ModelCard | None) -> str | None:
    found = _DEMO.search(former.text) if former else None
    return found.group(1) if found else None


def _numbers_of(numbers: dict[str, Any]) -> dict[str, str]:
    return {
        "two_views": accuracy(numbers["flip_averaged"]),
        "one_view": accuracy(numbers["single_view"]),
        "ece": f"{numbers['flip_averaged']['expected_calibration_error']:.3f}",
    }


def _weakest(shown: str, expressions: dict[str, Any]) -> str:
    present = {name: row for name, row in expressions.items() if row["faces"]}
    weakest = sorted(present, key=lambda name: present[name]["recall"])[:2]
    found = " and ".join(f"{name} ({percent(present[name]['recall'])}% of its faces are found)" for name in weakest)
    return f"The expressions that it recognises least are {found}, on {shown}."


def _converted(origin: dict[str, Any]) -> str:
    text = f"Its weights were converted from `{origin['file']}`"
    if origin.get("repo_id"):
        text += f" of `{origin['repo_id']}`"
    text += " by `rmn-hub convert`"
    if origin.get("repo_id") in AUTHORS:
        return (
            f"{text}. They are the authors' own, trained on FER2013 from ImageNet weights; their paper reports 74.14% "
            "on PrivateTest."
        )
    return f"{text}; how they were trained stands there."


def _write_peers(checkpoint: str | Path, files: Sequence[str | Path]) -> None:
    """Keep what other networks scored in the checkpoint's `peers.json`, beside what it holds of further ones."""
    kept = find(checkpoint) / PEERS
    networks = list((read_json(kept) or {}).get("networks", ()))
    for path in map(Path, files):
        document = read_json(path)
        try:
            if document is None:
                raise KeyError("checkpoint")
            described = document["checkpoint"]
            members = described.get("members")
            name = f"{len(members)} networks together" if members else described.get("name", described.get("network"))
            sets = numbers_of(document, ("command", "data", "single_view", "flip_averaged"))
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} lacks {error}: make it with rmn-hub evaluate --json") from error
        for earlier in [own for own in networks if own.get("sha256") == described["sha256"]]:
            networks.remove(earlier)
            sets = {**earlier["sets"], **sets}
        networks.append({"name": name, "sha256": described["sha256"], "sets": sets})
    write_json(kept, {"networks": networks})


def _peer_rows(sets: dict[str, Any], peers: dict[str, Any]) -> list[dict[str, str]]:
    """Return a row for each other network and each set of which it scored the very same faces."""
    return [
        {
            "name": name,
            "set": titles(sets)[name],
            "network": network["name"],
            "command": network["sets"][name]["command"],
            **_numbers_of(network["sets"][name]),
        }
        for name in sets
        for network in peers["networks"]
        if name in network["sets"] and network["sets"][name]["data"]["sha256"] == sets[name]["data"]["sha256"]
    ]


__all__ = [
    "ABLATION",
    "CALIBRATION",
    "CARD",
    "EVALUATION",
    "METRICS",
    "PAGE",
    "RUN",
    "is_ours",
    "make_card",
    "read_json",
    "training_time",
    "write_card",
]
