"""Films that are no files: an address and a camera in the network; and a film of many pixels."""

import pytest
from file_server import serving
from films import as_camera, head, marked, scene, write_film

from rmn_hub import InputError
from rmn_hub.video import recognize
from rmn_hub.video.frames import Film
from rmn_hub.video.writing import FilmWriter


def test_a_film_at_an_address(tmp_path):
    path = write_film(tmp_path / "film.mp4", map(marked, range(50)), sound="aac")
    with serving(tmp_path) as address:
        with Film(f"{address}/film.mp4", start=0.4, end=1.2, sound=True) as film:
            assert (film.name, film.rate, film.duration) == (f"{address}/film.mp4", 25, pytest.approx(0.8))
            with FilmWriter(tmp_path / "part.mp4", film) as writer:
                numbers = []
                for frame in film:
                    numbers.append(frame.index)
                    writer.write(frame.image, frame.time)
        assert numbers == list(range(10, 30))
        with pytest.raises(InputError, match="nothing"):
            Film(f"{address}/nothing.mp4")
    with Film(tmp_path / "part.mp4") as part, Film(path) as whole:
        assert len(list(part)) == 20
        assert part.sound is whole.sound is None  # which was not asked for


def test_a_camera_in_the_network(tmp_path, recognizer):
    face = head()
    frames = [scene((face, (20 + 5 * number, 50))) for number in range(24)]
    path = write_film(tmp_path / "film.ts", frames, options={"g": "5", "bf": "0"})
    with as_camera(path.read_bytes()) as address:
        results = list(recognize(address, recognizer))
    # The last one ends with the connection and may be lost.
    assert [result.index for result in results][:23] == list(range(23))
    assert [result.time for result in results] == pytest.approx([0.04 * result.index for result in results])
    assert {face.track_id for result in results for face in result} == {1}
    assert {result.source for result in results} == {address}


def test_4k_frames_are_read_and_followed(tmp_path, recognizer):
    face = head(side=1200)
    frames = [scene((face, (200 + 50 * number, 400)), size=(3840, 2160)) for number in range(6)]
    path = write_film(tmp_path / "film.mp4", frames, options={"preset": "ultrafast"})
    results = list(recognize(path, recognizer))
    assert [(result.width, result.height, len(result)) for result in results] == [(3840, 2160, 1)] * 6
    for number, result in enumerate(results):
        x0, y0, x1, y1 = result[0].box
        assert 200 + 50 * number < (x0 + x1) / 2 < 1400 + 50 * number
        assert 400 < (y0 + y1) / 2 < 1600
    assert {face.track_id for result in results for face in result} == {1}
