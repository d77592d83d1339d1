"""Changes of the image: what each one does to it, and what is counted."""

import numpy as np
import pytest
from cli_helpers import run
from evaluation_helpers import answers_of, faces, save_checkpoint, write_set
from PIL import Image, ImageOps

from rmn_hub.data.sources import load_face_images
from rmn_hub.engines.pixels import PixelProcessor
from rmn_hub.engines.torch import TorchEngine
from rmn_hub.evaluation import evaluate as room
from rmn_hub.evaluation.evaluate import predict
from rmn_hub.evaluation.robustness import CHANGES, EYES, MOUTH, robustness
from rmn_hub.hub import checkpoint as checkpoints

COUNT = 40


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A network and faces that are labelled as it predicts them, but for the last ten."""
    root = tmp_path_factory.mktemp("robustness")
    checkpoint, images = save_checkpoint(root / "checkpoint"), faces(COUNT, seed=9)
    predicted = answers_of(checkpoint, images).argmax(1)
    labels = np.where(np.arange(COUNT) < 30, predicted, (predicted + 1) % 7)
    write_set(root / "data" / "public_test.parquet", images, labels)
    loaded = checkpoints.load(checkpoint)
    return {
        "checkpoint": checkpoint,
        "data": root / "data",
        "images": images,
        "predicted": predicted,
        "labels": labels,
        "engine": TorchEngine(loaded.model, "cpu"),
        "processor": PixelProcessor.from_folder(checkpoint),
        "faces": load_face_images(root / "data", "public_test"),
    }


@pytest.fixture(scope="module")
def measured(world):
    return robustness(world["engine"], world["processor"], world["faces"])


def rows(measured):
    return {row["change"]: row for row in measured["changes"]}


def test_unchanged_faces_are_the_measure(measured):
    assert list(rows(measured)) == ["unchanged", *CHANGES]
    assert (measured["faces"], measured["seed"]) == (COUNT, 0)
    unchanged = rows(measured)["unchanged"]
    assert (unchanged["accuracy"], unchanged["changed"]) == (0.75, 0)
    low, high = unchanged["interval"]
    assert low < 0.75 < high
    assert unchanged["averaged"]["changed"] == unchanged["changed_certain"] == 0


def test_mirrored_faces_by_another_way(world, measured):
    predicted = answers_of(world["checkpoint"], world["images"], flip=True).argmax(1)
    row = rows(measured)["mirrored"]
    assert 0 < row["changed"] < 1
    assert row["changed"] == pytest.approx((predicted != world["predicted"]).mean())
    assert row["accuracy"] == pytest.approx((predicted == world["labels"]).mean())


def test_the_average_of_two_views_has_no_side(world, measured):
    mirrored, unchanged = rows(measured)["mirrored"]["averaged"], rows(measured)["unchanged"]["averaged"]
    assert (mirrored["changed"], mirrored["changed_certain"]) == (0, 0)
    assert mirrored["accuracy"] == unchanged["accuracy"]
    both = predict(world["engine"], world["processor"], world["faces"]).flip_averaged
    assert unchanged["accuracy"] == pytest.approx((both.argmax(1) == world["labels"]).mean())


def test_certain_faces_are_a_part_of_the_changed_ones(world, measured):
    for row in measured["changes"]:
        assert 0 <= row["changed_certain"] <= row["changed"]
    assert sum(row["changed_certain"] for row in measured["changes"]) > 0
    single = robustness(world["engine"], world["processor"], world["faces"], views=1)
    for row, other in zip(single["changes"], measured["changes"]):
        assert row["averaged"]["changed"] == row["changed"] == other["changed"]


def test_the_same_seed_gives_the_same_numbers_in_any_batches(world, measured):
    assert robustness(world["engine"], world["processor"], world["faces"], batch_size=7) == measured
    other = rows(robustness(world["engine"], world["processor"], world["faces"], seed=1))
    assert other["mirrored"] == rows(measured)["mirrored"]
    assert other != rows(measured)


@pytest.fixture(scope="module")
def face(astronaut):
    return astronaut.crop((160, 50, 290, 180))


def changed(name, face, seed=0):
    return CHANGES[name](face, np.random.default_rng(seed))


def difference(one, other):
    return np.abs(np.asarray(one, float) - np.asarray(other.resize(one.size), float)).mean()


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_keeps_an_rgb_face_and_does_something(face, name):
    image = changed(name, face)
    assert image.mode == "RGB"
    assert image.size == ((24, 24) if name == "24 pixels" else face.size)
    assert difference(image, face) > 0.3
    assert np.array_equal(np.asarray(image), np.asarray(changed(name, face)))


def test_stronger_changes_change_more(face):
    for weak, strong in (
        ("JPEG quality 75", "JPEG quality 30"),
        ("box shifted 5%", "box shifted 10%"),
        ("tilted 10 degrees", "tilted 20 degrees"),
        ("tilted 20 degrees", "tilted 30 degrees"),
    ):
        assert difference(changed(weak, face), face) < difference(changed(strong, face), face)


def test_what_the_changes_are(face):
    pixels = np.asarray(face, float)
    assert changed("mirrored", face).tobytes() == ImageOps.mirror(face).tobytes()
    assert np.asarray(changed("dark", face)).mean() == pytest.approx(0.4 * pixels.mean(), rel=0.02)
    assert np.asarray(changed("bright", face)).mean() > 1.2 * pixels.mean()
    assert np.asarray(changed("low contrast", face)).std() == pytest.approx(0.4 * pixels.std(), rel=0.1)
    assert (np.asarray(changed("noise", face), float) - pixels).std() == pytest.approx(15, rel=0.15)
    for name, (top, bottom) in (("eyes covered", EYES), ("mouth covered", MOUTH)):
        same = (np.asarray(changed(name, face)) == np.asarray(face)).all((1, 2))
        covered = np.flatnonzero(~same)
        assert (covered.min(), covered.max() + 1) == (round(top * 130), round(bottom * 130))


def test_a_wider_box_shows_a_smaller_face():
    image = Image.new("RGB", (100, 100))
    image.paste((255, 255, 255), (40, 40, 60, 60))
    areas = {name: np.asarray(changed(name, image), float).mean() for name in ("box 10% wider", "box 10% narrower")}
    plain = np.asarray(image, float).mean()
    assert areas["box 10% wider"] == pytest.approx(plain / 1.21, rel=0.03)
    assert areas["box 10% narrower"] == pytest.approx(plain / 0.81, rel=0.03)


def test_tilted_both_ways_by_chance(face):
    sides = {changed("tilted 20 degrees", face, seed).tobytes() for seed in range(10)}
    assert len(sides) == 2


def test_the_command_reports_it(world, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "TIMING_SECONDS", 0.0)
    file = tmp_path / "eval.json"
    words = ("evaluate", world["checkpoint"], "--data", world["data"], "--json", file, "--device", "cpu")
    result = run(*words, "--robustness", "--views", 6)
    assert result.exit_code == 0, result.output
    for name in ("unchanged", *CHANGES):
        assert name in result.stdout
    assert "75.0%" in result.stdout
    import json

    block = json.loads(file.read_text())["sets"]["data_public_test"]
    assert [row["change"] for row in block["robustness"]["changes"]] == ["unchanged", *CHANGES]
    assert block["robustness"]["views"] == 6
    assert "--views 6" in block["command"]
    assert "--robustness" in block["command"]
    assert run(*words, "--robustness", "--views", 3).exit_code == 2
