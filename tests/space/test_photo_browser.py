"""The large photo in Chromium: zoom, and photos that the browser makes smaller before it sends them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from space_helpers import EXAMPLES, NEEDS_CHROMIUM, upload, visiting

pytest.importorskip("gradio", reason="the page is optional: install rmn-hub[demo]")
pytestmark = NEEDS_CHROMIUM


def zoom_of(page):
    return float(page.locator(".rmn-zoom").get_attribute("data-zoom") or 1)


def middle(box):
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_buttons_and_keys_zoom_on_the_chosen_face(visit):
    upload(visit, EXAMPLES / "collage.jpg", ".rmn-chooser")
    legend = visit.locator(".rmn-legend span").all_inner_texts()
    assert len(legend) >= 3
    assert ("uncertain" in legend[-1]) == (visit.locator(".rmn-face.rmn-doubtful").count() > 0)
    frame = visit.locator(".rmn-zoom").bounding_box()
    page_size = visit.evaluate("[document.body.scrollWidth, document.body.scrollHeight]")
    fourth = visit.locator(".rmn-face").nth(3)
    fourth.click()
    before = fourth.bounding_box()
    larger = visit.get_by_role("button", name="Zoom in")
    assert visit.get_by_role("button", name="Fit").get_attribute("aria-disabled") == "true"
    for _ in range(3):
        larger.click()
    assert zoom_of(visit) == pytest.approx(1.5**3)
    after = fourth.bounding_box()
    assert after["width"] == pytest.approx(before["width"] * 1.5**3, rel=0.02)
    # The face is in view, and nothing around the photo has moved.
    x, y = middle(after)
    assert frame["x"] < x < frame["x"] + frame["width"]
    assert frame["y"] < y < frame["y"] + frame["height"]
    assert visit.locator(".rmn-zoom").bounding_box() == frame
    assert visit.evaluate("[document.body.scrollWidth, document.body.scrollHeight]") == page_size
    # A face that is chosen by its name comes into the middle.
    visit.locator(".rmn-pill").nth(5).click()
    x, y = middle(visit.locator(".rmn-face").nth(5).bounding_box())
    assert (x, y) == pytest.approx(middle(frame), abs=3)
    # The keyboard: the photo has the focus, arrow keys move it, 0 shows all of it.
    visit.locator(".rmn-zoom").focus()
    left = visit.locator(".rmn-zoom").evaluate("box => box.scrollLeft")
    visit.keyboard.press("ArrowRight")
    visit.wait_for_function("left => document.querySelector('.rmn-zoom').scrollLeft > left", arg=left)
    visit.keyboard.press("-")
    assert zoom_of(visit) == pytest.approx(1.5**2)
    visit.keyboard.press("+")
    assert zoom_of(visit) == pytest.approx(1.5**3)
    visit.keyboard.press("0")
    assert zoom_of(visit) == 1
    assert fourth.bounding_box() == before
    larger.click()
    visit.get_by_role("button", name="Fit").click()
    assert zoom_of(visit) == 1
    # The next photo is shown whole.
    larger.click()
    upload(visit, EXAMPLES / "astronaut.jpg", "[data-source='astronaut.jpg']")
    assert zoom_of(visit) == 1


def test_the_mouse_zooms_and_drags_and_a_drag_chooses_nothing(visit):
    upload(visit, EXAMPLES / "collage.jpg", ".rmn-chooser")
    second = visit.locator(".rmn-face").nth(1)
    x, y = middle(second.bounding_box())
    visit.mouse.dblclick(x, y)
    assert zoom_of(visit) == 2.5
    # The point under the mouse stays.
    assert middle(second.bounding_box()) == pytest.approx((x, y), abs=4)
    # A drag that begins on another face: the photo follows, and the choice stays as it is.
    chosen = visit.locator(".rmn-pill[aria-pressed=true]").inner_text()
    assert chosen.startswith("2")
    visit.get_by_role("button", name="Fit").click()
    visit.get_by_role("button", name="Zoom in").click()
    third = visit.locator(".rmn-face").nth(2)
    x, y = middle(third.bounding_box())
    visit.mouse.move(x, y)
    visit.mouse.down()
    visit.mouse.move(x - 30, y - 5)
    visit.mouse.move(x - 60, y - 5)
    visit.mouse.up()
    assert middle(third.bounding_box())[0] == pytest.approx(x - 60, abs=3)
    assert visit.locator(".rmn-pill[aria-pressed=true]").inner_text() == chosen
    visit.keyboard.down("Control")
    visit.mouse.wheel(0, -100)
    visit.wait_for_function("Number(document.querySelector('.rmn-zoom').dataset.zoom) > 2")
    visit.keyboard.up("Control")


def test_two_fingers_zoom(browser, server):
    with visiting(browser, server, width=390) as page:
        page.locator(".rmn-zoom").scroll_into_view_if_needed()
        x, y = middle(page.locator(".rmn-zoom").bounding_box())
        fingers = page.context.new_cdp_session(page)
        for kind, apart in (("touchStart", 40), ("touchMove", 60), ("touchMove", 80)):
            points = [{"x": x - apart, "y": y, "id": 1}, {"x": x + apart, "y": y, "id": 2}]
            fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait_for_function("Number(document.querySelector('.rmn-zoom').dataset.zoom) === 2")
        # Fingers find buttons of their own size, and the page keeps its width.
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_photo_of_48_megapixels_is_made_smaller_and_upright(visit, server, tmp_path):
    """The camera lay on its side: the pixels are turned, and the EXIF data says how."""
    upright = Image.open(EXAMPLES / "astronaut.jpg").resize((8000, 6000))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "phone.jpg", quality=30, exif=exif)
    upload(visit, tmp_path / "phone.jpg", "[data-source='phone-4000x3000.jpg']")
    assert "from 8000 × 6000 to 4000 × 3000 pixels" in visit.locator(".rmn-note").inner_text()  # noqa: RUF001
    with visit.expect_download() as download:
        visit.get_by_role("link", name="JSON").click()
    text = download.value.path().read_text()
    assert '"width": 4000' in text
    assert visit.locator(".rmn-face").count() == 1
    # What was sent is a JPEG of this size without the photo's EXIF data.
    (sent,) = [path for path in server.files() if "phone-4000x3000" in path]
    with Image.open(sent) as image:
        assert image.size == (4000, 3000)
        assert not image.getexif()
    # The note goes with its photo.
    upload(visit, EXAMPLES / "officer.jpg", "[data-source='officer.jpg']")
    assert visit.locator(".rmn-note").count() == 0


def test_a_file_of_more_than_10_megabytes_is_made_smaller(visit, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2100, 2100, 3), dtype=np.uint8)
    noise[500:1012, 500:1012] = np.asarray(Image.open(EXAMPLES / "astronaut.jpg").convert("RGB"))
    Image.fromarray(noise).save(tmp_path / "noise.png", compress_level=0)
    assert (tmp_path / "noise.png").stat().st_size > 12_000_000
    upload(visit, tmp_path / "noise.png", "[data-source='noise-2100x2100.jpg']")
    assert visit.locator(".rmn-face").count() == 1


def test_a_small_photo_is_sent_byte_for_byte(visit, server, tmp_path):
    image = Image.open(EXAMPLES / "officer.jpg").convert("RGB").resize((1300, 1400))
    exif = Image.Exif()
    exif[0x010F] = "A maker of cameras"
    image.save(tmp_path / "untouched.jpg", quality=97, exif=exif)
    upload(visit, tmp_path / "untouched.jpg", "[data-source='untouched.jpg']")
    assert visit.locator(".rmn-note").count() == 0
    (sent,) = [path for path in server.files() if path.endswith("untouched.jpg")]
    assert Path(sent).read_bytes() == (tmp_path / "untouched.jpg").read_bytes()


def test_what_is_asked_for_last_is_shown(visit):
    """Two examples at once, then an example and an own photo: neither is dropped, neither comes back."""
    click = "document.querySelector('[data-example=\"%s\"]').click()"
    for _ in range(2):
        visit.evaluate(click % "sad.jpg" + ";" + click % "officer.jpg")
        visit.wait_for_selector("#result [data-source='officer.jpg']")
        visit.evaluate(click % "fear.jpg")
        upload(visit, EXAMPLES / "collage.jpg", "[data-source='collage.jpg']")
        visit.wait_for_function("!document.querySelector('#result .pending')")
        assert visit.locator("#result [data-source]").get_attribute("data-source") == "collage.jpg"
        assert visit.locator("#photo .image-frame img").count() == 1
    # An example takes the place of an own photo.
    visit.evaluate(click % "officer.jpg")
    visit.wait_for_selector("#result [data-source='officer.jpg']")
    visit.locator("#photo .image-frame img").wait_for(state="detached")
