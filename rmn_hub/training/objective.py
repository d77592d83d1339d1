"""What is optimised: the network with its auxiliary head, and the losses."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..baselines.networks import Network


class FaceTrainer(nn.Module):
    """
    The network and, where the data has FER+ votes, an auxiliary head on its pooled features, in one module: what
    accelerate wraps, and what the moving average averages. The head helps training only and is not saved.

    Args:
        model: the network.
        votes: classes of the auxiliary head; without it when 0.
    """

    def __init__(self, model: Network, votes: int = 0) -> None:
        super().__init__()
        self.model = model
        self.votes_head = nn.Linear(model.config.hidden_sizes[-1], votes) if votes else None

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map faces `(batch, 1, S, S)` to expression logits `(batch, 7)` and vote logits `(batch, votes)`."""
        pixel_values = faces.expand(-1, self.model.config.num_channels, -1, -1)
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        if self.votes_head is None:
            return self.model(pixel_values, return_dict=False)[0], None
        logits, hidden_states = self.model(pixel_values, output_hidden_states=True, return_dict=False)
        return logits, self.votes_head(self.model.dropout(hidden_states[-1].mean(dim=(2, 3))))


def distillation_loss(logits: Tensor, teacher: Tensor, targets: Tensor, temperature: float = 2.0) -> Tensor:
    """
    Return 0.7 T^2 KL(teacher || student) at temperature T plus 0.3 cross-entropy, a mean per face (Hinton et al.,
    "Distilling the knowledge in a neural network", 2015).

    Args:
        logits: of the student, `(batch, classes)`.
        teacher: probabilities `(batch, classes)`.
        targets: labels as probabilities `(batch, classes)`.
        temperature: T.
    """
    soft = (teacher.clamp(min=1e-6).log() / temperature).softmax(1)
    divergence = F.kl_div((logits / temperature).log_softmax(1), soft, reduction="batchmean")
    return 0.7 * temperature**2 * divergence + 0.3 * F.cross_entropy(logits, targets)


__all__ = ["FaceTrainer", "distillation_loss"]
