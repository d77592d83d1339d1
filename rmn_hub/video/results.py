"""What one frame of a stream gives: an image's result, with the frame's number and time."""

import os
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any

from ..expressions import EXPRESSIONS
from ..results import FaceExpression, ImageResult

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, kw_only=True, repr=False)
class FrameResult(ImageResult):
    """
    All faces of one frame, in reading order, each with the `track_id` that it keeps from frame to frame.

    Args:
        time: seconds from the start of the stream.
        index: the number of the frame in the stream, from 0.
        raw: the faces with the probabilities of this frame alone, in the order of `faces`, whose probabilities are
            smoothed over time. Without smoothing the two are the same.
        cut: whether the camera has cut to another scene just before this frame.
    """

    time: float = 0.0
    index: int = 0
    raw: tuple[FaceExpression, ...] = ()
    cut: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the line of `rmn-hub video --json`: that of an image, with the frame's number and time."""
        image = super().to_dict()
        line: dict[str, Any] = {"source": image.pop("source"), "frame": int(self.index), "time": float(self.time)}
        line |= {"cut": bool(self.cut), **image}
        for face, raw in zip(line["faces"], self.raw):
            face["raw_probabilities"] = {name: float(value) for name, value in raw.probabilities.items()}
        return line

    def scaled(self, width: int, height: int) -> "FrameResult":
        """Return the result for the same frame at `width x height` pixels; see [`ImageResult.scaled`]."""
        scaled = super().scaled(width, height)
        assert isinstance(scaled, FrameResult)
        return replace(scaled, raw=tuple(face.scaled(width / self.width, height / self.height) for face in self.raw))

    def to_csv(self, path_or_file: str | os.PathLike[str] | IO[str], *, every_image: bool = False) -> None:
        """
        Write the rows of [`to_df`] as CSV; see [`rmn_hub.tables.to_csv`].

        Raises:
            InputError: the file cannot be written there.
        """
        from ..tables import write_csv
        from .tables import columns_of, to_records

        write_csv(to_records(self, every_image=every_image), columns_of(EXPRESSIONS), path_or_file)

    def to_df(self, *, every_image: bool = False) -> "pandas.DataFrame":
        """
        Return a row for each face of the frame as a pandas frame; see [`rmn_hub.video.tables.to_records`].

        Args:
            every_image: whether a frame without faces has a row, too.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        from .tables import to_df

        return to_df([self], every_image=every_image)

    def __repr__(self) -> str:
        return f"<FrameResult {self.index} at {self.time:.3f} s: {list(self.faces)}>"


__all__ = ["FrameResult"]
