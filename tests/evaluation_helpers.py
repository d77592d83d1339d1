"""A tiny checkpoint and tiny made-up sets for the tests of evaluation, calibration and the card."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageDraw

from rmn_hub import RMNConfig, RMNImageProcessor, RMNModel
from rmn_hub.expressions import EXPRESSIONS

SIZE = 32


def draw_face(rng, size=48):
    """A grey cartoon face: random head, eyes and mouth."""
    image = Image.fromarray(rng.integers(0, 40, (size, size), dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    skin, ink = int(rng.integers(120, 250)), int(rng.integers(0, 90))
    margin = int(rng.integers(1, size // 6))
    draw.ellipse((margin, margin, size - margin, size - margin), fill=skin)
    eye = int(rng.integers(2, size // 8))
    for x in (size // 3, 2 * size // 3):
        draw.ellipse((x - eye, size // 3 - eye, x + eye, size // 3 + eye), fill=ink)
    start = int(rng.integers(0, 360))
    draw.arc((size // 3, size // 2, 2 * size // 3, 4 * size // 5), start, start + 180, fill=ink, width=3)
    return image


def faces(count, seed=0, size=48):
    rng = np.random.default_rng(seed)
    return [draw_face(rng, size) for _ in range(count)]


def write_set(path, images, labels, votes=None):
    """A parquet file with one row per face."""
    encoded = []
    for image in images:
        file = io.BytesIO()
        image.save(file, "png")
        encoded.append({"bytes": file.getvalue(), "path": None})
    columns = {"image": encoded, "label": np.asarray(labels, np.int64)}
    if votes is not None:
        columns["ferplus_votes"] = votes
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def save_checkpoint(folder, sharpness=6.0, **changes):
    """A random tiny network whose predictions differ from face to face; the sharper, the surer."""
    torch.manual_seed(0)
    settings = {
        "image_size": SIZE,
        "stem": "small",
        "embedding_size": 8,
        "hidden_sizes": (8, 8, 16, 16),
        "depths": (1, 1, 1, 1),
        "mask_depths": (2, 1, 1, 1),
        "mask_ratio": 0.25,
    }
    model = RMNModel(RMNConfig(**{**settings, **changes})).eval()
    processor = RMNImageProcessor(size={"height": SIZE, "width": SIZE})
    with torch.no_grad():
        torch.nn.init.normal_(model.classifier.weight)
        logits = model(**processor(faces(64), return_tensors="pt")).logits
        scale = sharpness / logits.std(0)
        model.classifier.weight.mul_(scale[:, None])
        model.classifier.bias.copy_(-logits.mean(0) * scale)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def answers_of(folder, images, flip=False):
    """Logits `(N, 7)` the plain way: through the unfolded model."""
    model = RMNModel.from_pretrained(folder).eval()
    processor = RMNImageProcessor.from_pretrained(folder)
    views = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image for image in images]
    with torch.inference_mode():
        return model(**processor(views, return_tensors="pt")).logits.numpy()


def labels_for(logits, temperature, seed=1):
    """Labels drawn from the probabilities that the network would give if its logits were divided by `temperature`."""
    powers = np.exp(logits.astype(np.float64) / temperature)
    chances = (powers / powers.sum(1, keepdims=True)).cumsum(1)
    draws = np.random.default_rng(seed).random((len(logits), 1))
    return np.minimum((chances < draws).sum(1), len(EXPRESSIONS) - 1)
