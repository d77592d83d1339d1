"""The one meaning of `device`: where torch runs what it is given for, and the GPU where there is one by default."""

from typing import TYPE_CHECKING

from .errors import InputError

if TYPE_CHECKING:
    import torch


def usable_device(device: "str | torch.device | None" = None) -> "torch.device":
    """
    Return the device, or the GPU if there is one (else the CPU) for `None`.

    Raises:
        InputError: the device does not exist here, or holds no values (`meta`).
    """
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # torch takes cpu:3 for the CPU.
        if str(device).startswith("cpu") and str(device) not in ("cpu", "cpu:0"):
            raise TypeError(f"no device {device}")
        # Brings the device up and reads a value back from it.
        torch.zeros(1, device=device, dtype=torch.float32).item()
        return torch.device(device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise InputError(
            f"device={str(device)[:80]!r} must be a device of this machine: give cpu, or cuda on a machine with a GPU"
        ) from error


__all__ = ["usable_device"]
