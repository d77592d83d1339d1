"""The page over HTTP, from a wheel: beside the command line, its limits, its odd requests, and its end."""

import html
import importlib.util
import json
import re
import shutil
import signal
import socket
import subprocess
import urllib.request
import zipfile

import pytest
from cli_helpers import start
from PIL import Image
from space_helpers import EXAMPLES, ROOT, SPACE, as_data_url, build_wheel, jpeg_url, many_pixels, serving
from typer.testing import CliRunner

from rmn_hub.cli.shared import main

pytest.importorskip("gradio", reason="the page is optional: install rmn-hub[demo]")

from rmn_space import about, safety

ASTRONAUT = EXAMPLES / "astronaut.jpg"
FILE = {"_type": "gradio.FileData"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folders with the packages: as a wheel installs them, without any file of the checkout that it forgets."""
    if importlib.util.find_spec("hatchling") is None:
        return [ROOT, SPACE]
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(build_wheel(folder)) as wheel:
        wheel.extractall(folder / "site-packages")  # installing a wheel of Python files is no more than this
    return [folder / "site-packages"]


@pytest.fixture(scope="module")
def server(tmp_path_factory, installed):
    with serving(tmp_path_factory.mktemp("space") / "temporary", code=installed) as server:
        yield server


def test_the_page_starts_with_a_result_and_its_style(server):
    status, page = server.get("/")
    assert status == 200
    assert "rmn-result" in page
    assert ".rmn-photo" in page  # the style sheet, which lies in the package


def test_http_gradio_client_and_command_line_agree(server, tmp_path, monkeypatch):
    from gradio_client import Client, handle_file

    monkeypatch.chdir(EXAMPLES)
    lines = CliRunner().invoke(main, ["predict", "--json", "astronaut.jpg", "coffee.jpg"]).stdout.splitlines()
    (astronaut, coffee) = (json.loads(line) for line in lines)
    assert [face["expression"] for face in astronaut["faces"]] == ["happy"]
    in_request = {"url": as_data_url(ASTRONAUT), "orig_name": "astronaut.jpg"}
    assert same(server.predict(in_request), astronaut)
    assert same(server.predict({"path": server.upload(ASTRONAUT), "meta": FILE}), astronaut)
    client = Client(server.url, verbose=False, download_files=str(tmp_path))
    assert same(client.predict(handle_file("astronaut.jpg"), api_name="/predict"), astronaut)
    nothing = server.predict({"url": as_data_url(EXAMPLES / "coffee.jpg"), "orig_name": "coffee.jpg"})
    # The command line's advice names its own options.
    assert nothing.pop("message")
    assert coffee.pop("message")
    assert nothing == coffee
    described = json.loads(server.get("/gradio_api/info")[1])["named_endpoints"]
    assert sorted(described) == ["/predict", "/video"]
    assert "rmn-hub predict --json" in described["/predict"]["description"]
    assert set(described["/predict"]["returns"][0]["type"]["properties"]) >= set(astronaut)


def test_a_program_that_knows_openapi_alone_can_ask(server):
    described = json.loads(server.get("/gradio_api/openapi.json")[1])
    assert described["openapi"].startswith("3.")
    (upload,) = [path for path in described["paths"] if path.endswith("/upload")]
    (ask,) = [path for path, item in described["paths"].items() if item.get("post", {}).get("operationId") == "predict"]
    assert "rmn-hub predict --json" in described["paths"][ask]["post"]["description"]
    schema = described["paths"][ask]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert [*schema["properties"]] == ["photo"]
    (fetch,) = [
        path for path, item in described["paths"].items() if item.get("get", {}).get("operationId") == "predict_get"
    ]
    assert upload == "/gradio_api/upload"  # where `server.upload` sends it
    status, event = server.post(ask, {"photo": {"path": server.upload(ASTRONAUT), "meta": FILE}})
    assert status == 200
    stream = server.get(fetch.format(**json.loads(event)))[1]
    assert "event: complete" in stream
    (answer,) = json.loads(stream.strip().splitlines()[-1].removeprefix("data: "))
    assert [face["expression"] for face in answer["faces"]] == ["happy"]


def same(answer, line):
    """Equal, numbers within 1e-4: torch's last digits depend on how many cores another request left."""
    if isinstance(line, dict):
        return list(answer) == list(line) and all(same(answer[name], line[name]) for name in line)
    if isinstance(line, list):
        return len(answer) == len(line) and all(same(a, b) for a, b in zip(answer, line))
    return answer == pytest.approx(line, abs=1e-4) if isinstance(line, float) else answer == line


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_about_tabs_commands_work_as_they_stand(server, tmp_path):
    # A photo that is too large for a command's arguments.
    Image.open(ASTRONAUT).resize((1400, 1400)).save(tmp_path / "photo.jpg", quality=95)
    text = html.unescape(re.sub("<[^>]+>", "", about.API)).replace("http://127.0.0.1:7860", server.url)
    send, fetch = text[text.index("printf") : text.index("EVENT_ID") + 8].rsplit("\n", 1)
    event = json.loads(subprocess.run(["sh", "-c", send], cwd=tmp_path, capture_output=True, check=True).stdout)
    fetch = fetch.replace("EVENT_ID", event["event_id"])
    answer = subprocess.run(["sh", "-c", fetch], cwd=tmp_path, capture_output=True, check=True, text=True).stdout
    (result,) = json.loads(answer.partition("data: ")[2])
    assert result["source"] == "photo.jpg"
    assert len(result["faces"]) == 1


@pytest.mark.parametrize(
    ("photo", "sentence"),
    [
        ({"path": "/etc/passwd"}, safety.NOT_UPLOADED),
        ("/etc/passwd", safety.NOT_UPLOADED),
        ({"path": "http://127.0.0.1:9/a.jpg", "meta": FILE}, safety.NO_ADDRESSES),
        ("https://example.com/a.jpg", safety.NO_ADDRESSES),
        (None, "There is no photo in this request. Please send one."),
        ({"url": jpeg_url(b"hello"), "orig_name": "a.jpg"}, "a.jpg "),
        ({"url": jpeg_url(ASTRONAUT.read_bytes()[:9000]), "orig_name": "a.jpg"}, "a.jpg "),
        ({"url": jpeg_url(bytes(40_000_000))}, safety.TOO_LARGE),
        ({"url": "data:image/png;base64," + many_pixels(), "orig_name": "a.png"}, "a.png is 6000 x 4200 pixels"),
    ],
)
def test_bad_requests_get_their_sentence(server, photo, sentence):
    assert server.predict(photo).startswith(sentence)


def test_no_request_reads_the_servers_files_or_reaches_other_hosts(server):
    # Gradio refuses this one itself.
    assert server.predict({"path": str(ASTRONAUT), "meta": FILE}) == safety.BAD_REQUEST
    for path in (
        f"/gradio_api/file={ASTRONAUT}",
        "/gradio_api/file=https://example.com/",
        "/gradio_api/file/https://example.com/",
        "/gradio_api/proxy=https://huggingface.co/",
        "/gradio_api/deep_link?session_hash=a",
    ):
        assert server.get(path)[0] in (403, 404), path
    assert server.post("/gradio_api/process_recording", b"")[0] == 404
    assert server.upload_of(bytes(40_000_000)) == safety.TOO_LARGE
    assert "exceeded maximum" in server.upload_of(bytes(11_000_000))


def test_bad_starts_get_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    runner = CliRunner()
    answer = runner.invoke(main, ["demo", "--checkpoint", "/nowhere/at/all"])
    assert answer.exit_code == 2
    assert "/nowhere/at/all" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = runner.invoke(main, ["demo", "--port", str(port)])
    assert answer.exit_code == 2
    assert f"port {port} of 127.0.0.1 cannot be used" in answer.stderr


@pytest.mark.parametrize("port", ["abc", "0", "70000", "-1"])
def test_a_port_of_the_environment_that_cannot_be(monkeypatch, port):
    monkeypatch.setenv("GRADIO_SERVER_PORT", port)
    answer = CliRunner().invoke(main, ["demo"])
    assert answer.exit_code == 2
    assert answer.stderr.startswith("rmn-hub: GRADIO_SERVER_PORT=")


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6 here")
def test_a_page_in_ipv6_started_by_a_thread(tmp_path):
    """The environment names the address; whoever starts the page in a thread keeps the signals."""
    with socket.socket(socket.AF_INET6) as free:
        try:
            free.bind(("::1", 0))
        except OSError:
            pytest.skip("this computer has no ::1")
        port = free.getsockname()[1]
    code = "import threading; from rmn_space.start import main; t = threading.Thread(target=main); t.start(); t.join()"
    process = start(
        python=("-c", code),
        environment={"GRADIO_SERVER_NAME": "::1", "GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(tmp_path)},
    )
    try:
        assert any(line.startswith(b"Open ") for line in process.stdout)
        with urllib.request.urlopen(f"http://[::1]:{port}/", timeout=60) as page:
            assert b"rmn-result" in page.read()
    finally:
        process.kill()
        process.communicate()


def test_without_a_folder_to_write_to(monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "/dev/null/uploads")
    answer = CliRunner().invoke(main, ["demo"])
    assert answer.exit_code == 2
    assert "/dev/null/uploads" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_sigterm_leaves_nothing(server):
    # The last one of this file: it ends the page that the others share.
    server.upload(ASTRONAUT)
    assert server.predict({"url": as_data_url(ASTRONAUT)})["faces"][0]["expression"] == "happy"
    assert len(server.files()) >= 1
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    assert list(server.folder.iterdir()) == []
