"""What test_hub.py runs in a process of its own: a program that uses the Hub in HF_ENDPOINT.

    python hub_client.py '[{"name": "cold", "do": "model", "with": {"checkpoint": "org/name"}}]' [--without-package]

Prints a JSON object: what each step answered, or its error.
"""

import builtins
import contextlib
import importlib.util
import io
import json
import os
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

from PIL import Image


def recognize(checkpoint, **settings):
    """The engine, the probabilities of a face, and what was imported for them."""
    from rmn_hub import ExpressionRecognizer

    recognizer = ExpressionRecognizer.from_pretrained(checkpoint, device="cpu", **settings)
    [face] = recognizer(Image.linear_gradient("L"), faces_only=True)
    imported = [name for name in ("torch", "transformers") if name in sys.modules]
    return [recognizer.engine.name, list(face.probabilities.values()), imported]


def predict(words):
    """The exit code of `rmn-hub predict` for a face in its working folder, and what it printed."""
    from typer.testing import CliRunner

    from rmn_hub.cli import main

    Image.linear_gradient("L").save("face.png")
    done = CliRunner().invoke(main, ["predict", "face.png", "--faces-only", "--json", *words])
    return [done.exit_code, done.stdout, done.stderr]


def load(checkpoint, **where):
    from rmn_hub.hub.checkpoint import load

    return _logits(load(checkpoint, **where).model)


def model(checkpoint, **where):
    from rmn_hub import RMNModel

    return _logits(RMNModel.from_pretrained(checkpoint, **where))


def auto(checkpoint, **where):
    """Everything that transformers finds a model by, with what it found."""
    import transformers

    if sys.modules.get("rmn_hub", True) is not None and importlib.util.find_spec("rmn_hub"):
        import rmn_hub  # noqa: F401 - registers the classes
    names = ["AutoConfig", "AutoModel", "AutoModelForImageClassification", "AutoImageProcessor"]
    # Of a folder, AutoBackbone asks the Hub for a repository of its name.
    names += [] if Path(checkpoint).is_dir() else ["AutoBackbone"]
    classes = {name: getattr(transformers, name).from_pretrained(checkpoint, **where) for name in names}
    found = {name: f"{type(value).__module__}.{type(value).__qualname__}" for name, value in classes.items()}
    classifier = transformers.pipeline("image-classification", model=checkpoint, **where)
    answers = classifier(Image.new("RGB", (50, 40), "gray"), top_k=7)
    return {
        **found,
        "logits": _logits(classes["AutoModelForImageClassification"]),
        "pipeline": {answer["label"]: answer["score"] for answer in answers},
    }


def push(checkpoint, repo_id):
    from rmn_hub import RMNImageProcessor, RMNModel

    RMNModel.from_pretrained(checkpoint).push_to_hub(repo_id)
    RMNImageProcessor.from_pretrained(checkpoint).push_to_hub(repo_id)
    return load(repo_id)


def publish(checkpoint, repo_id, **where):
    from rmn_hub.hub.publish import publish

    publish(checkpoint, repo_id, **where)


def validate(repo_id, kind="model"):
    """What the Hub says about a card's front matter: nothing, or an error."""
    from huggingface_hub import ModelCard, SpaceCard

    (ModelCard if kind == "model" else SpaceCard).load(repo_id).validate()


def snippet(code):
    """What a card's Python prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "card", "exec"), {"__name__": "card"})
    return printed.getvalue()


def train(checkpoint, repo_id, output):
    """Fine-tune with transformers' Trainer on made faces, and push what it made."""
    import torch
    from transformers import Trainer, TrainingArguments

    from rmn_hub import RMNImageProcessor, RMNModel

    faces = [{"pixel_values": torch.rand(3, 32, 32), "labels": number % 7} for number in range(8)]
    arguments = TrainingArguments(
        output, max_steps=2, per_device_train_batch_size=4, use_cpu=True, report_to=[], hub_model_id=repo_id
    )
    processor = RMNImageProcessor.from_pretrained(checkpoint)
    trainer = Trainer(RMNModel.from_pretrained(checkpoint), arguments, train_dataset=faces, processing_class=processor)
    trainer.train()
    trainer.push_to_hub()
    return _logits(trainer.model.eval())


def convert(source, output, **where):
    from rmn_hub.hub.convert import convert

    return str(convert(source, output, **where))


def recognize_plainly(checkpoint):
    """The size of a checkpoint's images and the probabilities of a face, in torch."""
    from rmn_hub import ExpressionRecognizer

    recognizer = ExpressionRecognizer.from_pretrained(checkpoint, engine="torch", device="cpu", views=1)
    [face] = recognizer(Image.linear_gradient("L"), faces_only=True)
    return [recognizer.processor.height, list(face.probabilities.values())]


def evaluate(checkpoint, data):
    from rmn_hub.evaluation.evaluate import evaluate

    return evaluate(checkpoint, data)


def _logits(model):
    import torch

    size = model.config.image_size
    with torch.inference_mode():
        return model(torch.linspace(0, 1, 3 * size * size).reshape(1, 3, size, size)).logits[0].tolist()


def main():
    steps = json.loads(sys.argv[1])
    if "--without-package" in sys.argv:
        sys.modules["rmn_hub"] = None  # importing it raises
    time.sleep = lambda seconds: None  # the client waits between its tries
    builtins.input = None  # nobody is asked anything
    results = {}
    for step in steps:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{os.environ['HF_ENDPOINT']}/-/{urllib.parse.quote(step['name'])}").close()
        try:
            action = globals()[step["do"]]
            results[step["name"]] = {"answer": action(**step["with"])}
        except Exception as error:
            results[step["name"]] = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
