"""Sets of faces in every form, made by drawing; no real FER2013 is needed."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rmn_hub.data import faces as data
from rmn_hub.data.faces import OFFICIAL_COUNTS, class_index, duplicates_of
from rmn_hub.data.sources import load_face_images, load_faces
from rmn_hub.errors import InputError
from rmn_hub.expressions import EXPRESSIONS

KAGGLE_NAMES = {"train": "Training", "public_test": "PublicTest", "private_test": "PrivateTest"}


def faces_of(seed, count=14, size=48):
    """`count` different grey pictures and labels that go round the expressions."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size), dtype=np.uint8), np.arange(count) % 7


SPLITS = {name: faces_of(seed) for seed, name in enumerate(OFFICIAL_COUNTS)}


def write_csv(path, splits=None, header=("emotion", "pixels", "Usage")):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for split, (images, labels) in (splits or SPLITS).items():
            for image, label in zip(images, labels):
                row = {"emotion": label, "pixels": " ".join(map(str, image.ravel())), "usage": KAGGLE_NAMES[split]}
                writer.writerow([row[name.strip().lower()] for name in header])


def write_folders(root, images, labels, names=EXPRESSIONS, prefix="", suffix="png"):
    for index, (image, label) in enumerate(zip(images, labels)):
        path = root / names[label] / f"{prefix}{index:03}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def png(image):
    import io

    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def write_parquet(path, images, labels, names=EXPRESSIONS, votes=None):
    columns = {
        "image": [{"bytes": png(image), "path": f"{index:03}.png"} for index, image in enumerate(images)],
        "label": labels,
    }
    if votes is not None:
        columns["ferplus_votes"] = votes
    features = {"info": {"features": {"label": {"names": list(names or ()), "_type": "ClassLabel"}}}}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(features)} if names else {})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def assert_same(faces, images, labels):
    order = np.lexsort((faces.images.sum((1, 2)), faces.labels))
    expected = np.lexsort((images.sum((1, 2)), labels))
    np.testing.assert_array_equal(faces.labels[order], labels[expected])
    np.testing.assert_array_equal(faces.images[order], images[expected])
    assert faces.images.dtype == np.uint8
    assert faces.labels.dtype == np.int64
    assert len(faces.names) == len(faces)


@pytest.fixture
def layout(request, tmp_path):
    """SPLITS in one of the forms of the set."""
    if request.param == "csv":
        write_csv(tmp_path / "fer2013.csv")
        return tmp_path / "fer2013.csv"
    if request.param == "folder with icml csv":
        (tmp_path / "example_submission.csv").write_text("id\n1\n")
        write_csv(tmp_path / "train.csv", {"train": SPLITS["train"]}, header=("emotion", "pixels"))
        write_csv(tmp_path / "icml_face_data.csv", header=("emotion", " Usage", " pixels"))
        return tmp_path
    for split, (images, labels) in SPLITS.items():
        if request.param == "parquet":
            write_parquet(tmp_path / f"{split}.parquet", images, labels)
        elif request.param == "parquet shards":
            name = split.replace("public_test", "validation").replace("private_test", "test")
            write_parquet(tmp_path / "data" / f"{name}-00000-of-00002.parquet", images[:5], labels[:5])
            write_parquet(tmp_path / "data" / f"{name}-00001-of-00002.parquet", images[5:], labels[5:])
        elif request.param == "parquet folders":
            write_parquet(tmp_path / "default" / split / "0000.parquet", images, labels)
        elif request.param == "kaggle folders":
            folder = tmp_path / "archive" / ("train" if split == "train" else "test")
            write_folders(folder, images, labels, prefix=KAGGLE_NAMES[split] + "_")
        elif request.param == "icml folders":
            write_folders(tmp_path / KAGGLE_NAMES[split], images, labels)
        elif request.param == "train val test":
            name = {"public_test": "val", "private_test": "test"}.get(split, split)
            write_folders(tmp_path / name, images, labels)
    return tmp_path


FORMS = [
    "csv",
    "folder with icml csv",
    "parquet",
    "parquet shards",
    "parquet folders",
    "kaggle folders",
    "icml folders",
    "train val test",
]


@pytest.mark.parametrize("layout", FORMS, indirect=True)
def test_every_form_gives_the_same_faces(layout):
    for split, (images, labels) in SPLITS.items():
        faces = load_faces(layout, split)
        assert_same(faces, images, labels)
        assert any(f"{sum(OFFICIAL_COUNTS[split]):,} faces; this one has 14" in note for note in faces.notes)
    assert len(load_faces(layout, "all")) == 42


def test_splits_have_many_names(tmp_path):
    write_csv(tmp_path / "fer2013.csv")
    for name in ("private_test", "PrivateTest", "private-test", "test"):
        assert_same(load_faces(tmp_path, name), *SPLITS["private_test"])
    with pytest.raises(InputError, match=r"'holiday' must be one.*Training, PublicTest, PrivateTest or all"):
        load_faces(tmp_path, "holiday")


def test_parquet_files_by_themselves(tmp_path):
    images, labels = SPLITS["public_test"]
    write_parquet(tmp_path / "public_test.parquet", images, labels, votes=np.eye(14, 10, dtype=np.uint8).tolist())
    faces = load_faces(tmp_path / "public_test.parquet", "public_test")
    assert_same(faces, images, labels)
    assert faces.votes.shape == (14, 10)
    assert faces.votes.dtype == np.float32
    assert faces.votes[3, 3] == 1
    assert faces.names[3] == "003.png"
    with pytest.raises(InputError, match="split='private_test'"):
        load_faces(tmp_path / "public_test.parquet", "private_test")


def test_saved_by_datasets(tmp_path):
    datasets = pytest.importorskip("datasets", reason="only this form needs the datasets library")
    names = ["Sadness", "Anger", "Happiness", "Neutral", "Surprised", "Disgusted", "Fear"]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    images, labels = SPLITS["train"]
    pictures = [Image.fromarray(image) for image in images]
    whole = datasets.Dataset.from_dict({"image": pictures, "label": labels.tolist()}, features=features)
    datasets.DatasetDict(train=whole, test=whole.select([5, 3])).save_to_disk(str(tmp_path / "dict"))
    mapped = np.array([EXPRESSIONS.index(name) for name in ("sad", "angry", "happy", "neutral", "surprise")])
    faces = load_faces(tmp_path / "dict", "all")
    assert_same(faces.__class__(faces.images[:5], faces.labels[:5], None, faces.names[:5], ()), images[:5], mapped)
    test = load_faces(tmp_path / "dict", "test")
    np.testing.assert_array_equal(test.images, images[[5, 3]])
    np.testing.assert_array_equal(test.labels, [EXPRESSIONS.index("disgust"), EXPRESSIONS.index("neutral")])
    whole.save_to_disk(str(tmp_path / "single"))
    assert len(load_faces(tmp_path / "single", "all")) == 14


def test_ferplus_votes_beside_the_csv(tmp_path):
    write_csv(tmp_path / "fer2013.csv")
    with (tmp_path / "fer2013new.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Usage", "Image name", *data.FERPLUS_VOTES])
        for row in range(42):
            writer.writerow(["x", "" if row == 3 else f"fer{row:07}.png", *np.eye(10, dtype=int)[row % 10]])
    votes = load_faces(tmp_path, "private_test").votes
    np.testing.assert_array_equal(votes.argmax(1), np.arange(28, 42) % 10)
    (tmp_path / "fer2013new.csv").write_text("Usage\nx,y," + ",".join("0" * 10) + "\n")
    faces = load_faces(tmp_path, "private_test")
    assert faces.votes is None
    assert any("votes are left out" in note for note in faces.notes)


@pytest.mark.parametrize("form", ["parquet", "saved"])
def test_numbers_without_names_are_told(tmp_path, form):
    images, labels = faces_of(0, size=50)

    def notes_of(labels, names):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet"
        write_parquet(path, images[:1].repeat(len(labels), 0), labels, names)
        if form == "saved":
            datasets = pytest.importorskip("datasets")
            features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))} if names else {}
            rows = {"image": [Image.fromarray(images[0])] * len(labels), "label": list(labels)}
            path = path.with_suffix("")
            datasets.Dataset.from_dict(rows, datasets.Features(features) if names else None).save_to_disk(str(path))
        return load_face_images(path, "all").notes

    assert notes_of(labels, sorted(EXPRESSIONS)) == ()
    assert notes_of([EXPRESSIONS[label] for label in labels], None) == ()
    for numbers in (labels, [str(label) for label in labels]):
        (note,) = notes_of(numbers, None)
        assert all(f"{index} {name}" in note for index, name in enumerate(EXPRESSIONS))


def test_fer2013_has_the_order_of_its_numbers(tmp_path):
    labels = np.repeat(np.arange(7), OFFICIAL_COUNTS["public_test"])
    for part, rows in enumerate((slice(None, 50), slice(50, None))):
        own = labels[rows]
        path = tmp_path / f"public_test-{part:05}-of-00002.parquet"
        write_parquet(path, np.zeros((len(own), 48, 48), np.uint8), own, None)
    assert load_faces(tmp_path, "public_test").notes == ()


def test_official_counts_leave_nothing_to_say(tmp_path):
    labels = np.repeat(np.arange(7), OFFICIAL_COUNTS["public_test"])
    write_parquet(tmp_path / "public_test.parquet", np.zeros((len(labels), 48, 48), np.uint8), labels)
    assert load_faces(tmp_path, "public_test").notes == ()
    labels[-1] = 0
    write_parquet(tmp_path / "public_test.parquet", np.zeros((len(labels), 48, 48), np.uint8), labels)
    (note,) = load_faces(tmp_path, "public_test").notes
    assert note.endswith("angry 468 (official 467), neutral 606 (official 607).")


def test_merged_tests_are_told(tmp_path):
    counts = np.add(OFFICIAL_COUNTS["public_test"], OFFICIAL_COUNTS["private_test"])
    labels = np.repeat(np.arange(7), counts)
    write_parquet(tmp_path / "test.parquet", np.zeros((len(labels), 48, 48), np.uint8), labels)
    (note,) = load_faces(tmp_path, "test").notes
    assert "PublicTest and PrivateTest together (7,178 faces)" in note


@pytest.mark.parametrize("folders", [(), ("train", "test")])
def test_missing_splits_are_made_and_told(tmp_path, folders):
    images, labels = faces_of(0, 140, 20)
    if folders:
        write_folders(tmp_path / "train", images[:70], labels[:70])
        write_folders(tmp_path / "test", images[70:], labels[70:])
    else:
        write_folders(tmp_path, images, labels)
    parts = {split: load_faces(tmp_path, split, 20) for split in OFFICIAL_COUNTS}
    assert sum(map(len, parts.values())) == 140
    assert len({image.tobytes() for part in parts.values() for image in part.images}) == 140
    assert len(parts["public_test"]) == (7 if folders else 14)
    assert set(parts["public_test"].labels) == set(range(7))
    for split in ("train", "public_test"):
        assert "fixed seed" in " ".join(parts[split].notes)
        again = load_faces(tmp_path, split, 20)
        np.testing.assert_array_equal(again.images, parts[split].images)
    if folders:
        assert_same(parts["private_test"], images[70:], labels[70:])


def test_colour_photos_of_varied_size(tmp_path):
    rng = np.random.default_rng(1)
    photo = rng.integers(0, 256, (90, 61, 3), dtype=np.uint8)
    write_folders(tmp_path, [photo, np.flip(photo, 2)], [3, 4], suffix="png")
    faces = load_faces(tmp_path, "all", size=32)
    assert faces.images.shape == (2, 32, 32)
    # ITU-R 601-2 luma first, rounded, then the resize.
    luma = np.rint(photo @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    expected = np.asarray(Image.fromarray(luma).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(faces.images[0].astype(int) - expected).max() <= 1
    assert not np.array_equal(faces.images[0], faces.images[1])
    assert faces.notes == ()
    assert load_face_images(tmp_path, "all")[0].size == (61, 90)


def test_rotated_photos_stand_upright(tmp_path):
    picture = Image.fromarray(faces_of(3, 1, 40)[0][0][:20])
    exif = picture.getexif()
    exif[0x0112] = 6
    (tmp_path / "happy").mkdir()
    picture.save(tmp_path / "happy" / "a.jpg", exif=exif)
    assert load_face_images(tmp_path, "all")[0].size == (20, 40)


@pytest.mark.parametrize(
    ("name", "own"),
    [("Happiness", "happy"), ("ANGER", "angry"), ("5_Surprised", "surprise"), ("02-fear", "fear"), ("sad ", "sad")],
)
def test_class_names(name, own):
    assert EXPRESSIONS[class_index(name)] == own


def test_unknown_classes_are_refused(tmp_path):
    images, labels = SPLITS["train"]
    write_folders(tmp_path / "folders", images, labels)
    write_folders(tmp_path / "folders", images[:1], [0], names=["contempt"])
    with pytest.raises(InputError, match="class 'contempt'"):
        load_faces(tmp_path / "folders", "train")
    write_parquet(tmp_path / "own.parquet", images, labels, names=["contempt", *EXPRESSIONS[1:]])
    with pytest.raises(InputError, match="class 'contempt'"):
        load_faces(tmp_path / "own.parquet", "train")
    write_parquet(tmp_path / "unnamed.parquet", images, labels + 1, names=None)
    with pytest.raises(InputError, match="class '7'"):
        load_faces(tmp_path / "unnamed.parquet", "train")


def test_broken_sets_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_faces(tmp_path / "nowhere", "train")
    with pytest.raises(InputError, match="must hold parquet"):
        load_faces(tmp_path, "train")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"must be a \.csv or \.parquet file"):
        load_faces(tmp_path / "a.txt", "train")
    (tmp_path / "a.parquet").write_text("x")
    with pytest.raises(InputError, match="cannot be read as parquet"):
        load_faces(tmp_path / "a.parquet", "train")
    pq.write_table(pa.table({"picture_id": [1]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="must have an image and a label"):
        load_faces(tmp_path / "b.parquet", "train")
    (tmp_path / "c.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="must have the columns emotion and pixels"):
        load_faces(tmp_path / "c.csv", "train")


PIXELS = " ".join(["7"] * 100)  # a face of 10 x 10


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ("0,1 2 3,Training", "row 1 .*pixels"),
        (f"0,{PIXELS.replace('7', '300')},Training", "pixels"),
        (f"0,{PIXELS.replace('7', '99999999999999999999')},Training", "pixels"),
        (f"0,{PIXELS.replace('7', '-1')},Training", "pixels"),
        (f"0,{PIXELS[:-1]}x,Training", "pixels"),
        (f"0,{PIXELS[:-1]}1.5,Training", "pixels"),
        (f"9,{PIXELS},Training", "'9'.*row 1"),
        (f"1.5,{PIXELS},Training", "'1.5'.*row 1"),
        (f"furious,{PIXELS},Training", "'furious'.*row 1"),
        (f",{PIXELS},Training", "row 1"),
    ],
)
def test_broken_rows_are_named(tmp_path, row, named):
    path = tmp_path / "fer2013.csv"
    path.write_text(f"emotion,pixels,Usage\n0,{PIXELS},Training\n{row}\n0,{PIXELS},PublicTest\n")
    with pytest.raises(InputError, match=named):
        load_faces(path, "train")
    assert len(load_faces(path, "public_test", 10)) == 1


def test_broken_images_are_named(tmp_path):
    write_folders(tmp_path, *SPLITS["train"])
    (tmp_path / "happy" / "zzz.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"happy/zzz\.png"):
        load_faces(tmp_path, "all")


def test_duplicates_are_found(tmp_path):
    train, labels = SPLITS["train"]
    test, _ = SPLITS["private_test"]
    test = test.copy()
    test[4], test[9] = train[0], train[13]
    test[5] = train[1] ^ np.eye(48, dtype=np.uint8)
    write_csv(tmp_path / "a.csv", {"train": (train, labels), "private_test": (test, labels)})
    # Without a split to choose on, one is held out of training: a duplicate there is no training image.
    everything = load_faces(tmp_path, "Training")
    found = duplicates_of(everything, load_faces(tmp_path, "private_test"))
    kept = [bool((everything.images == train[index]).all((1, 2)).any()) for index in (0, 13)]
    np.testing.assert_array_equal(np.flatnonzero(found), np.array([4, 9])[kept])
    with pytest.raises(InputError, match="one size"):
        duplicates_of(everything, load_faces(tmp_path, "private_test", 24))


def test_fingerprint_depends_on_images_and_labels(tmp_path):
    write_csv(tmp_path / "fer2013.csv")
    faces = load_faces(tmp_path, "train")
    assert faces.fingerprint() == load_faces(tmp_path, "Training").fingerprint()
    for other in (
        data.FaceSet(255 - faces.images, faces.labels, None, faces.names, ()),
        data.FaceSet(faces.images, faces.labels[::-1], None, faces.names, ()),
    ):
        assert other.fingerprint() != faces.fingerprint()
