"""The page for tests: a server process, Chromium with a camera that plays a film of a face, and plain HTTP."""

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SPACE = ROOT / "space"
EXAMPLES = SPACE / "examples"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDS_CHROMIUM = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"
)
CHROMIUM_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]
# Of the film: frames with the face, frames without, and frames a second.
WITH_FACE, WITHOUT_FACE, RATE = 50, 20, 10

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")


class Server:
    """A running page: its address, its process, and the folder that it writes to."""

    def __init__(self, process, url, folder, seconds):
        self.process, self.url, self.folder, self.seconds = process, url, folder, seconds

    def files(self):
        return sorted(str(path) for path in self.folder.rglob("*") if path.is_file())

    def memory(self):
        """Resident memory in MB."""
        import psutil

        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def post(self, path, body, headers=None):
        """Status and text of a POST: `body` is bytes, or anything that JSON takes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json", **(headers or {})})
        return _open(request)

    def get(self, path):
        return _open(urllib.request.Request(self.url + path))

    def predict(self, photo):
        """`/predict` as curl would call it: the answer, or the sentence that says why there is none."""
        status, text = self.post("/gradio_api/call/predict", {"data": [photo]})
        if status != 200:
            return json.loads(text)["detail"]
        _, text = self.get(f"/gradio_api/call/predict/{json.loads(text)['event_id']}")
        event, data = (line.partition(": ")[2] for line in text.strip().splitlines()[-2:])
        answer = json.loads(data)
        return answer[0] if event == "complete" else answer["error"]

    def upload(self, path):
        """Uploads a file; the path that the server gave it."""
        return json.loads(self.upload_of(path.read_bytes(), path.name))[0]

    def upload_of(self, data, name="photo.jpg"):
        """The server's answer to an upload of some bytes; the sentence when it refuses."""
        boundary = "rmn-hub-test"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + data + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        status, text = self.post("/gradio_api/upload", body, headers)
        return json.loads(text)["detail"] if status == 413 and text.startswith("{") else text


def _open(request):
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@contextmanager
def serving(folder, code=(ROOT, SPACE), options=(), command=(sys.executable, "-m", "rmn_hub", "demo"), cwd=None):
    """
    Start the page of the packages in the folders `code` in a process of its own, by a command in the folder `cwd`, and
    stop it by SIGTERM.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(folder), "PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, code))
    log = (folder.parent / f"{folder.name}.log").open("w+")
    started = time.monotonic()
    process = subprocess.Popen(
        [*command, "--port", str(port), *options],
        cwd=cwd or folder.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    server = Server(process, f"http://127.0.0.1:{port}", folder, 0.0)
    try:
        # The lines end when the process does.
        if not any(line.startswith("Open ") for line in process.stdout):
            log.seek(0)
            raise RuntimeError(f"the page did not start: {log.read()[-2000:]}")
        server.seconds = time.monotonic() - started
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        process.stdout.close()
        log.close()


def build_wheel(folder):
    """Build the project's wheel, as a release does, and return its path."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def as_data_url(path):
    return f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}"


def jpeg_url(data):
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def many_pixels():
    buffer = io.BytesIO()
    Image.new("1", (6000, 4200)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write_film(path, rate=RATE):
    """A y4m film for Chromium's fake camera, `rate` frames a second: a face that moves right, then an empty room."""
    head = Image.open(EXAMPLES / "astronaut.jpg").convert("L").crop((110, 10, 350, 250)).resize((340, 340))
    room = np.full((480, 640), 110, np.uint8)
    grey = bytes([128]) * (320 * 240 * 2)
    with path.open("wb") as film:
        film.write(b"YUV4MPEG2 W640 H480 F%d:1 Ip A1:1 C420jpeg\n" % rate)
        for number in range(WITH_FACE + WITHOUT_FACE):
            frame = room.copy()
            if number < WITH_FACE:
                left = 20 + 5 * number
                frame[90:430, left : left + 340] = np.asarray(head)
            film.write(b"FRAME\n" + frame.tobytes() + grey)
    return path


@contextmanager
def browsing(film=None, options=()):
    """Chromium by playwright; `film` is what its camera plays, `options` are more of the command line."""
    from playwright.sync_api import sync_playwright

    arguments = [*CHROMIUM_ARGUMENTS, *options, *([f"--use-file-for-fake-video-capture={film}"] if film else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visiting(browser, server, width=1400, height=900, scheme="light", outside=None):
    """A visitor's page, opened and ready. Requests to other hosts are collected in `outside`."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        permissions=["camera", "clipboard-read", "clipboard-write"],
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    own = (server.url, "data:", "blob:", "about:")

    def notice(request):
        if outside is not None and not request.url.startswith(own):
            outside.append(request.url)

    context.on("request", notice)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    try:
        page.goto(server.url)
        page.wait_for_selector("#result .rmn-result")
        yield page
        assert not errors, errors
    finally:
        context.close()


def upload(page, path, wait):
    """Give the photo tab a photo, and wait for a state of the result."""
    page.set_input_files("#photo input[type=file]", path)
    page.wait_for_selector(f"#result {wait}")


def barriers(page):
    """What keeps somebody from using what the page shows: axe's serious findings, and what is too wide or too small."""
    from axe_playwright_python.sync_playwright import Axe

    found = {
        rule["id"]: [node["html"][:200] for node in rule["nodes"]]
        for rule in Axe().run(page).response["violations"]
        if rule["impact"] in ("serious", "critical")
    }
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    small = page.evaluate(
        """() => [...document.querySelectorAll('button, a, summary, input[type=range]')]
            .filter(item => item.checkVisibility({visibilityProperty: true}))
            .filter(item => !item.closest('footer') && !item.matches('.rmn-face, [tabindex="-1"]'))
            .map(item => [item.getBoundingClientRect(), item.outerHTML.slice(0, 120)])
            .filter(([box]) => box.height < 24 || box.width < 24).map(([, html]) => html)"""
    )
    return found | ({"wider than the window": wide} if wide > 0 else {}) | ({"small": small} if small else {})


def start_camera(page):
    page.get_by_role("tab", name="Live").click()
    page.get_by_role("button", name="Start camera").click()
    page.get_by_role("button", name="Stop camera").wait_for()
