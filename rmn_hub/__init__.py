"""
The Residual Masking Network: facial expressions from face pictures, and where the network looked.

    from rmn_hub import ExpressionRecognizer

    recognizer = ExpressionRecognizer.from_pretrained()
    print(recognizer("photo.jpg").to_dict())

Importing downloads nothing and prints nothing. It registers the model with transformers' Auto classes; everything that
needs facenet-pytorch, matplotlib or gradio is imported when it is used.
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

from .configuration_rmn import EXPRESSIONS, RMNConfig
from .image_processing_rmn import RMNImageProcessor
from .modeling_rmn import RMNModel
from .results import Expression, Face

if TYPE_CHECKING:
    from .recognizer import ExpressionRecognizer

try:
    __version__ = version("rmn-hub")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"

BUNDLED_CHECKPOINT = str(Path(__file__).parent / "checkpoints" / "rmn-fer2013")

AutoConfig.register("rmn", RMNConfig, exist_ok=True)
AutoModel.register(RMNConfig, RMNModel, exist_ok=True)
AutoModelForImageClassification.register(RMNConfig, RMNModel, exist_ok=True)
# One class for both backends: with "pil" alone every first load would warn that there is no torchvision version.
AutoImageProcessor.register(
    RMNConfig, image_processor_classes={"pil": RMNImageProcessor, "torchvision": RMNImageProcessor}, exist_ok=True
)


def __getattr__(name: str) -> Any:
    # Late, because the recognizer's room itself asks this one where the bundled checkpoint is.
    if name == "ExpressionRecognizer":
        from .recognizer import ExpressionRecognizer

        return ExpressionRecognizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "BUNDLED_CHECKPOINT",
    "EXPRESSIONS",
    "Expression",
    "ExpressionRecognizer",
    "Face",
    "RMNConfig",
    "RMNImageProcessor",
    "RMNModel",
    "__version__",
]
