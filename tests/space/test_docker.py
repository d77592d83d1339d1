"""The Dockerfile: read, and built and run where there is a container engine (else by scripts/run_dockerfile.py)."""

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import pytest

ENGINE = shutil.which("docker") or shutil.which("podman")
ROOT = Path(__file__).parents[2]


def instructions():
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def stages():
    """The instructions of each stage: of the one that installs, and of the one that is the image."""
    found = []
    for name, value in instructions():
        if name == "FROM":
            found.append([])
        found[-1].append((name, value))
    return found


def test_it_runs_the_page_as_an_ordinary_user_and_is_looked_after():
    packages, image = stages()
    assert re.fullmatch(r"python:3\.\d+-slim", dict(image)["FROM"])
    # Compiled packages belong to one Python.
    assert dict(packages)["FROM"] == f"{dict(image)['FROM']} AS packages"
    names = [name for name, _ in image]
    user = dict(image)["USER"]
    assert user not in ("root", "0")
    # Whatever is copied after it belongs to the user.
    assert all(name != "COPY" or f"--chown={user}" in value for name, value in image)
    assert names.index("USER") < names.index("COPY")
    assert "HEALTHCHECK" in names
    assert names[-1] == "CMD"
    port = dict(image)["EXPOSE"]
    assert f":{port}/" in dict(image)["HEALTHCHECK"]
    assert f'"{port}"' in image[-1][1]


def test_what_it_copies_is_there_and_not_ignored():
    allowed = [
        line[1:].removesuffix("/**") for line in (ROOT / ".dockerignore").read_text().splitlines() if "!" in line
    ]
    packages, image = stages()
    for value in (value for name, value in packages if name == "COPY"):
        *sources, _ = value.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert any(source == each or source.startswith(f"{each}/") for each in allowed), source
    # Nothing else of the first stage's layers is in the image.
    assert [value.split()[0] for name, value in image if name == "COPY"] == ["--from=packages"]


def test_it_installs_no_torch():
    wanted = (ROOT / "space" / "requirements.txt").read_text()
    names = {re.match(r"[\w-]+", line)[0] for line in wanted.splitlines() if line and not line.startswith("#")}
    assert {"onnxruntime", "gradio"} <= names
    assert not names & {"torch", "torchvision", "transformers", "facenet-pytorch", "rmn-hub"}
    assert "--no-deps ." in (ROOT / "Dockerfile").read_text()


def has_engine():
    return ENGINE is not None and subprocess.run([ENGINE, "info"], capture_output=True).returncode == 0


@pytest.mark.skipif(
    not has_engine(), reason="there is no container engine here: scripts/run_dockerfile.py runs the steps"
)
def test_an_image_is_built_and_serves_the_page():
    name = f"rmn-hub-test-{uuid.uuid4().hex[:8]}"
    subprocess.run([ENGINE, "build", "--quiet", "--tag", name, ROOT], check=True, capture_output=True)
    try:
        (image,) = json.loads(subprocess.check_output([ENGINE, "image", "inspect", name]))
        assert image["Config"]["User"] == "user"
        started = [ENGINE, "run", "--detach", "--rm", "--publish", "127.0.0.1::7860", "--name", name, name]
        subprocess.run(started, check=True, capture_output=True)
        address = subprocess.check_output([ENGINE, "port", name, "7860"], text=True).split()[-1]
        assert "rmn-result" in page_at(f"http://{address}/", time.monotonic() + 300)
    finally:
        subprocess.run([ENGINE, "rm", "--force", name], capture_output=True)
        subprocess.run([ENGINE, "image", "rm", "--force", name], capture_output=True)


def page_at(address, deadline):
    """The page at an address, once it is served there."""
    while True:
        try:
            with urllib.request.urlopen(address, timeout=60) as response:
                return response.read().decode()
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < deadline
            time.sleep(1)
