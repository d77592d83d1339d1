"""The package's exceptions: one family, whose messages are sentences for the user."""


class RMNError(Exception):
    """Base class of everything that rmn_hub raises on purpose. `str(error)` is one sentence for the user."""


class InputError(RMNError, ValueError):
    """Raised for an input that cannot be used: the message states what is wrong and what to do."""


class CheckpointError(InputError):
    """Raised for a checkpoint that is missing, damaged or not an RMN."""


class MissingPackageError(InputError, ImportError):
    """Raised where an optional package is needed and missing: the message states how to install it."""


class TrainingError(RMNError, RuntimeError):
    """Raised when a training run cannot go on."""


__all__ = ["CheckpointError", "InputError", "MissingPackageError", "RMNError", "TrainingError"]
