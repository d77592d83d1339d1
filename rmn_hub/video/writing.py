"""Films out, by PyAV: `FilmWriter` encodes H.264 with the sound of the film that the frames come from."""

import contextlib
import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..errors import InputError
from ..files import replacing
from .frames import BT601, BT709, Film, is_hd

if TYPE_CHECKING:
    import av

# What a film may be called: containers that take H.264, and that players take with AAC.
SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")
# Sound that is copied as it is: the container takes it, and browsers play it in MP4. Any other is encoded as AAC.
COPIED = ("aac", "mp3", "opus", "flac")
COPIED_INTO = {".mov": ("aac", "mp3"), ".m4v": ("aac",)}
# Of a second: the unit of MPEG's clocks, in which every common frame rate is a whole number.
TICK = Fraction(1, 90_000)
# Quality of x264 (0..51, lower is better) at which the drawn labels stay sharp, and its effort. No B-frames: with them,
# MP4's header states too short a duration for variable frame rates (0.59 s for frames from 0 to 1 s).
OPTIONS = {"crf": "20", "preset": "veryfast", "bf": "0"}


class FilmWriter:
    """
    A film that is written frame by frame; its file appears when it is complete.

    Frames keep their times, so variable frame rates stay. With the `film` that they come from, its sound is copied, or
    encoded as AAC of at most two channels where the container does not take it or browsers do not play it. Used as a
    context manager; after an exception nothing is left.

    Args:
        path: of the new file; the suffix names the container, one of `SUFFIXES`.
        film: where the frames come from, opened with `sound=True` for its sound; the new film begins at its `start`.
        rate: frames a second on average, for films without one of their own.

    Raises:
        InputError: the suffix is unknown, or the file cannot be written.

    Example:
        >>> with Film("in.mp4", sound=True) as film, FilmWriter("out.mp4", film) as writer:  # doctest: +SKIP
        ...     for frame in film:
        ...         writer.write(frame.image, frame.time)
    """

    def __init__(self, path: str | os.PathLike[str], film: Film | None = None, rate: float | None = None) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{self.path} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
        self._film = film
        self._rate = rate or (film.rate if film else None) or 25.0
        self._stack = contextlib.ExitStack()
        self._container: Any = None
        self._video: Any = None
        self._sound: Any = None
        self._last = -1

    def __enter__(self) -> "FilmWriter":
        import av

        try:
            beside = self._stack.enter_context(replacing(self.path))
            options = {} if self.path.suffix.lower() == ".mkv" else {"movflags": "+faststart"}
            self._container = av.open(f"file:{beside}", mode="w", container_options=options)
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            if isinstance(error, (av.error.FFmpegError, OSError, ValueError)):
                raise self._failed(error) from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import av

        try:
            if error is None:
                self._finish()
            self._container.close()
        except BaseException as failure:
            with contextlib.suppress(Exception):
                self._container.close()
            self._stack.__exit__(type(failure), failure, failure.__traceback__)
            if error is None and isinstance(failure, (av.error.FFmpegError, OSError, ValueError)):
                raise self._failed(failure) from failure
            raise
        self._stack.__exit__(kind, error, trace)

    def write(self, image: Image.Image, time: float) -> None:
        """
        Encode the next frame.

        Args:
            image: RGB; a last odd row and column are cut off, which H.264 cannot hold. One of another size than the
                first one is scaled to it.
            time: seconds from the start of the film that the frames come from, later than the last one's.

        Raises:
            InputError: the file cannot be written.
        """
        import av

        width, height = image.width // 2 * 2, image.height // 2 * 2
        try:
            if self._video is None:
                self._begin(width, height)
            size = self._video.width, self._video.height
            image = image.crop((0, 0, *size)) if (width, height) == size else image.resize(size)
            colors = "ITU709" if is_hd(*size) else "ITU601"
            frame = av.VideoFrame.from_image(image).reformat(format="yuv420p", dst_colorspace=colors)
            start = self._film.start if self._film else 0.0
            # Two frames of one time would be refused.
            self._last = frame.pts = max(self._last + 1, round((time - start) / TICK))
            frame.time_base = TICK
            self._container.mux(self._video.encode(frame))
            self._pass_sound()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._failed(error) from error

    def _begin(self, width: int, height: int) -> None:
        rate = Fraction(self._rate).limit_denominator(1001)
        self._video = self._container.add_stream("h264", rate=rate, options=dict(OPTIONS))
        self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
        codec = self._video.codec_context
        codec.time_base = TICK
        codec.colorspace, codec.color_range = BT709 if is_hd(width, height) else BT601, 1  # 16 to 235
        if is_hd(width, height):
            codec.color_primaries = codec.color_trc = BT709
        source = self._film.sound if self._film else None
        if source is None:
            return
        if source.codec_context.name.removesuffix("float") in COPIED_INTO.get(self.path.suffix.lower(), COPIED):
            self._sound = _Copied(self._container, source)
        else:
            self._sound = _Encoded(self._container, source)

    def _pass_sound(self) -> None:
        """Write what has been read of the sound."""
        film = self._film
        while film is not None and film.packets:
            packet = film.packets.popleft()
            if self._sound is not None and packet.pts is not None:
                self._sound.write(packet, film.origin + film.start)

    def _finish(self) -> None:
        if self._video is None:
            raise InputError(f"{self.path} cannot be written: there is no frame to write")
        self._pass_sound()
        self._container.mux(self._video.encode(None))
        if self._sound is not None:
            self._sound.finish()

    def _failed(self, error: BaseException) -> InputError:
        return InputError(f"{self.path} cannot be written: {getattr(error, 'strerror', None) or error}")


class _Copied:
    """Sound whose packets are written as they are."""

    def __init__(self, container: Any, source: "av.AudioStream") -> None:
        self._container = container
        self._stream = container.add_stream_from_template(source)
        self._last: int | None = None

    def write(self, packet: "av.Packet", origin: float) -> None:
        """Write a packet, `origin` seconds earlier; leave it out where it overlaps the last one."""
        assert packet.time_base is not None
        if self._last is not None and packet.dts is not None and packet.dts <= self._last:
            return
        self._last = packet.dts
        shift = round(origin / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts - shift
        packet.dts = None if packet.dts is None else packet.dts - shift
        packet.stream = self._stream
        self._container.mux(packet)

    def finish(self) -> None:
        """Do nothing: every packet is written."""


class _Encoded:
    """Sound that is decoded and encoded as AAC. What cannot be decoded is left out."""

    def __init__(self, container: Any, source: "av.AudioStream") -> None:
        self._container = container
        rate = source.codec_context.sample_rate
        # AAC's rates end at 96 kHz; beyond two channels, players differ in their order.
        self._stream = container.add_stream("aac", rate=rate if rate in (22_050, 32_000, 44_100, 48_000) else 48_000)
        self._stream.layout = "mono" if source.codec_context.channels == 1 else "stereo"

    def write(self, packet: "av.Packet", origin: float) -> None:
        """Decode and encode a packet, `origin` seconds earlier."""
        import av

        try:
            frames = packet.decode()
        except (av.error.FFmpegError, ValueError):
            return
        for frame in frames:
            if frame.pts is not None and frame.time_base is not None:
                frame.pts -= round(origin / frame.time_base)
            self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Write what the encoder still holds."""
        self._container.mux(self._stream.encode(None))


__all__ = ["SUFFIXES", "FilmWriter"]
