"""What a batch has found, counted from its rows."""

import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from ..images import shown
from .output import Output
from .places import failing_as


@dataclass
class Summary:
    """
    The numbers of a batch.

    Args:
        images: images, those that could not be used among them.
        faces: faces.
        without_faces: images that could be used and have no face.
        failures: images that could not be used, by the reason.
        expressions: faces by expression.
    """

    images: int = 0
    faces: int = 0
    without_faces: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    expressions: dict[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """The number of images that could not be used."""
        return sum(self.failures.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers ready for JSON."""
        return asdict(self) | {"failed": self.failed}


def summarize(out: str) -> Summary:
    """
    Count the rows of a batch, also of one that is not finished.

    Args:
        out: its folder or address.

    Raises:
        InputError: the folder or a file in it cannot be read.
    """
    from pyarrow import compute, parquet

    output = Output(out)
    summary, failures, expressions = Summary(), Counter[str](), Counter[str]()
    for path in output.files().values():
        with failing_as(f"{shown(path)} cannot be read"), output.open(path) as file:
            rows = parquet.read_table(file, columns=["source", "width", "face", "expression", "message"])
        faces = len(rows) - rows["face"].null_count
        failed = rows.filter(compute.equal(rows["width"], 0))
        lone = rows["face"].null_count
        summary.images += lone + compute.sum(compute.equal(rows["face"], 1)).as_py() if faces else lone
        summary.faces += faces
        summary.without_faces += lone - len(failed)
        failures.update(map(kind_of_failure, failed["source"].to_pylist(), failed["message"].to_pylist()))
        expressions.update(rows["expression"].drop_null().to_pylist())
    summary.failures, summary.expressions = dict(failures.most_common()), dict(expressions.most_common())
    return summary


def kind_of_failure(source: str, message: str) -> str:
    """Return the sentence of a failure without what is particular to its image: its name and its numbers."""
    kind = message.replace(shown(source), "", 1).replace(source, "", 1)
    kind = re.sub(r" \([^()]*\)", "", kind)
    return re.sub(r"\d[\d.,]*(?<=\d)", "N", kind).strip(" :.")


__all__ = ["Summary", "kind_of_failure", "summarize"]
