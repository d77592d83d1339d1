"""Results as rows of parquet files: the columns of `tables.to_records`, with the same types in every file."""

from collections.abc import Iterable, Sequence
from typing import Any

from ..results import FaceExpression, ImageResult
from ..tables import to_records

TEXT = ("source", "expression", "message")
WHOLE = ("width", "height", "face")


def schema(expressions: Sequence[str]) -> Any:
    """
    Return the pyarrow schema of the rows.

    Args:
        expressions: the checkpoint's expressions, in class order.
    """
    import pyarrow

    face = FaceExpression(box=(0, 0, 0, 0), expression="", probability=0, probabilities=dict.fromkeys(expressions, 0.0))
    columns = to_records(ImageResult("", 1, 1, (face,)), every_image=True)[0]
    types = {
        **dict.fromkeys(columns, pyarrow.float64()),
        **dict.fromkeys(TEXT, pyarrow.string()),
        **dict.fromkeys(WHOLE, pyarrow.int64()),
        "uncertain": pyarrow.bool_(),
    }
    return pyarrow.schema([(name, types[name]) for name in columns])


def table(results: Iterable[ImageResult], expressions: Sequence[str]) -> Any:
    """Return a pyarrow table with a row per face, and one for each image without faces or that could not be used."""
    import pyarrow

    return pyarrow.Table.from_pylist(to_records(results, every_image=True), schema=schema(expressions))


__all__ = ["schema", "table"]
