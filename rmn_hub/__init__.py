"""
The Residual Masking Network: expressions of faces in images, and where the masks acted.

    from rmn_hub import ExpressionRecognizer

    recognizer = ExpressionRecognizer.from_pretrained()
    print(recognizer("photo.jpg").to_dict())

Importing this package is cheap: it imports neither torch nor transformers. A name is loaded when it is first used, and
RMN joins transformers' Auto classes when transformers is imported, before or after this package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import _auto
from .checkpoints import BUNDLED_CHECKPOINT
from .errors import CheckpointError, InputError, MissingPackageError, RMNError, TrainingError
from .expressions import EXPRESSIONS
from .packages import VERSION as __version__

if TYPE_CHECKING:
    from .detection.detector import FaceDetector
    from .detection.mtcnn import MTCNNDetector
    from .drawing.photo import annotate
    from .model.configuration_rmn import RMNConfig
    from .model.image_processing_rmn import RMNImageProcessor
    from .model.modeling_rmn import (
        RMNBackbone,
        RMNBackboneOutput,
        RMNBaseModel,
        RMNBaseModelOutput,
        RMNForImageClassification,
        RMNModel,
        RMNOutput,
    )
    from .recognizer import ExpressionRecognizer
    from .results import Attention, Face, FaceExpression, ImageResult
    from .video.recognize import FilmResults
    from .video.results import FrameResult
    from .video.tracking import FaceTracker, Track

_LAZY = {
    "Attention": "results",
    "ExpressionRecognizer": "recognizer",
    "Face": "results",
    "FaceDetector": "detection.detector",
    "FaceExpression": "results",
    "FaceTracker": "video.tracking",
    "FilmResults": "video.recognize",
    "FrameResult": "video.results",
    "ImageResult": "results",
    "MTCNNDetector": "detection.mtcnn",
    "RMNBackbone": "model.modeling_rmn",
    "RMNBackboneOutput": "model.modeling_rmn",
    "RMNBaseModel": "model.modeling_rmn",
    "RMNBaseModelOutput": "model.modeling_rmn",
    "RMNConfig": "model.configuration_rmn",
    "RMNForImageClassification": "model.modeling_rmn",
    "RMNImageProcessor": "model.image_processing_rmn",
    "RMNModel": "model.modeling_rmn",
    "RMNOutput": "model.modeling_rmn",
    "Track": "video.tracking",
    "annotate": "drawing.photo",
}

_auto.register()


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_LAZY[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


__all__ = [
    "BUNDLED_CHECKPOINT",
    "EXPRESSIONS",
    "Attention",
    "CheckpointError",
    "ExpressionRecognizer",
    "Face",
    "FaceDetector",
    "FaceExpression",
    "FaceTracker",
    "FilmResults",
    "FrameResult",
    "ImageResult",
    "InputError",
    "MTCNNDetector",
    "MissingPackageError",
    "RMNBackbone",
    "RMNBackboneOutput",
    "RMNBaseModel",
    "RMNBaseModelOutput",
    "RMNConfig",
    "RMNError",
    "RMNForImageClassification",
    "RMNImageProcessor",
    "RMNModel",
    "RMNOutput",
    "Track",
    "TrainingError",
    "__version__",
    "annotate",
]
