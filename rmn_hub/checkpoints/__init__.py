"""The checkpoint that the package brings along."""

from pathlib import Path

BUNDLED_CHECKPOINT = str(Path(__file__).parent / "rmn-fer2013")

__all__ = ["BUNDLED_CHECKPOINT"]
