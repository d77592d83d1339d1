"""The page's parts, without a server: what comes in, what is shown, limits, sessions, folders."""

import ast
import asyncio
import base64
import io
import itertools
import json
import os
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from PIL import Image
from space_helpers import EXAMPLES, SPACE, as_data_url, jpeg_url

from rmn_hub import EXPRESSIONS, FaceExpression
from rmn_hub.evaluation.measured import Faithful, Measured, Robust, SetScores
from rmn_hub.results import ImageResult
from rmn_hub.video import FrameResult
from rmn_hub.video.timeline import TrackSummary

pytest.importorskip("gradio", reason="the page is optional: install rmn-hub[demo]")

from gradio.data_classes import ImageData
from rmn_space import about, live, photo, render, safety, video
from rmn_space.folder import PrivateFolder
from rmn_space.inputs import CameraInput, FacesOutput, Photo, PhotoInput
from rmn_space.service import Service

ASTRONAUT = EXAMPLES / "astronaut.jpg"


@pytest.fixture(scope="module")
def service():
    return Service()


def a_face(probabilities=None, box=(10.0, 20.0, 30.0, 40.0), **more):
    probabilities = probabilities or dict.fromkeys(EXPRESSIONS, 1 / 7)
    best = max(probabilities, key=probabilities.get)
    return FaceExpression(
        box=box, expression=best, probability=probabilities[best], probabilities=probabilities, **more
    )


# The picture of a result


def test_percentages_sum_to_100_and_stay_within_a_tenth():
    values = dict(zip(EXPRESSIONS, (1 / 3, 1 / 3, 1 / 3 - 4e-4, 1e-4, 1e-4, 1e-4, 1e-4)))
    shares = render.percentages(values)
    assert list(shares) == list(EXPRESSIONS)
    assert round(sum(shares.values()), 6) == 100
    assert all(abs(shares[name] - 100 * values[name]) < 0.1 for name in EXPRESSIONS)


def test_a_result_names_every_face_and_escapes_what_comes_from_outside():
    face = a_face(dict(zip(EXPRESSIONS, (0.02, 0.02, 0.02, 0.9, 0.02, 0.01, 0.01))), box=(-5.0, 2.0, 30.0, 200.0))
    evil = dict(zip(("<i>angry</i>", *EXPRESSIONS[1:]), [0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]))
    faces = (face, a_face(uncertain=True, index=2), a_face(evil, index=3))
    result = ImageResult('<img src=x onerror="alert(1)">.jpg', 100, 100, faces)
    html = render.result(result, Image.new("RGB", (100, 100)), note="<b>note</b>", measured="<b>18</b>")
    for tag in ("<img src=x", "<b>note", "<i>angry", "<b>18"):
        assert tag not in html
    labels = re.findall(r'aria-label="(Face \d: [^"]*)"', html)
    assert labels == ["Face 1: happy 90%", "Face 2: angry or disgust?", "Face 3: &lt;i&gt;angry&lt;/i&gt; 40%"]
    # A box that reaches over the border ends at the border.
    assert "left:0.00%;top:2.00%;width:30.00%;height:98.00%" in html


def test_the_legend_says_what_dashes_mean_where_a_face_is_uncertain():
    for uncertain in (True, False):
        result = ImageResult("photo.jpg", 100, 100, (a_face(), a_face(uncertain=uncertain, index=2)))
        (legend,) = re.findall(r'<p class="rmn-legend">.*?</p>', render.result(result, Image.new("RGB", (100, 100))))
        assert legend.endswith("uncertain</span></p>") == uncertain


def test_a_photo_without_a_face_keeps_its_notes_and_gets_advice_that_helps(service):
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 3000), "grey").save(buffer, "PNG")
    given = Photo("a <b>.png", buffer.getvalue())
    asked = {size: photo.html_of(service, given, size, 0.0, "A note.") for size in (20, 40)}
    for size, looked_for in ((20, 30), (40, 62)):
        assert "No face found" in asked[size]
        assert f"at least {looked_for} pixels" in asked[size]
        assert "A note." in asked[size]
        assert 'data-source="a &lt;b&gt;.png"' in asked[size]
    assert ["Smallest face" in html for html in asked.values()] == [False, True]


def test_a_group_with_a_note_keeps_its_legend():
    result = ImageResult("a.jpg", 100, 100, (a_face(), a_face(index=2)))
    html = render.result(result, Image.new("RGB", (100, 100)), "A note.")
    assert "rmn-legend" in html
    assert ">A note.<" in html


def test_the_photo_to_download_is_the_shown_one_with_its_boxes(service):
    result, image = service.recognize(Photo("astronaut.jpg", ASTRONAUT.read_bytes()))
    large = image.resize((3000, 3000))
    html = render.result(result.scaled(*large.size), large)
    data = re.search(r'-expressions.jpg" href="data:image/jpeg;base64,([^"]+)', html).group(1)
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (render.DOWNLOAD_SIZE, render.DOWNLOAD_SIZE)
        x0, y0, x1, _ = (round(value * render.DOWNLOAD_SIZE / 512) for value in result[0].box)
        drawn = picture.convert("RGB").getpixel(((x0 + x1) // 2, y0))
    # On the upper edge of the face is the blue of `happy`, where the photo has skin and hair.
    assert drawn[2] > drawn[0] + 60
    text = re.search(r'-expressions.json" href="data:application/json;base64,([^"]+)', html).group(1)
    assert json.loads(base64.b64decode(text))["faces"][0]["expression"] == "happy"


# What comes in


def test_a_photo_is_handed_over_as_it_came(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / "me.jpg"
    file.write_bytes(ASTRONAUT.read_bytes())
    given = PhotoInput(render=False).preprocess(ImageData(path=str(file), orig_name="C:\\photos\\me.jpg"))
    assert (given.name, given.data, given.problem) == ("me.jpg", ASTRONAUT.read_bytes(), None)
    again = PhotoInput(render=False).preprocess(ImageData(url=as_data_url(ASTRONAUT)))
    assert (again.name, again.data) == ("photo", ASTRONAUT.read_bytes())
    assert PhotoInput(render=False).preprocess(None) is None


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        ({"path": "/etc/hostname"}, safety.NOT_UPLOADED),
        ({"path": str(ASTRONAUT)}, safety.NOT_UPLOADED),
        ({"path": "{folder}/../secret.png"}, safety.NOT_UPLOADED),
        ({"path": "{folder}/link.png"}, safety.NOT_UPLOADED),
        ({"path": "{folder}/gone.png"}, safety.GONE),
        ({"path": "{folder}/large.png"}, safety.TOO_LARGE),
        ({"path": "https://example.com/a.png"}, safety.NO_ADDRESSES),
        ({"url": "http://127.0.0.1/a.png"}, safety.NO_ADDRESSES),
        ({"url": "file:///etc/passwd"}, safety.NO_ADDRESSES),
        ({"url": "data:image/png,hello"}, safety.NOT_AN_IMAGE),
        ({"url": "data:image/png;base64,%%%"}, safety.NOT_AN_IMAGE),
        ({"url": "data:image/png;base64," + "A" * (safety.MAX_BYTES // 3 * 4 + 400)}, safety.TOO_LARGE),
    ],
)
def test_what_is_no_photo_of_the_visitor_gets_its_sentence(payload, sentence, tmp_path, monkeypatch):
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    (tmp_path / "secret.png").write_bytes(ASTRONAUT.read_bytes())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with (folder / "large.png").open("wb") as large:
        large.truncate(safety.MAX_BYTES + 1)
    payload = {name: value.replace("{folder}", str(folder)) for name, value in payload.items()}
    given = PhotoInput(render=False).preprocess(ImageData(**payload))
    assert given.problem == sentence
    assert given.data == b""


def test_camera_frames_are_small_pictures_or_nothing():
    camera = CameraInput(streaming=True, sources=["webcam"], render=False)
    frame = camera.preprocess(ImageData(url=as_data_url(ASTRONAUT)))
    assert (frame.mode, frame.size) == ("RGB", (512, 512))
    large = io.BytesIO()
    Image.open(ASTRONAUT).resize((2000, 1500)).save(large, "JPEG")
    assert max(camera.preprocess(ImageData(url=jpeg_url(large.getvalue()))).size) == 640
    png = io.BytesIO()
    Image.new("RGB", (64, 64)).save(png, "PNG")
    for junk in (b"", b"hello", ASTRONAUT.read_bytes()[:200], png.getvalue()):
        assert camera.preprocess(ImageData(url=jpeg_url(junk))) is None
    assert camera.preprocess(ImageData(path="/etc/hostname")) is None
    assert camera.preprocess(None) is None


# Limits


def test_the_rate_is_per_visitor_and_comes_back():
    rate = safety.RateLimit(burst=3, per_second=2, visitors=2)
    assert [rate.allows("anna", now=0) for _ in range(4)] == [True, True, True, False]
    assert rate.allows("bert", now=0)
    assert [rate.allows("anna", now=1) for _ in range(3)] == [True, True, False]
    # A third visitor's bucket takes the place of the one used longest ago.
    rate.allows("carl", now=1)
    assert [rate.allows("bert", now=1) for _ in range(4)] == [True, True, True, False]


def test_a_proxys_word_counts_on_a_space_only(monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert safety.visitor_of("10.0.0.1", "1.2.3.4, 10.0.0.1") == "10.0.0.1"
    monkeypatch.setenv("SPACE_ID", "somebody/rmn")
    # The proxy adds the last entry; those before it are what the visitor wrote.
    assert safety.visitor_of("10.0.0.1", "1.2.3.4, 5.6.7.8") == "5.6.7.8"
    assert safety.visitor_of("10.0.0.1", "5.6.7.8") == "5.6.7.8"


def test_who_is_too_fast_gets_a_sentence(service):
    import gradio
    from rmn_space import page

    anna, bert = (SimpleNamespace(client=SimpleNamespace(host=host), headers={}) for host in ("10.0.0.1", "10.0.0.2"))
    fns = page.build(service, safety.RateLimit(burst=1, per_second=0)).fns.values()
    show, predict = (next(fn.fn for fn in fns if fn.name == name) for name in ("show", "predict_photo"))
    given = Photo("astronaut.jpg", ASTRONAUT.read_bytes())
    assert predict(given, anna)["faces"]
    with pytest.raises(gradio.Error, match="Please wait a few seconds"):
        predict(given, anna)
    assert safety.TOO_FAST in show(given, None, photo.USUAL_FACE, 0, anna)
    assert "rmn-chart" in show(given, None, photo.USUAL_FACE, 0, bert)


def test_no_component_fetches_an_address(service):
    import gradio

    blocks = [block for block in build_page(service).blocks.values() if not isinstance(block, CameraInput)]
    assert {"slider", "image", "checkbox", "html"} <= {block.get_block_name() for block in blocks}
    for block in blocks:
        with pytest.raises(gradio.Error, match="addresses are not opened here"):
            asyncio.run(block.async_move_resource_to_block_cache("https://example.com/a.jpg"))


def test_what_nobody_thought_of_gets_a_sentence(service, monkeypatch):
    def broken(*_):
        raise RuntimeError("/a/path/of/the/server")

    monkeypatch.setattr(service, "_recognize", broken)
    given = Photo("astronaut.jpg", ASTRONAUT.read_bytes())
    html = photo.html_of(service, given, photo.USUAL_FACE, 0.0)
    assert safety.UNEXPECTED in html
    assert "/a/path" not in html


def test_a_lent_gpu_is_asked_for_where_there_is_one(monkeypatch):
    from rmn_space.service import on_gpu

    def double(value):
        return 2 * value

    monkeypatch.setitem(sys.modules, "spaces", None)
    assert on_gpu(double) is double
    asked = []
    spaces = SimpleNamespace(GPU=lambda duration: lambda function: asked.append(duration) or function)
    monkeypatch.setitem(sys.modules, "spaces", spaces)
    assert on_gpu(double)(21) == 42
    assert len(asked) == 1


def test_settings_reach_the_answer(service):
    given = Photo("collage.jpg", (EXAMPLES / "collage.jpg").read_bytes())
    everyone, _ = service.recognize(given)
    large, _ = service.recognize(given, min_face=200, min_confidence=0.99)
    assert len(everyone) == 8
    assert 0 < len(large) < 8
    assert [face.uncertain for face in large] == [face.probability < 0.99 for face in large]
    assert large[0].landmarks is not None
    html = photo.html_of(service, given, min_face=photo.USUAL_FACE, min_confidence=0.9)
    assert html.count('class="rmn-doubt"') == sum(face.probability < 0.9 for face in everyone)


def test_more_faces_than_the_limit_are_said(service, monkeypatch):
    monkeypatch.setattr("rmn_space.service.MAX_FACES", 3)
    monkeypatch.setattr(service.recognizer.detector, "max_faces", 3)
    given = Photo("c.jpg", (EXAMPLES / "collage.jpg").read_bytes())
    result, _ = service.recognize(given)
    assert len(result) == 3
    assert "3 largest faces" in result.message
    html = photo.html_of(service, given, photo.USUAL_FACE, 0.0)
    assert result.message in html
    assert html.count('class="rmn-pill') == 3


def test_cores_are_shared_among_what_runs():
    import torch
    from rmn_space.service import Cores

    before = torch.get_num_threads()
    try:
        cores = Cores()
        cores.threads = 8
        with cores.shared():
            assert torch.get_num_threads() == 8
            with cores.shared():
                assert torch.get_num_threads() == 4
        with cores.shared(between=3):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_onnxruntime_leaves_the_threads_of_torch_alone(service):
    import torch
    from rmn_space.service import Cores

    assert service.cores.uses_torch is (service.recognizer.engine.name == "torch")
    before = torch.get_num_threads()
    with Cores(uses_torch=False).shared(between=2 * before):
        assert torch.get_num_threads() == before


# Live


def test_a_visit_follows_a_face_and_lets_it_go(service):
    visit = live.Visit(service)
    head = Image.open(ASTRONAUT).crop((100, 0, 360, 260))
    places = []
    for step in range(6):
        frame = Image.new("RGB", (640, 480), (90, 90, 90))
        frame.paste(head, (60 + 40 * step, 100))
        layer, panel = visit.see(frame, attention=step == 5, now=0.1 * step)
        places.append(float(re.search(r'rmn-live-face[^"]*" style="left:([\d.]+)%', layer).group(1)))
        assert layer.count("rmn-live-face") == 1
        assert ("rmn-live-heat" in layer) == (step == 5)
        # Seven bars in their fixed order, each with the mark of its raw value.
        assert re.findall(r'<th scope="row">(\w+)', panel) == list(EXPRESSIONS)
        assert panel.count('<i style="left:') == 7
    assert all(30 / 6.4 < b - a < 50 / 6.4 for a, b in itertools.pairwise(places))
    assert visit.rate() == pytest.approx(10)
    layers = set()
    for step in range(6, 10):
        layer, panel = visit.see(Image.new("RGB", (640, 480), (90, 90, 90)), attention=True, now=0.1 * step)
        layers.add(layer)
    assert "rmn-live-face" not in layer
    # Every answer is a new one, or the page would take the camera for stopped.
    assert len(layers) == 4
    assert "No face in view" in panel


def test_a_map_lies_on_a_leaning_head_as_it_leans(service):
    def rotation(degrees):
        frame = Image.open(ASTRONAUT).rotate(-degrees, Image.Resampling.BICUBIC, fillcolor=(90, 90, 90))
        layer, _ = live.Visit(service).see(frame, attention=True, now=0.0)
        return float(re.search(r'rmn-live-heat"[^>]*rotate:(-?[\d.]+)deg', layer).group(1))

    upright = rotation(0)
    for degrees in (-30, 30):
        assert rotation(degrees) - upright == pytest.approx(degrees, abs=5)


def test_live_never_raises(service, monkeypatch):
    page = build_page(service)
    (follow,) = [fn.fn for fn in page.fns.values() if fn.connection == "stream"]
    layer, panel, visit = follow(None, False, None)
    assert layer["__type__"] == panel["__type__"] == "update"
    assert visit is None
    frame = Image.open(ASTRONAUT)
    *_, visit = follow(frame, False, None)
    assert visit.session.tracker.tracks

    def broken(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr(visit.session, "recognizer", broken)
    layer, panel, visit = follow(frame, False, visit)
    assert layer == ""
    assert "next one follows" in panel
    assert visit is None


def build_page(service, mcp=False):
    from rmn_space import page

    return page.build(service, safety.RateLimit(), mcp)


def test_every_public_event_has_a_name_and_no_other_can_be_called(service):
    page = build_page(service)
    public = [fn.api_name for fn in page.fns.values() if fn.api_visibility == "public" and fn.inputs]
    assert public == ["predict", "video"]
    public = [fn.api_name for fn in build_page(service, mcp=True).fns.values() if fn.api_visibility == "public"]
    assert [name for name in public if name in ("predict", "video", "tool")] == ["predict", "video", "tool"]


def test_the_descriptions_name_every_key_of_the_results(service):
    buffer = io.BytesIO()
    Image.open(ASTRONAUT).rotate(90).save(buffer, "JPEG", quality=95)
    sideways = service.recognize(Photo("a.jpg", buffer.getvalue()))[0].to_dict()
    described = FacesOutput(render=False).api_info()
    face = described["properties"]["faces"]["items"]
    assert set(sideways) == set(described["properties"])
    assert set(service.recognize(Photo("a.jpg", ASTRONAUT.read_bytes()))[0].to_dict()) == set(described["required"])
    assert set(sideways["faces"][0]) == set(face["properties"]) == set(face["required"])
    assert {*sideways, *face["properties"]} <= set(re.findall(r"\w+", photo.DESCRIPTION))
    [one] = sideways["faces"]
    tracked = a_face(track_id=1)
    frame = FrameResult(source="a.mp4", width=9, height=9, faces=(tracked,), raw=(tracked,)).to_dict()
    keys = {
        *TrackSummary(1, 0.0, 1.0, 9, {"sad": 1.0}, {"sad": 1.0}).to_dict(),
        *frame,
        *(set(frame["faces"][0]) - set(one)),
    }
    assert keys <= set(re.findall(r"\w+", video.DESCRIPTION))


# About


def test_the_about_tab_shows_what_was_measured():
    assert "no measured results" in about.measured(None)
    elsewhere = about.measured(None, "https://huggingface.co/org/rmn")
    assert "no measured results" not in elsewhere
    assert 'href="https://huggingface.co/org/rmn"' in elsewhere
    public = SetScores(
        "public_test", 3589, 0.6879, (0.673, 0.703), 0.6943, (0.679, 0.709), 0.0201, (("fer 1.0", 0.665),)
    )
    private = SetScores("private_test", 3589, 0.7123, (0.6971, 0.7268), 0.7199, None, 0.0156)
    other = SetScores("<script>alert(1)</script>", 5, 0.5, peers=(("<script>", 0.537),))
    faithful = Faithful(3589, 0.2, map=(0.182, 0.344), random=(0.148, 0.148), features=(0.239, 0.337))
    html = about.measured(
        Measured((public, other, private), 4_900_000, 148_000_000, 48, faithful, (Robust("dark", 0.654, 0.121),))
    )
    for shown in (
        "FER2013 PrivateTest",
        "3,589",
        "71.2",
        "72.0",
        "69.7 to 72.7",
        "1.6",
        "4.9 million",
        "18 to 34",
        "74.1",
        "66.5",
        "fer 1.0</th>",
        "53.7",
        "65.4",
        "12.1",
        "15",
    ):
        assert shown in html
    assert html.index("PrivateTest") < html.index("PublicTest")
    assert "<script" not in html


def test_the_about_tab_does_not_call_other_faces_fer2013():
    html = about.measured(Measured((SetScores("private_test", 210, 0.5, averaged=0.5),)))
    assert "<td>74.1</td>" not in html
    assert "FER2013" not in html
    assert "People agree" not in html
    assert "Other networks" not in html


# The folder, as a Space


def test_the_page_uses_public_names_only():
    for file in [SPACE / "app.py", *(SPACE / "rmn_space").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rmn_hub":
                names = [*node.module.split("."), *(alias.name for alias in node.names)]
                assert not any(name.startswith("_") for name in names), file


def test_front_matter_requirements_and_licences():
    import yaml

    _, front, text = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    settings = yaml.safe_load(front)
    assert settings["sdk"] == "gradio"
    assert (SPACE / settings["app_file"]).is_file()
    assert len(settings["short_description"]) <= 60
    assert {"title", "emoji", "colorFrom", "colorTo", "sdk_version", "python_version", "license"} <= set(settings)
    # The network that the page links to has the page in its front matter: the Hub shows each beside the other.
    (model,) = settings["models"]
    assert f"(https://huggingface.co/{model})" in text
    licences = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    pictures = {path.name for path in EXAMPLES.iterdir()} - {"README.md", "examples.json"}
    listed = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
    assert {each.file for each in photo.EXAMPLES} < {each["file"] for each in listed}
    used = {each["file"] for each in listed} | {video.EXAMPLE.name}
    assert pictures == used
    assert all(f"`{name}`" in licences for name in pictures)


def test_the_private_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    folder = PrivateFolder()
    left = folder.parent / str(ended.pid)
    other = folder.parent / str(os.getppid())
    for path in (left, other):
        path.mkdir()
        (path / "photo.jpg").touch()
    again = PrivateFolder()
    assert not left.exists()
    assert (other / "photo.jpg").exists()
    assert oct(again.path.stat().st_mode)[-3:] == oct(again.parent.stat().st_mode)[-3:] == "700"
    again.use()
    assert os.environ["GRADIO_TEMP_DIR"] == str(again.uploads)
    old, new = again.uploads / "old", again.uploads / "new"
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 400,) * 2)
    # The folder of an upload goes with it, and those that others have stay.
    folders = [again.uploads / name for name in ("gone", "empty", "full", "fresh")]
    for each in folders:
        each.mkdir()
    for name in ("gone/a.jpg", "full/a.jpg"):
        (again.uploads / name).touch()
    for path in (folders[0] / "a.jpg", *folders[:3], again.uploads, again.path):
        os.utime(path, (time.time() - 400,) * 2)
    again.sweep(330)
    assert (old.exists(), new.exists()) == (False, True)
    assert [each.exists() for each in folders] == [False, False, True, True]
    assert again.path.exists()
    # A folder of a film's ends just when it is to be looked into.
    ending, walk = again.path / "ending", os.scandir
    ending.mkdir()

    def scandir(path):
        if str(path) == str(ending) and ending.exists():
            ending.rmdir()
        return walk(path)

    monkeypatch.setattr(os, "scandir", scandir)
    again.sweep(330)
    monkeypatch.undo()
    assert not ending.exists()
    (other / "photo.jpg").unlink()
    other.rmdir()
    again.remove()
    assert list(tmp_path.iterdir()) == []
