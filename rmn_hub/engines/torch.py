"""The engine for torch: the folded network on a CPU or a GPU."""

import numpy as np
import torch

from ..attention import reduce_mask
from ..baselines.networks import Network, for_inference, masking_blocks
from ..devices import usable_device
from ..errors import InputError
from ..model.modeling_rmn import RMNModel
from .engine import EngineOutput, check_softmax


class TorchEngine:
    """
    Run a network in torch, every BatchNorm of an RMN folded into its convolution.

    No setting of torch is changed, and a caller's own settings (default dtype and device, autocast, gradients, number
    of threads) do not change the outputs beyond rounding. One of them is left to the caller on purpose: on a GPU, cuDNN
    computes float32 convolutions in TensorFloat-32 unless `torch.backends.cudnn.allow_tf32 = False`, which rounds
    logits by about 5e-4, differently in every batch size. That setting belongs to the whole process and all its
    threads, so it is not a library's to change.

    Args:
        model: the network; the engine keeps a copy of it in its inference form.
        device: where the network runs: `"cpu"`, `"cuda"`, `"cuda:1"`, ...; the GPU if there is one when not given.
        dtype: what it computes in, once it is folded; what the network is in when not given.

    Raises:
        InputError: the device does not exist here, or the network does not predict one of several classes.
    """

    name = "torch"

    def __init__(
        self, model: Network, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self.device = usable_device(device)
        labels = model.config.id2label
        check_softmax(len(labels), model.config.problem_type)
        self.expressions: tuple[str, ...] = tuple(labels[index] for index in sorted(labels))
        self.image_size: int = model.config.image_size
        self.has_masks = len(masking_blocks(model)) > 0
        self.has_features = isinstance(model, RMNModel)
        self._model = for_inference(model).to(self.device, dtype)
        self._dtype = self._model.dtype  # bfloat16 stays bfloat16

    def __call__(self, pixel_values: np.ndarray, *, attention: bool = False, features: bool = False) -> EngineOutput:
        """
        Run the network; see [`Engine`].

        Raises:
            InputError: the GPU has too little memory for the batch, or `features` are asked of a network that is not
                an RMN.
        """
        if features and not self.has_features:
            raise InputError("features=True must have an RMN: other networks' features are not returned")
        attention = attention and self.has_masks
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            values = torch.from_numpy(np.ascontiguousarray(pixel_values, np.float32)).to(self.device, self._dtype)
            # Only an RMN has these switches.
            switches = {"output_masks": attention, "output_hidden_states": attention or features}
            wanted = switches if self.has_features else {}
            try:
                outputs = self._model(values.contiguous(memory_format=torch.channels_last), return_dict=True, **wanted)
            except torch.cuda.OutOfMemoryError as error:
                raise InputError(
                    f"{self.device} has too little memory for {len(values)} faces at once: give a smaller batch_size"
                ) from error
            logits = outputs.logits.float().cpu().numpy()
            # hidden_states are t1, b1, t2, b2, ...: features before and after each mask.
            pooled = None
            if features:
                pooled = self._model.pooler(outputs.hidden_states[-1]).flatten(1).float().cpu().numpy()
            if not attention:
                return EngineOutput(logits, features=pooled)
            # Reduced on the device, a stage's maps are its size divided by its channels, 32 to 256 in the bundled
            # network.
            before, after = outputs.hidden_states[::2], outputs.hidden_states[1::2]
            return EngineOutput(
                logits,
                maps=tuple(reduce_mask(mask, stage).cpu().numpy() for mask, stage in zip(outputs.masks, before)),
                before=tuple(stage.float().abs().mean(1).cpu().numpy() for stage in before),
                after=tuple(stage.float().abs().mean(1).cpu().numpy() for stage in after),
                features=pooled,
            )


__all__ = ["TorchEngine"]
