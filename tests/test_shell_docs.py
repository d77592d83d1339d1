"""The shell commands of README.md and the guides run as they stand, in the order of each page."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from evaluation_helpers import faces as draw_faces
from evaluation_helpers import save_checkpoint, write_set
from films import head, scene, write_film
from hub_helpers import environment
from hub_server import Hub, serving
from space_helpers import EXAMPLES

from rmn_hub import EXPRESSIONS

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
PAGES = {
    page.stem: page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if "rmn-hub " in "".join(BLOCK.findall(page.read_text()))
}
# What is not run here, and where it is tried instead.
ELSEWHERE = {
    r"git clone|\bpip install|^hf auth|^docker": "installs, or asks for a person or a container engine",
    r"rmn-hub demo": "tests/space starts the page",
    r"^python -m http.server|--browser|--space static": "tests/space/browser, tests/hub/test_static_space.py",
    r"rmn-hub video 0": "a camera and a screen",
    r"https://HOST": "tests/cli/test_predict.py, with a server of its own",
    r"s3://": "tests/distributed, with another kind of address",
}
# A command's last words win: what would take hours is over in seconds, and random weights may be random.
SHORTER = {
    "train": "--minutes 0.02",
    "distill": "--minutes 0.02",
    "cross-validate": "--epochs 1 --folds 3",
    "compare": "--minutes 0.02 --network rmn --network resnet18",
    "teach": "--views 2",
    "export": "--allow-loss",
    "batch": "--workers 1",
}
# The folder that a page begins with, where an earlier page has made it.
TRAINED = ("publishing", "export")


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A folder with the command `rmn-hub`, which shortens what takes long."""
    folder = tmp_path_factory.mktemp("programs")
    script = f"""\
        #!{sys.executable}
        import sys
        from rmn_hub.__main__ import main
        sys.argv[0] = "rmn-hub"
        sys.argv += {SHORTER!r}.get(sys.argv[1], "").split()
        main()
    """
    (folder / "rmn-hub").write_text(textwrap.dedent(script))
    (folder / "rmn-hub").chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def belongings(tmp_path_factory):
    """What a reader has: photos, a film, labelled faces, checkpoints."""
    folder = tmp_path_factory.mktemp("belongings")
    photo = EXAMPLES / "astronaut.jpg"
    for name in ("photo.jpg", "holiday/beach.jpg", "photos/a.jpg", "photos/b/c.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(photo, folder / name)
    draw_faces(1)[0].save(folder / "face.png")
    write_film(folder / "film.mp4", [scene((head(), (60 + step, 40))) for step in range(25)])
    for split, count in (("train", 140), ("public_test", 35), ("private_test", 14)):
        write_set(folder / "fer2013" / f"{split}.parquet", draw_faces(count, seed=count), [*range(7)] * (count // 7))
    for number, face in enumerate(draw_faces(140)):
        path = folder / "faces" / EXPRESSIONS[number % 7] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        face.save(path)
    for name in ("CHECKPOINT", "runs/a/best", "runs/b/best", "runs/mine/best"):
        save_checkpoint(folder / name, sharpness=6 + len(name))
    return folder


@pytest.fixture(scope="module")
def hub():
    """The address of an empty Hub."""
    with serving(Hub()) as address:
        yield address


def commands(page):
    """The lines of a page's shell blocks, without those that are tried elsewhere."""
    lines = "".join(BLOCK.findall(page.read_text(encoding="utf-8"))).splitlines()
    return [line for line in lines if not any(re.search(pattern, line) for pattern in ELSEWHERE)]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(PAGES[page])])
def test_the_commands_of_a_page_run(page, programs, belongings, hub, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(belongings, home)
    if page not in TRAINED:
        shutil.rmtree(home / "runs" / "mine")
    if page == "scaling":
        shutil.rmtree(home / "faces")  # there it is what is written
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    code = os.pathsep.join([str(ROOT), str(ROOT / "space")])
    own_environment = environment(hub, tmp_path / "cache", PATH=path, PYTHONPATH=code)
    for line in commands(PAGES[page]):
        words = ["bash", "-o", "pipefail", "-c", line]
        done = subprocess.run(words, cwd=home, env=own_environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, line


def test_the_pages_that_have_commands_are_found():
    assert {*PAGES} >= {"README", "photos", "films", "training", "export", "publishing", "scaling"}


@pytest.mark.parametrize("pattern", ELSEWHERE)
def test_every_exception_is_of_use(pattern):
    assert any(re.search(pattern, line) for page in PAGES.values() for line in page.read_text().splitlines())
