"""`rmn-hub video`: what comes out where, what is refused how, and that an early end keeps what is done."""

import csv
import errno
import json
import os
import signal
import sys

import pandas
import pytest
from cli_helpers import files_of, lines_of, rows_of, run
from evaluation_helpers import save_checkpoint
from films import head, heard, marked, scene, write_film, write_sound
from PIL import Image

from rmn_hub import EXPRESSIONS, ExpressionRecognizer
from rmn_hub.video.frames import Film
from rmn_hub.video.timeline import Timeline


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Twelve frames of a head that moves to the right, with sound."""
    face = head()
    frames = [scene((face, (20 + 5 * number, 50))) for number in range(12)]
    return write_film(tmp_path_factory.mktemp("film") / "film.mp4", frames, sound="aac")


@pytest.fixture
def video(tiny_checkpoint):
    """Runs `rmn-hub video` in this process, with the tiny network."""

    def call(*arguments):
        return run("video", *arguments, "--checkpoint", tiny_checkpoint, "--device", "cpu", "--min-face", 48)

    return call


def frames_of(path):
    with Film(path) as opened:
        return list(opened)


def test_everything_is_written(video, film, tmp_path):
    names = {"output": "faces.mp4", "csv": "a.csv", "json": "a.jsonl", "parquet": "a.parquet", "timeline": "a.png"}
    files = {option: tmp_path / name for option, name in names.items()}
    options = [word for option, path in files.items() for word in (f"--{option}", path)]
    result = video(film, *options, "--summary", tmp_path / "summary")
    assert result.exit_code == 0, result.output
    frames = frames_of(files["output"])
    assert [frame.time for frame in frames] == pytest.approx([0.04 * number for number in range(12)], abs=0.001)
    assert heard(files["output"])[0] == "aac"
    rows = list(csv.DictReader(files["csv"].open(encoding="utf-8")))
    assert [int(row["frame"]) for row in rows] == list(range(12))
    assert {row["track"] for row in rows} == {"1"}
    assert all(sum(float(row[name]) for name in EXPRESSIONS) == pytest.approx(1) for row in rows)
    assert len(pandas.read_parquet(files["parquet"])) == len(files["json"].read_text().splitlines()) == 12
    assert Image.open(files["timeline"]).width > 600
    summary = json.loads((tmp_path / "summary" / "summary.json").read_text())
    (track,) = summary["tracks"]
    assert (track["track"], track["first"], track["last"]) == (1, 0, pytest.approx(0.44))
    assert sum(track["seconds"].values()) == pytest.approx(0.48)
    assert Image.open(tmp_path / "summary" / track["crop"]).format == "JPEG"
    assert len(list(tmp_path.rglob("*"))) == 8
    assert "12 frames" in result.stderr


def test_the_box_is_drawn_on_every_frame(video, film, tmp_path):
    result = video(film, "--output", tmp_path / "faces.mp4", "--every", 5, "--attention")
    assert result.exit_code == 0, result.output
    drawn, plain = frames_of(tmp_path / "faces.mp4"), frames_of(film)
    assert len(drawn) == len(plain) == 12
    for before, after in zip(plain, drawn):
        pixels = [abs(a - b) for a, b in zip(before.image.convert("L").tobytes(), after.image.convert("L").tobytes())]
        assert sum(value > 40 for value in pixels) > 500


def test_the_last_frame_taken_lasts_until_the_end(video, film, tmp_path):
    result = video(film, "--every", 5, "--summary", tmp_path)
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["end"] == pytest.approx(0.48)
    assert [sum(track["seconds"].values()) for track in summary["tracks"]] == pytest.approx([0.48])


def test_json_alone_goes_to_stdout(video, film):
    result = video(film, "--start", 0.2, "--end", 0.4, "--every", 2, "--json")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["frame"] for line in lines] == [5, 7, 9]
    assert [line["time"] for line in lines] == pytest.approx([0.2, 0.28, 0.36])
    assert [len(line["faces"]) for line in lines] == [1, 1, 1]


def test_a_table_of_the_faces_is_printed(video, film):
    result = video(film, "--end", 0.2)
    assert result.exit_code == 0
    assert "0.00 s" in result.stdout
    assert any(name in result.stdout for name in EXPRESSIONS)


def test_a_folder_gives_outputs_for_each_film_and_one_table(video, film, tmp_path):
    folder = tmp_path / "films"
    (folder / "more").mkdir(parents=True)
    for name in ("a.mp4", "a.mov", "more/a.mp4"):
        (folder / name).write_bytes(film.read_bytes())
    write_sound(folder / "sound.mp4")
    out, table = tmp_path / "out", tmp_path / "all.csv"
    result = video(folder, "--output", out, "--csv", table, "--summary", tmp_path / "sums", "--end", 0.1)
    assert result.exit_code == 1, result.output
    assert "sound.mp4" in result.stderr
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.mp4")) == ["a-2.mp4", "a.mp4", "more/a.mp4"]
    assert len(set(pandas.read_csv(table)["source"])) == 3
    assert len(list((tmp_path / "sums").rglob("summary.json"))) == 3


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--output", "{film}"], "film.mp4"),
        (["--output", "x.avi"], "x.avi"),
        (["--csv", "nowhere/x.csv"], "nowhere"),
        (["--end", "0"], "--end"),
        (["--start", "9"], "--start"),
        (["--every", "0"], "--every"),
        (["--csv", "x.csv", "--parquet", "x.csv"], "x.csv"),
        (["--engine", "toaster"], "--engine toaster"),
    ],
)
def test_bad_options_end_with_a_sentence_and_leave_nothing(video, film, tmp_path, monkeypatch, options, word):
    monkeypatch.chdir(tmp_path)
    before = film.read_bytes()
    result = video(film, *(option.format(film=film) for option in options))
    assert result.exit_code == 2
    assert word in result.stderr
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []
    assert film.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "word"),
    [
        *((["--timeline", f"x{suffix}"], f"x{suffix} must end in .png") for suffix in (".txt", "", ".xbm")),
        (["--summary", "{film}"], "--summary"),
        (["--summary", "{film}/inside"], "--summary"),
        (["--summary", "x.png"], "--summary"),
        (["--csv", "-", "--json", "-"], "--csv -"),
        (["--csv", "-", "--json"], "--csv -"),
    ],
)
def test_outputs_that_cannot_be_are_noticed_before_the_film(film, tmp_path, monkeypatch, options, word):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr("rmn_hub.recognizer.ExpressionRecognizer.from_pretrained")  # nothing is loaded
    result = run("video", film, "--csv", "x.csv", *(option.format(film=film) for option in options))
    assert (result.exit_code, result.stdout) == (2, "")
    assert word in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--summary", "--csv", "--timeline"])
def test_a_folder_that_cannot_be_written_to_is_noticed_before_the_film(film, tmp_path, monkeypatch, option):
    monkeypatch.delattr("rmn_hub.recognizer.ExpressionRecognizer.from_pretrained")
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path))
    result = run("video", film, option, tmp_path / "x.y")
    assert result.exit_code == 2
    assert f"{tmp_path / 'x.y'} cannot be written" in result.stderr


def test_of_several_films_a_file_is_no_folder_for_the_outputs(film, tmp_path):
    (tmp_path / "notes").write_text("kept")
    for option, name in (("--output", "notes"), ("--timeline", "notes"), ("--output", "out.mp4")):
        result = run("video", film.parent, option, tmp_path / name)
        assert result.exit_code == 2
        assert f"{option} {tmp_path / name} must be a folder" in result.stderr
    assert files_of(tmp_path) == ["notes"]


def test_csv_goes_to_stdout_and_nothing_else_does(video, film, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = video(film, "--end", 0.2, "--csv", "-", "--json", "lines")
    assert result.exit_code == 0, result.output
    rows = rows_of(result.stdout)
    assert [int(row["frame"]) for row in rows] == list(range(5))
    assert "x0" in rows[0]
    assert files_of(tmp_path) == ["lines"]
    faceless = write_film(tmp_path / "film.mp4", map(marked, range(3)))
    assert video(faceless, "--csv", "-").stdout == result.stdout.splitlines(keepends=True)[0]
    bad = video(tmp_path / "nothing.mp4", "--csv", "-")
    assert (bad.exit_code, bad.stdout) == (2, "")


def test_films_written_before_are_no_inputs(video, film, tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(film.read_bytes())
    for _ in range(2):
        result = video(folder, "--output", folder / "out" / "drawn", "--summary", folder / "sums", "--end", 0.1)
        assert result.exit_code == 0, result.output
    assert [name for name in files_of(folder) if name.endswith(".mp4")] == ["a.mp4", "out/drawn/a.mp4"]


def test_crops_of_an_earlier_summary_are_removed(video, film, tmp_path):
    (tmp_path / "track-7.jpg").write_text("kept")  # nothing names it
    for expected in (["summary.json", "track-1.jpg", "track-7.jpg"], ["summary.json", "track-7.jpg"]):
        assert video(film, "--summary", tmp_path, "--end", 0.2).exit_code == 0
        assert files_of(tmp_path) == expected
        film = write_film(tmp_path.parent / "faceless.mp4", map(marked, range(6)))
    (tmp_path / "summary.json").write_text('{"tracks": [{"crop": "../faceless.mp4"}]}')
    assert video(film, "--summary", tmp_path).exit_code == 0
    assert film.exists()


def test_settings_and_an_ensemble_reach_the_recognizer(video, film, tiny_checkpoint, tmp_path):
    other = save_checkpoint(tmp_path / "other", sharpness=2.0)
    words = ("--no-upright", "--margin", 0.5, "--views", 1, "--engine", "torch", "--min-confidence", 1)
    lines = lines_of(video(film, "--json", "--smooth", 0, "--end", 0.1, "--checkpoint", other, *words))
    recognizer = ExpressionRecognizer.from_pretrained(
        [other, tiny_checkpoint],
        device="cpu",
        min_face=48,
        upright=False,
        margin=0.5,
        views=1,
        engine="torch",
        min_confidence=1,
    )
    expected = [result.to_dict() for result in recognizer.video(film, smooth=0, end=0.1)]
    assert [line["faces"] for line in lines] == [line["faces"] for line in expected]
    assert all(face["uncertain"] for line in lines for face in line["faces"])
    assert [line["faces"] for line in lines_of(video(film, "--json", "--end", 0.1, "--threshold", 1))] == [[], [], []]


def test_attention_maps_that_cannot_be_are_noticed_before_the_first_face(video, tiny_checkpoint, tmp_path):
    faceless = write_film(tmp_path / "film.mp4", map(marked, range(3)))
    result = video(faceless, "--attention", "--checkpoint", tiny_checkpoint)  # an ensemble has none
    assert (result.exit_code, result.stdout) == (2, "")
    assert "masks" in result.stderr


@pytest.mark.parametrize("package", ["av", "pyarrow"])
def test_a_missing_package_ends_with_a_sentence_and_leaves_nothing(video, film, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    result = video(film, "--csv", tmp_path / "x.csv", "--parquet", tmp_path / "x.parquet")
    assert result.exit_code == 2
    assert package in result.stderr
    assert "rmn-hub[video]" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["missing", "sound", "truncated", "empty folder"])
def test_bad_films_end_with_a_sentence_and_leave_nothing(video, film, tmp_path, kind):
    inputs, outputs = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    outputs.mkdir()
    path = inputs / "film.m4a"
    if kind == "sound":
        write_sound(path)
    elif kind == "truncated":
        path.write_bytes(film.read_bytes()[:700])
    elif kind == "empty folder":
        path = inputs
    result = video(path, "--csv", outputs / "a.csv", "--json", outputs / "a", "--timeline", outputs / "a.png")
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert str(path) in result.stderr
    assert list(outputs.iterdir()) == []


def test_an_interrupt_keeps_what_is_done(video, film, tmp_path, monkeypatch):
    add, before = Timeline.add, signal.getsignal(signal.SIGINT)

    def interrupted(timeline, result, image=None):
        add(timeline, result, image)
        if result.index == 4:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Timeline, "add", interrupted)
    files = [tmp_path / name for name in ("a.mp4", "a.csv", "a.parquet", "a.png")]
    options = zip(("--output", "--csv", "--parquet", "--timeline"), files)
    result = video(film, *(word for option in options for word in option))
    assert result.exit_code == 130, result.output
    assert len(frames_of(files[0])) == len(pandas.read_csv(files[1])) == len(pandas.read_parquet(files[2])) == 5
    assert files[3].is_file()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_stop_while_the_network_is_loaded_leaves_older_tables(video, film, tmp_path, monkeypatch):
    from rmn_hub.recognizer import ExpressionRecognizer

    load = ExpressionRecognizer.from_pretrained

    def stopped(*arguments, **settings):
        os.kill(os.getpid(), signal.SIGINT)
        return load(*arguments, **settings)

    monkeypatch.setattr(ExpressionRecognizer, "from_pretrained", stopped)
    files = {f"--{kind}": tmp_path / f"v.{kind}" for kind in ("csv", "json", "parquet")}
    for path in files.values():
        path.write_text("of an earlier run")
    result = video(film, *(word for option in files.items() for word in option))
    assert result.exit_code == 130, result.output
    assert [path.read_text() for path in files.values()] == 3 * ["of an earlier run"]
    assert files_of(tmp_path) == ["v.csv", "v.json", "v.parquet"]
    assert "wrote" not in result.stderr


def test_rows_stay_when_another_output_fails(video, film, tmp_path, monkeypatch):
    """As when the reader of `--json | head -2` goes away."""
    written = []

    def fail(writer, result):
        written.append(result)
        if len(written) == 3:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("rmn_hub.cli.outputs.JsonLines.__call__", fail)
    assert video(film, "--csv", tmp_path / "x.csv", "--parquet", tmp_path / "x.parquet", "--json").exit_code == 1
    assert len(pandas.read_csv(tmp_path / "x.csv")) == len(pandas.read_parquet(tmp_path / "x.parquet")) == 3
    assert files_of(tmp_path) == ["x.csv", "x.parquet"]


def test_a_film_without_faces_is_no_error(video, tmp_path):
    path = write_film(tmp_path / "film.mp4", map(marked, range(3)))
    result = video(path, "--csv", tmp_path / "a.csv", "--timeline", tmp_path / "a.png")
    assert result.exit_code == 0, result.output
    assert "no face" in result.stdout
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 1


@pytest.mark.skipif("DISPLAY" in os.environ or sys.platform != "linux", reason="there may be a display")
def test_show_needs_a_display(video, film):
    result = video(film, "--show")
    assert result.exit_code == 2
    assert "--show" in result.stderr
