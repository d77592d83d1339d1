"""The video tab: what is taken and refused, and the result in Chromium, which plays with its sound and seeks."""

import json
import re
from pathlib import Path

import pytest
from films import head, marked, scene, write_film, write_sound
from PIL import Image
from rmn_space import safety, video
from rmn_space.video import FilmInput, Upload, html_of
from space_helpers import NEEDS_CHROMIUM

from rmn_hub.video.frames import Film


@pytest.fixture(scope="module")
def service(tiny_checkpoint):
    from rmn_space.service import Service

    return Service(str(tiny_checkpoint))


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    face = head()
    frames = [scene((face, (20 + 2 * number, 50))) for number in range(40)]
    return write_film(tmp_path_factory.mktemp("film") / "my film.mp4", frames, sound="aac")


def test_a_film_becomes_a_player_a_timeline_and_a_table(service, film):
    seconds = []
    html = html_of(service, Upload("my <film>.mp4", film), lambda done, total: seconds.append((done, total)))
    assert html.count("data:video/mp4;base64,") == 2
    assert html.count("data:image/png;base64,") == 2
    assert "my &lt;film&gt;-expressions.csv" in html
    assert re.findall(r'<th scope="row">(\d+)', html) == ["1"]
    assert len(seconds) == 40
    assert seconds[-1] == (pytest.approx(1.56), pytest.approx(1.6))
    assert str(film.parent) not in html


@pytest.mark.parametrize("kind", ["sound", "text", "empty", "gone", "large"])
def test_what_cannot_be_used_gets_its_sentence(service, tmp_path, kind):
    path = tmp_path / "stored.m4a"
    problem = None
    if kind == "sound":
        write_sound(path)
    elif kind == "text":
        path.write_text("nothing to see " * 100)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind in ("gone", "large"):
        problem = {"gone": safety.GONE, "large": safety.TOO_LARGE}[kind]
    html = html_of(service, Upload("film.mp4", None if problem else path, problem), lambda *_: None)
    assert 'role="alert"' in html
    assert (problem or "film.mp4") in html
    assert str(tmp_path) not in html


def test_a_film_without_faces_and_a_large_one(service, tmp_path):
    path = write_film(tmp_path / "film.mp4", [marked(number, (1280, 720)) for number in range(4)])
    html = html_of(service, Upload("film.mp4", path), lambda *_: None)
    assert "no face" in html
    assert "<tbody>" not in html


def test_a_film_that_takes_too_long_is_read_in_part(service, film, monkeypatch):
    monkeypatch.setattr(video, "FILM_SECONDS", -1)
    seconds = []
    html = html_of(service, Upload("film.mp4", film), lambda done, _: seconds.append(done))
    assert len(seconds) == 1
    assert "only its first" in html
    assert html.count("data:video/mp4;base64,") == 2


def test_a_recording_without_a_length_is_told_to_be_cut(service, tmp_path, monkeypatch):
    path = write_film(tmp_path / "film.mkv", [marked(number, (320, 240)) for number in range(40)])

    def without_length(*given, **named):
        opened = Film(*given, **named)
        opened.whole = opened.duration = None
        return opened

    monkeypatch.setattr(video, "Film", without_length)
    for end, told in ((1, True), (2, False)):
        monkeypatch.setattr(video, "MAX_SECONDS", end)
        html = html_of(service, Upload("film.mkv", path), lambda *_: None)
        assert (f"Only the first {end} seconds" in html) is told


def test_frames_beyond_4k_are_refused(service, tmp_path):
    path = write_film(tmp_path / "film.mp4", [Image.new("RGB", (4096, 3000))])
    html = html_of(service, Upload("film.mp4", path), lambda *_: None)
    assert "4096 x 3000 pixels" in html


def test_only_uploads_are_read(film):
    from gradio.data_classes import FileData

    upload = FilmInput().preprocess(FileData(path=str(film)))
    assert upload.path is None
    assert upload.problem == safety.NOT_UPLOADED
    assert FilmInput().preprocess(None) is None


@NEEDS_CHROMIUM
def test_the_result_plays_with_its_sound_and_the_timeline_seeks(film, visit, server):
    visit.get_by_role("tab", name="Video").click()
    visit.set_input_files("#film input[type=file]", str(film))
    visit.wait_for_selector(".rmn-film video")
    assert visit.locator("#film-result ~ [role=status], #film-result [role=status]").first.text_content() == (
        "Your film with 1 face is ready."
    )
    visit.wait_for_function("document.querySelector('.rmn-film video').readyState >= 3")
    state = visit.evaluate(
        "() => { const v = document.querySelector('.rmn-film video'); return [v.duration, v.videoWidth, v.error]; }"
    )
    assert state == [pytest.approx(1.6, abs=0.1), 320, None]
    visit.evaluate("() => { const v = document.querySelector('.rmn-film video'); v.muted = false; return v.play(); }")
    visit.wait_for_function("document.querySelector('.rmn-film video').webkitAudioDecodedByteCount > 0")
    visit.evaluate("document.querySelector('.rmn-film video').pause()")
    box = visit.locator(".rmn-strip").bounding_box()
    # In the middle between the beginning and the end of the time.
    middle = {"x": box["width"] * (0.16 + 0.97) / 2, "y": box["height"] / 2}
    visit.locator(".rmn-strip").click(position=middle)
    visit.wait_for_function("Math.abs(document.querySelector('.rmn-film video').currentTime - 0.8) < 0.1")
    # The mark follows once the film has been sought, which takes a moment more.
    visit.wait_for_function("Math.abs(parseFloat(document.querySelector('.rmn-strip i').style.left) - 56.5) < 4")
    with visit.expect_download() as download:
        visit.get_by_role("link", name="Table").click()
    assert download.value.path().read_text().startswith("source,frame,time,track")
    api = server.upload(film)
    data = {"path": api, "meta": {"_type": "gradio.FileData"}, "orig_name": film.name}
    status, text = server.post("/gradio_api/call/video", {"data": [data]})
    assert status == 200, text
    _, events = server.get(f"/gradio_api/call/video/{json.loads(text)['event_id']}")
    (answer,) = json.loads(events.strip().splitlines()[-1].partition(": ")[2])
    assert answer["source"] == film.name
    assert [track["track"] for track in answer["tracks"]] == [1]
    assert len(answer["frames"]) == 20
    # Only the uploads are there, and they are swept.
    assert {Path(file).suffix for file in server.files()} <= {".mp4"}


@NEEDS_CHROMIUM
def test_the_example_film_shows_its_people(visit):
    visit.get_by_role("tab", name="Video").click()
    visit.get_by_role("button", name="Example film").click()
    visit.wait_for_selector(".rmn-film video", timeout=240_000)  # nine seconds of film on a busy core
    texts = visit.locator(".rmn-tracks tbody tr").all_inner_texts()
    assert len(texts) == 4  # two people, then one, then the other
    assert sum("happy" in text for text in texts) == 2


def test_the_shown_film_is_small_enough(service, tmp_path):
    image = Image.new("RGB", (1920, 1080), (90, 90, 90))
    path = write_film(tmp_path / "film.mp4", [image] * 3)
    html = html_of(service, Upload("film.mp4", path), lambda *_: None)
    assert len(html) < 500_000
