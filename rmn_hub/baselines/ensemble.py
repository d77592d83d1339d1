"""The unweighted ensemble: probabilities of several networks, averaged (section IV-D of the paper sums them)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..model.modeling_rmn import RMNModel


@torch.inference_mode()
def ensemble_probabilities(
    models: Sequence[RMNModel], images: np.ndarray, *, flip: bool = False, batch_size: int = 256
) -> np.ndarray:
    """
    The mean of the models' probabilities.

    Args:
        models: networks with the same classes; each one sees the faces at its own `image_size`.
        images: uint8 `(N, S, S)`, grey.
        flip: average over the faces and their mirror images.
        batch_size: faces a forward pass.

    Returns:
        float32 `(N, classes)`; every row sums to 1.

    Raises:
        InputError: no models, or models whose classes differ.
    """
    if not models:
        raise InputError("an ensemble needs at least one checkpoint")
    if any(model.config.id2label != models[0].config.id2label for model in models):
        raise InputError("the members of an ensemble must have the same classes in the same order")
    members = [model.for_inference() for model in models]
    batches = []
    for start in range(0, len(images), batch_size):
        faces = torch.from_numpy(images[start : start + batch_size]).unsqueeze(1)
        views = [faces, faces.flip(-1)] if flip else [faces]
        total = sum(_probabilities(member, view) for member in members for view in views)
        batches.append(total / (len(members) * len(views)))
    return torch.cat(batches).numpy()


def _probabilities(model: RMNModel, faces: Tensor) -> Tensor:
    """uint8 `(B, 1, S, S)` on the CPU to probabilities `(B, classes)` on the CPU, in float32."""
    pixel_values = resized(faces.to(model.device), model.config.image_size)
    pixel_values = pixel_values.expand(-1, model.config.num_channels, -1, -1).to(model.dtype)
    logits = model(pixel_values.contiguous(memory_format=torch.channels_last)).logits
    return logits.float().softmax(1).cpu()


def resized(faces: Tensor, size: int) -> Tensor:
    """Grey uint8 faces `(B, 1, S, S)` to floats in 0..1 `(B, 1, size, size)`, as the image processor resizes them."""
    scaled = faces.float() / 255
    if faces.shape[-1] == size:
        return scaled
    return torch.nn.functional.interpolate(scaled, (size, size), mode="bilinear", antialias=True, align_corners=False)
