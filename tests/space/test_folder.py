"""The folder of a Space on a CPU, started as the Hub starts it, where nothing is but what its requirements ask for."""

import pytest
from environments import closure, fresh_environment, requirements_in
from space_helpers import EXAMPLES, as_data_url, serving

from rmn_hub import BUNDLED_CHECKPOINT
from rmn_hub.hub.gradio_space import write_space

pytest.importorskip("gradio", reason="the page is optional: install rmn-hub[demo]")
pytest.importorskip("av", reason="films are optional: install rmn-hub[video]")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("folder")
    write_space(BUNDLED_CHECKPOINT, root / "space", "cpu")
    # Without versions: those that are installed here will do.
    lines = requirements_in((root / "space" / "requirements.txt").read_text(encoding="utf-8"))
    names = [line.partition("==")[0] for line in lines]
    assert not closure(names) & {"torch", "transformers", "scipy", "rmn-hub"}
    python = fresh_environment(root / "environment", names)
    with serving(root / "temporary", code=(), command=(python, "app.py"), cwd=root / "space") as server:
        yield server


def test_it_serves_the_page_and_its_api(server):
    status, page = server.get("/")
    assert status == 200
    assert "rmn-result" in page
    (face,) = server.predict({"url": as_data_url(EXAMPLES / "astronaut.jpg")})["faces"]
    assert face["expression"] == "happy"
