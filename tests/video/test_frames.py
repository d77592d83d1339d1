"""Films in and out: times, numbers, rotation, sound, and what is damaged."""

from fractions import Fraction
from itertools import groupby

import av
import numpy as np
import pytest
from films import RATE, SIZE, heard, marked, trim, turn, write_film, write_sound
from PIL import Image

from rmn_hub import InputError
from rmn_hub.video.frames import Film
from rmn_hub.video.sources import find_films
from rmn_hub.video.writing import FilmWriter


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Two seconds with sound."""
    return write_film(tmp_path_factory.mktemp("film") / "film.mp4", map(marked, range(50)), sound="aac")


def read(path, **settings):
    with Film(path, **settings) as opened:
        frames = list(opened)
    return frames, opened


def shade(frame):
    """The number of a frame of `marked`, as its grey tells."""
    return round((np.asarray(frame.image, float)[-20:, -20:].mean() - 20) / 4)


def red(frame):
    """The box of the red corner."""
    pixels = np.asarray(frame.image).astype(int)
    rows, columns = np.nonzero(pixels[..., 0] - pixels[..., 1] > 100)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_frames_have_their_numbers_times_and_contents(film):
    frames, opened = read(film)
    assert [frame.index for frame in frames] == [shade(frame) for frame in frames] == list(range(50))
    assert [frame.time for frame in frames] == pytest.approx([number / RATE for number in range(50)])
    assert frames[0].image.size == SIZE
    assert (opened.rate, opened.duration, opened.message) == (RATE, 2.0, None)


@pytest.mark.parametrize(("start", "end", "numbers"), [(1, 1.2, range(25, 30)), (1.41, None, range(36, 50))])
def test_start_and_end_leave_out_frames_and_keep_their_numbers(film, start, end, numbers):
    frames, _ = read(film, start=start, end=end)
    assert [frame.index for frame in frames] == [shade(frame) for frame in frames] == list(numbers)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("film.mp4", "libx264", {"g": "10"}),
        ("open.mp4", "libx265", {"x265-params": "keyint=10:min-keyint=10:open-gop=1:log-level=none"}),
        ("film.ts", "mpeg2video", {"g": "12", "bf": "2"}),
        ("film.avi", "mpeg4", {"g": "12", "bf": "2"}),
        ("film.webm", "libvpx", {"g": "20", "auto-alt-ref": "1", "lag-in-frames": "16"}),
        ("trimmed.mp4", "libx264", {"g": "10"}),
        ("cut.ts", "mpeg2video", {"g": "12", "bf": "2"}),
    ],
)
def test_frames_are_the_same_wherever_reading_starts(tmp_path, name, codec, options):
    path = write_film(tmp_path / name, (marked(number, (96, 72)) for number in range(40)), codec=codec, options=options)
    if name == "trimmed.mp4":
        trim(path, 7 / RATE, 1.0)
    elif name == "cut.ts":  # a recording that begins at any frame
        data = path.read_bytes()
        path.write_bytes(data[len(data) // 3 // 188 * 188 :])

    def seen(**settings):
        return [(frame.index, frame.time, shade(frame)) for frame in read(path, **settings)[0]]

    whole = seen()
    assert len(whole) >= 25
    assert [index for index, _, _ in whole] == list(range(len(whole)))
    for number, (_, time, _) in enumerate(whole):
        assert seen(start=time) == whole[number:]
    for start in (whole[9][1] + 0.01, whole[-3][1] + 0.01):
        assert seen(start=start) == [frame for frame in whole if frame[1] >= start]


def test_variable_rates_keep_their_times(tmp_path):
    times = [0, 0.04, 0.1, 0.4, 0.42, 1]
    path = write_film(tmp_path / "film.mp4", map(marked, range(6)), times=times)
    frames, _ = read(path)
    assert [frame.time for frame in frames] == pytest.approx(times, abs=1e-3)
    with Film(path) as opened, FilmWriter(tmp_path / "copy.mp4", opened) as writer:
        for frame in opened:
            writer.write(frame.image, frame.time)
    frames, copy = read(tmp_path / "copy.mp4")
    assert [frame.time for frame in frames] == pytest.approx(times, abs=1e-3)
    assert copy.duration >= 1


@pytest.mark.parametrize(
    ("matrix", "size", "box"),
    [
        ((0, 1, -1, 0), (240, 320), (180, 0, 240, 80)),  # a phone held upright: the upper left goes to the upper right
        ((-1, 0, 0, -1), (320, 240), (240, 180, 320, 240)),
        ((0, -1, 1, 0), (240, 320), (0, 240, 60, 320)),
        ((-1, 0, 0, 1), (320, 240), (240, 0, 320, 60)),  # the mirrored image of a front camera
    ],
)
def test_frames_are_upright(tmp_path, matrix, size, box):
    frames, _ = read(turn(write_film(tmp_path / "film.mp4", map(marked, range(3))), *matrix))
    assert frames[1].image.size == size
    assert red(frames[1]) == pytest.approx(box, abs=2)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("film.gif", {"codec": "gif", "pixels": "rgb8"}),
        ("film.mov", {"pixels": "yuv420p10le"}),
        ("film.mkv", {"codec": "ffv1", "pixels": "yuv444p10le"}),
        ("film.ts", {"codec": "mpeg2video", "options": {"flags": "+ildct+ilme"}}),
        ("film.avi", {"codec": "mjpeg", "pixels": "yuvj420p"}),
        ("film.webm", {"codec": "libvpx"}),
    ],
)
def test_common_kinds_of_films(tmp_path, name, settings):
    frames, opened = read(write_film(tmp_path / name, map(marked, range(8)), **settings))
    assert len(frames) == 8
    assert [frame.time for frame in frames] == pytest.approx([number / RATE for number in range(8)], abs=0.011)
    assert np.ptp([shade(frame) - frame.index for frame in frames]) <= 1
    assert red(frames[-1]) == pytest.approx((0, 0, 80, 60), abs=4)
    assert opened.message is None


def test_interlaced_frames_are_whole_and_pixels_square(tmp_path):
    options = {"flags": "+ildct+ilme", "x264-params": "tff=1"}
    frames, _ = read(write_film(tmp_path / "film.mp4", map(marked, range(8)), options=options))
    assert [frame.index for frame in frames] == list(range(8))
    assert [shade(frame) for frame in frames] == pytest.approx(range(8), abs=1)
    frames, _ = read(write_film(tmp_path / "wide.mkv", map(marked, range(3)), aspect=Fraction(4, 3)))
    assert frames[0].image.size == (427, 240)


@pytest.mark.parametrize("aspect", [400, 65535, Fraction(1, 100)])
def test_an_aspect_that_no_camera_has_is_not_believed(tmp_path, aspect):
    frames, _ = read(write_film(tmp_path / "wide.mkv", map(marked, range(2)), aspect=Fraction(aspect)))
    assert [frame.image.size for frame in frames] == [(320, 240)] * 2


def test_the_limit_is_that_of_the_pixels_that_are_seen(tmp_path):
    path = write_film(tmp_path / "wide.mkv", map(marked, range(2)), aspect=Fraction(2))
    with pytest.raises(InputError, match="640 x 240"):
        Film(path, max_pixels=640 * 240 - 1)
    with Film(path, max_pixels=640 * 240) as film:
        assert next(iter(film)).image.size == (640, 240)


def test_the_limit_holds_for_every_frame(tmp_path):
    for size in ((160, 128), (320, 240)):
        write_film(tmp_path / f"{size[0]}.ts", [marked(7, size)] * 8, codec="mpeg2video")
    (tmp_path / "film.ts").write_bytes(b"".join((tmp_path / f"{width}.ts").read_bytes() for width in (160, 320)))
    with Film(tmp_path / "film.ts", max_pixels=160 * 128) as film, pytest.raises(InputError, match="320 x 240"):
        list(film)


@pytest.mark.parametrize("options", [{"flags": "+ildct+ilme", "bf": "0"}, {"bf": "0"}])
def test_a_recording_may_change_its_size(tmp_path, options):
    sizes = [(320, 240), (160, 128)]
    for size in sizes:
        write_film(tmp_path / f"{size[0]}.ts", [marked(7, size)] * 8, codec="mpeg2video", options=options)
    path = tmp_path / "film.ts"
    path.write_bytes(b"".join((tmp_path / f"{size[0]}.ts").read_bytes() for size in sizes))
    with Film(path) as opened, FilmWriter(tmp_path / "copy.mp4", opened) as writer:
        frames = list(opened)
        for frame in frames:
            writer.write(frame.image, frame.time)
    # FFmpeg's decoder loses the frame that it holds back.
    assert len(frames) >= 15
    assert [size for size, _ in groupby(frame.image.size for frame in frames)] == sizes
    for frame in read(tmp_path / "copy.mp4")[0]:
        assert red(frame) == pytest.approx((0, 0, 80, 60), abs=4)


def test_one_frame_is_a_film(tmp_path):
    frames, _ = read(write_film(tmp_path / "film.mp4", [marked(7)]))
    assert [(frame.index, frame.time) for frame in frames] == [(0, 0.0)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_of_a_truncated_film_the_frames_so_far_are_read_and_it_is_noted(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (100, 120, 160, 3), dtype=np.uint8)
    path = write_film(tmp_path / f"film{suffix}", map(Image.fromarray, noise))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames, opened = read(path)
    assert 10 < len(frames) < 90
    assert "ends early" in opened.message


@pytest.mark.parametrize("sound", ["aac", "ac3"])
def test_the_times_of_joined_recordings_go_on(tmp_path, sound):
    path = write_film(tmp_path / "film.ts", map(marked, range(50)), sound=sound, options={"g": "10"})
    path.write_bytes(3 * path.read_bytes())
    with Film(path, sound=True) as opened, FilmWriter(tmp_path / "copy.mp4", opened) as writer:
        frames = []
        for frame in opened:
            writer.write(frame.image, frame.time)
            frames.append(frame)
    assert [shade(frame) for frame in frames] == 3 * list(range(50))
    assert "3 recordings" in opened.message
    times = [frame.time for frame in frames]
    assert np.diff(times) == pytest.approx([1 / RATE] * 149)
    copied, _ = read(tmp_path / "copy.mp4")
    assert [frame.time + frames[0].time for frame in copied] == pytest.approx(times, abs=0.03)
    assert heard(tmp_path / "copy.mp4")[1:] == pytest.approx((6, 440), abs=0.5)
    part, _ = read(path, start=times[70])
    assert [(frame.index, frame.time, shade(frame)) for frame in part] == [
        (frame.index, frame.time, shade(frame)) for frame in frames[70:]
    ]


@pytest.mark.parametrize(("start", "seconds"), [(15 / RATE, 35 / RATE), (0, 1.0), (0.4, 0.8)])
def test_a_trimmed_film_is_not_damaged(tmp_path, start, seconds):
    path = trim(write_film(tmp_path / "film.mp4", map(marked, range(50)), options={"g": "10"}), start, seconds)
    frames, opened = read(path)
    first = round(start * RATE)
    assert [shade(frame) for frame in frames] == list(range(first, first + round(seconds * RATE)))
    assert opened.message is None


def test_damaged_frames_are_left_out(tmp_path):
    path = write_film(tmp_path / "film.mkv", map(marked, range(100)), options={"g": "10"})
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(len(data) // 4, len(data) - 300, 60):
        data[place] = rng.integers(256)
    path.write_bytes(data)
    frames, _ = read(path)
    assert 10 < len(frames) <= 100


@pytest.mark.parametrize(
    "kind", ["sound", "empty", "missing", "folder", "text", "image", "head", "codec", "playlist", "type"]
)
def test_what_is_no_film_is_refused(tmp_path, film, kind):
    path = tmp_path / "film.mp4"
    if kind == "sound":
        path = write_sound(tmp_path / "film.m4a")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path = tmp_path
    elif kind == "text":
        path.write_text("nothing to see\n" * 100)
    elif kind == "image":
        marked(1).save(path, "PNG")
    elif kind == "head":
        path.write_bytes(film.read_bytes()[:300])
    elif kind == "codec":
        path.write_bytes(film.read_bytes().replace(b"avc1", b"zzz1"))
    elif kind == "playlist":  # which would have other files, or addresses, read
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{film}\n#EXT-X-ENDLIST\n")
    elif kind == "type":
        path = 1.5
    with pytest.raises(InputError, match=r"1\.5" if kind == "type" else str(path)):
        read(path)


def test_what_is_not_there_is_refused(film):
    for source in (99, "99", "http://127.0.0.1:9/film.mp4"):
        with pytest.raises(InputError, match=r"99|127"):
            read(source)
    for settings in ({"start": -1}, {"start": 1, "end": 1}, {"start": 5}):
        with pytest.raises(InputError, match=list(settings)[-1]):
            read(film, **settings)


def test_films_of_a_folder(tmp_path, film):
    (tmp_path / "more" / ".hidden").mkdir(parents=True)
    for name in ("b.MP4", "more/a.mkv", "notes.txt", "more/.hidden/c.mp4", ".d.mp4"):
        (tmp_path / name).write_bytes(film.read_bytes())
    assert find_films(tmp_path) == [tmp_path / "b.MP4", tmp_path / "more" / "a.mkv"]
    assert find_films(tmp_path, skip=[tmp_path / "." / "more", tmp_path]) == [tmp_path / "b.MP4"]
    assert find_films(film) == [film]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        find_films(tmp_path / "empty")


@pytest.mark.parametrize(
    ("sound", "source", "target", "kept"),
    [
        ("aac", "film.mp4", "copy.mp4", "aac"),
        ("libmp3lame", "film.mkv", "copy.mp4", "mp3float"),
        ("pcm_s16le", "film.mkv", "copy.mp4", "aac"),
        ("ac3", "film.ts", "copy.mkv", "aac"),
        ("flac", "film.mkv", "copy.mp4", "flac"),
        ("flac", "film.mkv", "copy.mov", "aac"),
        ("flac", "film.mkv", "copy.m4v", "aac"),
        ("libmp3lame", "film.mkv", "copy.mov", "mp3float"),
        ("libmp3lame", "film.mkv", "copy.m4v", "aac"),
    ],
)
def test_the_sound_is_kept(tmp_path, sound, source, target, kept):
    path = write_film(tmp_path / source, map(marked, range(50)), sound=sound)
    with Film(path, sound=True) as opened, FilmWriter(tmp_path / target, opened) as writer:
        for frame in opened:
            writer.write(frame.image, frame.time)
    codec, seconds, pitch = heard(tmp_path / target)
    assert codec in (kept, kept.removesuffix("float"))
    assert seconds == pytest.approx(2, abs=0.1)
    assert pitch == pytest.approx(440, abs=2)
    frames, _ = read(tmp_path / target)
    assert [shade(frame) for frame in frames] == pytest.approx(range(50), abs=1)


def test_sound_of_an_unknown_codec_is_left_out(tmp_path):
    path = write_film(tmp_path / "film.mkv", map(marked, range(5)), sound="aac")
    path.write_bytes(path.read_bytes().replace(b"A_AAC", b"A_ZZZ"))
    with Film(path, sound=True) as opened, FilmWriter(tmp_path / "copy.mp4", opened) as writer:
        for frame in opened:
            writer.write(frame.image, frame.time)
    assert len(read(tmp_path / "copy.mp4")[0]) == 5


def test_a_part_of_a_film_begins_at_its_start_with_its_part_of_the_sound(tmp_path, film):
    with Film(film, start=0.6, end=1.4, sound=True) as opened, FilmWriter(tmp_path / "part.mp4", opened) as writer:
        for frame in opened:
            writer.write(frame.image, frame.time)
    frames, _ = read(tmp_path / "part.mp4")
    assert [shade(frame) for frame in frames] == pytest.approx(range(15, 35), abs=1)
    assert frames[0].time == pytest.approx(0, abs=0.03)
    assert heard(tmp_path / "part.mp4")[1] == pytest.approx(0.8, abs=0.06)


def test_sound_before_the_start_is_not_held(film):
    with Film(film, start=1.8, sound=True) as opened:
        next(iter(opened))
        assert opened.packets
        assert all(packet.pts * packet.time_base >= 1.8 for packet in opened.packets)


def test_odd_sizes_lose_a_row_and_a_column(tmp_path):
    with FilmWriter(tmp_path / "film.mp4") as writer:
        writer.write(marked(1, (101, 75)), 0.0)
    frames, _ = read(tmp_path / "film.mp4")
    assert frames[0].image.size == (100, 74)


@pytest.mark.parametrize(("size", "tag", "matrix"), [((1280, 720), 1, "ITU709"), ((320, 240), 6, "ITU601")])
def test_colours_are_those_that_players_show(tmp_path, size, tag, matrix):
    color = (200, 60, 40)
    image = Image.new("RGB", size, color)
    with FilmWriter(tmp_path / "film.mp4") as writer:
        writer.write(image, 0.0)
    with av.open(str(tmp_path / "film.mp4")) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_range) == (tag, 1)
    assert frame.to_image(src_colorspace=matrix).getpixel((9, 9)) == pytest.approx(color, abs=3)
    # A film that states nothing.
    with av.open(str(tmp_path / "plain.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        frame = av.VideoFrame.from_image(image).reformat(format="yuv420p", dst_colorspace=matrix)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for name in ("film.mp4", "plain.mp4"):
        frames, _ = read(tmp_path / name)
        assert frames[0].image.getpixel((9, 9)) == pytest.approx(color, abs=3)


def test_a_film_appears_whole_or_not_at_all(tmp_path):
    for name in ("film.avi", "film", "nowhere/film.mp4"):
        with pytest.raises(InputError, match="film"), FilmWriter(tmp_path / name) as writer:
            writer.write(marked(1), 0.0)
    path = tmp_path / "film.mp4"
    path.write_bytes(b"before")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            _break_off(path, error)
    with pytest.raises(InputError, match="no frame"), FilmWriter(path):
        pass
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]


def _break_off(path, error):
    with FilmWriter(path) as writer:
        writer.write(marked(1), 0.0)
        raise error
