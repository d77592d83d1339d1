"""`rmn-hub predict`: the forms of its output, and what an early end leaves of them."""

import io
import json
import re
import signal
import sys
from pathlib import Path

import pandas
import pytest
from cli_helpers import files_of, lines_of, rows_of, start
from evaluation_helpers import save_checkpoint
from PIL import Image
from rich.cells import cell_len

from rmn_hub import EXPRESSIONS, InputError
from rmn_hub.cli import outputs
from rmn_hub.cli.outputs import shortened
from rmn_hub.results import FaceExpression, ImageResult


@pytest.fixture
def faces(tmp_path, crops):
    """A folder with forty crops of faces."""
    folder = tmp_path / "faces"
    folder.mkdir()
    for number, crop in enumerate(crops):
        crop.save(folder / f"{number:02d}.png")
    return folder


@pytest.mark.parametrize("words", [("--csv", "-"), ("--format", "csv")])
def test_csv_goes_to_stdout(predict, photos, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    rows = [row for row in rows_of(predict(photos, *words).stdout) if row["expression"]]
    assert [row["source"] for row in rows] == [str(photos / "a.jpg")] + 2 * [str(photos / "more" / "a.jpg")]
    assert not (tmp_path / "-").exists()


def test_lines_of_csv_end_once_where_stdout_translates_them(monkeypatch):
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding="utf-8", newline="\r\n"))  # as on Windows
    outputs.CsvRows(outputs.csv_stdout(), "-", EXPRESSIONS)(ImageResult("a.jpg", 9, 9))
    assert data.getvalue().endswith(b"_y\r\n")
    assert b"\r\r" not in data.getvalue()


def test_parquet_goes_to_stdout(predict, photos):
    frame = pandas.read_parquet(io.BytesIO(predict(photos, "--format", "parquet").stdout_bytes))
    assert frame["expression"].isin(EXPRESSIONS).sum() == 3


def test_tables_have_the_checkpoints_own_expressions_from_the_first_image_on(predict, photos, tmp_path):
    two = save_checkpoint(tmp_path / "two", id2label={0: "calm", 1: "not calm"})
    for images in ((photos / "b.png", photos / "a.jpg"), (photos / "b.png",)):
        result = predict(*images, "--format", "csv", checkpoint=two)
        rows = rows_of(result.stdout)
        columns = result.stdout.splitlines()[0].split(",")
        assert [name for name in columns if name in {*EXPRESSIONS, "calm", "not calm"}] == ["calm", "not calm"]
        assert [float(row["calm"]) + float(row["not calm"]) for row in rows] == [pytest.approx(1)] * (len(images) - 1)
        assert predict(*images, "--csv", tmp_path / "faces.csv", checkpoint=two).exit_code == 0
        assert rows_of((tmp_path / "faces.csv").read_text()) == rows
        parquet = predict(*images, "--format", "parquet", checkpoint=two).stdout_bytes
        assert list(pandas.read_parquet(io.BytesIO(parquet)).columns) == columns


@pytest.mark.parametrize("package", ["pandas", "pyarrow"])
def test_parquet_without_its_packages_ends_before_the_work(predict, photos, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delattr("rmn_hub.recognizer.ExpressionRecognizer.from_pretrained")  # nothing is loaded
    result = predict(photos, "--format", "parquet")
    assert (result.exit_code, result.stdout) == (2, "")
    assert package in result.stderr
    assert "rmn-hub[video]" in result.stderr


def test_an_image_that_vanishes_is_skipped(predict, photos, tmp_path, monkeypatch):
    save = outputs.save_image

    def vanish(image, path):
        save(image, path)
        (photos / "b.png").unlink(missing_ok=True)

    monkeypatch.setattr(outputs, "save_image", vanish)
    # With a batch of one, the second image is read after the first one is written.
    result = predict(photos, "--json", "--annotate", tmp_path / "out", "--batch-size", 1)
    assert result.exit_code == 1
    assert [Path(line["source"]).name for line in lines_of(result)] == ["a.jpg", "a.jpg"]
    assert "b.png" in result.stderr
    assert files_of(tmp_path / "out") == ["a.jpg", "more/a.jpg"]


@pytest.mark.parametrize("end", [KeyboardInterrupt, RuntimeError])
def test_rows_before_an_early_end_are_kept(predict, faces, tmp_path, monkeypatch, end):
    save, written = outputs.save_image, []

    def stop(image, path):
        if len(written) == 5:
            raise end
        written.append(path)
        save(image, path)

    monkeypatch.setattr(outputs, "save_image", stop)
    (tmp_path / "faces.csv").write_text("of an earlier run")
    result = predict(
        faces, "--faces-only", "--annotate", tmp_path / "out", "--csv", tmp_path / "faces.csv", "--batch-size", 2
    )
    assert result.exit_code == (130 if end is KeyboardInterrupt else 1)
    if end is KeyboardInterrupt:
        assert "interrupted: 5 images, 5 faces" in result.stderr
    assert [Path(row["source"]).name for row in rows_of((tmp_path / "faces.csv").read_text())] == [
        f"{number:02d}.png" for number in range(5)
    ]
    assert files_of(tmp_path) == sorted(
        ["faces.csv", *(f"faces/{number:02d}.png" for number in range(40)), *(f"out/{n:02d}.png" for n in range(5))]
    )


def test_rows_are_in_the_file_as_soon_as_they_are_done(predict, faces, tmp_path, monkeypatch):
    counts = []

    def look(image, path):
        [beside] = tmp_path.glob(".faces-*.csv")
        counts.append(len(rows_of(beside.read_text())))

    monkeypatch.setattr(outputs, "save_image", look)
    assert (
        predict(faces, "--faces-only", "--annotate", tmp_path / "out", "--csv", tmp_path / "faces.csv").exit_code == 0
    )
    assert counts == list(range(40))


def test_a_full_disk_behind_the_table(predict, photos):
    result = predict(photos / "a.jpg", "--csv", "/dev/full")
    assert result.exit_code == 2
    assert "/dev/full" in result.stderr
    assert "No space left" in result.stderr


def test_the_table_fits_its_terminal(capsys, monkeypatch):
    """The whole form of it: names shortened in the middle, boxes within the image, uncertain faces marked."""

    def face(index, expression, probability, box, uncertain=False):
        values = dict.fromkeys(EXPRESSIONS, 0.0) | {"fear": 0.3, expression: probability}
        return FaceExpression(
            box=box,
            expression=expression,
            probability=probability,
            probabilities=values,
            uncertain=uncertain,
            index=index,
        )

    name = "holidays/2026/a very long name of a photo.jpg"
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    table = outputs.Table([name, "b.png"], EXPRESSIONS, uncertain=True)
    faces = (face(1, "happy", 0.9471, (-3.2, 5.4, 100.6, 99.5)), face(2, "sad", 0.31, (400, 1, 700, 520), True))
    table(ImageResult(name, 640, 480, faces))
    table(ImageResult("b.png", 30, 40))
    lines = [line.rstrip() for line in re.sub("\x1b\\[\\d*m", "", capsys.readouterr().out).splitlines()]
    assert lines == [
        "Image                         Face  Expression            Probability  Box",
        "holidays/…ame of a photo.jpg     1  happy                       94.7%  0 5 101 100",
        "                                 2  sad or fear?                31.0%  400 1 640 480",
        "b.png                            -  no face",
    ]


def test_names_are_shortened_in_the_middle():
    assert shortened("short.jpg", 12) == "short.jpg"
    assert shortened("a/very/long/path/photo.jpg", 12) == "a/ve…oto.jpg"
    assert all(len(shortened("x" * 50, width)) == width for width in range(3, 50))
    assert all(cell_len(shortened("写真" * 20, width)) in (width - 2, width - 1, width) for width in range(7, 80))


def test_names_of_two_cells_a_character_stay_on_one_line(capsys):
    name = "写真/" + "夏休みの思い出" * 5 + ".jpg"
    table = outputs.Table([name], ["嬉しい" * 5], uncertain=False)
    table(ImageResult(name, 30, 40))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["Image", name]


def test_a_table_of_parquet_keeps_no_pixels(recognizer, crops):
    table = outputs.Parquet(EXPRESSIONS)
    result = recognizer(crops[0], faces_only=True, attention=True)
    table(result)
    [kept] = table.results
    assert (kept.image, kept[0].attention) == (None, None)
    assert kept[0].probabilities == result[0].probabilities


def stopped(faces, tmp_path, number):
    """A run that is sent a signal after its first line. (The bundled checkpoint starts without torch.)"""
    process = start(
        *("predict", faces, "--faces-only", "--json", "--device", "cpu"),
        *("--batch-size", 1, "--annotate", tmp_path / "out", "--csv", tmp_path / "faces.csv"),
        # What a shell runs in the background ignores SIGINT (and `nohup` SIGHUP), and so would what is started there.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    process.stdout.readline()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
    return process.returncode, stderr.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_whole_files_only(crops, tmp_path, number):
    folder = tmp_path / "faces"
    folder.mkdir()
    for index in range(1000):
        crops[index % len(crops)].save(folder / f"{index:03d}.png")
    status, stderr = stopped(folder, tmp_path, number)
    assert status == 128 + number
    assert "Traceback" not in stderr
    written = files_of(tmp_path / "out")
    assert 0 < len(written) < 1000
    for name in written:
        Image.open(tmp_path / "out" / name).load()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces", "faces.csv", "out"]
    rows = rows_of((tmp_path / "faces.csv").read_text())
    assert 0 < len(rows) <= len(written)


def test_a_terminal_without_the_characters_and_a_reader_that_goes_away(crops, tmp_path):
    folder = tmp_path / "лица"
    folder.mkdir()
    for number, crop in enumerate(crops):
        crop.save(folder / f"{number:02d}.png")
    process = start(
        *("predict", folder, "--faces-only", "--device", "cpu", "--csv", tmp_path / "faces.csv"),
        *("--batch-size", 1),
        environment={"PYTHONIOENCODING": "cp1252"},
    )
    process.stdout.readline()
    assert b"00.png" in process.stdout.readline()
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=120) in (0, 1)
    assert b"Traceback" not in stderr
    assert "лица" in (tmp_path / "faces.csv").read_text(encoding="utf-8")


def test_an_image_of_an_unknown_format_is_not_written(tmp_path):
    with pytest.raises(InputError, match=r"a\.txt cannot be written"):
        outputs.save_image(Image.new("RGB", (10, 10)), tmp_path / "a.txt")
    assert files_of(tmp_path) == []


@pytest.mark.parametrize("option", ["--annotate", "--attention"])
def test_images_go_into_folders(predict, photos, tmp_path, option):
    file = tmp_path / "notes"
    file.write_text("kept")
    for path in (file, file / "inside", tmp_path / "out.jpg"):
        result = predict(photos / "a.jpg", option, path)
        assert result.exit_code == 2
        assert f"{option} {path} must be a folder" in result.stderr
    assert file.read_text() == "kept"
    assert not (tmp_path / "out.jpg").exists()


def test_a_small_limit_of_pixels_is_a_plain_number(predict, photos):
    result = predict(photos / "a.jpg", "--max-pixels", 10)
    assert result.exit_code == 2
    assert "the limit is 10 pixels" in result.stderr


def test_names_of_other_scripts_are_whole_where_the_locale_is_c(photos, tmp_path):
    name = "\u3042\u00e9.jpg"
    (tmp_path / name).write_bytes((photos / "a.jpg").read_bytes())
    python = ("-X", "utf8=0", "-m", "rmn_hub")
    environment = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    words = ("predict", tmp_path / name, "--json", "--csv", tmp_path / "a.csv")
    process = start(*words, python=python, environment=environment)
    lines, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert json.loads(lines)["source"] == str(tmp_path / name)
    assert name in (tmp_path / "a.csv").read_text(encoding="utf-8")
