"""Who showed what when: `Timeline` gathers the tracks of a film, sums them up and draws them, one row a track."""

import bisect
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..detection.detector import crop_face
from ..expressions import EXPRESSIONS
from ..results import Box, FaceExpression
from .results import FrameResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Moments over which a film's probabilities are spread at most: more than a figure has pixels for.
MOMENTS = 2048
# Crops at changes that are kept of one track at most, and their side in pixels. The best crop is larger.
CROPS, CROP_SIZE, BEST_SIZE = 24, 96, 224
# Seconds that an expression has to last before its crop is kept.
LASTING = 0.5
# Rows of the figure: the tracks that are seen longest.
ROWS = 24
# The figure's width in inches, and where its time begins and ends, in parts of the width: what a click on it needs.
WIDTH, LEFT, RIGHT = 11.0, 0.16, 0.97
# Seconds of the longest pause in which a track's strip is not interrupted, where frames are not further apart.
_PAUSE = 1.0


@dataclass
class TrackSummary:
    """
    One face of a film.

    Args:
        id: its identity.
        first: seconds when it is seen first.
        last: seconds when it is seen last.
        frames: frames in which it is seen.
        seconds: for how long each expression is the most probable one, by name.
        probabilities: mean probability of each expression over the time that the face is seen; they sum to 1.
        best: the crop in which the face is largest and surest, up to 224 x 224 pixels, or `None` without images.
        box: where that crop is, in pixels of its frame.
        best_time: seconds of that crop.
        changes: `(seconds, expression, crop)` of every moment when another expression became the most probable one for
            half a second or longer; the first is that of the beginning. Of many, every second one is left out.
    """

    id: int
    first: float
    last: float
    frames: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    probabilities: dict[str, float] = field(default_factory=dict)
    best: Image.Image | None = None
    box: Box | None = None
    best_time: float = 0.0
    changes: list[tuple[float, str, Image.Image]] = field(default_factory=list)

    @property
    def expression(self) -> str:
        """The expression that the face shows longest, and of those the most probable one: one frame has no length."""
        return max(self.seconds, key=lambda name: (self.seconds[name], self.probabilities[name]))

    def to_dict(self) -> dict[str, Any]:
        """Return the values ready for JSON, without the crops."""
        return {
            "track": self.id,
            "first": self.first,
            "last": self.last,
            "frames": self.frames,
            "expression": self.expression,
            "seconds": dict(self.seconds),
            "probabilities": dict(self.probabilities),
            "best_time": self.best_time,
            "best_box": None if self.box is None else [float(value) for value in self.box],
        }


class Timeline:
    """
    The tracks of a film, gathered frame by frame in memory that hardly grows: probabilities in at most `MOMENTS`
    moments, and a few small crops of each track. Where only some frames of a film are added, `end` may be set to the
    seconds at which it ends: the last one does not last longer.

    Example:
        >>> timeline = Timeline()
        >>> for result in recognizer.video("film.mp4", images=True):  # doctest: +SKIP
        ...     timeline.add(result, result.image)
        >>> timeline.draw().save("timeline.png")  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._tracks: dict[int, _Gathered] = {}
        self._width = 0.01
        self._begin: float | None = None
        self._last: FrameResult | None = None
        self._step = 0.0
        self._frames = 0
        self.end: float | None = None

    def add(self, result: FrameResult, image: Image.Image | None = None) -> None:
        """
        Add the next frame.

        Args:
            result: its result, later than the last one.
            image: the frame, for the crops.
        """
        if self._begin is None:
            self._begin = result.time
        if self._last is not None:
            # What a frame shows lasts until the next one.
            self._step = max(0.0, result.time - self._last.time)
            self._count(self._last, self._step)
        self._last = result
        self._frames += 1
        while (result.time - self._begin) / self._width >= MOMENTS:
            self._width *= 2
            for track in self._tracks.values():
                track.halve()
        for face in result:
            if face.track_id is None:
                continue
            track = self._tracks.setdefault(face.track_id, _Gathered(face.track_id, result.time))
            track.see(face, result, image, int((result.time - self._begin) / self._width))

    def _count(self, result: FrameResult, seconds: float) -> None:
        for face in result:
            if face.track_id is not None:
                self._tracks[face.track_id].count(face, seconds)

    @property
    def _lasting(self) -> float:
        """Seconds that the last frame lasts: as long as the one before, at most until the film's end."""
        rest = math.inf if self.end is None or self._last is None else max(0.0, self.end - self._last.time)
        return min(self._step, rest)

    @property
    def tracks(self) -> tuple[TrackSummary, ...]:
        """The summaries of all tracks, by id: in the order in which they appeared."""
        last = {face.track_id: face for face in self._last} if self._last else {}
        return tuple(self._tracks[key].summary(last.get(key), self._lasting) for key in sorted(self._tracks))

    @property
    def span(self) -> tuple[float, float]:
        """The times in seconds at which the film begins and ends."""
        if self._last is None or self._begin is None:
            return 0.0, 0.0
        return self._begin, self._last.time + self._lasting

    def strip(self, track_id: int) -> tuple[np.ndarray, np.ndarray]:
        """
        Return the probabilities of a track over time.

        Returns:
            The times of `M` moments in seconds, and their mean probabilities `(M, N)` in the order of the expressions;
            NaN marks a pause.
        """
        usual = (self._last.time - (self._begin or 0.0)) / max(1, self._frames - 1) if self._last else 0.0
        pause = max(_PAUSE, 1.5 * usual, 3 * self._width)
        return self._tracks[track_id].strip(self._begin or 0.0, self._width, pause)

    def figure(self, theme: str = "light", title: str | None = None) -> "Figure":
        """
        Draw the tracks that are seen longest, at most `ROWS`, one to a row: the best crop, the probabilities stacked
        over time, and above them the crops at changes.

        Args:
            theme: `"light"` or `"dark"`.
            title: text above everything.

        Returns:
            A matplotlib figure.
        """
        return _draw(self, theme, title)

    def draw(self, theme: str = "light", title: str | None = None) -> Image.Image:
        """Return `figure` as a PIL image."""
        from ..drawing.sheet import to_image

        return to_image(self.figure(theme, title))


class _Gathered:
    """What is gathered of one track."""

    def __init__(self, number: int, time: float) -> None:
        self.id = number
        self.first = self.last = time
        self.frames = 0
        self.seconds: dict[str, float] = {}
        self.weighted: dict[str, float] = {}
        self.total = 0.0
        self.plain: dict[str, float] = {}
        self.moments: dict[int, np.ndarray] = {}
        # Crops are JPEG files, a tenth of their pixels: a film of a crowd has thousands of tracks.
        self.best: tuple[float, float, Box, bytes] | None = None
        self.changes: list[tuple[float, str, bytes]] = []
        self.pending: tuple[float, str, bytes] | None = None

    def see(self, face: FaceExpression, result: FrameResult, image: Image.Image | None, moment: int) -> None:
        """Take a face of this track. The last number of a moment counts its frames."""
        self.last = result.time
        self.frames += 1
        values = np.array([*face.probabilities.values(), 1.0])
        self.moments[moment] = self.moments.get(moment, 0.0) + values
        for name, value in face.probabilities.items():
            self.plain[name] = self.plain.get(name, 0.0) + value
            self.seconds.setdefault(name, 0.0)
        if image is None:
            return
        area = (face.box[2] - face.box[0]) * (face.box[3] - face.box[1])
        quality = (face.score if face.score is not None else 1.0) ** 2 * math.sqrt(area)
        # A little better does not justify cutting the crop out again in every frame.
        if self.best is None or quality > 1.05 * self.best[0]:
            self.best = (quality, result.time, face.box, _crop(image, face.box, BEST_SIZE))
        if self.pending is None or self.pending[1] != face.expression:
            self.pending = (result.time, face.expression, _crop(image, face.box, CROP_SIZE))
        lasts = result.time - self.pending[0] >= LASTING
        if not self.changes or (lasts and self.changes[-1][1] != face.expression):
            self.changes.append(self.pending)
            if len(self.changes) > CROPS:
                del self.changes[1::2]

    def count(self, face: FaceExpression, seconds: float) -> None:
        """Count how long a face was seen."""
        self.seconds[face.expression] = self.seconds.get(face.expression, 0.0) + seconds
        self.total += seconds
        for name, value in face.probabilities.items():
            self.weighted[name] = self.weighted.get(name, 0.0) + seconds * value

    def halve(self) -> None:
        """Merge every two moments."""
        merged: dict[int, np.ndarray] = {}
        for moment, values in self.moments.items():
            merged[moment // 2] = merged.get(moment // 2, 0.0) + values
        self.moments = merged

    def summary(self, face: FaceExpression | None, step: float) -> TrackSummary:
        """Return the summary; a `face` of the film's last frame lasts `step` seconds, as long as the frame before."""
        seconds, weighted, total = dict(self.seconds), dict(self.weighted), self.total
        if face is not None:
            seconds[face.expression] += step
            total += step
            for name, value in face.probabilities.items():
                weighted[name] = weighted.get(name, 0.0) + step * value
        means = (weighted, total) if total > 0 else (self.plain, float(self.frames))
        _, time, box, crop = self.best or (0.0, self.first, None, None)
        return TrackSummary(
            id=self.id,
            first=self.first,
            last=self.last,
            frames=self.frames,
            seconds=seconds,
            probabilities={name: value / means[1] for name, value in means[0].items()},
            best=None if crop is None else _opened(crop),
            box=box,
            best_time=time,
            changes=[(when, expression, _opened(data)) for when, expression, data in self.changes],
        )

    def strip(self, begin: float, width: float, pause: float) -> tuple[np.ndarray, np.ndarray]:
        """Return times and mean probabilities, with NaN where the track is not seen for longer than `pause` seconds."""
        times: list[float] = []
        rows: list[np.ndarray] = []
        for moment in sorted(self.moments):
            time = begin + (moment + 0.5) * width
            if times and time - times[-1] > pause:
                times.append((times[-1] + time) / 2)
                rows.append(np.full_like(rows[-1], np.nan))
            values = self.moments[moment]
            times.append(time)
            rows.append(values[:-1] / values[-1])
        return np.array(times), np.array(rows)


def _crop(image: Image.Image, box: Box, side: int) -> bytes:
    """Return the crop that the network sees as a JPEG file, made smaller if need be."""
    crop = crop_face(image, box)
    crop.thumbnail((side, side), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    crop.save(file, "JPEG", quality=92)
    return file.getvalue()


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _draw(timeline: Timeline, theme: str, title: str | None) -> "Figure":
    from matplotlib.patches import Patch

    from ..drawing.palette import color_of
    from ..drawing.sheet import Sheet

    tracks = timeline.tracks
    longest = sorted(tracks, key=lambda track: -sum(track.seconds.values()))[:ROWS]
    shown = [track for track in tracks if track in longest]
    begin, end = timeline.span
    end = max(end, begin + 1e-3)
    head, crops, strip, gap, foot = 0.75 if title else 0.4, 0.5, 0.7, 0.25, 0.95
    row = crops + strip + gap
    sheet = Sheet(WIDTH, head + max(1, len(shown)) * row + foot, theme, title)
    left, inner = LEFT * WIDTH, (RIGHT - LEFT) * WIDTH
    if not shown:
        sheet.text(WIDTH / 2, head + row / 2, "no face", 12, muted=True, ha="center")
    for number, track in enumerate(shown):
        top = head + number * row
        if track.best is not None:
            sheet.face(0.2, top + crops - 0.05, 0.8, track.best)
        sheet.text(1.08, top + crops + 0.12, f"{track.id}", 13, weight="bold")
        sheet.text(1.08, top + crops + 0.42, f"{_clock(track.first)} to", 8, muted=True)
        sheet.text(1.08, top + crops + 0.58, _clock(track.last), 8, muted=True)
        axes = sheet.axes(left, top + crops, inner, strip)
        axes.set_facecolor(sheet.theme.line)
        axes.patch.set_alpha(0.35)
        times, values = timeline.strip(track.id)
        names = list(track.probabilities)
        # A track of one moment has a width, too, and what a frame shows lasts until the next one.
        half = max((end - begin) / 500, 1e-4)
        times = np.concatenate([[times[0] - half], times, [max(times[-1] + half, track.last + timeline._lasting)]])
        values = np.concatenate([values[:1], values, values[-1:]])
        axes.stackplot(times, values.T, colors=[color_of(name) for name in names], linewidth=0)
        axes.set(xlim=(begin, end), ylim=(0, 1))
        taken = -math.inf
        for time, _, crop in track.changes:
            x = left + inner * (time - begin) / (end - begin)
            x = min(max(x - 0.21, left), left + inner - 0.42)
            if x >= taken:
                sheet.face(x, top + 0.04, 0.42, crop)
                taken = x + 0.45
        if number == len(shown) - 1:
            ticks = _ticks(begin, end)
            sheet.ticks(axes, "x", ticks, [_clock(tick) for tick in ticks])
    names = list(shown[0].probabilities) if shown else list(EXPRESSIONS)
    legend = sheet.axes(left, sheet.height - 0.45, inner, 0.3)
    legend.set_axis_off()
    sheet.legend(
        legend, [Patch(color=color_of(name), label=name) for name in names], ncols=len(names), loc="center left"
    )
    return sheet.figure


def _ticks(begin: float, end: float) -> list[float]:
    """Return about eight round times between two."""
    steps: Sequence[float] = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
    step = steps[min(bisect.bisect_left(steps, (end - begin) / 9), len(steps) - 1)]
    first = math.ceil(begin / step)
    ticks: Iterable[int] = range(first, math.floor(end / step) + 1)
    return [number * step for number in ticks]


def _clock(seconds: float) -> str:
    """Return a time as `1:02:03`, `2:03` or `0:03.4`."""
    minutes, rest = divmod(seconds + 1e-9, 60)
    if seconds < 60:
        return f"{int(minutes)}:{math.floor(10 * rest) / 10:04.1f}"
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{int(rest):02d}" if hours else f"{minutes}:{int(rest):02d}"


__all__ = ["Timeline", "TrackSummary"]
