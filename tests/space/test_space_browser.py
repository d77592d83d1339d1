"""The page in real Chromium: photo, live and about, in light, dark and at the width of a phone."""

import base64
import io
import itertools
import json
import re

import pytest
from PIL import Image
from space_helpers import EXAMPLES, NEEDS_CHROMIUM, barriers, start_camera, upload, visiting

from rmn_hub import EXPRESSIONS

pytest.importorskip("gradio", reason="the page is optional: install rmn-hub[demo]")
pytestmark = NEEDS_CHROMIUM


def shown(page, part):
    return page.locator(f".rmn-panel:visible {part}")


def test_photo_of_one_face(visit, server):
    upload(visit, EXAMPLES / "officer.jpg", ".rmn-result:not(:has(.rmn-note))")
    visit.get_by_label("Remove Image").click()
    visit.wait_for_selector("#result .rmn-note")
    upload(visit, EXAMPLES / "astronaut.jpg", ".rmn-result:not(:has(.rmn-note))")
    box = visit.locator(".rmn-face")
    assert box.count() == 1
    assert re.fullmatch(r"Face 1: happy >?\d\d%", box.get_attribute("aria-label"))
    place, picture = box.bounding_box(), visit.locator(".rmn-photo").bounding_box()
    assert (place["x"] + place["width"] / 2 - picture["x"]) / picture["width"] == pytest.approx(0.434, abs=0.03)
    assert (place["y"] + place["height"] / 2 - picture["y"]) / picture["height"] == pytest.approx(0.226, abs=0.03)
    # Seven bars in their order, whose numbers sum to 100.
    rows = [row.split() for row in shown(visit, ".rmn-row").all_inner_texts()]
    assert [name for name, _ in rows] == list(EXPRESSIONS)
    assert round(sum(float(share.rstrip("%")) for _, share in rows), 6) == 100
    widths = [bar.bounding_box()["width"] for bar in shown(visit, ".rmn-bar span").all()]
    assert widths.index(max(widths)) == EXPRESSIONS.index("happy")
    # Four different maps over the crop, with stage and size.
    stages = shown(visit, ".rmn-stage")
    captions = [
        re.fullmatch(r"Stage (\d)\n(\d+) \N{MULTIPLICATION SIGN} \2 px", text) for text in stages.all_inner_texts()
    ]
    assert [int(caption[1]) for caption in captions] == [1, 2, 3, 4]
    sizes = [int(caption[2]) for caption in captions]
    assert all(size == (before + 1) // 2 for before, size in itertools.pairwise(sizes))
    maps = [tile.get_attribute("style") for tile in shown(visit, ".rmn-stage .rmn-tile").all()]
    assert len(set(maps)) == 4
    # The slider goes from the face to the map.
    opacity = "tile => getComputedStyle(tile, '::after').opacity"
    tile = shown(visit, ".rmn-stage .rmn-tile").first
    for value in ("0", "100"):
        visit.locator("[data-mix]").fill(value)
        assert float(tile.evaluate(opacity)) == float(value) / 100
    # Features before and after the mask that is chosen.
    stages.nth(2).click()
    assert visit.locator(".rmn-steps:visible").get_attribute("data-steps") == "3"
    before, _, after = (figure.get_attribute("style") for figure in visit.locator(".rmn-steps:visible .rmn-tile").all())
    assert before != after
    downloads = {}
    for name in ("Annotated image", "JSON"):
        with visit.expect_download() as download:
            visit.get_by_role("link", name=name).click()
        downloads[download.value.suggested_filename] = download.value.path().read_bytes()
    with Image.open(io.BytesIO(downloads["astronaut-expressions.jpg"])) as annotated:
        assert annotated.size == (512, 512)
    answer = json.loads(downloads["astronaut-expressions.json"])
    assert answer["source"] == "astronaut.jpg"
    assert [face["expression"] for face in answer["faces"]] == ["happy"]


def test_choosing_a_face_of_a_collage(visit):
    upload(visit, EXAMPLES / "collage.jpg", ".rmn-chooser")
    assert visit.locator(".rmn-face").count() == visit.locator(".rmn-pill").count() == 8

    def seen():
        return (
            shown(visit, "h2").first.inner_text(),
            shown(visit, ".rmn-chart").inner_text(),
            shown(visit, ".rmn-stage .rmn-tile").first.get_attribute("style"),
        )

    first = seen()
    assert "Face 1 of 8" in first[0]
    looks = [first]
    for number in range(1, 8):
        visit.locator(".rmn-face").nth(number).click()
        looks.append(seen())
        assert f"Face {number + 1} of 8" in looks[-1][0]
        assert visit.locator(".rmn-pill[aria-pressed=true]").inner_text().startswith(str(number + 1))
    charts, maps = ({look[part] for look in looks} for part in (1, 2))
    # Two of the portraits' variants may get the same numbers.
    assert len(charts) > 1
    assert len(maps) == 8
    # Likewise with the keyboard, by the buttons below.
    visit.locator(".rmn-pill").nth(0).focus()
    visit.keyboard.press("Enter")
    assert seen() == first
    # The next photo starts with its first face again.
    visit.locator(".rmn-pill").nth(6).click()
    visit.locator("[data-mix]").fill("100")
    visit.locator("#examples button").first.click()
    visit.wait_for_selector("#result .rmn-note")
    assert visit.locator(".rmn-panel:visible").first.get_attribute("data-panel") == "1"
    assert visit.locator("[data-mix]").input_value() == "60"


def test_one_large_photo_and_a_button_to_change_it(visit):
    assert not visit.get_by_role("button", name="Change photo").is_visible()
    upload(visit, EXAMPLES / "officer.jpg", ".rmn-result:not(:has(.rmn-note))")
    # The upload is not shown a second time, and the result is the largest thing on the screen.
    assert not visit.locator("#photo .image-frame").is_visible()
    assert visit.locator(".rmn-photo").bounding_box()["height"] > 450
    assert visit.locator(".rmn-photo").bounding_box()["y"] < 400
    with visit.expect_file_chooser() as chooser:
        visit.get_by_role("button", name="Change photo").click()
    chooser.value.set_files(EXAMPLES / "collage.jpg")
    visit.wait_for_selector("#result .rmn-chooser")
    # Who listens to the page hears the result.
    spoken = visit.locator("#result ~ [role=status], #result [role=status]").first
    assert spoken.text_content().startswith("8 faces: happy 9")


def test_the_keyboard_goes_from_tab_to_tab(visit):
    visit.get_by_role("tab", name="Photo").focus()
    for key, name in (
        *(("ArrowRight", name) for name in ("Live", "Video", "About", "Photo")),
        ("ArrowLeft", "About"),
    ):
        visit.keyboard.press(key)
        tab = visit.get_by_role("tab", name=name)
        assert tab.get_attribute("aria-selected") == "true"
        assert tab.evaluate("tab => tab === document.activeElement")


@pytest.mark.parametrize(("width", "columns"), [(1400, 4), (390, 2)])
def test_the_stages_stand_in_whole_rows(browser, server, width, columns):
    with visiting(browser, server, width=width) as page:
        tops = [stage.bounding_box()["y"] for stage in shown(page, ".rmn-stage").all()]
        assert [tops.count(top) for top in sorted(set(tops))] == [columns] * (4 // columns)


def test_settings_change_the_answer(visit):
    # Gradio mounts an accordion's sliders when it opens, and for a moment puts their first values back.
    visit.get_by_text("Settings", exact=True).click()
    visit.get_by_label("number input for Uncertain below").wait_for()
    upload(visit, EXAMPLES / "collage.jpg", ".rmn-chooser")
    # Which of the eight are doubtful depends on the weights.
    faces = json.loads(
        visit.evaluate("async () => (await fetch(document.querySelector('[download$=json]').href)).text()")
    )
    assert [face["index"] for face in faces["faces"]] == list(range(1, 9))
    doubtful = [face["index"] for face in faces["faces"] if face["probability"] < 0.9]
    for name, value in (("Uncertain below", "90"), ("Smallest face", "200")):
        number = visit.get_by_label(f"number input for {name}")
        number.fill(value)
        number.blur()
        if name == "Uncertain below" and doubtful:
            visit.wait_for_function(
                "count => document.querySelectorAll('.rmn-face.rmn-doubtful').length === count", arg=len(doubtful)
            )
            visit.locator(".rmn-face.rmn-doubtful").first.click()
            assert shown(visit, ".rmn-doubt").count() == shown(visit, ".rmn-unsure").count() == 1
            dashed = visit.locator(".rmn-face.rmn-doubtful").all()
            assert [int(face.get_attribute("data-face")) for face in dashed] == doubtful
            # What was chosen stays chosen.
            last = visit.locator(".rmn-pill").last
            last.click()
            visit.locator("[data-mix]").fill("90")
            number.fill("0")
            number.blur()
            visit.wait_for_function("!document.querySelector('.rmn-face.rmn-doubtful')")
            assert last.get_attribute("aria-pressed") == "true"
            assert visit.locator("[data-mix]").input_value() == "90"
    visit.wait_for_function("document.querySelectorAll('.rmn-face').length < 8")


def test_states_without_a_result(visit, tmp_path):
    upload(visit, EXAMPLES / "coffee.jpg", ".rmn-message")
    assert "No face found" in visit.locator("#result").inner_text()
    visit.wait_for_function(
        "[...document.querySelectorAll('[role=status]')].some(p => p.textContent.includes('No face found'))"
    )
    width = "document.querySelector('.gradio-container').getBoundingClientRect().width"
    before = visit.evaluate(width)
    broken, large = tmp_path / "broken.jpg", tmp_path / "large.jpg"
    broken.write_bytes((EXAMPLES / "astronaut.jpg").read_bytes()[:20_000])
    large.write_bytes(bytes(40_000_000))  # what the browser can open is made smaller instead
    for file, sentence in ((broken, "broken.jpg is truncated or damaged"), (large, "larger than 10 MB")):
        visit.get_by_label("Remove Image").click() if file is broken else visit.reload()
        visit.wait_for_selector("#result .rmn-note")
        upload(visit, file, ".rmn-error")
        assert sentence in visit.locator(".rmn-error").inner_text()
        assert visit.locator(".rmn-error").get_attribute("role") == "alert"
        assert visit.evaluate(width) == before  # nothing moves sideways


def test_a_snapshot_and_a_pasted_picture(visit):
    visit.get_by_label("Capture from camera").click()
    visit.click("#photo [title='grant webcam access'] button")
    visit.wait_for_function("document.querySelector('#photo video').videoWidth > 0")
    visit.click("#photo button[aria-label='capture photo']")
    visit.wait_for_selector("#result section:not(:has(.rmn-note))")
    # The film may show the empty room just now; both are an answer.
    assert visit.locator("#result .rmn-face, #result .rmn-message").count() == 1
    visit.get_by_label("Remove Image").click()
    visit.wait_for_selector("#result .rmn-note")
    png = io.BytesIO()
    Image.open(EXAMPLES / "officer.jpg").save(png, "PNG")
    visit.evaluate(
        """async data => {
            const blob = await (await fetch('data:image/png;base64,' + data)).blob();
            await navigator.clipboard.write([new ClipboardItem({'image/png': blob})]);
        }""",
        base64.b64encode(png.getvalue()).decode(),
    )
    visit.get_by_label("Paste from clipboard").click()
    visit.wait_for_selector("#result .rmn-result:not(:has(.rmn-note))")
    assert visit.locator(".rmn-face").count() == 1


# Notes in the page what the live tab shows over time.
WATCH = """() => {
    window.seen = {places: [], layers: new Set(), charts: new Set(), gone: false};
    new MutationObserver(() => {
        const frame = document.querySelector('.rmn-frame');
        const face = document.querySelector('.rmn-live-face');
        const names = [...document.querySelectorAll('#live-panel th')].map(cell => cell.textContent).join(' ');
        if (frame) seen.layers.add(frame.dataset.at);
        if (face) seen.places.push(parseFloat(face.style.left));
        if (names) seen.charts.add(names);
        if (frame?.dataset.faces === '0' && seen.places.length) seen.gone = true;
    }).observe(document.querySelector('#tabs'), {childList: true, subtree: true});
}"""


def test_live_follows_a_face_and_writes_nothing(visit, server):
    before = server.files()
    visit.evaluate(WATCH)
    start_camera(visit)
    visit.wait_for_selector(".rmn-live-face")
    assert visit.locator(".rmn-live-face").first.text_content()
    # The layer lies exactly over the camera's picture.
    video, layer = (visit.locator(name).bounding_box() for name in ("#live-camera video", ".rmn-frame"))
    assert all(abs(video[side] - layer[side]) <= 3 for side in ("x", "y", "width", "height"))
    # The box moves with the face and goes with it; the bars keep their order.
    visit.wait_for_function("() => seen.gone && Math.max(...seen.places) - Math.min(...seen.places) > 15")
    assert visit.evaluate("[...seen.charts]") == [" ".join(EXPRESSIONS)]
    visit.get_by_label("Show where masks strengthen features").check()
    visit.wait_for_selector(".rmn-live-heat")
    visit.get_by_role("button", name="Stop camera").click()
    # Without new answers the old boxes go.
    visit.wait_for_selector("#live-layer .rmn-stale, #live-layer.rmn-stale", state="attached")
    visit.locator(".rmn-stopped").wait_for()
    visit.get_by_role("button", name="Start camera").wait_for()
    assert not visit.locator(".rmn-status").is_visible()
    # Nothing new; what earlier tests had uploaded may have been swept meanwhile.
    assert set(server.files()) <= set(before)


def test_two_visitors_at_once(browser, server):
    with visiting(browser, server) as first, visiting(browser, server, width=390) as second:
        for page in (first, second):
            page.evaluate(WATCH)
            start_camera(page)
        for page in (first, second):
            page.wait_for_selector(".rmn-live-face")
            page.wait_for_function("() => seen.layers.size > 3")
        # ... and a photo has its result meanwhile.
        answer = server.predict({"url": "data:image/jpeg;base64," + _base64(EXAMPLES / "astronaut.jpg")})
        assert len(answer["faces"]) == 1


# The page's cameras; one that is asked for is allowed when the test has it so.
CAMERAS = """() => {
    const camera = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    window.cameras = [];
    navigator.mediaDevices.getUserMedia = constraints => new Promise(resolve => {
        window.allow = async () => {
            window.allow = null;
            cameras.push(await camera(constraints));
            resolve(cameras.at(-1));
        };
    });
}"""
CLOSED = "() => cameras.every(camera => camera.getTracks().every(track => track.readyState === 'ended'))"


def test_a_camera_is_closed_when_it_is_stopped_and_when_its_tab_is_left(visit):
    def allow(tab=None):
        visit.wait_for_function("!!window.allow")
        if tab is not None:
            visit.get_by_role("tab", name=tab).click()
        visit.evaluate("allow()")

    visit.evaluate(CAMERAS)
    start, stop = (visit.get_by_role("button", name=f"{word} camera") for word in ("Start", "Stop"))
    visit.get_by_role("tab", name="Live").click()
    start.click()
    allow("About")
    visit.wait_for_function("cameras.length === 1")
    visit.wait_for_function(CLOSED)
    visit.get_by_role("tab", name="Live").click()
    for number, leave in enumerate((stop, visit.get_by_role("tab", name="Photo")), start=2):
        start.click()
        allow()
        visit.wait_for_selector(".rmn-live-face")
        assert visit.evaluate("cameras.length") == number
        assert not visit.evaluate(CLOSED)
        leave.click()
        visit.wait_for_function(CLOSED)
    assert start.count() == 0  # in the other tab
    for late in (True, False):
        visit.get_by_label("Capture from camera").click()
        visit.click("#photo [title='grant webcam access'] button")
        allow("About" if late else None)
        if not late:
            visit.wait_for_function("document.querySelector('#photo video').videoWidth > 0")
            visit.get_by_role("tab", name="About").click()
        visit.wait_for_function("!document.querySelector('#photo video')")
        visit.wait_for_function(CLOSED)
        visit.get_by_role("tab", name="Photo").click()
    visit.get_by_label("Capture from camera").click()
    visit.click("#photo [title='grant webcam access'] button")
    visit.get_by_label("Upload file").click()
    visit.wait_for_function("!document.querySelector('#photo video')")
    allow()
    visit.wait_for_function(CLOSED)
    assert visit.evaluate("cameras.length") == 6


def test_a_camera_that_is_lost_is_stopped(visit):
    start_camera(visit)
    visit.wait_for_selector(".rmn-live-face")
    lose = "video => video.srcObject.getTracks().forEach(track => track.dispatchEvent(new Event('ended')))"
    visit.locator("#live-camera video").evaluate(lose)
    visit.get_by_role("button", name="Start camera").wait_for()
    visit.locator(".rmn-stopped").wait_for()
    # And it can be had again.
    visit.get_by_role("button", name="Start camera").click()
    visit.get_by_role("button", name="Stop camera").wait_for()


def _base64(path):
    return base64.b64encode(path.read_bytes()).decode()


def test_a_camera_that_is_not_allowed_is_said(browser, server):
    with visiting(browser, server) as page:
        page.context.clear_permissions()
        page.add_init_script("")
        page.evaluate(
            """() => { navigator.mediaDevices.getUserMedia =
                () => Promise.reject(new DOMException('no', 'NotAllowedError')); }"""
        )
        page.get_by_role("tab", name="Live").click()
        page.get_by_role("button", name="Start camera").click()
        page.get_by_text("The browser does not allow the camera").wait_for()


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (1400, "dark"), (390, "light"), (390, "dark")])
def test_everybody_can_use_it(browser, server, width, scheme):
    outside = []
    marks = {"Photo": "result", "Live": "live-switch", "Video": "film-result", "About": "about"}
    with visiting(browser, server, width=width, scheme=scheme, outside=outside) as page:
        for tab in marks:
            page.get_by_role("tab", name=tab).click()
            page.locator(f"#{marks[tab]}").wait_for()
            assert barriers(page) == {}, tab
    assert outside == []
