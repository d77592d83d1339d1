"""A page in the browser as a static Space: its front matter, and its upload by the real client to a local server."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cli_helpers import run
from hub_helpers import environment
from hub_server import Hub, serving

from rmn_hub.hub.space import NEEDED, card

ROOT = Path(__file__).parents[2]


@pytest.fixture
def page(tmp_path):
    for name in (*NEEDED, "js/main.js"):
        (tmp_path / "page" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "page" / name).write_text(f"the file {name}")
    return tmp_path / "page"


@pytest.mark.parametrize("model", [None, "org/rmn"])
def test_the_front_matter_asks_for_what_the_page_needs(model):
    _, front, _ = card(model).split("---\n", 2)
    values = yaml.safe_load(front)
    assert (values["sdk"], values["app_file"]) == ("static", "index.html")
    assert values.get("models") == (None if model is None else [model])
    # The three headers that the Hub lets a Space have; without them a page has no threads.
    assert values["custom_headers"] == {
        "cross-origin-embedder-policy": "require-corp",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "cross-origin",
    }
    assert len(values["short_description"]) <= 60  # longer ones are refused


def test_a_page_becomes_a_static_space(page, tmp_path):
    hub = Hub()
    words = ["publish", str(page), "org/page", "--space", "static", "--model", "org/rmn"]
    with serving(hub) as address:
        own_environment = environment(address, tmp_path / "home", PYTHONPATH=str(ROOT))
        command = [sys.executable, "-m", "rmn_hub", *words]
        done = subprocess.run(command, env=own_environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "/spaces/org/page/commit/" in done.stdout
    assert hub.spaces == {"org/page": "static"}
    files = hub.repos["org/page"]["commits"][hub.resolve("org/page", "main")]
    assert sorted(files) == sorted(["README.md", "js/main.js", *NEEDED])
    assert files["README.md"].decode() == card("org/rmn")
    assert not (page / "README.md").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--space", "static"], "index.html"),
        (["--space", "gradio"], "--space gradio"),
        (["--model", "org/rmn"], "--model"),
    ],
)
def test_what_is_not_a_page_is_not_published(tmp_path, words, named):
    result = run("publish", tmp_path, "org/never", *words)
    assert result.exit_code == 2
    assert named in result.stderr
