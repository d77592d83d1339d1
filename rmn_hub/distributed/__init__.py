"""
Many images on many cores, GPUs and machines, through Ray Data.

`recognize_batch` takes a source of any number of images to a folder of parquet files, and goes on where it was stopped.
`recognize` maps a Ray dataset with images to one with a row per face, for pipelines of one's own.
"""

from .actors import recognize
from .batch import recognize_batch
from .summary import Summary, summarize

__all__ = ["Summary", "recognize", "recognize_batch", "summarize"]
