"""The notebooks of docs/ and the Python of README.md and the guides run as they stand; the site is built strictly."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs").glob("*.ipynb"))
# A block that needs a film, a server or the Hub is marked "python notest".
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
PAGES = [
    page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if BLOCK.search(page.read_text())
]


def run(code: str, folder: Path) -> None:
    """Run code in a process of its own in an empty folder, without a network."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "space")])}
    script = folder / "script.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 2


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, tmp_path):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    run("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"), tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page, tmp_path):
    photo = (ROOT / "space" / "examples" / "astronaut.jpg").read_bytes()
    (tmp_path / "photo.jpg").write_bytes(photo)
    # The README speaks of a crop that its reader has.
    crop = "from PIL import Image\ncrop = Image.open('photo.jpg').crop((167, 60, 279, 172))\n"
    run(crop + "\n".join(BLOCK.findall(page.read_text(encoding="utf-8"))), tmp_path)


def test_there_are_pages():
    assert {page.stem for page in PAGES} >= {"README", "index", "photos", "transformers", "export"}


def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocstrings", reason="the site is optional: install the development packages")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("index.html", "guides/training/index.html", "reference/recognizer/index.html"):
        assert (tmp_path / "site" / name).is_file()
    assert "from_pretrained" in (tmp_path / "site" / "reference" / "recognizer" / "index.html").read_text()
    # A reader's browser is asked for nothing elsewhere.
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=\"?(https?:[^\s\">]+)", page.read_text())
        assert loaded == [], page
