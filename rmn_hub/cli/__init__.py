"""The command line: arguments in, one call, readable output. Every command imports what it needs when it runs."""

from . import demo, evaluate, hub, predict, train
from .shared import main

__all__ = ["demo", "evaluate", "hub", "main", "predict", "train"]
