"""The command line: arguments in, one call, readable output. Every command imports what it needs when it runs."""

from . import predict, batch, video, demo, train, evaluate, compare, hub, export  # isort: skip  (the order of the help)
from .shared import main

__all__ = ["batch", "compare", "demo", "evaluate", "export", "hub", "main", "predict", "train", "video"]
