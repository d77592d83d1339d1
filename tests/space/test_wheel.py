"""The wheel as users install it: what is in it. (That the page starts from it, test_http.py shows.)"""

import zipfile

import pytest
from space_helpers import EXAMPLES, ROOT, SPACE, build_wheel

from rmn_hub.hub.gradio_space import REQUIREMENTS

pytest.importorskip("hatchling", reason="building a wheel needs hatchling, which is a development dependency")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_both_packages_and_all_that_they_read(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry = next(name for name in names if name.endswith("entry_points.txt"))
        assert "rmn-hub = rmn_hub." in archive.read(entry).decode()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert "Project-URL: Paper, https://" in metadata
    assert "](docs/" not in metadata
    for root, package in ((ROOT, "rmn_hub"), (SPACE, "rmn_space")):
        files = {path for path in (root / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts}
        missing = {path.relative_to(root).as_posix() for path in files} - names
        assert not missing
    assert {f"rmn_space/examples/{path.name}" for path in EXAMPLES.iterdir()} <= names
    browser = SPACE / "browser"
    pages = {path.relative_to(browser).as_posix() for path in browser.rglob("*") if path.is_file()}
    assert {f"rmn_space/browser/{name}" for name in pages} <= names
    # What `rmn-hub publish --space` writes.
    assert {f"rmn_space/{name}" for name in ("app.py", "README.md", *REQUIREMENTS.values())} <= names
    kinds = ("model.safetensors", "recipes/cpu.yaml", "hub/card_template.md", "rmn_space/page.css", "py.typed")
    assert all(any(name.endswith(kind) for name in names) for kind in kinds)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"rmn_hub", "rmn_space"}
