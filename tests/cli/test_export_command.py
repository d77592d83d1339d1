"""`rmn-hub export`."""

import json
import shutil

import pytest
from cli_helpers import files_of, run
from evaluation_helpers import faces, save_checkpoint, write_set

from rmn_hub import EXPRESSIONS
from rmn_hub.cli.browser import _look
from rmn_hub.drawing.palette import color_of
from rmn_hub.engines.onnx import OnnxEngine
from rmn_hub.export import browser
from rmn_hub.packages import page_part


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("cli") / "checkpoint")


def test_a_checkpoint_gets_its_onnx_file(checkpoint):
    result = run("export", checkpoint)
    assert result.exit_code == 0, result.output
    assert OnnxEngine.from_checkpoint(checkpoint).image_size == 32
    assert str(checkpoint / "onnx" / "model.onnx") in result.stdout
    assert "100.0%" in result.stdout


def test_accuracies_are_of_the_given_faces(checkpoint, tmp_path):
    write_set(tmp_path / "data" / "test.parquet", faces(70), [number % 7 for number in range(70)])
    result = run("export", checkpoint, tmp_path / "own.onnx", "--data", tmp_path / "data", "--split", "all")
    assert result.exit_code == 0, result.output
    assert "accuracy" in result.stdout
    assert files_of(tmp_path) == ["data/test.parquet", "own.onnx"]


@pytest.fixture
def runtime(tmp_path):
    folder = tmp_path / "runtime"
    folder.mkdir()
    for name in browser.RUNTIME_FILES:
        (folder / name).write_text(f"the file {name}")
    return folder


def settings_of(page):
    return json.loads((page / "js" / "settings.js").read_text().partition("export default ")[2].rstrip(";\n"))


def test_a_checkpoint_gets_its_page(checkpoint, runtime, tmp_path):
    page = tmp_path / "page"
    versions = []
    for _ in range(2):  # a page replaces an earlier one, and the same inputs make the same page
        result = run("export", checkpoint, page, "--browser", "--runtime", runtime)
        assert result.exit_code == 0, result.output
        versions.append(settings_of(page)["version"])
    assert versions[0] == versions[1]
    settings = settings_of(page)
    assert settings["processor"]["width"] == 32
    assert settings["colors"] == {name: color_of(name) for name in settings["classes"]}
    kept = (page / "kept.js").read_text()
    # What visitors with a graphics card load is kept when they load it.
    later = {f"runtime/{browser.GPU_SCRIPT}", f"runtime/{browser.GPU_BINARY}.gz"}
    assert later < set(files_of(page))
    assert {name for name in files_of(page) if f'"{name}"' not in kept} == {"sw.js", "kept.js", *later}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page", "runtime"]


def test_a_page_has_the_classes_of_the_configuration(checkpoint, runtime, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "renamed")
    assert run("export", folder).exit_code == 0
    settings = json.loads((folder / "config.json").read_text())
    settings["id2label"]["3"] = "Freude"
    (folder / "config.json").write_text(json.dumps({**settings, "label2id": None}))
    result = run("export", folder, tmp_path / "page", "--browser", "--runtime", runtime)
    assert result.exit_code == 0, result.output
    settings = settings_of(tmp_path / "page")
    assert settings["classes"][3] == "Freude"
    assert list(settings["colors"]) == settings["classes"]


@pytest.mark.parametrize(
    ("most", "tolerances", "stored"),
    [
        (15_000_000, {}, "16 bits"),
        (1000, {}, "8 bits"),
        # What moves probabilities is not chosen for its size.
        (1000, {"int8": -1.0}, "16 bits"),
        (15_000_000, {"fp16": -1.0}, "8 bits"),
    ],
)
def test_weights_are_stored_in_as_many_bits_as_the_page_has_room_for(
    checkpoint, runtime, tmp_path, monkeypatch, most, tolerances, stored
):
    monkeypatch.setattr(browser, "MOST_BYTES", most)
    monkeypatch.setattr(browser.weights, "TOLERANCE", {**browser.weights.TOLERANCE, **tolerances})
    page = tmp_path / "page"
    result = run("export", checkpoint, page, "--browser", "--runtime", runtime)
    assert result.exit_code == 0, result.output
    assert stored in result.stdout
    settings = settings_of(page)
    assert settings["weights"] == stored
    # All photos but the one that the page begins with, and thumbnails.
    first = {"sw.js", "kept.js", "icon.png", *(path.name for path in page_part("examples").glob("*.jpg"))} - {
        "astronaut.jpg"
    }
    first |= {f"runtime/{browser.GPU_SCRIPT}", f"runtime/{browser.GPU_BINARY}.gz"}
    loaded = sum((page / name).stat().st_size for name in files_of(page) if name not in first)
    assert f"{loaded / 1e6:.1f} MB" in result.stdout
    assert settings["megabytes"] == pytest.approx(loaded / 1e6, abs=0.06)


def test_weights_that_fit_into_no_form_are_refused(checkpoint, runtime, tmp_path, monkeypatch):
    monkeypatch.setattr(browser.weights, "TOLERANCE", {"fp16": -1.0, "int8": -1.0})
    result = run("export", checkpoint, tmp_path / "page", "--browser", "--runtime", runtime)
    assert result.exit_code == 2
    assert "16 bits" in result.stderr
    assert not (tmp_path / "page").exists()


def test_a_page_has_the_limits_of_the_page_with_a_server():
    live = pytest.importorskip("rmn_space.live", reason="the page with a server needs rmn-hub[demo]")
    from rmn_space.safety import MAX_FACES
    from rmn_space.service import LIVE_MIN_FACE

    look = _look(EXPRESSIONS)
    assert (look["maxFaces"], look["live"]["minFace"]) == (MAX_FACES, LIVE_MIN_FACE)
    assert (look["live"]["maxFaces"], look["live"]["patience"]) == (live.MAX_FACES, live.PATIENCE)


def test_a_page_replaces_the_files_of_an_earlier_one_and_no_others(checkpoint, runtime, tmp_path):
    page = tmp_path / "page"
    words = ("export", checkpoint, page, "--browser", "--runtime", runtime)
    assert run(*words).exit_code == 0
    written = files_of(page)
    own = {".git/HEAD": "ref", ".nojekyll": "", "CNAME": "rmn.example", "js/own.js": "own", "models/own.bin": "own"}
    for name, text in own.items():
        (page / name).parent.mkdir(exist_ok=True)
        (page / name).write_text(text)
    # What the earlier build wrote, as far as it is in the folder: a script that is gone today, and a damaged one.
    kept = page / "kept.js"
    kept.write_text(kept.read_text().replace('"small": [', '"small": ["js/former.js", "../notes.txt", "js/away.js",'))
    (page / "js" / "former.js").write_text("former")
    (page / "js" / "main.js").write_text("damaged")
    (tmp_path / "notes.txt").write_text("mine")
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert files_of(page) == sorted([*written, *own])
    assert {name: (page / name).read_text() for name in own} == own
    assert (page / "js" / "main.js").read_text() != "damaged"
    assert "former" not in kept.read_text()
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["mine.txt", "js/settings.js", "kept.js"])
def test_a_page_does_not_replace_other_files(checkpoint, runtime, tmp_path, name):
    (tmp_path / "notes" / name).parent.mkdir(parents=True)
    (tmp_path / "notes" / name).write_text("mine")
    result = run("export", checkpoint, tmp_path / "notes", "--browser", "--runtime", runtime)
    assert result.exit_code == 2
    assert "notes" in result.stderr
    assert files_of(tmp_path / "notes") == [name]


def test_without_npm_the_command_tells_what_to_install(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run("export", checkpoint, tmp_path / "page", "--browser")
    assert result.exit_code == 2
    assert "npm" in result.stderr
    assert "--runtime" in result.stderr
    assert files_of(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nowhere/at/all"], "nowhere/at/all"),
        (["{checkpoint}", "--browser"], "OUT"),
        (["{checkpoint}", "{out}", "--browser", "--fp16"], "--fp16"),
        (["{checkpoint}", "{out}", "--runtime", "nowhere"], "--browser"),
        (["{checkpoint}", "{out}", "--browser", "--runtime", "nowhere"], "onnxruntime-web"),
        (["{checkpoint}", "--fp16", "--int8"], "--int8"),
        (["{checkpoint}", "{out}", "--int8"], "--data"),
        (["{checkpoint}", "{out}", "--data", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_what_cannot_be_exported_ends_in_a_sentence(checkpoint, tmp_path, words, named):
    result = run("export", *(word.format(checkpoint=checkpoint, out=tmp_path / "out") for word in words))
    assert result.exit_code == 2
    assert named in result.stderr
    assert files_of(tmp_path) == []
