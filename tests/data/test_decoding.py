"""The one decoder: what training and evaluation read of a file is what the recognizer reads of it."""

import io
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_data import PIXELS, SPLITS, faces_of, png, write_folders, write_parquet

from rmn_hub import RMNImageProcessor
from rmn_hub.data.faces import LazyFaceSet, reduce
from rmn_hub.data.sources import load_face_images, load_faces
from rmn_hub.errors import InputError
from rmn_hub.images import load_image

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (40, 40), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)
ALPHA = np.tile(np.linspace(0, 255, 40, dtype=np.uint8), (40, 1))


def see_through_palette():
    image = Image.fromarray(COLOUR).quantize(16)
    image.info["transparency"] = 3
    return image


def turned():
    image = Image.fromarray(COLOUR[:20])
    exif = image.getexif()
    exif[0x0112] = 6
    return image, exif


IMAGES = {
    "rgba.png": lambda path: Image.fromarray(np.dstack([COLOUR, ALPHA])).save(path),
    "la.png": lambda path: Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]).save(path),
    "palette.png": lambda path: see_through_palette().save(path, transparency=3),
    "sixteen.png": lambda path: Image.fromarray(GREY.astype(np.uint16) * 200).save(path),
    "float.tif": lambda path: Image.fromarray(GREY.astype(np.float32) / 255).save(path),
    "cmyk.jpg": lambda path: Image.fromarray(COLOUR).convert("CMYK").save(path),
    "turned.jpg": lambda path: turned()[0].save(path, exif=turned()[1]),
    "animated.gif": lambda path: Image.fromarray(COLOUR).save(
        path, save_all=True, append_images=[Image.fromarray(COLOUR[::-1].copy())]
    ),
    "one_bit.ppm": lambda path: Image.fromarray(GREY > 99).save(path),
    "photo.webp": lambda path: Image.fromarray(COLOUR).save(path, lossless=True),
    "photo.tga": lambda path: Image.fromarray(COLOUR).save(path),
    "photo.jfif": lambda path: Image.fromarray(COLOUR).save(path, "jpeg"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_training_sees_the_recognizers_pixels(tmp_path, name):
    (tmp_path / "happy").mkdir()
    path = tmp_path / "happy" / name
    IMAGES[name](path)
    expected = load_image(path).image
    stored = load_face_images(tmp_path, "all")
    np.testing.assert_array_equal(np.asarray(stored[0]), np.asarray(expected))
    np.testing.assert_array_equal(load_faces(tmp_path, "all", 40).images[0], reduce(expected, 40))
    # The same bytes in parquet.
    table = pa.table({"image": [path.read_bytes()], "label": ["happy"]})
    pq.write_table(table, tmp_path / "set.parquet")
    np.testing.assert_array_equal(np.asarray(load_face_images(tmp_path / "set.parquet", "all")[0]), expected)


@pytest.mark.parametrize("name", IMAGES)
def test_training_and_the_image_processor_see_the_same_values(tmp_path, recognizer, name):
    """From the file to what the network is given: on the one way by the recognizer, on the other by training."""
    (tmp_path / "happy").mkdir()
    path = tmp_path / "happy" / name
    IMAGES[name](path)
    trained = load_faces(tmp_path, "all", 24).images[0] / np.float32(255)
    processor = RMNImageProcessor(size={"height": 24, "width": 24})
    given = processor(load_image(path).image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(given, np.broadcast_to(trained, (3, 24, 24)), atol=1e-6)
    # The recognizer's own answer for the file is that for the pixels of the training set.
    by_file = recognizer(path, faces_only=True)[0].probabilities
    by_pixels = recognizer(load_face_images(tmp_path, "all")[0], faces_only=True)[0].probabilities
    assert by_file == by_pixels


def test_the_right_values_of_odd_images(tmp_path):
    """Not only the same in both places: transparency is on white, 16 bits and floats are scaled."""
    (tmp_path / "sad").mkdir()
    see_through = np.dstack([np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), np.uint8)])
    Image.fromarray(see_through).save(tmp_path / "sad" / "a.png")
    Image.fromarray(np.full((20, 20), 32639, np.uint16)).save(tmp_path / "sad" / "b.png")
    Image.fromarray(np.full((20, 20), 0.5, np.float32)).save(tmp_path / "sad" / "c.tif")
    means = load_faces(tmp_path, "all", 20).images.mean(axis=(1, 2))
    np.testing.assert_allclose(means, [255, 127, 127.5], atol=0.6)


def test_grey_faces_of_48_pixels_stay_as_they_are(tmp_path):
    images, labels = faces_of(5, 21)
    write_folders(tmp_path, images, labels)
    faces = load_faces(tmp_path, "all")
    np.testing.assert_array_equal(faces.images[np.argsort(faces.names)], images[np.argsort(sorted_names(labels))])


def sorted_names(labels):
    from rmn_hub import EXPRESSIONS

    return [f"{EXPRESSIONS[label]}/{index:03}.png" for index, label in enumerate(labels)]


def test_a_read_in_part_is_noted(tmp_path):
    (tmp_path / "happy").mkdir()
    IMAGES["animated.gif"](tmp_path / "happy" / "a.gif")
    assert any("a.gif" in note for note in load_faces(tmp_path, "all").notes)


def test_ghostscript_never_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("a program was started"))
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    file = io.BytesIO()
    Image.fromarray(COLOUR).save(file, "eps")
    (tmp_path / "happy").mkdir()
    (tmp_path / "happy" / "a.png").write_bytes(file.getvalue())
    with pytest.raises(InputError, match=r"a\.png"):
        load_faces(tmp_path, "all")
    pq.write_table(pa.table({"image": [file.getvalue()], "label": [3]}), tmp_path / "eps.parquet")
    with pytest.raises(InputError):
        load_faces(tmp_path / "eps.parquet", "all")


def test_one_scan_of_folders(tmp_path):
    write_folders(tmp_path, *SPLITS["train"])
    happy = tmp_path / "happy"
    (happy / ".thumbs").mkdir()
    Image.fromarray(GREY).save(happy / ".thumbs" / "x.jpg")
    (happy / "._a.jpg").write_bytes(b"\0\5\x16\7 of a Macintosh")
    (happy / "list.txt").write_text("x")
    (happy / "more").mkdir()
    for suffix in ("jfif", "jpe"):
        Image.fromarray(GREY).save(happy / "more" / f"x.{suffix}", "jpeg")
    (tmp_path / "fear" / ".hidden").mkdir()
    faces = load_faces(tmp_path, "all")
    assert len(faces) == 14 + 2
    (note,) = [note for note in faces.notes if "left out" in note]
    for word in ("3 files", "2 hidden", "1 .txt"):
        assert word in note


def test_linked_folders_are_told(tmp_path):
    write_folders(tmp_path / "elsewhere", *faces_of(0, 14, 20))
    write_folders(tmp_path / "data", *faces_of(1, 14, 20))
    (tmp_path / "data" / "sad").rename(tmp_path / "sad")
    (tmp_path / "data" / "sad").symlink_to(tmp_path / "sad")  # this one is read
    (tmp_path / "data" / "happy" / "more").symlink_to(tmp_path / "elsewhere" / "happy")
    faces = load_faces(tmp_path / "data", "all")
    assert len(faces) == 14
    (note,) = faces.notes
    assert "1, happy/more" in note


def test_lazy_faces_are_the_faces(tmp_path):
    write_folders(tmp_path, *faces_of(0, 14, 60))
    stored = load_face_images(tmp_path, "all").take(np.array([3, 8, 1]))
    lazy, whole = LazyFaceSet(stored, 32), stored.reduced(32)
    np.testing.assert_array_equal(np.stack([lazy[i] for i in range(3)]), whole.images)
    np.testing.assert_array_equal(lazy.labels, whole.labels)
    assert lazy.fingerprint() != LazyFaceSet(stored.take(np.array([1, 0, 2])), 32).fingerprint()


@pytest.mark.parametrize(
    ("encoding", "delimiter"),
    [("utf-8-sig", ";"), ("utf-16", "\t"), ("utf-16-le", ","), ("utf-16-be", ";"), ("cp1252", ";"), ("cp1252", ",")],
)
def test_spreadsheets_tables(tmp_path, encoding, delimiter):
    rows = [("Größe", "Emotion", "Pixels", " Usage "), ("±", "3", PIXELS, "Training"), ("ü", "5", PIXELS, "PublicTest")]
    text = "\r\n".join(delimiter.join(f'"{cell}"' for cell in row) for row in rows)
    (tmp_path / "fer2013.csv").write_bytes(text.encode(encoding))
    for path in (tmp_path, tmp_path / "fer2013.csv"):
        faces = load_faces(path, "public_test", 10)
        assert (faces.labels.tolist(), faces.images.tolist()) == ([5], np.full((1, 10, 10), 7).tolist())


def write_table(path, metadata=None, **columns):
    defaults = {"image": [png(GREY)] * 3, "label": [0, 3, 5]}
    table = pa.table({**defaults, **columns})
    pq.write_table(table.replace_schema_metadata(metadata or {}), path)
    return path


@pytest.mark.parametrize(
    "metadata",
    [
        b"not JSON",
        b"[1, 2]",
        b'{"info": 3}',
        json.dumps({"info": {"features": {"label": {"names": {"a": 1}}}}}).encode(),
        json.dumps({"info": {"features": {"label": {"names": [1, None]}}}}).encode(),
        b"[" * 100_000,
    ],
)
def test_metadata_of_something_else(tmp_path, metadata):
    path = write_table(tmp_path / "a.parquet", {"huggingface": metadata})
    with pytest.raises(InputError, match="metadata"):
        load_faces(path, "all")


@pytest.mark.parametrize(
    "columns",
    [
        {"ferplus_votes": [[1] * 10, [1] * 9, [1] * 10]},
        {"ferplus_votes": [[1] * 10, None, [1] * 10]},
        {"ferplus_votes": [[1] * 9] * 3},
        {"ferplus_votes": [[1.0] * 9 + [float("nan")]] * 3},
        {"ferplus_votes": [[1] * 9 + [-1]] * 3},
        {"ferplus_votes": ["many"] * 3},
        {"label": [0, None, 3]},
        {"label": [0, 1.5, 3]},
        {"label": [True, False, True]},
        {"label": [[0], [1], [2]]},
        {"label": [0, -1, 3]},
        {"image": [None] * 3},
        {"image": [7] * 3},
        {"image": [b""] * 3},
        {"image": [png(GREY), png(GREY)[:200], png(GREY)]},
    ],
)
def test_broken_columns(tmp_path, columns):
    path = write_table(tmp_path / "a.parquet", **columns)
    with pytest.raises(InputError):
        load_faces(path, "all")


def test_doubled_columns(tmp_path):
    table = pa.table({"image": [png(GREY)], "label": [1]})
    pq.write_table(table.append_column("label", [[2]]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="label 2 times"):
        load_faces(tmp_path / "a.parquet", "all")
    (tmp_path / "a.csv").write_text(f"emotion,pixels,emotion\n1,{PIXELS},2\n")
    with pytest.raises(InputError, match="emotion 2 times"):
        load_faces(tmp_path / "a.csv", "all")
    (tmp_path / "a.csv").write_text(f"emotion,pixels,note,note\n1,{PIXELS},a,b\n")
    assert load_faces(tmp_path / "a.csv", "all", 10).labels.tolist() == [1]


def test_a_truncated_parquet_file(tmp_path):
    write_parquet(tmp_path / "train.parquet", *SPLITS["train"])
    whole = (tmp_path / "train.parquet").read_bytes()
    for keep in (4, len(whole) // 2, len(whole) - 4):
        (tmp_path / "train.parquet").write_bytes(whole[:keep])
        with pytest.raises(InputError, match=r"train\.parquet"):
            load_faces(tmp_path, "train")
    (tmp_path / "train.parquet").write_bytes(whole[:200] + bytes(200) + whole[400:])
    with pytest.raises(InputError):
        load_faces(tmp_path, "train")


@pytest.mark.parametrize("content", ["{}", "no JSON", '{"splits": ["train"]}', '{"_data_files": [{"filename": "x"}]}'])
@pytest.mark.parametrize("name", ["dataset_dict.json", "state.json"])
def test_a_saved_set_that_is_none(tmp_path, name, content):
    pytest.importorskip("datasets", reason="only this form needs the datasets library")
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match="datasets library"):
        load_faces(tmp_path, "train")


def test_votes_of_some_files_only_are_noted(tmp_path):
    images, labels = SPLITS["train"]
    write_parquet(tmp_path / "train-00000-of-00002.parquet", images[:7], labels[:7], votes=np.eye(7, 10).tolist())
    write_parquet(tmp_path / "train-00001-of-00002.parquet", images[7:], labels[7:])
    faces = load_faces(tmp_path, "all")
    assert faces.votes is None
    assert any("votes" in note for note in faces.notes)


def test_a_table_without_rows(tmp_path):
    (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n")
    for split in ("all", "train"):
        with pytest.raises(InputError):
            load_faces(tmp_path, split)
