"""The page with the real package `spaces` and a made device service, which refuses, keeps waiting or lends a GPU."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from space_helpers import EXAMPLES, SPACE, as_data_url, serving

pytest.importorskip("gradio", reason="the page is optional: install rmn-hub[demo]")
pytest.importorskip("spaces", reason="ZeroGPU is tried with its own package, a development dependency")

from rmn_space.service import NO_GPU

GRANTED = {"idle": True, "nvidiaIndex": 0, "nvidiaUUID": "GPU-of-nobody", "allowToken": "token"}


class DeviceService(BaseHTTPRequestHandler):
    """What a ZeroGPU Space asks for GPUs, as far as a page goes."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        if path == "/startup-report":
            # There is no GPU to be had when the page starts: whatever asked for one then would be refused.
            self._send(200, b"{}")
        elif path != "/schedule":
            self._send(200, b"{}")
        elif self.server.mode == "refuse":
            self._send(429, json.dumps({"left": 0, "wait": "PT1H"}).encode())
        elif self.server.mode == "wait":
            self._send(200, b"event: ping\n\n", b"event: ping\n\n", b"event: failed\n\n")
        else:
            self._send(200, json.dumps(GRANTED).encode())

    def _send(self, status, *parts):
        self.send_response(status)
        self.send_header("Content-Type", "text/event-stream" if len(parts) > 1 else "application/json")
        self.send_header("Content-Length", str(sum(map(len, parts))))
        self.end_headers()
        for part in parts:
            self.wfile.write(part)
            self.wfile.flush()

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def devices():
    server = ThreadingHTTPServer(("127.0.0.1", 0), DeviceService)
    server.asked, server.mode = [], "refuse"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def page(devices, tmp_path_factory):
    root = tmp_path_factory.mktemp("zero")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPACES_ZERO_GPU", "true")
        patch.setenv("SPACES_ZERO_DEVICE_API_URL", f"http://127.0.0.1:{devices.server_port}")
        patch.setenv("ZEROGPU_OFFLOAD_DIR", str(root / "tensors"))
        # As a Space starts it: `app.py` imports `spaces` before anything imports torch.
        with serving(root / "temporary", command=(sys.executable, "app.py"), cwd=SPACE) as server:
            yield server


def test_it_listens_where_every_gpu_is_refused(page, devices):
    status, text = page.get("/")
    assert status == 200
    assert "rmn-result" in text
    assert devices.asked == ["/startup-report"]


@pytest.mark.parametrize("mode", ["refuse", "wait", "lend"])
def test_a_photo_without_a_gpu_runs_on_the_cpu_with_a_sentence(page, devices, mode):
    """There is no GPU here, so that one that is lent does not work."""
    devices.mode = mode
    before = len(devices.asked)
    result = page.predict({"url": as_data_url(EXAMPLES / "astronaut.jpg")})
    assert "/schedule" in devices.asked[before:]
    assert [face["expression"] for face in result["faces"]] == ["happy"]
    assert NO_GPU in result["message"]
