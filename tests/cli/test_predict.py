"""`rmn-hub predict`: what comes out where, what is refused how, and that nothing is left half-written."""

import csv
import io
import os
import socket
import threading
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from cli_helpers import files_of, lines_of, rows_of, run
from file_server import serving
from PIL import Image

from rmn_hub import EXPRESSIONS
from rmn_hub.drawing import panels, photo
from rmn_hub.images import shown


def encoded(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_json_is_one_object_a_line_and_nothing_else(predict, photos):
    result = predict(photos, "--json")
    assert result.exit_code == 0
    lines = lines_of(result)
    assert [line["source"] for line in lines] == [str(photos / name) for name in ("a.jpg", "b.png", "more/a.jpg")]
    assert [len(line["faces"]) for line in lines] == [1, 0, 2]
    assert list(lines[0]) == ["source", "width", "height", "faces"]
    assert (lines[2]["width"], lines[2]["height"]) == (512, 256)
    face = lines[0]["faces"][0]
    assert {"box", "landmarks", "score", "expression", "probability", "probabilities", "uncertain"} <= set(face)
    assert list(face["probabilities"]) == list(EXPRESSIONS)
    assert face["probability"] == max(face["probabilities"].values())
    assert len(face["landmarks"]) == 5
    assert lines[1]["message"].startswith("No face was found")


def test_the_table_is_readable(predict, photos):
    result = predict(photos / "a.jpg", photos / "b.png")
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[0] == ["Image", "Face", "Expression", "Probability", "Box"]
    assert rows[1][:2] == [str(photos / "a.jpg"), "1"]
    assert rows[1][2].rstrip("?") in EXPRESSIONS
    assert rows[1][-5].endswith("%")
    x0, y0, x1, y1 = map(int, rows[1][-4:])
    assert x0 < 125 < x1
    assert y0 < 120 < y1
    assert "no face" in result.stdout


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
    for name, draw in (("a", lambda faces: panels.attention_panel(faces[0])), ("more/a", panels.group_panel)):
        expected = draw(recognizer(photos / f"{name}.jpg", attention=True))
        assert Image.open(tmp_path / "out" / f"{name}-attention.jpg").size == expected.size


def test_a_folder_keeps_its_form_and_outputs_in_it_are_no_inputs(predict, photos, astronaut):
    for _ in range(2):
        result = predict(photos, "--annotate", photos / "out", "--json")
        assert result.exit_code == 0
        assert len(lines_of(result)) == 3
    assert files_of(photos / "out") == ["a.jpg", "b.png", "more/a.jpg"]
    annotated = np.asarray(Image.open(photos / "out" / "a.jpg").convert("RGB").resize((300, 300))).astype(int)
    assert np.abs(annotated - np.asarray(astronaut.crop((100, 0, 400, 300)))).max() > 100


def test_inputs_are_not_overwritten(predict, photos):
    named, plain = photos / "a.jpg", photos / "photo"
    plain.write_bytes(named.read_bytes())
    before = {name: (photos / name).read_bytes() for name in files_of(photos)}
    for image, option, target in ((named, "--annotate", photos), (plain, "--csv", plain)):
        result = predict(image, option, target)
        assert result.exit_code == 2
        assert "would overwrite the input" in result.stderr
    assert predict("--csv", named, photos / "b.png").exit_code == 2
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
    assert "?" in predict(photos / "a.jpg", "--min-confidence", 1).stdout
    assert "?" not in predict(photos / "a.jpg", "--min-confidence", 0).stdout


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
    "text.png": b"not an image",
    "truncated.png": None,
    "pixel.png": encoded(Image.new("RGB", (1, 1))),
    "folder": None,
    "endless.png": None,
    "long" * 2000: None,
}


@pytest.mark.parametrize("name", BAD_FILES, ids=lambda name: name[:12])
def test_bad_input_is_one_sentence_and_exit_code_2(predict, tmp_path, astronaut, name):
    if name == "truncated.png":
        whole = encoded(astronaut)
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
    assert name[:20] in sentence
    assert not (tmp_path / "faces.csv").exists()
    assert not (tmp_path / "out").exists()


def test_bad_inputs_among_others_are_reported_and_the_others_go_on(predict, photos, tmp_path):
    (photos / "aa.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "film.mp4").write_bytes(b"film")
    bad = [tmp_path / "missing.png", tmp_path / "film.mp4", "https://example.org//a.jpg"]
    result = predict(photos, *bad, "--json", "--csv", tmp_path / "faces.csv")
    assert result.exit_code == 1
    assert [len(line["faces"]) for line in lines_of(result)] == [1, 0, 2]
    *sentences, last = [line for line in result.stderr.splitlines() if ".txt" not in line]
    assert len(sentences) == 4
    for name in ("aa.png", "missing.png", "film.mp4", "https://example.org//a.jpg"):
        assert sum(name in sentence for sentence in sentences) == 1
    [film] = [sentence for sentence in sentences if "film.mp4" in sentence]
    assert "rmn-hub video" in film
    assert f"3 images, 3 faces, 4 unreadable; wrote {tmp_path / 'faces.csv'} in" in last
    assert len([row for row in rows_of((tmp_path / "faces.csv").read_text()) if row["expression"]]) == 3


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
        (["--device", "toaster"], "--device toaster"),
        (["--json", "--format", "csv"], "--format"),
        (["--json", "--csv", "-"], "--csv -"),
        (["--threshold", "2"], "threshold"),
        (["--max-faces", "0"], "max-faces"),
        (["--batch-size", "0"], "batch-size"),
        (["--min-confidence", "2"], "min-confidence"),
        (["--min-face", "3"], "min-face"),
        (["--annotate", "blocked/out"], "blocked/out"),
    ],
)
def test_settings_that_cannot_be(photos, tiny_checkpoint, arguments, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blocked").write_text("a file")
    result = run("predict", photos / "a.jpg", "--checkpoint", tiny_checkpoint, *arguments)
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


def test_the_same_message_comes_once_and_names_options(predict, faceless, tmp_path):
    for number in range(3):
        faceless.crop((0, 0, 100, 100)).save(tmp_path / f"{number}.png")
    result = predict(tmp_path)
    message, summary = result.stderr.splitlines()
    assert "--min-face 20" in message
    assert "--faces-only" in message
    assert "3 images, 0 faces" in summary
    assert result.stdout.count("no face") == 3
    assert len({line["message"] for line in lines_of(predict(tmp_path, "--json"))}) == 1


def test_settings_reach_the_recognizer(predict, photos):
    def count(*words):
        return sum(len(line["faces"]) for line in lines_of(predict(photos / "more", "--json", *words)))

    assert count() == 2
    assert count("--max-faces", 1) == 1
    assert count("--threshold", 1) == 0
    assert count("--batch-size", 1) == 2
    [narrow], [wide] = (lines_of(predict(photos / "a.jpg", "--json", "--margin", margin)) for margin in (-0.3, 1))
    assert narrow["faces"][0]["box"] == wide["faces"][0]["box"]
    assert narrow["faces"][0]["probabilities"] != wide["faces"][0]["probabilities"]


def test_standard_input_is_an_image(predict, astronaut, tmp_path):
    result = predict("-", "--json", "--annotate", tmp_path, stdin=encoded(astronaut.crop((100, 0, 400, 300))))
    [line] = lines_of(result)
    assert (line["source"], line["width"], len(line["faces"])) == ("-", 300, 1)
    assert files_of(tmp_path) == ["stdin.png"]
    bad = predict("-", stdin=b"not an image")
    assert bad.exit_code == 2
    assert "- is not" in bad.stderr


@pytest.mark.parametrize("kind", ["large.jpg", "party.gif"])
def test_every_way_in_gives_what_the_file_gives(predict, astronaut, tmp_path, kind):
    file, pipe = tmp_path / kind, tmp_path / "pipe"
    more = {"save_all": True, "append_images": [Image.new("RGB", (64, 64))]} if kind.endswith("gif") else {}
    (astronaut if kind == "large.jpg" else astronaut.crop((100, 0, 400, 300))).save(file, **more)

    def line(word, **settings):
        result = predict(word, "--json", "--max-pixels", 100_000, "--annotate", tmp_path / "out", **settings)
        [found] = lines_of(result)
        assert found.pop("source") == str(word)
        message = found.pop("message").removeprefix(shown(str(word)))
        return message, found, Image.open(next((tmp_path / "out").glob("*"))).size

    expected = line(file)
    assert ("half its size" if kind == "large.jpg" else "only the first one was read") in expected[0]
    assert expected[1]["width"] == (512 if kind == "large.jpg" else 300)
    assert line("-", stdin=file.read_bytes()) == expected
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(file.read_bytes(),))
    writer.start()
    assert line(pipe) == expected
    writer.join()
    with serving(tmp_path) as server:
        assert line(f"{server}/{kind}") == expected


def test_a_pipe_that_cannot_be_opened_is_left_out(predict, photos, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    opened = Path.open

    def closed(path, *arguments, **settings):
        if path == tmp_path / "pipe":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **settings)

    monkeypatch.setattr(Path, "open", closed)
    result = predict(tmp_path / "pipe", photos / "a.jpg", "--json")
    assert (result.exit_code, len(lines_of(result))) == (1, 1)
    assert f"{tmp_path / 'pipe'} cannot be read: Permission denied" in result.stderr


def test_a_larger_limit_of_pixels_holds_for_what_is_drawn_too(predict, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(photo.annotate.__kwdefaults__, "max_pixels", 10_000)
    result = predict(photos / "a.jpg", "--json", "--annotate", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert len(lines_of(result)) == 1
    assert files_of(tmp_path / "out") == ["a.jpg"]


def test_a_pipe_is_an_image(predict, astronaut, photos, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(
        target=(tmp_path / "pipe").write_bytes, args=(encoded(astronaut.crop((100, 0, 400, 300))),)
    )
    writer.start()
    lines = lines_of(predict(photos / "b.png", tmp_path / "pipe", photos / "a.jpg", "--json"))
    writer.join()
    assert [line["source"] for line in lines] == [str(photos / "b.png"), str(tmp_path / "pipe"), str(photos / "a.jpg")]
    assert [len(line["faces"]) for line in lines] == [0, 1, 1]


def test_a_hub_that_cannot_be_reached_is_asked_once(predict, photos, monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    # Its client sleeps between two tries.
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: pytest.fail("tries again"))
    result = predict(photos / "a.jpg", checkpoint="nobody/nothing")
    assert result.exit_code == 2
    [sentence] = result.stderr.splitlines()
    assert "nobody/nothing" in sentence
    assert "reached" in sentence


def test_what_a_folder_holds_besides_images_is_reported(predict, photos):
    (photos / "film.mp4").write_bytes(b"film")
    result = predict(photos, "--json")
    assert result.exit_code == 0
    [sentence] = [line for line in result.stderr.splitlines() if ".mp4" in line]
    assert "1 .txt" in sentence
    assert "rmn-hub video" in sentence


def test_addresses_are_opened_where_they_are_given(predict, photos, tmp_path):
    [expected] = lines_of(predict(photos / "a.jpg", "--json"))
    with serving(photos) as server:
        address, missing = f"{server}/a.jpg?size=1", f"{server}/nothing.jpg"
        result = predict(f"{server}/a.jpg", missing, "--json", "--annotate", tmp_path / "out")
        assert result.exit_code == 1
        assert lines_of(result) == [{**expected, "source": f"{server}/a.jpg"}]
        assert missing in result.stderr
        assert files_of(tmp_path / "out") == ["a.jpg"]
        # The server has files under the names that it is asked for.
        (photos / quote("größe 1.jpg")).write_bytes((photos / "a.jpg").read_bytes())
        for name in ("größe 1.jpg", quote("größe 1.jpg")):
            assert lines_of(predict(f"{server}/{name}", "--json")) == [{**expected, "source": f"{server}/{name}"}]
        assert predict(address, missing, "--json").exit_code == 2  # the server has no file of the first name
    result = predict(f"{server}/a.jpg")  # which has ended
    assert result.exit_code == 2
    assert f"{server}/a.jpg" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("word", ["s3://bucket/a.jpg", "file:///etc/hostname", "http://[", "https://"])
def test_other_addresses_are_refused(predict, word):
    result = predict(word)
    assert result.exit_code == 2
    assert word in result.stderr
    assert "Traceback" not in result.output
