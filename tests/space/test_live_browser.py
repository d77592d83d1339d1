"""The live tab in Chromium with two cameras: another one is chosen, and one is unplugged."""

import pytest
from space_helpers import NEEDS_CHROMIUM, browsing, start_camera

pytest.importorskip("gradio", reason="the page is optional: install rmn-hub[demo]")
pytestmark = NEEDS_CHROMIUM

# The tracks of all cameras that were ever opened.
TRACKS = """() => {
    window.tracks = [];
    document.addEventListener('playing', ({target}) => tracks.push(...target.srcObject.getTracks()), true);
}"""


@pytest.fixture(scope="module")
def browser():
    with browsing(options=["--use-fake-device-for-media-stream=device-count=2,fps=5"]) as browser:
        yield browser


def running(page, labels):
    page.wait_for_function(
        """labels => {
            const live = new Set(tracks.filter(track => track.readyState === 'live').map(track => track.label));
            return [...live].join() === labels.join();
        }""",
        arg=labels,
    )


def test_a_chosen_camera_is_used_and_closed_and_one_that_is_gone_is_told(visit):
    start, stop = (visit.get_by_role("button", name=f"{word} camera") for word in ("Start", "Stop"))
    visit.get_by_role("tab", name="Live").click()
    visit.evaluate(TRACKS)
    start_camera(visit)
    running(visit, ["fake_device_0"])
    stop.click()
    running(visit, [])
    # Gradio's menu opens a camera at once. It is the one that starts, now and later.
    visit.get_by_label("select input source").click()
    visit.get_by_label("select source").select_option("fake_device_1")
    running(visit, ["fake_device_1"])
    for _ in range(2):
        start.click()
        stop.wait_for()
        running(visit, ["fake_device_1"])
        stop.click()
        running(visit, [])
    # One that is chosen and not started runs until another is chosen, or its tab left.
    for name in ("fake_device_1", "fake_device_0"):
        visit.get_by_label("select input source").click()
        visit.get_by_label("select source").select_option(name)
        running(visit, [name])
    visit.get_by_role("tab", name="About").click()
    running(visit, [])
    visit.get_by_role("tab", name="Live").click()
    start.click()
    running(visit, ["fake_device_0"])
    visit.evaluate(
        """() => {
            const [track] = document.querySelector('#live-camera video').srcObject.getTracks();
            track.stop();
            track.dispatchEvent(new Event('ended'));
        }"""
    )
    visit.get_by_role("alert").filter(has_text="camera is gone").wait_for()
    start.click()
    running(visit, ["fake_device_0"])
    assert not visit.get_by_role("alert").filter(has_text="camera is gone").count()
