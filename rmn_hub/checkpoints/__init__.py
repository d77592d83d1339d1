"""The checkpoint that the package brings along."""

from ..packages import data_folder

BUNDLED_CHECKPOINT = str(data_folder(__name__, "rmn-fer2013"))

__all__ = ["BUNDLED_CHECKPOINT"]
