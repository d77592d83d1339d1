"""The unweighted ensemble: probabilities of several networks, averaged (section IV-D of the paper sums them)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..model.modeling_rmn import RMNModel


class Ensemble:
    """
    The mean of several networks' probabilities. The members are folded for inference once, when the ensemble is made.

    Args:
        models: networks with the same classes; each one sees the faces at its own `image_size`.

    Raises:
        InputError: there are no models, or their classes differ.
    """

    def __init__(self, models: Sequence[RMNModel]) -> None:
        if not models:
            raise InputError("models=[] must hold at least one network")
        if any(model.config.id2label != models[0].config.id2label for model in models):
            raise InputError("models must have the same classes in the same order")
        self.members = [model.for_inference() for model in models]

    @torch.inference_mode()
    def probabilities(self, images: np.ndarray, *, flip: bool = False, batch_size: int = 256) -> np.ndarray:
        """
        Return the mean of the members' probabilities.

        Args:
            images: uint8 `(N, S, S)`, grey.
            flip: average over the faces and their mirror images.
            batch_size: faces a forward pass.

        Returns:
            float32 `(N, classes)`; every row sums to 1.
        """
        means: list[Tensor] = []
        for start in range(0, len(images), batch_size):
            faces = torch.from_numpy(images[start : start + batch_size]).unsqueeze(1)
            views = [faces, faces.flip(-1)] if flip else [faces]
            means.append(
                torch.stack([_probabilities(member, view) for member in self.members for view in views]).mean(0)
            )
        return torch.cat(means).numpy()


def ensemble_probabilities(
    models: Sequence[RMNModel], images: np.ndarray, *, flip: bool = False, batch_size: int = 256
) -> np.ndarray:
    """
    Return the mean of the models' probabilities for one set of faces: [`Ensemble`] in one call.

    Raises:
        InputError: there are no models, or their classes differ.
    """
    return Ensemble(models).probabilities(images, flip=flip, batch_size=batch_size)


def _probabilities(model: RMNModel, faces: Tensor) -> Tensor:
    """Return float32 probabilities `(B, classes)` on the CPU of uint8 faces `(B, 1, S, S)` on the CPU."""
    pixel_values = resized(faces.to(model.device), model.config.image_size)
    pixel_values = pixel_values.expand(-1, model.config.num_channels, -1, -1).to(model.dtype)
    logits = model(pixel_values.contiguous(memory_format=torch.channels_last)).logits
    return logits.float().softmax(1).cpu()


def resized(faces: Tensor, size: int) -> Tensor:
    """
    Return grey uint8 faces `(B, 1, S, S)` as floats in 0..1 `(B, 1, size, size)`, resized as the image processor does.
    """
    scaled = faces.float() / 255
    if faces.shape[-1] == size:
        return scaled
    return torch.nn.functional.interpolate(scaled, (size, size), mode="bilinear", antialias=True, align_corners=False)


__all__ = ["Ensemble", "ensemble_probabilities", "resized"]
