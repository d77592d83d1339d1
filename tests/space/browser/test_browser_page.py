"""The page without a server, in real Chromium: its results against Python's, and what its visitors can do."""

import gzip
import io
import json
import shutil
from pathlib import Path

import numpy as np
import psutil
import pytest
from browser_helpers import TIMEOUT, WHY_NOT, build_page, handing_out, visiting
from browser_scripts import CHOICES, CUTS, FRAMES, GPU, PIXELS, REASONS, RECOGNIZE, TRACKS, TURNED
from evaluation_helpers import save_checkpoint
from PIL import Image
from playwright.sync_api import expect
from space_helpers import CHROMIUM, CHROMIUM_ARGUMENTS, EXAMPLES, barriers

from rmn_hub import BUNDLED_CHECKPOINT, EXPRESSIONS, ExpressionRecognizer, MTCNNDetector
from rmn_hub.detection.detector import crop_face
from rmn_hub.engines.onnx import ONNX_FILE
from rmn_hub.export.weights import stored
from rmn_hub.video.cuts import CutDetector
from rmn_hub.video.tracking import ProbabilitySmoother

pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


@pytest.fixture(scope="module")
def folder(folder):
    # Larger than MTCNN looks at, and turned upright by its EXIF alone.
    with Image.open(EXAMPLES / "officer.jpg") as officer:
        large = officer.resize((3 * officer.width, 3 * officer.height)).rotate(90, expand=True)
        exif = Image.Exif()
        exif[0x0112] = 6
        large.save(folder / "turned.png", exif=exif)
        # On its side, and nothing tells so.
        officer.rotate(90, expand=True).save(folder / "sideways.png")
    noise = np.random.default_rng(0).integers(0, 256, (61, 83, 3), np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    return folder


@pytest.fixture(scope="module")
def page(browser, server):
    """No visitor, but the page's modules for the tests to call."""
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT)
    page.goto(f"{server.url}/manifest.webmanifest")
    yield page
    page.close()


@pytest.mark.parametrize(("width", "height"), [(20, 15), (83, 61), (48, 48), (120, 31)])
def test_pixels_are_pillows(page, folder, width, height):
    found = page.evaluate(PIXELS, ["/noise.png", width, height])
    with Image.open(folder / "noise.png") as image:
        expected = {
            "luma": image.convert("L"),
            "resized": image.resize((width, height), Image.Resampling.BILINEAR),
            "shrunk": image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0),
        }
    for name, value in expected.items():
        difference = np.abs(np.asarray(value, int).ravel() - np.array(found[name]))
        # Means of blocks are rounded by a multiplication there, and by a division here.
        assert difference.max() <= (1 if name == "shrunk" else 0), name


@pytest.mark.parametrize("degrees", [-170.5, -90, -44, 3.3, 46.1])
def test_leaning_heads_are_turned_as_pillow_does(page, folder, degrees):
    # A square that leaves the image, too.
    for box in ((20, 10, 60, 45), (-10, 20, 41, 70)):
        found = page.evaluate(TURNED, ["/noise.png", box, 0.1, degrees])
        with Image.open(folder / "noise.png") as image:
            expected = np.asarray(crop_face(image, box, 0.1, degrees), int)
        assert np.abs(expected.ravel() - np.array(found)).max() <= 1


@pytest.mark.parametrize(
    ("name", "min_face"),
    [
        ("astronaut.jpg", None),
        ("officer.jpg", 30),
        ("collage.jpg", None),
        ("coffee.jpg", None),
        ("turned.png", None),
        ("sideways.png", None),
    ],
)
def test_faces_are_pythons(page, folder, name, min_face):
    detector = MTCNNDetector(min_face=min_face)
    recognizer = ExpressionRecognizer.from_pretrained(detector=detector, min_confidence=0.5)
    expected = recognizer((folder / name).read_bytes(), attention=True)
    found = page.evaluate(RECOGNIZE, ["/" + name, {} if min_face is None else {"minFace": min_face}])
    assert (found["width"], found["height"], len(found["faces"])) == (expected.width, expected.height, len(expected))
    assert found.get("turned", 0) == expected.turned == (90 if name == "sideways.png" else 0)
    for ours, theirs in zip(found["faces"], expected):
        wanted = theirs.to_dict()
        np.testing.assert_allclose(ours["box"], wanted["box"], atol=2)
        np.testing.assert_allclose(ours["landmarks"], wanted["landmarks"], atol=2)
        assert ours["score"] == pytest.approx(wanted["score"], abs=0.01)
        assert list(ours["probabilities"]) == list(wanted["probabilities"])
        # A head that leans is turned by its landmarks, which differ a little: one face by 0.011.
        assert ours["probabilities"] == pytest.approx(wanted["probabilities"], abs=0.02)
        assert (ours["index"], ours["expression"]) == (wanted["index"], wanted["expression"])
        assert ours["uncertain"] == (ours["probability"] < 0.5)
        assert ours["uncertain"] == wanted["uncertain"] or abs(wanted["probability"] - 0.5) < 0.02
        for values, size, attention_map in zip(ours["maps"], ours["sizes"], theirs.attention.maps):
            assert tuple(size) == attention_map.shape
            assert np.corrcoef(values, attention_map.ravel())[0, 1] > 0.98


def test_transparency_is_white(page, folder):
    with Image.open(EXAMPLES / "officer.jpg") as officer:
        cut_out = officer.convert("RGBA")
    cut_out.putalpha(Image.fromarray(np.where(np.asarray(officer.convert("L")) > 200, 0, 255).astype(np.uint8)))
    cut_out.save(folder / "cut.png")
    buffer = io.BytesIO()
    cut_out.save(buffer, "PNG")
    [face] = ExpressionRecognizer.from_pretrained()(buffer.getvalue())
    [found] = page.evaluate(RECOGNIZE, ["/cut.png", {}])["faces"]
    np.testing.assert_allclose(found["box"], face.box, atol=2)
    assert found["probabilities"] == pytest.approx(face.probabilities, abs=0.01)


def test_weights_of_8_bits_find_the_same(browser, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "page")
    content = gzip.compress(stored(Path(BUNDLED_CHECKPOINT) / ONNX_FILE, "int8"))
    (tmp_path / "page" / "models" / "rmn.onnx.gz").write_bytes(content)
    with handing_out(tmp_path / "page") as server:
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT)
        page.goto(f"{server.url}/manifest.webmanifest")
        found = page.evaluate(RECOGNIZE, ["/collage.jpg", {}])["faces"]
        page.close()
    expected = ExpressionRecognizer.from_pretrained()(EXAMPLES / "collage.jpg")
    assert len(found) == len(expected) == 8
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours["box"], theirs.box, atol=2)
        assert ours["probabilities"] == pytest.approx(theirs.probabilities, abs=0.03)


def test_the_page_of_another_network_is_about_that_network(browser, tmp_path):
    labels = dict(enumerate(("glad", "disappointed", "calm")))
    checkpoint = save_checkpoint(tmp_path / "checkpoint", mask_depths=None, id2label=labels)
    with (
        handing_out(build_page(tmp_path / "page", checkpoint=checkpoint)) as server,
        visiting(browser, server) as visit,
    ):
        expect(visit.locator(".rmn-chart th")).to_have_text(list(labels.values()))
        assert visit.locator(".rmn-chart").first.evaluate("chart => chart.style.getPropertyValue('--names')") == "7.7em"
        assert "mask" not in visit.title().lower()
        expect(visit.locator(".rmn-header")).to_contain_text("probability for each of three expressions")
        for tab in ("photo", "live", "about"):
            visit.locator(f"#tab-{tab}").click()
            text = visit.locator("body").inner_text().lower()
            assert not any(word in text for word in ("mask", "seven", "where did the network"))


def saved(page, name):
    with page.expect_download() as download:
        page.get_by_role("button", name=name).click()
    return download.value


def test_what_is_saved_is_what_predict_writes(visit, tmp_path):
    visit.set_input_files("#file", EXAMPLES / "collage.jpg")
    expect(visit.locator(".rmn-photo .rmn-face")).to_have_count(8)
    expected = ExpressionRecognizer.from_pretrained(min_confidence=0.5)(EXAMPLES / "collage.jpg")
    download = saved(visit, "JSON")
    found = json.loads(download.path().read_bytes())
    wanted = expected.to_dict()
    assert download.suggested_filename == "collage-expressions.json"
    assert found["source"] == "collage.jpg"
    assert (list(found), [list(face) for face in found["faces"]]) == (list(wanted), [list(f) for f in wanted["faces"]])
    for ours, theirs in zip(found["faces"], wanted["faces"]):
        np.testing.assert_allclose(ours["box"], theirs["box"], atol=2)
        assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=0.01)
    with Image.open(saved(visit, "Annotated image").path()) as drawn, Image.open(EXAMPLES / "collage.jpg") as photo:
        assert drawn.size == photo.size
        assert np.abs(np.asarray(drawn, int) - np.asarray(photo, int)).mean() > 1


def test_a_group_by_keyboard_alone(visit):
    visit.set_input_files("#file", EXAMPLES / "collage.jpg")
    expect(visit.locator("#spoken")).to_contain_text("8 faces: happy")
    fourth = visit.locator(".rmn-photo .rmn-face").nth(3)
    fourth.focus()
    visit.keyboard.press("Enter")
    expect(fourth).to_have_attribute("aria-pressed", "true")
    expect(visit.locator(".rmn-panel h2")).to_contain_text("Face 4 of 8 shows")
    expect(visit.locator("#spoken")).to_contain_text("Face 4: ")
    assert [cell.inner_text() for cell in visit.locator(".rmn-panel th").all()] == list(EXPRESSIONS)
    shares = [float(cell.inner_text().rstrip("%")) for cell in visit.locator(".rmn-panel td:last-child").all()]
    assert sum(shares) == pytest.approx(100)
    # The page with a server has the same script of the zoom.
    visit.get_by_role("button", name="Zoom in").focus()
    visit.keyboard.press("Enter")
    expect(visit.locator(".rmn-zoomed")).to_have_attribute("data-zoom", "1.5")
    visit.keyboard.press("0")
    expect(visit.locator(".rmn-zoomed")).to_have_count(0)
    # The maps are those of the chosen stage, which keeps the focus.
    visit.locator("[data-stage='3']").focus()
    visit.keyboard.press("Enter")
    expect(visit.locator("[data-stage='3']")).to_be_focused()
    expect(visit.locator(".rmn-steps")).to_contain_text("Map 3")
    visit.locator("#tab-photo").focus()
    for name in ("live", "about", "photo"):
        visit.keyboard.press("ArrowRight")
        expect(visit.locator(f"#tab-{name}")).to_be_focused()
        expect(visit.locator(f"#{name}")).to_be_visible()


def test_settings_and_states_without_a_result(visit, tmp_path):
    visit.locator("#settings summary").click()
    visit.get_by_label("Uncertain below").fill("90")
    visit.set_input_files("#file", EXAMPLES / "officer.jpg")
    expect(visit.locator(".rmn-face.rmn-doubtful")).to_have_count(1)
    expect(visit.locator(".rmn-doubt")).to_be_visible()
    visit.get_by_label("Uncertain below").fill("0")
    expect(visit.locator(".rmn-face:not(.rmn-doubtful)")).to_have_count(1)
    visit.locator("[data-example='coffee.jpg']").click()
    expect(visit.locator("#result .rmn-message")).to_contain_text("No face found")
    expect(visit.locator("#spoken")).to_contain_text("No face found")
    visit.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image"})
    expect(visit.locator("#result [role=alert]")).to_contain_text("notes.txt")
    expect(visit.locator("#spoken")).to_be_empty()
    # In a large photo, 40 is the detector's own choice, and less is what it says.
    photo = Image.new("RGB", (4800, 3600), "grey")
    photo.paste(Image.open(EXAMPLES / "astronaut.jpg").convert("RGB").resize((150, 150)), (2000, 1500))
    photo.save(tmp_path / "large.jpg", quality=95)
    visit.set_input_files("#file", tmp_path / "large.jpg")
    expect(visit.locator("#result .rmn-note")).to_contain_text("at least 75 pixels")
    expect(visit.locator("#result .rmn-note")).to_contain_text("in 4619 \N{MULTIPLICATION SIGN} 3464 pixels")
    visit.get_by_label("Smallest face").fill("30")
    expect(visit.locator(".rmn-face")).to_have_count(1)
    visit.set_input_files("#file", EXAMPLES / "officer.jpg")
    expect(visit.locator("#result .rmn-note")).to_have_count(0)


def test_the_choice_outlives_other_settings(visit):
    visit.locator("#settings summary").click()
    visit.locator("[data-example='collage.jpg']").click()
    visit.locator(".rmn-pill").last.click()
    visit.locator("[data-stage='3']").click()
    visit.get_by_label("How strongly the maps").fill("90")
    visit.locator("#result > section").evaluate("section => section.id = 'before'")
    visit.get_by_label("Uncertain below").fill("90")
    expect(visit.locator("#before")).to_have_count(0)
    expect(visit.locator(".rmn-pill").last).to_have_attribute("aria-pressed", "true")
    expect(visit.locator("[data-stage='3']")).to_have_attribute("aria-pressed", "true")
    expect(visit.get_by_label("How strongly the maps")).to_have_value("90")
    visit.locator("[data-example='officer.jpg']").click()
    expect(visit.locator(".rmn-pill")).to_have_count(0)
    expect(visit.locator("[data-stage='1']")).to_have_attribute("aria-pressed", "true")
    expect(visit.get_by_label("How strongly the maps")).to_have_value("60")


def test_an_example_that_comes_late_does_not_replace_what_was_given_after_it(browser, server):
    with visiting(browser, server, service_workers="block") as visit:
        held = []
        visit.route("**/fear.jpg", lambda route: held.append(route))
        visit.evaluate("document.querySelector('[data-example=\"fear.jpg\"]').click()")
        visit.set_input_files("#file", EXAMPLES / "collage.jpg")
        expect(visit.locator(".rmn-pill")).to_have_count(8)
        with visit.expect_response("**/fear.jpg"):
            held[0].continue_()
        # The photo of now, once more.
        visit.locator("#result > section").evaluate("section => section.id = 'before'")
        visit.locator("#settings summary").click()
        visit.get_by_label("Uncertain below").fill("90")
        expect(visit.locator("#before")).to_have_count(0)
        expect(visit.locator(".rmn-pill")).to_have_count(8)


def test_the_policy_lets_nothing_out(browser, server):
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT)
    page.goto(server.url)
    refused = page.evaluate(
        """async () => {
            const violation = new Promise(resolve => document.addEventListener('securitypolicyviolation', resolve));
            const refused = await fetch('https://example.org/').then(() => '', error => error.name);
            return [refused, (await violation).effectiveDirective];
        }"""
    )
    assert refused == ["TypeError", "connect-src"]
    # Styles and scripts in HTML, the usual ways in, do nothing either.
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<i id=bad style=color:red onclick=window.broken=1>x</i>')"
    )
    page.locator("#bad").click()
    assert page.evaluate("[window.broken ?? 0, document.querySelector('#bad').style.color]") == [0, ""]
    page.close()


def test_a_graphics_card_is_used_where_it_is_faster_and_right(page):
    found = page.evaluate(CHOICES)
    assert found == {
        "fast": "webgpu",
        "slow": "wasm",
        "wrong": "wasm",
        "nothing": "wasm",
        # Six calls to choose, one that works; then WebAssembly takes over, for good.
        "lost": [False, True, True],
    }


def test_webgpu_computes_what_webassembly_does(browser, server):
    # Without the watchdog: a busy machine is not a graphics card that hangs.
    options = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--disable-gpu-watchdog"]
    other = browser.browser_type.launch(executable_path=CHROMIUM, args=[*CHROMIUM_ARGUMENTS, *options])
    try:
        page = other.new_page()
        page.set_default_timeout(TIMEOUT)
        page.goto(f"{server.url}/manifest.webmanifest")
        found = page.evaluate(GPU)
    finally:
        other.close()
    if found is None:
        pytest.skip("this Chromium has no WebGPU, not even one that the processor imitates")
    assert found < 0.01


def test_it_is_told_why_a_graphics_card_is_not_used(page):
    assert page.evaluate(REASONS) == {
        "none": "the browser has no WebGPU",
        "broken": "the driver is old",
        "imitated": "there is no graphics card",
    }


def test_a_page_whose_graphics_card_fails_goes_on(browser, server):
    context = browser.new_context(service_workers="block")
    # The worker has a navigator of its own: scripts of tests reach it in its file alone.
    script = """Object.defineProperty(navigator, 'gpu', { value: { requestAdapter: async () => (
        { info: {}, limits: {}, features: new Set(), requestDevice() { throw new Error('refused'); } }) } });"""
    context.route(
        "**/js/worker.js", lambda route: route.fulfill(response=(got := route.fetch()), body=script + got.text())
    )
    page = context.new_page()
    page.set_default_timeout(TIMEOUT)
    page.goto(server.url)
    expect(page.locator("#speed[data-reason]")).to_have_attribute("data-engine", "wasm")
    page.locator("[data-example='officer.jpg']").click()
    expect(page.locator("#result")).to_contain_text("Grace Hopper")
    context.close()


def test_at_most_15_megabytes_come_before_the_first_result(browser, folder):
    # What the service worker keeps for later comes after it.
    with handing_out(folder) as server, visiting(browser, server, service_workers="block"):
        assert sum(server.sent.values()) < 15_000_000


def test_cuts_are_pythons(page, folder):
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (2, 12, 16, 3)).astype(np.uint8)
    one, other = (Image.fromarray(each).resize((200, 150), Image.Resampling.BICUBIC) for each in coarse)
    black = Image.new("RGB", one.size)
    brighter = Image.eval(one, lambda value: min(255, value + 60))
    moved = [one.transform(one.size, Image.Transform.AFFINE, (1, 0, 4 * step, 0, 1, 0)) for step in range(3)]
    frames = [one, *moved, brighter, one, other, other, black, black, one.resize((150, 200)), other]
    for number, frame in enumerate(frames):
        frame.save(folder / f"frame{number}.png")
    detector = CutDetector()
    expected = [detector.update(frame) for frame in frames]
    found = page.evaluate(CUTS, len(frames))
    assert found == expected
    assert sum(expected) > 2


def test_smoothing_is_pythons(page):
    series = np.random.default_rng(0).dirichlet(np.ones(3), 6)
    times = [0.0, 0.1, 0.3, 0.31, 2.0, 2.5]
    smoother = ProbabilitySmoother(0.4)
    expected = [smoother.update(1, dict(zip("abc", map(float, values))), now) for values, now in zip(series, times)]
    found = page.evaluate(
        """async ([series, times]) => {
            const { Smoother } = await import('/js/tracking.js');
            const smoother = new Smoother(0.4);
            const named = ([a, b, c]) => ({ a, b, c });
            return series.map((values, place) => smoother.update(1, named(values), times[place]));
        }""",
        [series.tolist(), times],
    )
    assert found == [pytest.approx(each) for each in expected]


def test_a_cut_begins_new_tracks(page):
    def ids(names):
        return page.evaluate(TRACKS, names)

    same, *_ = ids(["/astronaut.jpg", "/astronaut.jpg"])
    assert len(same) == 1
    first, second, third = ids(["/astronaut.jpg", "/officer.jpg", "/officer.jpg"])
    assert len(first) == len(second) == 1
    assert first != second == third


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_everybody_can_use_it(browser, server, width, scheme):
    with visiting(browser, server, width=width, scheme=scheme) as page:
        for tab in ("photo", "live", "about"):
            page.locator(f"#tab-{tab}").click()
            expect(page.locator(f"#{tab}")).to_be_visible()
            assert barriers(page) == {}, tab


def renderers():
    """Resident memory of Chromium's pages in MB."""
    processes = psutil.Process().children(recursive=True)
    pages = [each for each in processes if any("--type=renderer" in word for word in each.cmdline())]
    return sum(each.memory_info().rss for each in pages) / 1e6


def test_memory_stays_flat(page):
    page.evaluate(FRAMES, 40)
    before = renderers()
    page.evaluate(FRAMES, 60)
    # A frame is at least 5 MB in its forms (bitmap, RGBA, RGB, halvings): had they been kept, it would be 300 MB.
    assert renderers() - before < 150
