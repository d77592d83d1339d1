"""The teacher's file, and students."""

import copy
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation_helpers import save_checkpoint
from made_faces import RECIPE, TINY, draw, write
from PIL import Image
from safetensors.torch import load_file

from rmn_hub import RMNConfig, RMNModel
from rmn_hub.data.faces import FaceImages
from rmn_hub.data.sources import OpenedSet, load_face_images, load_faces
from rmn_hub.engines.ensemble import combined
from rmn_hub.engines.pixels import PixelProcessor
from rmn_hub.engines.torch import TorchEngine
from rmn_hub.errors import InputError
from rmn_hub.expressions import EXPRESSIONS
from rmn_hub.training.augment import Augmentation
from rmn_hub.training.distill import Teacher, distill, make_view, student_source, teach
from rmn_hub.training.train import train

HOW = Augmentation(rotation=5, shift=0.05)


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    return [RMNModel(RMNConfig(**TINY)).eval() for _ in range(2)]


@pytest.fixture(scope="module")
def teacher(made, models):
    return teach(*ensemble(models), ["1", "2"], load_faces(made, "train"), HOW, views=2)


def ensemble(models):
    return combined([(TorchEngine(model, "cpu"), PixelProcessor(32, 32)) for model in models])


def test_a_teachers_file_is_the_ensembles_mean(made, models, teacher, tmp_path):
    teacher.save(tmp_path / "teacher.npz")
    loaded = Teacher.load(tmp_path / "teacher.npz")
    assert loaded.probabilities.shape == (2, 280, 7)
    assert loaded.probabilities.dtype == np.float16
    assert (loaded.augmentation, loaded.members, loaded.identity) == (HOW, ("1", "2"), teacher.identity)
    view = make_view(load_faces(made, "train").images, 1, 48, HOW, 0)[:20]
    pixel_values = torch.from_numpy(PixelProcessor(32, 32)([Image.fromarray(face) for face in view]))
    with torch.no_grad():
        expected = sum(model(pixel_values).logits.softmax(1) for model in models) / 2
    np.testing.assert_allclose(loaded.probabilities[1, :20], expected, atol=2e-3)


def test_teaching_folds_its_members_once(made, models, monkeypatch):
    folded = []
    real = RMNModel.for_inference
    monkeypatch.setattr(RMNModel, "for_inference", lambda self: folded.append(self) or real(self))
    told = []
    data = load_faces(made, "val")
    teach(*ensemble(models), ["1", "2"], data, HOW, views=3, progress=lambda *words: told.append(words))
    assert len(folded) == 2
    assert told == [("views", 1, 3)] * 3


def test_teaching_goes_on_after_the_last_view_that_was_kept(made, models, tmp_path):
    data, names, kept = load_faces(made, "val"), ["1", "2"], tmp_path / "teacher.npz"
    whole = teach(*ensemble(models), names, data, HOW, views=3)

    def interrupted(*words):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teach(*ensemble(models), names, data, HOW, views=3, keep=kept, progress=interrupted)
    assert len(Teacher.load(kept).probabilities) == 1
    told, made_views = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rmn_hub.training.distill.make_view", lambda *how: made_views.append(how[1]) or make_view(*how))
        watch = lambda *words: told.append(words)  # noqa: E731
        went_on = teach(*ensemble(models), names, data, HOW, views=3, keep=kept, progress=watch)
    assert (told, made_views) == ([("views", 1, 3)] * 3, [0, 1, 2])  # view 0 to see that the networks are the same
    assert went_on.identity == whole.identity == Teacher.load(kept).identity
    # All are there: nothing is made, nor lost where fewer are asked for.
    assert teach(*ensemble(models), names, data, HOW, views=2, keep=kept).identity == whole.identity


@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_the_command_computes_as_training_does(made, tiny_checkpoint, tmp_path, monkeypatch, precision):
    from cli_helpers import run

    asked = []
    real = TorchEngine.__init__
    monkeypatch.setattr("rmn_hub.training.optimisation.precision_of", lambda device: precision)
    monkeypatch.setattr(TorchEngine, "__init__", lambda self, *rest: asked.append(rest[2]) or real(self, *rest))
    words = ["teach", tiny_checkpoint, "--data", made, "--output", tmp_path / "one.npz", "--device", "cpu"]
    for views, told in ((1, "1 view "), (2, "2 views "), (1, "2 views ")):
        result = run(*words, "--views", views)
        assert result.exit_code == 0, result.output
        assert told in result.stdout
    assert asked == [torch.bfloat16 if precision == "bf16" else None] * 3
    result = run(*words, "--seed", 1)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "one.npz is not of these faces and views" in result.stderr


def test_views_of_another_teacher_are_not_mixed_in(made, models, tmp_path):
    data, kept = load_faces(made, "val"), tmp_path / "teacher.npz"
    teach(*ensemble(models), ["1", "2"], data, HOW, views=1, keep=kept)
    before = kept.read_bytes()
    other = copy.deepcopy(models[1])
    torch.nn.init.normal_(other.classifier.weight)
    others = (
        (ensemble([models[0], other]), data, HOW, 0, "same networks"),
        (ensemble(models), load_faces(made, "train"), HOW, 0, "these faces"),
        (ensemble(models), data, Augmentation(), 0, "these faces and views"),
        (ensemble(models), data, HOW, 1, "these faces and views"),
    )
    for networks, faces, how, seed, named in others:
        with pytest.raises(InputError, match=named):
            teach(*networks, ["1", "2"], faces, how, views=2, seed=seed, keep=kept)
    kept.write_bytes(before[:100])
    with pytest.raises(InputError, match="cannot be read"):
        teach(*ensemble(models), ["1", "2"], data, HOW, views=2, keep=kept)


@pytest.mark.parametrize(("settings", "named"), [({"views": 0}, "views"), ({"seed": 2**31}, "seed")])
def test_views_that_cannot_be_made_are_refused_before_the_first(made, models, monkeypatch, settings, named):
    monkeypatch.delattr("rmn_hub.training.distill.make_view")
    with pytest.raises(InputError, match=named):
        teach(*ensemble(models), ["1", "2"], load_faces(made, "val"), HOW, **settings)


def test_a_student_learns_what_the_labels_alone_do_not_teach(tmp_path, monkeypatch):
    """The labels of the training faces are wrong for three of four; the teacher has seen the right ones."""
    data = write(tmp_path / "data", {"train": 40, "val": 20}, seed=5)
    right = load_face_images(data, "train").labels
    wrong = np.where(np.random.default_rng(0).random(280) < 0.75, np.random.default_rng(1).integers(0, 7, 280), right)

    split = OpenedSet.split

    def mislabelled(opened, name):
        stored = split(opened, name)
        return stored if name != "train" else FaceImages(stored.images, wrong, None, stored.names)

    monkeypatch.setattr(OpenedSet, "split", mislabelled)
    faces = OpenedSet.open(data).split("train").reduced()
    certain = np.eye(7, dtype=np.float32)[right] * 0.93 + 0.01
    teacher = Teacher(
        np.stack([certain / certain.sum(1, keepdims=True)] * 2), faces.fingerprint(), 48, 0, HOW, ("one",)
    )
    student = distill(teacher, data, tmp_path / "student", RECIPE, epochs=8, validation_split="val", device="cpu")
    alone = train(data, tmp_path / "alone", RECIPE, epochs=8, validation_split="val", device="cpu")
    assert student.accuracy > alone.accuracy + 0.1


def test_a_place_for_the_teacher_is_checked_before_the_views(made, tiny_checkpoint, teacher, tmp_path, monkeypatch):
    from cli_helpers import run

    monkeypatch.delattr("rmn_hub.training.distill.make_view")  # no view is made
    (tmp_path / "file").write_text("")
    for output in (tmp_path, tmp_path / "file" / "teacher.npz"):
        result = run("teach", tiny_checkpoint, "--data", made, "--output", output, "--device", "cpu")
        assert result.exit_code == 2, result.output
        assert str(output) in result.stderr
    with pytest.raises(InputError, match="cannot be written"):
        teacher.save(tmp_path / "file" / "teacher.npz")


def test_a_student_starts_from_a_checkpoint(made, tiny_checkpoint, teacher, tmp_path):
    from cli_helpers import run

    teacher.save(tmp_path / "teacher.npz")
    (tmp_path / "recipe.yaml").write_text("sizes: [[1.0, 32]]\nbatch_size: 32\n")
    words = ["--data", made, "--recipe", tmp_path / "recipe.yaml", "--epochs", "1", "--device", "cpu"]
    words += ["--start-from", tiny_checkpoint, "--learning-rate", "1e-9", "--output", tmp_path / "student"]
    result = run("distill", tmp_path / "teacher.npz", *words)
    assert result.exit_code == 0, result.output
    start, student = (
        load_file(folder / "model.safetensors") for folder in (tiny_checkpoint, tmp_path / "student/best")
    )
    # With steps of nothing it still is what it started from.
    torch.testing.assert_close(student["classifier.weight"], start["classifier.weight"], atol=1e-6, rtol=0)


def test_a_student_needs_its_teachers_faces(made, tmp_path, teacher):
    with pytest.raises(InputError, match="data"):
        distill(replace(teacher, fingerprint="other"), made, tmp_path / "other", RECIPE, epochs=1, device="cpu")
    assert student_source(teacher).program.startswith("distill")


def test_photos_are_taught_at_the_size_of_the_teacher_and_a_student_may_have_another(tmp_path):
    from cli_helpers import run

    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 2)):
        for label, name in enumerate(EXPRESSIONS):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                photo = Image.fromarray(draw(rng, label)).convert("RGB").resize((70, 75))
                photo.save(tmp_path / "photos" / split / name / f"{number}.png")
    for size in (32, 64):
        member = save_checkpoint(tmp_path / f"{size}", image_size=size)
        words = ["--data", tmp_path / "photos", "--output", tmp_path / f"{size}.npz", "--views", "1"]
        result = run("teach", member, *words, "--device", "cpu")
        assert result.exit_code == 0, result.output
        teacher = Teacher.load(tmp_path / f"{size}.npz")
        assert teacher.size == max(48, size)
        student = replace(RECIPE, batch_size=8, sizes=((1.0, 96 - size),))
        distill(teacher, tmp_path / "photos", tmp_path / f"student{size}", student, epochs=1, device="cpu")


def test_a_student_does_not_go_on_with_another_teacher(made, models, tmp_path, teacher):
    distill(teacher, made, tmp_path, RECIPE, epochs=2, limit_steps=1, device="cpu")
    other = teach(*ensemble(models[:1]), ["1"], load_faces(made, "train"), HOW, views=2)
    with pytest.raises(InputError, match="source"):
        distill(other, made, tmp_path, RECIPE, epochs=2, device="cpu")


def test_a_view_is_the_same_every_time():
    images = np.random.default_rng(0).integers(0, 256, (5, 48, 48), dtype=np.uint8)
    how = Augmentation(rotation=10, scale=0.1, erasing=0.5)
    first, again, other = (make_view(images, view, 32, how, seed=3) for view in (0, 0, 1))
    assert first.shape == (5, 32, 32)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def broken(teacher, path, kind):
    """Write a damaged teacher's file."""
    teacher.save(path)
    whole = path.read_bytes()
    with np.load(path) as file:
        arrays = dict(file)
    if kind == "nothing":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "damaged":
        path.write_bytes(whole[:300] + bytes(400) + whole[700:])
    elif kind == "a folder":
        path.unlink()
        path.mkdir()
    elif kind == "oversized":
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("probabilities.npy", "w") as entry,
        ):
            entry.write(
                b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f2', 'fortran_order': False, 'shape': (1000000000000, 7)}"
            )
    else:
        changes = {
            "another shape": {"probabilities": np.zeros((3, 7), np.float16)},
            "no floats": {"probabilities": np.ones((1, 280, 7), np.int64)},
            "not probabilities": {"probabilities": np.full((1, 280, 7), 0.5, np.float16)},
            "not numbers": {"probabilities": np.full((1, 280, 7), np.nan, np.float16)},
            "a word": {"probabilities": np.array("x")},
            "a huge size": {"size": np.array(10**9)},
            "a wild augmentation": {"augmentation_rotation": np.array(1e9)},
            "an unknown augmentation": {"augmentation_colour": np.array(1.0)},
            "objects": {"members": np.array([None], dtype=object)},
        }[kind]
        np.savez(path, **{**arrays, **changes})


@pytest.mark.parametrize(
    "kind",
    [
        *("nothing", "empty", "truncated", "damaged", "a folder", "oversized", "another shape", "no floats"),
        *("not probabilities", "not numbers", "a word", "a huge size", "a wild augmentation"),
        *("an unknown augmentation", "objects"),
    ],
)
def test_a_file_that_is_not_a_teachers(teacher, tmp_path, kind):
    path = tmp_path / "teacher.npz"
    broken(teacher, path, kind)
    with pytest.raises(InputError, match=r"teacher\.npz"):
        Teacher.load(path)
