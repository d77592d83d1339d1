"""The Dockerfile, read: a container engine is not needed."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def instructions():
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def test_it_runs_the_page_as_an_ordinary_user_and_is_looked_after():
    found = instructions()
    names = [name for name, _ in found]
    assert names[0] == "FROM"
    assert re.fullmatch(r"python:3\.\d+-slim", found[0][1])
    user = dict(found)["USER"]
    assert user not in ("root", "0")
    # Whatever is installed or copied after it belongs to the user.
    assert all(name != "COPY" or f"--chown={user}" in value for name, value in found)
    assert names.index("USER") < names.index("COPY")
    assert "HEALTHCHECK" in names
    assert names[-1] == "CMD"
    port = dict(found)["EXPOSE"]
    assert f":{port}/" in dict(found)["HEALTHCHECK"]
    assert f'"{port}"' in found[-1][1]


def test_what_it_copies_is_there_and_not_ignored():
    allowed = [
        line[1:].removesuffix("/**") for line in (ROOT / ".dockerignore").read_text().splitlines() if "!" in line
    ]
    for name, value in instructions():
        if name == "COPY":
            *sources, _ = [word for word in value.split() if not word.startswith("--")]
            for source in sources:
                assert (ROOT / source).exists(), source
                assert any(source == each or source.startswith(f"{each}/") for each in allowed), source


def test_it_installs_no_torch():
    wanted = (ROOT / "space" / "requirements-cpu.txt").read_text()
    names = {re.match(r"[\w-]+", line)[0] for line in wanted.splitlines() if line and not line.startswith("#")}
    assert {"onnxruntime", "gradio"} <= names
    assert not names & {"torch", "torchvision", "transformers", "facenet-pytorch", "rmn-hub"}
    assert "--no-deps ." in (ROOT / "Dockerfile").read_text()
