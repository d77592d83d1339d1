"""`rmn-hub predict`: what comes out where, what is refused how, and that nothing is left half-written."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from rmn_hub import EXPRESSIONS
from rmn_hub.cli.shared import main
from rmn_hub.drawing import panels as plots

from test_images import BAD, bomb, encode  # isort: skip


@pytest.fixture
def predict(tiny_checkpoint):
    """Runs `rmn-hub predict` in this process, with the tiny network."""

    def run(*arguments, checkpoint=tiny_checkpoint):
        extra = ["--checkpoint", str(checkpoint), "--device", "cpu"]
        return CliRunner().invoke(main, ["predict", *map(str, arguments), *extra], env={"COLUMNS": "200"})

    return run


@pytest.fixture
def photos(tmp_path, astronaut, collage, faceless):
    """A folder with photos in it and in a folder in it, two of them with one name."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    astronaut.save(folder / "a.jpg", quality=95)
    faceless.save(folder / "b.png")
    collage.save(folder / "more" / "a.jpg", quality=95)
    (folder / "notes.txt").write_text("not a picture")
    return folder


def lines_of(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_json_is_one_object_a_line_and_nothing_else(predict, photos):
    result = predict(photos, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = lines_of(result)
    assert [line["source"] for line in lines] == [str(photos / name) for name in ("a.jpg", "b.png", "more/a.jpg")]
    assert [len(line["faces"]) for line in lines] == [1, 0, 8]
    assert list(lines[0]) == ["source", "width", "height", "faces"]
    assert (lines[2]["width"], lines[2]["height"]) == (1024, 512)
    face = lines[0]["faces"][0]
    keys = ["box", "landmarks", "score", "expression", "probability", "probabilities", "uncertain"]
    assert list(face) == keys
    assert list(face["probabilities"]) == list(EXPRESSIONS)
    assert face["probability"] == max(face["probabilities"].values())
    assert len(face["landmarks"]) == 5
    assert lines[1]["message"].startswith("No face was found")


def test_the_table_is_readable(predict, photos):
    result = predict(photos / "a.jpg", photos / "b.png")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[0] == ["Picture", "Face", "Expression", "Probability", "Box"]
    assert rows[1][:2] == [str(photos / "a.jpg"), "1"]
    assert rows[1][2] in EXPRESSIONS
    assert rows[1][3].endswith("%")
    x0, y0, x1, y1 = map(int, rows[1][4:])
    assert x0 < 225 < x1
    assert y0 < 120 < y1
    assert "no face" in result.stdout
    assert "No face was found" in result.stdout


def test_names_of_files_are_data(predict, crops, tmp_path):
    names = [b"[red]bold[red].png", b"\xff\xfe.png", b"line\nbreak\x1b[31m.png"]
    for name in names:
        crops[0].save(os.fsencode(tmp_path) + b"/" + name)
    table = predict(tmp_path, "--faces-only")
    assert table.exit_code == 0
    assert "[red]bold[red].png" in table.stdout
    assert "\x1b" not in table.stdout
    assert len(table.stdout.splitlines()) == 4
    result = predict(tmp_path, "--faces-only", "--json", "--csv", tmp_path / "faces.csv")
    assert result.exit_code == 0
    assert sorted(os.fsencode(Path(line["source"]).name) for line in lines_of(result)) == sorted(names)


def test_csv_has_one_row_per_face(predict, photos, tmp_path):
    result = predict(photos, "--csv", tmp_path / "faces.csv", "--json")
    assert result.exit_code == 0
    with (tmp_path / "faces.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    faces = [(line["source"], face) for line in lines_of(result) for face in line["faces"]]
    assert [row["source"] for row in rows] == [source for source, _ in faces]
    for row, (_, face) in zip(rows, faces):
        assert float(row["probability"]) == face["probability"]
        assert [float(row[key]) for key in ("x0", "y0", "x1", "y1")] == face["box"]
    assert files_of(tmp_path) == ["faces.csv", "photos/a.jpg", "photos/b.png", "photos/more/a.jpg", "photos/notes.txt"]


def test_pictures_of_one_name_do_not_overwrite_each_other(predict, photos, tmp_path):
    out = tmp_path / "out"
    arguments = [photos / "a.jpg", photos / "more" / "a.jpg", photos / "b.png"]
    assert predict(*arguments, "--annotate", out, "--attention", out).exit_code == 0
    # A picture without faces has no attention.
    assert files_of(out) == ["a-2-attention.jpg", "a-2.jpg", "a-attention.jpg", "a.jpg", "b.png"]
    sizes = {name: Image.open(out / name).size for name in ("a.jpg", "a-2.jpg")}
    assert sizes["a.jpg"][0] / sizes["a.jpg"][1] == 1
    assert sizes["a-2.jpg"][0] / sizes["a-2.jpg"][1] == 2
    for name in files_of(out):
        Image.open(out / name).load()


def test_one_kind_of_output_does_not_overwrite_the_other(predict, photos, astronaut, tmp_path):
    astronaut.save(photos / "a-attention.jpg")
    arguments = [photos / "a.jpg", photos / "a-attention.jpg"]
    assert predict(*arguments, "--annotate", tmp_path / "out", "--attention", tmp_path / "out").exit_code == 0
    names = ["a-2-attention.jpg", "a-attention-attention.jpg", "a-attention.jpg", "a.jpg"]
    assert files_of(tmp_path / "out") == names


def test_one_face_has_the_whole_panel_and_several_share_one(predict, photos, recognizer, tmp_path):
    assert predict(photos, "--attention", tmp_path / "out").exit_code == 0
    for name, draw in (("a", lambda faces: plots.attention_panel(faces[0])), ("more/a", plots.group_panel)):
        expected = draw(recognizer(photos / f"{name}.jpg", attention=True))
        assert Image.open(tmp_path / "out" / f"{name}-attention.jpg").size == expected.size


def test_a_folder_keeps_its_form_and_outputs_in_it_are_no_inputs(predict, photos, astronaut):
    for _ in range(2):
        result = predict(photos, "--annotate", photos / "out", "--json")
        assert result.exit_code == 0
        assert len(lines_of(result)) == 3
    assert files_of(photos / "out") == ["a.jpg", "b.png", "more/a.jpg"]
    annotated = np.asarray(Image.open(photos / "out" / "a.jpg").convert("RGB").resize((512, 512))).astype(int)
    assert np.abs(annotated - np.asarray(astronaut)).max() > 100


def test_inputs_are_not_overwritten(predict, photos):
    before = {name: (photos / name).read_bytes() for name in files_of(photos)}
    for option, target in (("--annotate", photos), ("--csv", photos / "a.jpg")):
        result = predict(photos / "a.jpg", option, target)
        assert result.exit_code == 2
        assert "would overwrite the input" in result.stderr
    assert {name: (photos / name).read_bytes() for name in files_of(photos)} == before


def test_crops_are_not_searched(predict, crops, tmp_path):
    crops[0].save(tmp_path / "crop.png")
    [line] = lines_of(predict(tmp_path / "crop.png", "--json", "--faces-only"))
    [face] = line["faces"]
    assert face["box"] == [0, 0, 48, 48]
    assert (face["landmarks"], face["score"]) == (None, None)


def test_small_faces_when_asked_for(predict, tmp_path, astronaut):
    picture = Image.new("RGB", (400, 300), "white")
    picture.paste(astronaut.resize((109, 109)), (150, 100))
    picture.save(tmp_path / "small.png")
    assert len(lines_of(predict(tmp_path / "small.png", "--json", "--min-face", 24))[0]["faces"]) == 1
    assert len(lines_of(predict(tmp_path / "small.png", "--json", "--min-face", 100))[0]["faces"]) == 0


def test_uncertain_answers_are_marked(predict, photos):
    [line] = lines_of(predict(photos / "a.jpg", "--json", "--min-confidence", 1))
    assert line["faces"][0]["uncertain"] is True
    assert line["faces"][0]["expression"] in EXPRESSIONS
    assert "(uncertain)" in predict(photos / "a.jpg", "--min-confidence", 1).stdout


def test_of_an_animation_it_is_said_that_one_frame_was_read(predict, tmp_path, astronaut):
    photo = astronaut.crop((100, 0, 400, 300))
    photo.save(tmp_path / "party.gif", save_all=True, append_images=[Image.new("RGB", photo.size)])
    result = predict(tmp_path / "party.gif", "--json")
    assert result.exit_code == 0
    [line] = lines_of(result)
    assert len(line["faces"]) == 1
    assert "only the first one was read" in line["message"]


BAD_FILES = {
    "missing.png": None,
    "empty.png": b"",
    "text.png": BAD["text"][0],
    "truncated.png": None,
    "pixel.png": encode(Image.new("RGB", (1, 1)), "PNG"),
    "bomb.png": bomb(),
    "folder": None,
    "endless.png": None,
    "long" * 2000: None,
}


@pytest.mark.parametrize("name", BAD_FILES, ids=lambda name: name[:12])
def test_bad_input_is_one_sentence_and_exit_code_2(predict, tmp_path, astronaut, name):
    if name == "truncated.png":
        whole = encode(astronaut, "PNG")
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    elif name == "folder":
        (tmp_path / name).mkdir()
    elif name == "endless.png":
        (tmp_path / name).symlink_to(tmp_path / name)
    elif BAD_FILES[name] is not None:
        (tmp_path / name).write_bytes(BAD_FILES[name])
    result = predict(tmp_path / name, "--json", "--csv", tmp_path / "faces.csv", "--annotate", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (2, "")
    [sentence] = result.stderr.splitlines()
    assert str(tmp_path / name) in sentence
    assert not (tmp_path / "faces.csv").exists()
    assert not (tmp_path / "out").exists()


def test_a_bad_picture_among_others_is_reported_and_the_others_go_on(predict, photos, tmp_path):
    (photos / "aa.png").write_bytes(b"\x89PNG\r\n")
    result = predict(photos, tmp_path / "missing.png", "--json", "--csv", tmp_path / "faces.csv")
    assert result.exit_code == 1
    assert [len(line["faces"]) for line in lines_of(result)] == [1, 0, 8]
    first, second, last = sorted(result.stderr.splitlines(), key=len, reverse=True)
    assert "missing.png" in first + second
    assert "aa.png is not a picture" in first + second
    assert last == "rmn-hub: 2 of 5 inputs could not be used"
    assert len((tmp_path / "faces.csv").read_text().splitlines()) == 10


def test_a_folder_in_a_folder_that_cannot_be_read_is_reported(predict, photos, monkeypatch):
    scandir = os.scandir

    def closed(path):
        if Path(path) == photos / "more":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    result = predict(photos, "--json")
    assert result.exit_code == 1
    assert len(lines_of(result)) == 2
    assert "more cannot be read: Permission denied" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--csv", "nowhere/faces.csv"], "folder that exists"),
        (["--device", "toaster"], "device=toaster"),
        (["--min-confidence", "2"], "min-confidence"),
        (["--min-face", "3"], "min-face"),
        (["--annotate", "blocked/out"], "blocked/out"),
    ],
)
def test_settings_that_cannot_be(photos, tiny_checkpoint, arguments, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blocked").write_text("a file")
    command = ["predict", str(photos / "a.jpg"), "--checkpoint", str(tiny_checkpoint), *arguments]
    result = CliRunner().invoke(main, command, env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_checkpoint_that_is_not_there(predict, photos, tmp_path):
    result = predict(photos / "a.jpg", "--json", checkpoint=tmp_path / "nowhere")
    assert (result.exit_code, result.stdout) == (2, "")
    [sentence] = result.stderr.splitlines()
    assert str(tmp_path / "nowhere") in sentence


def test_masks_that_are_off_have_no_attention(predict, photos, tmp_path):
    from evaluation_helpers import save_checkpoint

    plain = save_checkpoint(tmp_path / "plain", mask_depths=None)
    result = predict(photos / "a.jpg", "--attention", tmp_path / "out", checkpoint=plain)
    assert result.exit_code == 2
    assert "masks" in result.stderr


def test_without_arguments_it_shows_its_help_and_version():
    assert "predict" in CliRunner().invoke(main, []).output
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("rmn-hub ")


def run_slowly(tiny_checkpoint, folder, *arguments, **settings):
    command = [sys.executable, "-m", "rmn_hub", "predict", str(folder), "--json", "--checkpoint", str(tiny_checkpoint)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        # What a shell runs in the background ignores SIGINT, and so would what these tests start there.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **settings,
    )


def test_an_interrupt_leaves_whole_files_only(tiny_checkpoint, crops, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(600):
        crops[number % len(crops)].resize((200, 200)).save(pictures / f"{number:03d}.png")
    process = run_slowly(
        tiny_checkpoint, pictures, "--faces-only", "--annotate", tmp_path / "out", "--csv", tmp_path / "faces.csv"
    )
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode not in (0, 2)
    assert b"Traceback" not in stderr
    written = files_of(tmp_path / "out")
    assert 0 < len(written) < 600
    for name in written:
        Image.open(tmp_path / "out" / name).load()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pictures"]


def test_a_reader_that_goes_away_is_no_error_to_tell_about(tiny_checkpoint, crops, tmp_path):
    for number in range(200):
        crops[number % len(crops)].save(tmp_path / f"{number:03d}.png")
    process = run_slowly(tiny_checkpoint, tmp_path, "--faces-only")
    process.stdout.readline()
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=60)
    assert b"Traceback" not in stderr
