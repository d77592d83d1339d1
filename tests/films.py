"""Small films for tests, made by PyAV: what the frames show, when, and with which sound."""

import contextlib
import socket
import struct
import threading
from fractions import Fraction

import av
import numpy as np
from PIL import Image
from space_helpers import EXAMPLES

from rmn_hub.results import Face

RATE = 25
SOUND_RATE = 44_100
SIZE = (320, 240)
SQUARES_SIZE = (640, 480)


def head(name="astronaut", side=130):
    """The head of an example, which the detector finds."""
    box = {"astronaut": (100, 0, 360, 260), "officer": (150, 60, 450, 360)}[name]
    return Image.open(EXAMPLES / f"{name}.jpg").convert("RGB").crop(box).resize((side, side))


def scene(*heads, shade=90, size=SIZE):
    """A frame with heads at `(left, top)`."""
    frame = Image.new("RGB", size, (shade, shade, shade))
    for image, place in heads:
        frame.paste(image, place)
    return frame


def marked(number, size=SIZE):
    """A frame of a grey that tells its number, with a red corner at the upper left."""
    frame = Image.new("RGB", size, (20 + 4 * (number % 50),) * 3)
    frame.paste((255, 0, 0), (0, 0, size[0] // 4, size[1] // 4))
    return frame


class SquareDetector:
    """Finds the bright squares of a frame: one per shade, so that two may overlap."""

    def __init__(self):
        self.sizes = []

    def detect(self, images):
        self.sizes.append([image.size for image in images])
        found = []
        for image in images:
            pixels = np.asarray(image.convert("L"))
            faces = []
            for shade in (120, 250):
                rows, columns = np.nonzero(abs(pixels.astype(int) - shade) < 25)
                # As a real detector, it does not see a sliver at the edge.
                if len(rows) > 300:
                    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                    faces.append(Face(tuple(float(value) for value in box), score=1.0))
            found.append(faces)
        return found

    @property
    def whole_frames(self):
        return sum(sizes == [SQUARES_SIZE] for sizes in self.sizes)


def squares(*places):
    """A dark frame with `(left, top, size, shade)` squares."""
    pixels = np.zeros((*SQUARES_SIZE[::-1], 3), np.uint8)
    for left, top, size, shade in places:
        pixels[max(0, top) : top + size, max(0, left) : left + size] = shade
    return Image.fromarray(pixels)


def write_film(path, frames, times=None, codec="libx264", pixels="yuv420p", sound=None, options=None, aspect=None):
    """
    A film of PIL images. `times` in seconds make the frame rate variable; `sound` names the codec of a tone of 440 Hz.
    """
    frames = list(frames)
    movflags = {"movflags": "faststart"} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", container_options=movflags) as container:
        video = container.add_stream(codec, rate=RATE, options=options or {})
        video.width, video.height, video.pix_fmt = *frames[0].size, pixels
        if aspect:
            video.codec_context.sample_aspect_ratio = aspect
        if times:
            video.codec_context.time_base = Fraction(1, 1000)
        tone = container.add_stream(sound, rate=SOUND_RATE, layout="mono") if sound else None
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_image(image)
            if times:
                frame.pts, frame.time_base = round(1000 * times[number]), Fraction(1, 1000)
            container.mux(video.encode(frame))
            if tone:
                container.mux(tone.encode(beep(number)))
        container.mux(video.encode(None))
        if tone:
            container.mux(tone.encode(None))
    return path


def beep(number):
    """The tone of one frame."""
    count = SOUND_RATE // RATE
    wave = 8000 * np.sin(2 * np.pi * 440 / SOUND_RATE * (np.arange(count) + number * count))
    frame = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, number * count, Fraction(1, SOUND_RATE)
    return frame


def write_sound(path, codec="aac"):
    with av.open(str(path), "w") as container:
        tone = container.add_stream(codec, rate=SOUND_RATE, layout="mono")
        for number in range(10):
            container.mux(tone.encode(beep(number)))
        container.mux(tone.encode(None))
    return path


def turn(path, a, b, c, d):
    """Writes another display matrix into an MP4 file: pixels go from (x, y) to (a x + c y, b x + d y)."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    data[place : place + 36] = struct.pack(">9i", *(value << 16 for value in (a, b, 0, c, d, 0)), 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def trim(path, start, seconds):
    """Has the edit list of an MP4 file of one stream show a part only, as phones do that trim a film."""
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") + 12
    _, begins = struct.unpack_from(">Ii", data, place)
    whole_unit, unit = (struct.unpack_from(">I", data, data.index(name) + 16)[0] for name in (b"mvhd", b"mdhd"))
    struct.pack_into(">Ii", data, place, round(seconds * whole_unit), begins + round(start * unit))
    path.write_bytes(data)
    return path


def heard(path):
    """The codec, seconds and main frequency of a film's sound, or `None`."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        wave = np.concatenate([frame.to_ndarray()[0].astype(float) for frame in container.decode(stream)])
        spectrum = np.abs(np.fft.rfft(wave))
        rate = stream.codec_context.sample_rate
        return stream.codec_context.name, len(wave) / rate, spectrum.argmax() * rate / len(wave)


@contextlib.contextmanager
def as_camera(stream):
    """The RTSP address of a camera that sends an MPEG transport stream, in RTP packets within the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_play, args=(server, stream))
        thread.start()
        try:
            yield f"rtsp://127.0.0.1:{server.getsockname()[1]}/camera"
        finally:
            with contextlib.suppress(OSError):  # it waits for a client that never came
                socket.create_connection(server.getsockname()).close()
            thread.join()


def _play(server, stream):
    """Answers one client's requests (RFC 2326), then sends the stream."""
    description = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"
    with server.accept()[0] as client, client.makefile("rb") as requests:
        while line := requests.readline().decode():
            headers = dict(header.split(": ", 1) for header in iter(lambda: requests.readline().decode().strip(), ""))
            status, more, body = "200 OK", "Session: 1\r\n", ""
            if line.startswith("DESCRIBE"):
                more, body = more + "Content-Type: application/sdp\r\n", description
            elif line.startswith("SETUP"):
                inside = "interleaved" in headers["Transport"]
                status = "200 OK" if inside else "461 Unsupported Transport"
                more += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n" if inside else ""
            head = f"RTSP/1.0 {status}\r\nCSeq: {headers['CSeq']}\r\n{more}Content-Length: {len(body)}\r\n\r\n"
            client.sendall((head + body).encode())
            if line.startswith("PLAY"):
                for number, start in enumerate(range(0, len(stream), 7 * 188)):
                    packet = struct.pack(">BBHII", 0x80, 33, number, 0, 0) + stream[start : start + 7 * 188]
                    client.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
                return
