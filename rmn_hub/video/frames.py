"""Films in, by PyAV: `Film` yields upright frames with the container's times, in memory that does not grow."""

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..errors import InputError
from ..images import MAX_PIXELS, MIN_SIDE
from .sources import open_source, reason_of

if TYPE_CHECKING:
    import av
    from av.audio.stream import AudioStream
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Seconds by which the clock of a stream goes back only where another recording was joined to the one before.
JUMP = 1.0
# By the signs of (a, b, c, d) of a display matrix, which moves a pixel from (x, y) to (a x + c y, b x + d y).
_TURNS = {
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


# FFmpeg's numbers of a film's colours (H.273): how red, green and blue were mixed.
BT709, UNSPECIFIED, BT601 = 1, 2, 6


def is_hd(width: int, height: int) -> bool:
    """Return whether players take frames of this size, where nothing is stated, for BT.709's colours, not BT.601's."""
    return width >= 1280 or height > 576


class Frame:
    """
    One frame of a film; it becomes an image when that is asked for.

    Args:
        frame: PyAV's frame.
        index: its number in the film, from 0.
        time: seconds from the start of the film.
        turn: how it is turned upright, if at all.
        aspect: width of a pixel in parts of its height.
    """

    def __init__(
        self,
        frame: "VideoFrame",
        index: int,
        time: float,
        turn: Image.Transpose | None = None,
        aspect: float = 1.0,
    ) -> None:
        self.index = index
        self.time = time
        self._frame = frame
        self._turn = turn
        self._aspect = aspect
        if frame.colorspace == UNSPECIFIED and is_hd(frame.width, frame.height):
            frame.colorspace = BT709

    @cached_property
    def image(self) -> Image.Image:
        """The frame as an upright RGB image with square pixels."""
        image = self._frame.to_image(width=round(self._aspect * self._frame.width), height=self._frame.height)
        return image if self._turn is None else image.transpose(self._turn)

    @cached_property
    def thumbnail(self) -> Image.Image:
        """The frame in 32 x 24 pixels, as it lies in the film: for frames that are looked for cuts only."""
        return self._frame.to_image(width=32, height=24)


class Film:
    """
    The frames of a file, a camera or an address, one after the other.

    Frames are turned upright as the file's display matrix demands; times are the container's, so variable frame rates
    and GIFs keep theirs, and go on where recordings were joined; interlaced frames are deinterlaced. Of a damaged film,
    all frames that can be decoded are yielded, and `message` states what is missing. A film can be read once.

    Args:
        source: a path, the number of a camera (0, 1, ...), or an address that PyAV opens (`rtsp://...`).
        start: seconds before which frames are left out.
        end: seconds from which on frames are left out; all are read when not given.
        sound: whether to collect the packets of the film's sound between `start` and `end` in `packets`.
        max_pixels: most pixels of a frame.

    Attributes:
        name: what the film is called in results and sentences.
        rate: frames a second on average, or `None` where the container does not state it.
        whole: seconds that the whole film lasts, or `None` of a stream without an end.
        duration: seconds of it that will be read, or `None`.
        cut: whether frames from `end` on were left out, once the film is read.
        message: what could not be read, or that the film is joined, in sentences; or `None`.

    Raises:
        InputError: the source cannot be opened, has no frames, or an argument is out of range.

    Example:
        >>> with Film("film.mp4", start=10, end=20) as film:  # doctest: +SKIP
        ...     for frame in film:
        ...         print(frame.index, frame.time, frame.image.size)
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | int,
        *,
        start: float = 0.0,
        end: float | None = None,
        sound: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if not 0 <= start < float("inf"):
            raise InputError(f"start={start!r} must be a number of seconds, 0 or more")
        if end is not None and not end > start:
            raise InputError(f"end={end!r} must be later than start={start!r}")
        self.start, self.end = float(start), end
        self.message: str | None = None
        self.cut = False
        self.name, self._container = open_source(source)
        try:
            self._max_pixels = max_pixels
            self._video = self._choose_stream()
        except BaseException:
            self.close()
            raise
        sounds = [stream for stream in self._container.streams.audio if stream.codec_context is not None]
        self.sound: AudioStream | None = sounds[0] if sound and sounds else None
        self.packets: deque[av.Packet] = deque()
        self.rate = float(self._video.average_rate) if self._video.average_rate else None
        # Cameras count from the start of the machine or from 1970.
        begins = self._container.start_time
        self.origin = 0.0 if begins is None else begins / 1_000_000
        self.whole = whole = None if self._container.duration is None else self._container.duration / 1_000_000
        self.duration = None if whole is None else max(0.0, min(whole, end or whole) - self.start)
        # Seconds by which each of the recordings that a film is joined of is moved; which one a stream is in, and its
        # last time there; the end of the frames read.
        self._shifts = [0.0]
        self._clocks: dict[int, tuple[int, float]] = {}
        self._reached = 0.0
        self._heard = 0.0
        self._damaged = 0
        self._failure: str | None = None

    def __enter__(self) -> "Film":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file or the camera."""
        self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        """
        Yield the frames in the order of their times.

        Raises:
            InputError: no frame can be decoded, none lies between `start` and `end`, or a frame has too many pixels.
        """
        index, last, yielded, decoded = -1, -1.0, 0, 0
        turn: Image.Transpose | None = None
        for skipped, frame in self._decoded():
            decoded += 1
            index = max(index + 1, skipped)
            if decoded == 1:
                turn = _turn_of(frame)
            time = self._time_of(frame, last)
            last = time
            if time < self.start - 1e-6:
                continue
            if self.end is not None and time >= self.end - 1e-6:
                self.cut = True
                # A container may hold the sound of a moment up to a second behind its image.
                if self.sound is None or self._heard >= self.end or time >= self.end + 1:
                    break
                continue
            yielded += 1
            self._check_size(frame.width, frame.height)  # which may change on the way
            yield Frame(frame, index, time, turn, self._aspect)
        else:
            self._check_end(index, last)
        self._finish(decoded, yielded)

    def _check_end(self, index: int, last: float) -> None:
        """Note that the film ends before the time, and with fewer frames, than its header announces."""
        video, tag = self._video, self._video.metadata.get("DURATION", "")
        slack = 2 / (self.rate or 25.0)
        try:
            hours, minutes, seconds = tag.split(":")
            length = 3600 * float(hours) + 60 * float(minutes) + float(seconds) - 1
        except ValueError:
            length = 0.0
        if index + 1 < video.frames - 1:
            # MP4's number of frames counts those that an edit list leaves out; its duration does not.
            end = math.inf
            if "mp4" in self._container.format.name and video.duration and video.time_base:
                end = float(((video.start_time or 0) + video.duration) * video.time_base)
            length = max(length, end - self.origin - slack)
        if last + slack < length:
            self._failure = self._failure or f"after {last:.2f} seconds"

    def _finish(self, decoded: int, yielded: int) -> None:
        if not decoded:
            reason = self._failure or "none of its frames can be decoded"
            raise InputError(f"{self.name} cannot be read as a film: {reason}. Save or copy it again.")
        if not yielded:
            raise InputError(f"start={self.start:g} must lie within {self.name}: it has no frame from there on")
        parts = [f"{self._damaged} damaged frames were left out"] if self._damaged else []
        parts += [f"it ends early ({self._failure})"] if self._failure else []
        notes = [f"{self.name} is damaged: {' and '.join(parts)}."] if parts else []
        if len(self._shifts) > 1:
            notes.append(f"{self.name} is joined of {len(self._shifts)} recordings: their times are counted on.")
        self.message = " ".join(notes) or None

    def _time_of(self, frame: "VideoFrame", last: float) -> float:
        """Return the time of a frame in seconds; a frame without one follows the last one at the film's rate."""
        if frame.pts is None or frame.time_base is None:
            return last + 1 / (self.rate or 25.0) if last >= 0 else 0.0
        return float(frame.pts * frame.time_base) - self.origin

    def _decoded(self) -> Iterator[tuple[int, "VideoFrame"]]:
        """Yield each frame with the number of frames that were skipped unseen before it, deinterlaced if need be."""
        import av

        graph: Any = None
        skipped, form = 0, None
        try:
            for skipped, frame in self._raw():
                before, form = form, (frame.width, frame.height, frame.format.name)
                if graph is not None and form != before:
                    yield from ((skipped, done) for done in _through(graph, None))
                    graph = None
                if graph is None and frame.interlaced_frame:
                    graph = _deinterlacer(self._video, frame)
                yield from ((skipped, done) for done in ([frame] if graph is None else _through(graph, frame)))
            if graph is not None:
                yield from ((skipped, done) for done in _through(graph, None))
        except av.error.FFmpegError as error:
            self._failure = reason_of(error)

    def _raw(self) -> Iterator[tuple[int, "VideoFrame"]]:
        """
        Decode. Until `start`, packets are read without decoding: of those, only the ones from the last key frame on are
        decoded, and the others counted, so that frames have the same numbers wherever reading starts.
        """
        import av

        skipped, seeking = 0, self.start > 0
        waiting: list[av.Packet] = []
        # By their times: the film's first key frame, and the one that decoding begins at.
        first = key = None
        for packet in self._demuxed():
            stamp = packet.pts
            if seeking and packet.is_keyframe and stamp is not None and self._in_seconds(packet, stamp) <= self.start:
                skipped += _count(waiting, first)
                waiting.clear()
                key, first = stamp, stamp if first is None else first
            waiting.append(packet)
            if seeking and packet.dts is not None and self._in_seconds(packet, packet.dts) < self.start:
                continue
            if seeking and key is not None:
                # What follows a key frame in the file may be shown before it.
                skipped += _count(waiting, first, before=key)
            seeking = False
            for one in waiting:
                try:
                    frames = one.decode()
                except (av.error.FFmpegError, ValueError):
                    self._damaged += 1
                    continue
                for frame in frames:
                    if key is None or frame.pts is None or frame.pts >= key:
                        yield skipped, frame
            waiting.clear()

    def _in_seconds(self, packet: "av.Packet", stamp: int) -> float:
        """Return a time of a packet, in its unit, in seconds from the start of the film."""
        assert packet.time_base is not None
        return float(stamp * packet.time_base) - self.origin

    def _demuxed(self) -> Iterator["av.Packet"]:
        """Yield the packets of the video, and collect those of the sound; the last one is empty and flushes."""
        import av

        streams = [self._video, *([self.sound] if self.sound else [])]
        sounds: deque[tuple[int, av.Packet]] = deque()
        try:
            for packet in self._container.demux(streams):
                is_video = packet.stream is self._video or packet.stream.index == self._video.index
                part = self._part_of(packet, is_video)
                if is_video:
                    self._move(packet, part)
                    yield packet
                else:
                    sounds.append((part, packet))
                # The sound of a joined recording may come before its first frame, which decides on its times.
                while sounds and sounds[0][0] < len(self._shifts):
                    part, packet = sounds.popleft()
                    self._move(packet, part)
                    if packet.dts is not None:
                        self._heard = self._in_seconds(packet, packet.dts)
                        if self.start <= self._heard < (math.inf if self.end is None else self.end):
                            self.packets.append(packet)
        except (av.error.FFmpegError, OSError) as error:
            self._failure = reason_of(error)
            # What the decoder still holds.
            flush = av.Packet()
            flush.stream = self._video
            yield flush

    def _part_of(self, packet: "av.Packet", is_video: bool) -> int:
        """
        Return which of joined recordings a packet is of, from 0: where one begins, the clock of a stream goes back. Its
        frames go on where those before end, as with FFmpeg's command.
        """
        stream = packet.stream.index
        part, last = self._clocks.get(stream, (len(self._shifts) - 1, -math.inf))
        if packet.dts is None:
            return part
        time = self._in_seconds(packet, packet.dts)
        if time < last - JUMP:
            part = max(part + 1, len(self._shifts) - 1)
            if is_video:
                self._shifts.append(self._reached - time)
        self._clocks[stream] = part, time
        if is_video:
            length = self._in_seconds(packet, packet.dts + (packet.duration or 0)) - time
            self._reached = time + self._shifts[part] + (length or 1 / (self.rate or 25.0))
        return part

    def _move(self, packet: "av.Packet", part: int) -> None:
        """Move the times of a packet to where its recording lies in the film."""
        if part and packet.dts is not None and packet.time_base is not None:
            shift = round(self._shifts[part] / packet.time_base)
            packet.dts += shift
            packet.pts = None if packet.pts is None else packet.pts + shift

    def _check_size(self, width: int, height: int) -> None:
        width = round(width * self._aspect)
        if width * height > self._max_pixels:
            raise InputError(
                f"{self.name} has frames of {width} x {height} pixels: the limit is "
                f"{self._max_pixels // 1_000_000} million pixels. Make it smaller first."
            )
        if width and height and min(width, height) < MIN_SIDE:
            raise InputError(
                f"{self.name} has frames of {width} x {height} pixels: a frame needs at least {MIN_SIDE} on each side"
            )

    def _choose_stream(self) -> "VideoStream":
        # A cover of an album is a stream of one image.
        import av

        cover = av.stream.Disposition.attached_pic
        videos = [stream for stream in self._container.streams.video if not stream.disposition & cover]
        if not videos:
            held = "sound only" if self._container.streams.audio else "no video"
            raise InputError(f"{self.name} holds {held}. Give a film.")
        video = videos[0]
        if video.codec_context is None or video.codec_context.codec is None:
            raise InputError(f"{self.name} cannot be read: its codec is unknown. Convert it to H.264 first.")
        aspect = float(video.sample_aspect_ratio or 1)
        # Anamorphic films have 0.5 to 2. A damaged header may have any other, and frames of gigabytes.
        self._aspect = aspect if 1 / 4 <= aspect <= 4 else 1.0
        self._check_size(video.codec_context.width, video.codec_context.height)
        # Decoding then uses the other cores while this one classifies.
        video.thread_type = "AUTO"
        return video


def _count(packets: "Iterable[av.Packet]", first: int | None, before: float = math.inf) -> int:
    """
    Return how many frames are in packets: those that an edit list leaves out do not count, nor those before the film's
    first key frame, which cannot be decoded; the second field of a frame has no time.
    """
    if first is None:
        return 0
    return sum(not packet.is_discard and packet.pts is not None and first <= packet.pts < before for packet in packets)


def _turn_of(frame: "VideoFrame") -> Image.Transpose | None:
    """Return how a frame is turned upright, by its display matrix of 3 x 3 numbers in 16.16 fixed point."""
    import numpy as np

    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5] / 65536
    return _TURNS.get((round(a), round(b), round(c), round(d)))


def _deinterlacer(video: "VideoStream", frame: "VideoFrame") -> Any:
    """Return a filter graph that makes whole frames of interlaced ones, and leaves others as they are."""
    import av

    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base or video.time_base or Fraction(1, 90_000),
    )
    yadif = graph.add("yadif", "mode=send_frame:deint=interlaced")
    sink = graph.add("buffersink")
    source.link_to(yadif)
    yadif.link_to(sink)
    graph.configure()
    return graph


def _through(graph: Any, frame: "VideoFrame | None") -> Iterator["VideoFrame"]:
    """Push a frame into a filter graph, or its end, and yield the frames that come out."""
    import av

    graph.push(frame)
    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


__all__ = ["Film", "Frame"]
