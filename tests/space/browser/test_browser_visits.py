"""The page without a server and its visitors: their photos, their cameras, and visits without a connection."""

import re
import shutil

import pytest
from browser_helpers import TIMEOUT, WHY_NOT, handing_out
from playwright.sync_api import expect

pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


# As the browser hands them over.
GIVEN = """async ([name, kind]) => {
    const files = new DataTransfer();
    files.items.add(new File([await (await fetch(name)).blob()], 'given.jpg', { type: 'image/jpeg' }));
    const event = kind === 'paste' ? new ClipboardEvent('paste', { clipboardData: files, bubbles: true })
        : new DragEvent(kind, { dataTransfer: files, bubbles: true, cancelable: true });
    document.querySelector('#drop').dispatchEvent(event);
}"""
# Waits until a service worker of a scope has taken over. It waits for the caches that it deletes.
READY = """async scope => {
    // One that is being installed is not found by `getRegistration` within another scope.
    const registrations = await navigator.serviceWorker.getRegistrations();
    const { active, installing, waiting } = registrations.find(each => each.scope === scope);
    const worker = installing ?? waiting ?? active;
    const changed = () => new Promise(done => worker.addEventListener('statechange', done, { once: true }));
    while (worker.state !== 'activated') await changed();
}"""


def test_photos_come_by_every_way(visit):
    visit.evaluate(GIVEN, ["/collage.jpg", "drop"])
    expect(visit.locator(".rmn-photo .rmn-face")).to_have_count(8)
    visit.evaluate(GIVEN, ["/officer.jpg", "paste"])
    expect(visit.locator(".rmn-photo .rmn-face")).to_have_count(1)
    # From the camera, by keyboard alone; its film may show no face just then.
    visit.evaluate("document.querySelector('#result').firstChild.id = 'test-before'")
    visit.locator("#take").focus()
    visit.keyboard.press("Enter")
    expect(visit.locator("#snap")).to_be_focused()
    visit.keyboard.press("Enter")
    expect(visit.locator("#test-before")).to_have_count(0)
    expect(visit.locator("#snapshot")).to_be_hidden()
    assert visit.evaluate("document.querySelector('#snapshot-video').srcObject") is None


@pytest.mark.parametrize(("tab", "kind"), [("live", "drop"), ("about", "paste")])
def test_a_photo_that_comes_while_another_tab_is_open_is_shown(visit, tab, kind):
    visit.locator(f"#tab-{tab}").click()
    visit.evaluate(GIVEN, ["/collage.jpg", kind])
    expect(visit.locator("#tab-photo")).to_have_attribute("aria-selected", "true")
    expect(visit.locator(".rmn-photo .rmn-face")).to_have_count(8)
    expect(visit.locator("#photo")).to_be_visible()


def test_a_worker_that_failed_is_started_again(browser, server):
    context = browser.new_context(service_workers="block")
    page = context.new_page()
    page.set_default_timeout(TIMEOUT)
    context.route("**/js/worker.js", lambda route: route.abort())
    page.goto(server.url)
    expect(page.locator("#result [role=alert]")).to_be_visible()
    context.unroute("**/js/worker.js")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#result .rmn-result")).to_be_visible()
    context.close()


def test_pages_of_one_origin_leave_each_other_what_they_keep(browser, folder, tmp_path):
    # One below the other, and both with what an earlier version kept.
    for name in ("one", "one/two"):
        shutil.copytree(folder, tmp_path / name)
    kept_by_name = """async () => {
        const kept = {};
        for (const name of await caches.keys()) {
            kept[name] = (await (await caches.open(name)).keys()).map(request => new URL(request.url).pathname);
        }
        return kept;
    }"""
    with handing_out(tmp_path) as server:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(TIMEOUT)

        def visit(name):
            page.goto(f"{server.url}/{name}/")
            expect(page.locator("#result .rmn-result")).to_be_visible()
            # The page registers its worker when it has shown its first result.
            expect(page.locator("#speed[data-reason], #speed[data-engine=webgpu]")).to_be_attached()
            page.evaluate(READY, f"{server.url}/{name}/")
            return page.evaluate(kept_by_name)

        page.goto(f"{server.url}/one/icon.svg")
        page.evaluate("async () => (await caches.open('rmn-0123456789abcdef')).add('/one/index.html')")
        page.evaluate("async () => (await caches.open('rmn-fedcba9876543210')).add('/one/two/index.html')")
        [first] = set(visit("one")) - {"rmn-fedcba9876543210"}
        kept = visit("one/two")
        assert len(kept) == 2
        assert "/one/index.html" in kept[first]
        assert "/one/two/index.html" not in kept[first]
        # Without a connection each is itself.
        server.stop()
        for name in ("one", "one/two"):
            page.goto(f"{server.url}/{name}/")
            expect(page.locator("#result .rmn-result")).to_be_visible()
        context.close()


def test_it_works_without_a_connection_after_the_first_visit(browser, folder):
    with handing_out(folder, headers={}) as server:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(TIMEOUT)
        page.goto(server.url)
        expect(page.locator("#result .rmn-result")).to_be_visible()
        # A server of files that sends no headers: one thread the first time.
        assert page.evaluate("crossOriginIsolated") is False
        page.evaluate("() => navigator.serviceWorker.ready.then(() => undefined)")
        sent = sum(server.sent.values())
        server.stop()
        page.reload()
        expect(page.locator("#result .rmn-result")).to_be_visible()
        # What the service worker adds lets the page have threads.
        assert page.evaluate("crossOriginIsolated") is True
        page.locator("[data-example='collage.jpg']").click()
        expect(page.locator(".rmn-photo .rmn-face")).to_have_count(8)
        assert sum(server.sent.values()) == sent
        context.close()


def test_live_follows_a_face(visit):
    visit.locator("#tab-live").click()
    visit.evaluate(
        """() => {
            globalThis.places = [];
            const note = () => {
                const face = document.querySelector('.rmn-live-face');
                if (face) places.push(parseFloat(face.style.left));
                const moved = places.length > 1 && Math.max(...places) - Math.min(...places) > 10;
                document.body.classList.toggle('test-moved', moved);
                if (moved && !face) document.body.classList.add('test-gone');
            };
            const options = { childList: true, subtree: true, attributes: true, attributeFilter: ['style'] };
            new MutationObserver(note).observe(document.querySelector('#layer'), options);
        }"""
    )
    visit.get_by_role("button", name="Start camera").click()
    expect(visit.locator(".rmn-live-face").first).to_contain_text(re.compile(r"\w+\??.*%"))
    expect(visit.locator("#spoken")).to_contain_text("%")
    # The box moves with the face, and goes with it.
    expect(visit.locator("body.test-moved")).to_be_attached()
    expect(visit.locator("body.test-gone")).to_be_attached()
    visit.get_by_label("Show where masks strengthen features").check()
    expect(visit.locator(".rmn-live-heat").first).to_be_attached()
    # A frame can be kept as a photo; then the camera is off.
    visit.get_by_role("button", name="Keep this frame").click()
    expect(visit.locator("#photo")).to_be_visible()
    expect(visit.locator("#result")).not_to_contain_text("Example:")
    assert visit.evaluate("document.querySelector('#camera').srcObject") is None


def test_a_camera_that_is_not_allowed_is_explained(visit):
    visit.evaluate(
        """() => { navigator.mediaDevices.getUserMedia =
            () => Promise.reject(new DOMException('no', 'NotAllowedError')); }"""
    )
    visit.locator("#tab-live").click()
    visit.get_by_role("button", name="Start camera").click()
    expect(visit.locator("#live-panel [role=alert]")).to_contain_text("does not allow the camera")
    expect(visit.get_by_role("button", name="Start camera")).to_be_enabled()


def test_a_camera_that_is_allowed_too_late_is_closed(visit):
    visit.evaluate(
        """() => {
            const camera = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            navigator.mediaDevices.getUserMedia = () => new Promise(resolve => {
                // Returns whether it stays open. The page's policy does not let Playwright wait for anything.
                globalThis.allow = async () => {
                    const stream = await camera({ video: true });
                    resolve(stream);
                    const soon = () => new Promise(resolve => setTimeout(resolve, 20));
                    for (let tries = 3000; stream.active && tries; tries--) await soon();
                    return stream.active;
                };
            });
        }"""
    )

    visit.locator("#tab-live").click()
    visit.get_by_role("button", name="Start camera").click()
    visit.locator("#tab-photo").click()
    assert visit.evaluate("allow()") is False
    visit.locator("#take").click()
    visit.locator("#cancel").click()
    expect(visit.locator("#snapshot")).to_be_hidden()
    assert visit.evaluate("allow()") is False


def test_a_camera_that_is_lost_is_explained(visit):
    lose = "video => video.srcObject.getTracks().forEach(track => track.dispatchEvent(new Event('ended')))"
    visit.locator("#take").click()
    expect(visit.locator("#snap")).to_be_enabled()
    visit.locator("#snapshot-video").evaluate(lose)
    expect(visit.locator("#snapshot")).to_be_hidden()
    expect(visit.locator("#result [role=alert]")).to_contain_text("unplugged")
    visit.locator("#tab-live").click()
    visit.get_by_role("button", name="Start camera").click()
    expect(visit.locator("#layer[data-frames]")).to_be_attached()
    visit.locator("#camera").evaluate(lose)
    expect(visit.locator("#live-panel [role=alert]")).to_contain_text("unplugged")
    expect(visit.get_by_role("button", name="Start camera")).to_be_enabled()
    assert visit.evaluate("document.querySelector('#camera').srcObject") is None


def test_a_camera_that_is_turned_changes_the_stage(visit):
    visit.evaluate(
        """() => {
            const canvas = globalThis.canvas = document.createElement('canvas');
            [canvas.width, canvas.height] = [320, 240];
            const context = canvas.getContext('2d');
            setInterval(() => context.fillRect(0, 0, 9, 9), 50);
            navigator.mediaDevices.getUserMedia = async () => canvas.captureStream();
        }"""
    )
    visit.locator("#tab-live").click()
    visit.get_by_role("button", name="Start camera").click()
    expect(visit.locator("#stage")).to_have_css("aspect-ratio", "320 / 240")
    expect(visit.locator("#layer[data-frames]")).to_be_attached()
    visit.evaluate("[canvas.width, canvas.height] = [240, 320]")
    expect(visit.locator("#stage")).to_have_css("aspect-ratio", "240 / 320")


# Two cameras of which one is open at a time, as on phones; they have sides, or names alone.
TWO_CAMERAS = """sides => {
    const devices = navigator.mediaDevices;
    const camera = devices.getUserMedia.bind(devices);
    globalThis.asked = [];
    let last;
    devices.enumerateDevices = async () => ['one', 'two'].map(deviceId => ({ kind: 'videoinput', deviceId }));
    devices.getUserMedia = async ({ video: { facingMode, deviceId } }) => {
        document.body.dataset.asked = asked.push(deviceId?.exact ?? facingMode);
        if (globalThis.refuses || last?.active) throw new DOMException('in use', 'NotReadableError');
        last = await camera({ video: true });
        const settings = sides ? { facingMode, deviceId: 'one' } : { deviceId: deviceId?.exact ?? 'one' };
        last.getVideoTracks()[0].getSettings = () => settings;
        return last;
    };
}"""


@pytest.mark.parametrize("sides", [True, False])
def test_the_other_camera(visit, sides):
    visit.evaluate(TWO_CAMERAS, sides)
    visit.locator("#tab-live").click()
    names = ["user", *(("environment", "user") if sides else ("two", "one"))]
    for number, button in enumerate(("#switch", "#flip", "#flip"), start=1):
        visit.locator(button).click()
        expect(visit.locator(f"body[data-asked='{number}']")).to_be_attached()
        expect(visit.locator("#flip")).to_be_enabled()
        assert visit.evaluate("asked") == names[:number]
        mirrored = visit.locator("#camera").evaluate("video => video.classList.contains('web-mirrored')")
        assert mirrored == (names[number - 1] != "environment")
    # Another one that cannot be opened is not asked for again.
    visit.evaluate("globalThis.refuses = true")
    visit.locator("#flip").click()
    expect(visit.locator("#live-panel [role=alert]")).to_contain_text("Another program")
    visit.evaluate("globalThis.refuses = false")
    visit.get_by_role("button", name="Start camera").click()
    expect(visit.locator("#flip")).to_be_enabled()
    assert visit.evaluate("asked") == [*names, names[1], names[2]]
