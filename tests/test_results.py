"""Results: immutable, in lists and numbers for JSON, and in tables with one row per face."""

import csv
import dataclasses
import io
import json
import os
import re
import sys

import numpy as np
import pytest
from PIL import Image

from rmn_hub import EXPRESSIONS, Face, FaceExpression
from rmn_hub.errors import InputError, MissingPackageError
from rmn_hub.files import replacing
from rmn_hub.results import Attention, ImageResult, numbered, reading_order
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


def test_methods_of_a_result(tmp_path, astronaut):
    path = tmp_path / "photo.png"
    astronaut.save(path)
    face = make_expression(box=(180.0, 60.0, 270.0, 170.0), track_id=4)
    result = ImageResult(str(path), 512, 512, (face,), image=path)
    assert json.loads(result.to_json()) == result.to_dict()
    assert result.to_json(indent=2).count("\n") > 10
    file = io.StringIO()
    result.to_csv(file)
    [row] = csv.DictReader(io.StringIO(file.getvalue()))
    assert (row["track_id"], row["expression"]) == ("4", "happy")
    assert result.to_df()["track_id"].tolist() == [4]
    drawn = result.plot()
    assert drawn.size == (512, 512)
    assert np.abs(np.asarray(drawn).astype(int) - np.asarray(astronaut)).max() > 100
    assert result.save(tmp_path / "drawn.png") == tmp_path / "drawn.png"
    assert Image.open(tmp_path / "drawn.png").size == (512, 512)
    assert Image.open(io.BytesIO(result._repr_png_())).format == "PNG"
    detections = result.to_supervision()
    assert detections.xyxy.tolist() == [list(face.box)]
    assert detections.class_id.tolist() == [EXPRESSIONS.index("happy")]
    assert detections.tracker_id.tolist() == [4]
    assert detections.data["class_name"].tolist() == ["happy"]
    assert len(make_result(0).to_supervision()) == 0


def test_what_cannot_be_drawn_or_saved_is_named(tmp_path, astronaut):
    gone = ImageResult("gone.png", 512, 512, (), image=tmp_path / "gone.png")
    for result in (gone, make_result()):
        assert result._repr_png_() is None
        with pytest.raises(InputError):
            result.plot()
    for path in (tmp_path / "missing" / "a.png", tmp_path / "a.xyz", tmp_path):
        with pytest.raises(InputError, match=re.escape(str(path))):
            ImageResult("photo", 512, 512, (), image=astronaut).save(path)
    assert not list(tmp_path.iterdir())


def test_a_result_is_short_to_read():
    assert repr(make_result(0)) == "<ImageResult 'photo.jpg', 640 x 480: no face>"
    assert len(repr(make_result(50))) < 120
    assert repr(make_expression(index=3, uncertain=True)).startswith("<FaceExpression 3: happy 40.0%, uncertain")
    assert "bad" in repr(ImageResult("bad", 0, 0, (), "It is damaged."))


def test_a_result_can_be_scaled():
    scaled = make_result(1).scaled(1280, 240)
    assert (scaled.width, scaled.height) == (1280, 240)
    assert scaled[0].box == (3.0, 1.0, 60.0, 20.0)
    assert scaled[0].landmarks[0] == (20.0, 5.5)
    assert scaled.scaled(640, 480) == make_result(1)
    for result, width in ((make_result(1), 0), (ImageResult("bad", 0, 0), 10)):
        with pytest.raises(InputError):
            result.scaled(width, 10)


def test_reading_order_is_by_rows():
    boxes = [(100, 12, 120, 32), (0, 60, 20, 80), (50, 10, 70, 30), (0, 14, 20, 34)]
    assert reading_order(boxes) == [3, 2, 0, 1]
    assert reading_order([]) == []
    faces = numbered([make_expression(box=tuple(map(float, box))) for box in boxes])
    assert [(face.index, face.box[0]) for face in faces] == [(1, 0), (2, 50), (3, 100), (4, 0)]


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


def test_numbers_stay_numbers_where_a_value_is_missing():
    full = to_frame([make_result(1)], every_image=True)
    faces = [make_expression(), make_expression(landmarks=None, score=None)]
    partly = to_frame([ImageResult("a.jpg", 5, 6, tuple(faces)), make_result(0)], every_image=True)
    empty = to_frame([], every_image=True)
    assert full.dtypes.to_dict() == partly.dtypes.to_dict() == empty.dtypes.to_dict()
    assert partly["score"].isna().tolist() == [False, True, True]
    assert partly["face"].tolist()[:2] == [1, 1]
    assert str(empty["happy"].dtype) == str(empty["x0"].dtype) == "float64"
    assert str(empty["face"].dtype) == str(empty["width"].dtype) == "Int64"


def test_an_image_without_faces_has_a_row_when_asked():
    failed = ImageResult("bad.jpg", 0, 0, (), "It is damaged.")
    results = [make_result(0, "b.jpg", "No face."), failed, make_result(2, "a.jpg")]
    records = to_records(results, every_image=True)
    assert [record["source"] for record in records] == ["b.jpg", "bad.jpg", "a.jpg", "a.jpg"]
    assert [record["message"] for record in records] == ["No face.", "It is damaged.", None, None]
    assert [record["face"] for record in records] == [None, None, 1, 2]
    assert len({tuple(record) for record in records}) == 1
    file = io.StringIO()
    to_csv(iter(results), file, every_image=True)
    rows = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert [row["message"] for row in rows] == ["No face.", "It is damaged.", "", ""]
    assert [row["happy"] for row in rows] == ["", "", "0.4", "0.4"]
    assert "message" not in to_records(results)[0]
    assert len(to_records(results)) == 2


def test_other_expressions_have_columns_even_after_an_image_without_faces():
    face = make_expression(expression="calm", probabilities={"calm": 0.4, "not calm": 0.6})
    results = [make_result(0), ImageResult("a.jpg", 10, 10, (face,))]
    file = io.StringIO()
    to_csv(results, file, every_image=True)
    rows = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert [row["not calm"] for row in rows] == ["", "0.6"]
    assert list(to_frame(results, every_image=True).columns) == list(rows[0])
    assert list(to_records([make_result(0)], every_image=True)[0])[-1] == "message"
    assert list(to_frame([make_result(0)], every_image=True, expressions=("calm", "not calm")).columns) == list(rows[0])


def test_a_table_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(InputError, match=r"faces\.csv"):
        to_csv(make_result(), tmp_path / "missing" / "faces.csv")


def test_frame_without_pandas_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingPackageError, match=r"pandas.*rmn-hub\[video\]"):
        to_frame([make_result()])


def test_detections_without_supervision_are_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="supervision"):
        make_result().to_supervision()


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
