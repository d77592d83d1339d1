"""A film in, results out: `recognize` for Python, `analyse` for what also needs the frames."""

import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .ahead import LookAhead
from .cuts import CutDetector
from .frames import Film, Frame
from .results import FrameResult
from .session import SMOOTH, Located, Session
from .tables import CSVWriter, to_df
from .tracking import REACH

if TYPE_CHECKING:
    import pandas

    from ..recognizer import ExpressionRecognizer

# Seconds for which a face that is not seen is waited for.
PATIENCE = 2.0
# When frames lie far apart, a face may move by this many of its sizes in a second, but not by more than `FARTHEST`.
SPEED, FARTHEST = 2.0, 4.0
# Seconds from one search of the whole frame to the next, and the most frames that may lie between.
SEARCHED, FARTHEST_SEARCH = 0.2, 12
# A face counts once it is seen in as many frames as lie between two searches, and at most in so many.
CONFIRM = 3
# The most frames that wait for the classification of the first of them.
WAITING = 16


class FilmResults(Iterator[FrameResult]):
    """
    The results of a film, one after the other: an iterator that can be gone through once.

    Args:
        film: where the frames come from; it is closed after the last one.
        session: what the frames go through.
        every: take every n-th frame only.
        attention: whether to add the attention maps.
        images: whether each result carries its frame.
    """

    def __init__(
        self, film: Film, session: Session, every: int = 1, attention: bool = False, images: bool = False
    ) -> None:
        self.film = film
        self.expressions = session.recognizer.expressions
        self._results = self._through(session, every, attention, images)

    def __next__(self) -> FrameResult:
        return next(self._results)

    def close(self) -> None:
        """Close the film before its end."""
        self._results.close()
        self.film.close()

    def to_df(self) -> "pandas.DataFrame":
        """
        Return the long table of the results that follow as a pandas frame; see [`rmn_hub.video.tables.to_records`].

        Raises:
            MissingPackageError: pandas is not installed.
            InputError: no frame can be decoded.
        """
        return to_df(self, self.expressions)

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """
        Write the long table of the results that follow, row by row, and return the file's path.

        Raises:
            InputError: no frame can be decoded, or the file cannot be written.
        """
        with CSVWriter(path, self.expressions) as table:
            for result in self:
                table.write(result)
        return Path(path)

    def _through(
        self, session: Session, every: int, attention: bool, images: bool
    ) -> Generator[FrameResult, None, None]:
        with self.film:
            for frame, result in analyse(self.film, session, every=every, attention=attention, between=False):
                if result is not None:
                    yield replace(result, image=frame.image) if images else result


def recognize(
    source: str | os.PathLike[str] | int,
    recognizer: "ExpressionRecognizer",
    *,
    start: float = 0.0,
    end: float | None = None,
    every: int = 1,
    smooth: float = SMOOTH,
    detect_every: int | None = None,
    max_faces: int | None = None,
    min_confidence: float | None = None,
    attention: bool = False,
    images: bool = False,
) -> FilmResults:
    """
    Return the results of a film, which come frame by frame, in memory that does not grow with its length.

    Args:
        source: a path, the number of a camera (0, 1, ...), or an address that PyAV opens.
        recognizer: classifies the faces.
        start: seconds before which frames are left out.
        end: seconds from which on frames are left out; all are read when not given.
        every: take every n-th frame only.
        smooth: time constant of the smoothing in seconds. With 0, every frame is treated as an image of its own, and
            its results are the recognizer's. Otherwise a face has to be seen in 3 frames, one after the other, to be
            reported (in 2 up to 12.5 frames a second, in 1 up to 7.5), and is then reported from the first of them on.
        detect_every: of the frames taken, how many from one search of the whole frame to the next; when not given, as
            many as make 0.2 seconds, at most 12, or 1 without smoothing.
        max_faces: follow at most this many faces, the largest first; all when not given.
        min_confidence: probability in 0..1 below which an expression is `uncertain`; the recognizer's own when not
            given.
        attention: whether to add the attention maps.
        images: whether each result carries its frame, for `plot` and `save`. A list of them then holds the whole film.

    Returns:
        An iterator of one `FrameResult` for each frame taken, also for frames without faces. Its `to_df()` is the long
        table of all that follow.

    Raises:
        InputError: the source cannot be opened or an argument is out of range (at once); no frame can be decoded (at
            the first one).

    Example:
        >>> for result in recognize("film.mp4", recognizer, end=10):  # doctest: +SKIP
        ...     print(result.time, [(face.track_id, face.expression) for face in result])
    """
    film = Film(source, start=start, end=end)
    try:
        session = session_for(
            film,
            recognizer,
            every=every,
            smooth=smooth,
            detect_every=detect_every,
            max_faces=max_faces,
            min_confidence=min_confidence,
        )
    except BaseException:
        film.close()
        raise
    return FilmResults(film, session, every, attention, images)


def session_for(
    film: Film,
    recognizer: "ExpressionRecognizer",
    *,
    every: int = 1,
    smooth: float = SMOOTH,
    detect_every: int | None = None,
    max_faces: int | None = None,
    min_confidence: float | None = None,
) -> Session:
    """
    Return a session for the frames of a film, which waits `PATIENCE` seconds for a face; see [`recognize`].

    Raises:
        InputError: an argument is out of range.
    """
    if every < 1:
        raise InputError(f"every={every!r} must be 1 or more")
    rate = (film.rate or 25.0) / every
    # The same time between two searches of the whole frame, whatever lies between two frames.
    between = min(FARTHEST_SEARCH, max(1, round(SEARCHED * rate))) if smooth > 0 else 1
    return Session(
        recognizer,
        smooth=smooth,
        detect_every=between if detect_every is None else detect_every,
        max_faces=max_faces,
        min_confidence=min_confidence,
        patience=max(2, round(PATIENCE * rate)),
        confirm=min(CONFIRM, between),
        cuts=every == 1,
        reach=min(max(REACH, SPEED / rate), FARTHEST),
    )


def analyse(
    film: Film, session: Session, *, every: int = 1, attention: bool = False, between: bool = True
) -> Iterator[tuple[Frame, FrameResult | None]]:
    """
    Yield each frame of a film with its result, or with `None` for the frames between every n-th.

    A few frames are read ahead, see [`LookAhead`].

    Args:
        film: where the frames come from.
        session: what they go through.
        every: take every n-th frame only.
        attention: whether to add the attention maps.
        between: whether to yield the frames between every n-th, too.

    Raises:
        InputError: no frame can be decoded.
    """
    # Frames far apart differ by their motion as much as by a cut: cuts are looked for between neighbouring frames.
    cuts = CutDetector() if every > 1 else None
    ahead = LookAhead(session)
    waiting: deque[Frame] = deque()
    done: deque[tuple[Frame, Future[FrameResult] | None]] = deque()

    def settle(some: Iterator[Located]) -> None:
        for located in some:
            while waiting[0].index != located.index:
                done.append((waiting.popleft(), None))
            done.append((waiting.popleft(), pool.submit(session.classify, located, attention=attention)))

    def ready(behind: int) -> Iterator[tuple[Frame, FrameResult | None]]:
        """Yield what is classified; at most so many frames are left to the other thread."""
        while done:
            frame, work = done[0]
            if work and not work.done() and len(done) <= WAITING and sum(bool(more) for _, more in done) <= behind:
                return
            done.popleft()
            yield frame, None if work is None else work.result()

    # One thread finds the faces of a frame while the other one classifies those of a frame before it.
    with ThreadPoolExecutor(1, thread_name_prefix="classify") as pool:
        for count, frame in enumerate(film):
            if cuts is not None and cuts.update(frame.thumbnail):
                session.cut()
            if count % every == 0:
                waiting.append(frame)
                settle(
                    ahead.push(
                        session.locate(
                            frame.image, frame.time, index=frame.index, source=film.name, attention=attention
                        )
                    )
                )
            elif between and waiting:
                waiting.append(frame)
            elif between:
                done.append((frame, None))
            yield from ready(behind=1)
        settle(ahead.flush())
        yield from ready(behind=0)
    yield from ((frame, None) for frame in waiting)


__all__ = ["FilmResults", "analyse", "recognize", "session_for"]
