"""A set that is drawn: seven textures that a small network tells apart within seconds, mirrored or not."""

import csv

import numpy as np
from PIL import Image

from rmn_hub import EXPRESSIONS
from rmn_hub.training.augment import Augmentation
from rmn_hub.training.recipe import Recipe

TINY = {
    "image_size": 32,
    "stem": "small",
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "mask_depths": [2, 1, 1, 1],
    "mask_ratio": 0.25,
    "dropout": 0.0,
}
RECIPE = Recipe(
    model=TINY,
    learning_rate=0.01,
    batch_size=32,
    ema=0.9,
    sizes=((0.5, 24), (0.5, 32)),
    augmentation=Augmentation(rotation=5, shift=0.05, brightness=0.1, erasing=0.1),
)
STRIPES = (1, 2, 3, 4.5, 6, 8, 10)  # over the height of a face


def draw(rng, label, noise=12):
    """A "face" of a class: as many horizontal stripes as its class has, on noise, brighter on the left."""
    y = np.linspace(0, 2 * np.pi, 48)[:, None]
    wave = 60 * np.sin(STRIPES[label] * y + rng.uniform(0, 6.28)) + np.linspace(10, -10, 48)
    return np.clip(128 + wave + rng.normal(0, noise, (48, 48)), 0, 255).astype(np.uint8)


def write(folder, counts, seed=0, noise=12):
    """Write `counts[split]` faces of every expression."""
    rng = np.random.default_rng(seed)
    for split, count in counts.items():
        for label, name in enumerate(EXPRESSIONS):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(draw(rng, label, noise)).save(folder / split / name / f"{number:03}.png")
    return folder


def metrics(output):
    with (output / "metrics.csv").open() as file:
        return list(csv.DictReader(file))
