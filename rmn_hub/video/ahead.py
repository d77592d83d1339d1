"""What a film can know and a camera cannot: `LookAhead` reads a few frames on before it settles what a frame shows."""

from collections import deque
from collections.abc import Iterator

from .session import Located, Session
from .tracking import SAME_FACE, Track, overlap


class LookAhead:
    """
    Hold back the frames of a session until it is clear which of their tracks count and where these began.

    A track that is tentative in its first frames gets them back once it is confirmed, and loses them when its face is
    not seen again. The face of a new track is looked for in the frames before, back to the last search of the whole
    frame: it may have come in between two searches. A tentative track that a cut or the end of the film breaks off
    counts: its face was seen as often as it could be.

    Args:
        session: what has located the frames.

    Attributes:
        frames: how many frames are held back.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._back = session.tracker.detect_every - 1
        self.frames = self._back + session.tracker.confirm - 1
        self._held: deque[Located] = deque()
        self._known: set[int] = set()
        self._tentative: set[int] = set()

    def push(self, located: Located) -> Iterator[Located]:
        """Take the next frame; yield the one that is settled by it, if any."""
        alive = located.alive
        if located.cut or (self._held and self._held[-1].image.size != located.image.size):
            self._tentative.clear()
            self._known.clear()
        elif dropped := self._tentative - alive:
            for frame in self._held:
                frame.tracks = [track for track in frame.tracks if track.id not in dropped]
        self._tentative &= alive
        for track in located.tracks:
            if track.confirmed:
                self._tentative.discard(track.id)
            elif track.id not in self._known:
                self._tentative.add(track.id)
        new = [track for track in located.tracks if track.id not in self._known]
        self._known = set(alive)
        if not located.cut:
            for track in new:
                self._look_back(located, track)
        self._held.append(located)
        while len(self._held) > self.frames:
            yield self._held.popleft()

    def flush(self) -> Iterator[Located]:
        """Yield the frames that are left at the end of the film."""
        while self._held:
            yield self._held.popleft()

    def _look_back(self, located: Located, track: Track) -> None:
        """Add a new track to the frames before the one where it was found."""
        face, shown, most = track.face, located.image, self.session.tracker.max_faces
        for _, frame in zip(range(self._back), reversed(self._held)):
            found = self.session.tracker.find(frame.image, face, shown) if frame.image.size == shown.size else None
            if found is None or any(overlap(found.box, other.face.box) > SAME_FACE for other in frame.tracks):
                break
            if most is not None and len(frame.tracks) >= most:
                break
            frame.tracks.append(Track(track.id, found, confirmed=track.confirmed))
            face, shown = found, frame.image
            if frame.cut:
                break


__all__ = ["LookAhead"]
