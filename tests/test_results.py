"""Results: immutable, in lists and numbers for JSON, and in tables with one row per face."""

import csv
import dataclasses
import io
import json
import os
import sys

import numpy as np
import pytest

from rmn_hub import EXPRESSIONS, Face, FaceExpression
from rmn_hub.files import replacing
from rmn_hub.results import Attention, ImageResult
from rmn_hub.tables import to_csv, to_frame, to_json_lines, to_records

POINTS = ((10.0, 11.0), (20.0, 11.5), (15.0, 16.0), (11.0, 20.0), (19.0, 20.0))
PROBABILITIES = {name: (0.4 if name == "happy" else 0.1) for name in EXPRESSIONS}


def make_expression(**changes):
    expression = FaceExpression(
        box=(1.5, 2.0, 30.0, 40.0),
        landmarks=POINTS,
        score=0.99,
        expression="happy",
        probability=0.4,
        probabilities=PROBABILITIES,
    )
    return dataclasses.replace(expression, **changes)


def make_result(count=2, source="photo.jpg", message=None):
    faces = tuple(make_expression(index=number) for number in range(1, count + 1))
    return ImageResult(source, 640, 480, faces, message)


def test_they_are_frozen_and_compare_by_value():
    assert make_result() == make_result()
    assert hash(make_result()) == hash(make_result())
    for item, name in ((make_result(), "source"), (make_expression(), "expression"), (Face((0, 0, 1, 1)), "box")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(item, name, None)


def test_attention_does_not_disturb_equality_nor_printing():
    maps = tuple(np.random.default_rng(0).random((size, size), dtype=np.float32) for size in (24, 12, 6, 3))
    attention = Attention(maps, maps, maps, np.zeros((50, 50, 3), np.uint8))
    seen = make_expression(attention=attention)
    assert seen == make_expression()
    assert "array" not in repr(seen)


def test_a_face_says_none_where_nobody_looked():
    assert Face((0, 1, 2, 3)).to_dict() == {"box": [0.0, 1.0, 2.0, 3.0], "landmarks": None, "score": None}


def test_a_result_is_a_sequence_of_its_faces():
    result = make_result(3)
    assert len(result) == 3
    assert list(result) == list(result.faces)
    assert result[-1] is result.faces[-1]
    assert make_result(0)  # a result without faces is a result


def test_the_dictionary_is_the_line_of_predict():
    line = make_result(1).to_dict()
    assert list(line) == ["source", "width", "height", "faces"]
    assert line["faces"] == [
        {
            "index": 1,
            "box": [1.5, 2.0, 30.0, 40.0],
            "landmarks": [list(point) for point in POINTS],
            "score": 0.99,
            "expression": "happy",
            "probability": 0.4,
            "probabilities": PROBABILITIES,
            "uncertain": False,
        }
    ]
    assert list(line["faces"][0]["probabilities"]) == list(EXPRESSIONS)
    assert make_result(0, message="No face.").to_dict()["message"] == "No face."


def test_numpy_numbers_become_plain_ones():
    item = FaceExpression(
        box=tuple(np.float32([1, 2, 3, 4])),
        score=np.float32(0.5),
        expression="sad",
        probability=np.float32(0.25),
        probabilities={"sad": np.float32(0.25)},
        uncertain=np.bool_(True),
    )
    text = to_json_lines(ImageResult("a", np.int64(3), np.int64(4), (item,)))
    assert json.loads(text)["faces"][0]["score"] == 0.5


def test_json_is_one_object_a_line():
    lines = to_json_lines([make_result(source="a\nb.jpg"), make_result(0), make_expression()]).splitlines()
    assert [json.loads(line).get("source") for line in lines] == ["a\nb.jpg", "photo.jpg", None]


def test_records_have_one_row_per_face():
    records = to_records([make_result(2, "a.jpg"), make_result(0, "b.jpg"), make_result(1, "c.jpg")])
    assert [(record["source"], record["face"]) for record in records] == [("a.jpg", 1), ("a.jpg", 2), ("c.jpg", 1)]
    assert records[0]["x1"] == 30.0
    assert records[0]["happy"] == 0.4
    assert records[0]["nose_y"] == 16.0
    [expression] = to_records(make_expression())
    assert expression == {key: records[0][key] for key in expression}
    assert "source" not in expression
    [face] = to_records([Face((1, 2, 3, 4))])
    assert list(face)[:5] == ["x0", "y0", "x1", "y1", "score"]
    assert face["nose_y"] is None


def test_csv_is_read_back(tmp_path):
    to_csv((make_result(source=name) for name in ("a,b.jpg", 'quote".png', "bytes\udcff.png")), tmp_path / "faces.csv")
    with (tmp_path / "faces.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["source"] for row in rows[::2]] == ["a,b.jpg", 'quote".png', "bytes\\udcff.png"]
    assert float(rows[0]["happy"]) == 0.4
    assert rows[0]["uncertain"] == "False"
    assert [path.name for path in tmp_path.iterdir()] == ["faces.csv"]


def test_csv_without_faces_has_the_same_header():
    empty, full = io.StringIO(), io.StringIO()
    to_csv([make_result(0)], empty)
    to_csv(make_result(1), full)
    assert empty.getvalue().splitlines() == full.getvalue().splitlines()[:1]


def test_csv_that_fails_half_way_leaves_the_old_file(tmp_path):
    (tmp_path / "faces.csv").write_text("old")

    def stream():
        yield make_result()
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        to_csv(stream(), tmp_path / "faces.csv")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_frame_has_the_records_and_keeps_its_columns_without_faces():
    frame = to_frame([make_result(), make_result()])
    assert frame.shape[0] == 4
    assert frame[list(EXPRESSIONS)].sum(axis=1).tolist() == pytest.approx([1.0] * 4)
    assert list(to_frame([]).columns) == list(frame.columns)


def test_frame_without_pandas_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        to_frame([make_result()])


def test_replacing_writes_beside_and_renames(tmp_path):
    path = tmp_path / "picture.png"
    path.write_text("old")
    with replacing(path) as beside:
        beside.write_text("new")
        assert beside.parent == path.parent
        assert beside.suffix == ".png"
        assert path.read_text() == "old"
    assert [file.read_text() for file in tmp_path.iterdir()] == ["new"]


def test_replacing_follows_links_and_leaves_what_is_no_file(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "faces.csv").write_text("old")
    (tmp_path / "faces.csv").symlink_to(tmp_path / "there" / "faces.csv")
    to_csv(make_result(1), tmp_path / "faces.csv")
    assert (tmp_path / "faces.csv").is_symlink()
    assert (tmp_path / "there" / "faces.csv").read_text().startswith("source,")
    os.mkfifo(tmp_path / "pipe")  # as /dev/stdout may be one
    with replacing(tmp_path / "pipe") as path:
        assert path == tmp_path / "pipe"
    assert (tmp_path / "pipe").is_fifo()


def test_replacing_leaves_nothing_when_it_is_interrupted(tmp_path):
    def interrupted():
        with replacing(tmp_path / "picture.png") as beside:
            beside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())
