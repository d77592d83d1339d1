"""Augmentation, schedule, moving average and batches, each by itself."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_faces import RECIPE, TINY
from torch.optim.swa_utils import AveragedModel

from rmn_hub import RMNConfig, RMNModel
from rmn_hub.errors import InputError
from rmn_hub.training.augment import LIMITS, Augmentation, augment, cutmix, degrade, mix, mixup
from rmn_hub.training.feeding import batches, steps_per_epoch
from rmn_hub.training.objective import FaceTrainer, distillation_loss
from rmn_hub.training.optimisation import Clock, MovingAverage, make_optimizer, precision_of, schedule

EVERYTHING = Augmentation(rotation=15, scale=0.2, shift=0.1, brightness=0.3, contrast=0.3, gamma=0.3, erasing=0.5)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_augmentation_of_nothing_changes_nothing():
    images = torch.randint(0, 256, (3, 20, 20), dtype=torch.uint8)
    flip = torch.tensor([False, True, False])
    faces = augment(images, flip, 20, Augmentation(), torch.Generator())
    expected = images.float() / 255
    expected[1] = expected[1].flip(-1)
    torch.testing.assert_close(faces[:, 0], expected, atol=1e-5, rtol=0)


def bright_block():
    images = torch.full((64, 48, 48), 100, dtype=torch.uint8)
    images[:, 10:20, 5:40] = 200
    return images


def test_every_augmentation_stays_in_range_and_differs_by_image():
    faces = augment(bright_block(), torch.zeros(64, dtype=torch.bool), 32, EVERYTHING, seeded())
    assert faces.shape == (64, 1, 32, 32)
    assert faces.min() >= 0
    assert faces.max() <= 1
    assert len(torch.unique(faces.flatten(1), dim=0)) == 64


def test_strength_scales_every_range():
    images, flip = bright_block(), torch.zeros(64, dtype=torch.bool)
    how = {"rotation": 10, "scale": 0.1, "shift": 0.1, "brightness": 0.1, "contrast": 0.1, "gamma": 0.1}
    doubled = augment(images, flip, 32, Augmentation(**how, strength=2.0), seeded())
    by_hand = augment(images, flip, 32, Augmentation(**{name: 2 * value for name, value in how.items()}), seeded())
    torch.testing.assert_close(doubled, by_hand)
    off = augment(images, flip, 48, Augmentation(**how, strength=0.0), seeded())
    torch.testing.assert_close(off[:, 0], images / 255, atol=1e-5, rtol=0)
    assert Augmentation(scale=0.8, strength=10).limit("scale") == LIMITS["scale"]


def test_some_faces_are_blurred_and_some_are_saved_as_jpeg():
    images = torch.randint(0, 256, (200, 48, 48), dtype=torch.uint8, generator=seeded(1))
    before = images.clone()
    assert degrade(images, EVERYTHING, seeded()) is images
    for how, low, high in (({"blur": 0.5}, 80, 120), ({"jpeg": 0.25}, 35, 65), ({"blur": 1.0, "jpeg": 1.0}, 200, 200)):
        changed = degrade(images, Augmentation(**how), seeded())
        assert (changed.dtype, changed.shape) == (images.dtype, images.shape)
        assert low <= (changed != images).flatten(1).any(1).sum() <= high
        assert torch.equal(changed, degrade(images, Augmentation(**how), seeded()))
    blurred = degrade(images, Augmentation(blur=1.0), seeded()).float()
    assert (blurred.std(dim=(1, 2)) < images.float().std(dim=(1, 2)) + 0.5).all()
    # Random pixels are what JPEG changes most; one grey stays that grey but for the rounding.
    grey = torch.full((8, 48, 48), 120, dtype=torch.uint8)
    assert (degrade(grey, Augmentation(blur=1.0, jpeg=1.0), seeded()).int() - 120).abs().max() <= 8
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", sorted(LIMITS))
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), 1e9, "0.1", None, True])
def test_augmentation_out_of_range(name, value):
    with pytest.raises(InputError, match=name):
        Augmentation(**{name: value})


def one_hot_faces(count=16, size=12):
    """Faces whose every pixel is a one-hot label in the columns, with labels and votes."""
    targets = torch.eye(count)
    return targets[:, :, None, None].expand(-1, -1, size, size).clone(), targets, targets.flip(0)


@pytest.mark.parametrize("how", [Augmentation(mixup=0.4), Augmentation(cutmix=1.0)])
def test_labels_and_votes_are_mixed_as_the_faces_are(how):
    faces, targets, _ = one_hot_faces()
    votes = 2 * targets
    mixed, (labels, mixed_votes) = mix(faces, [targets, votes], how, seeded(3))
    # The mean over a face's pixels holds the share of every face in it.
    torch.testing.assert_close(mixed.mean(dim=(2, 3)), labels)
    torch.testing.assert_close(mixed_votes, 2 * labels)
    torch.testing.assert_close(labels.sum(1), torch.ones(16))
    assert ((labels > 0) & (labels < 1)).any()


def test_cutmix_takes_one_rectangle():
    faces, targets, _ = one_hot_faces()
    for seed in range(20):
        mixed, (labels,) = cutmix(faces, [targets], seeded(seed))
        torch.testing.assert_close(mixed.mean(dim=(2, 3)), labels)
        changed = (mixed != faces).any(1).any(0)
        if changed.any():
            rows, columns = changed.any(1).nonzero().ravel(), changed.any(0).nonzero().ravel()
            assert changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()


def test_the_share_of_mixed_batches():
    faces, targets, _ = one_hot_faces(4, 12)
    generator = seeded()
    how = Augmentation(cutmix=0.3)
    changed = sum(not torch.equal(mix(faces, [targets], how, generator)[0], faces) for _ in range(400))
    assert 60 < changed < 160  # 0.3 of 400, less the rectangles without area and orders without change
    assert torch.equal(mix(faces, [targets], Augmentation(), generator)[0], faces)
    shares = [float(mixup(faces, [targets], 0.2, generator)[1][0].amax()) for _ in range(200)]
    assert min(shares) < 0.7


def test_votes_follow_their_faces_in_training(made, tmp_path, monkeypatch):
    """A vote's target has to be mixed as its face's label is: here votes are the labels, in other columns."""
    from rmn_hub.data.sources import OpenedSet
    from rmn_hub.training import loop, train

    split = OpenedSet.split

    def with_votes(opened, name):
        stored = split(opened, name)
        return stored.__class__(stored.images, stored.labels, np.eye(10, dtype=np.float32)[stored.labels], stored.names)

    pairs = []
    real = torch.nn.functional.cross_entropy
    monkeypatch.setattr(OpenedSet, "split", with_votes)
    monkeypatch.setattr(
        loop.F, "cross_entropy", lambda logits, target, **how: pairs.append(target) or real(logits, target, **how)
    )
    recipe = RECIPE.changed(votes_weight=0.5, augmentation=Augmentation(mixup=0.5, cutmix=0.5))
    train.train(made, tmp_path, recipe, epochs=1, limit_steps=4, device="cpu")
    labels, votes = pairs[0:8:2], pairs[1:8:2]
    assert any(((label > 0) & (label < 1)).any() for label in labels)
    for label, vote in zip(labels, votes, strict=True):
        torch.testing.assert_close(vote[:, :7], label)


def test_the_schedule_warms_up_and_ends_at_zero():
    values = [schedule(progress, 0.1) for progress in np.linspace(0, 1, 101)]
    assert max(values) == pytest.approx(1, abs=0.01)
    assert values.index(max(values)) == 10
    assert values[-1] == pytest.approx(0, abs=1e-6)


def test_only_weights_of_layers_decay():
    module = FaceTrainer(RMNModel(RMNConfig(**TINY)), votes=10)
    decayed, others = make_optimizer(module, RECIPE).param_groups
    assert decayed["weight_decay"] == RECIPE.weight_decay
    assert others["weight_decay"] == 0
    assert {parameter.ndim for parameter in decayed["params"]} == {2, 4}
    assert {parameter.ndim for parameter in others["params"]} == {1}
    assert len(decayed["params"]) + len(others["params"]) == len(list(module.parameters()))


def test_the_moving_average_is_torchs_with_a_rising_decay():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))

    def multi_avg(averaged, current, count):
        decay = min(0.7, (1 + int(count)) / (10 + int(count)))
        for mean, value in zip(averaged, current):
            mean.copy_(decay * mean + (1 - decay) * value)

    expected = AveragedModel(module, multi_avg_fn=multi_avg, use_buffers=True)
    found = MovingAverage(module, 0.7)
    for _ in range(30):
        module(torch.randn(8, 4))
        with torch.no_grad():
            module[0].weight += torch.randn(3, 4)
        expected.update_parameters(module)
        found.update(module)
    for name in ("0.weight", "1.running_mean", "1.running_var"):
        torch.testing.assert_close(found.module.state_dict()[name], expected.module.state_dict()[name])
    assert found.module.state_dict()["1.num_batches_tracked"] == 30
    again = MovingAverage(module, 0.7)
    again.load_state_dict(found.state_dict())
    assert again.updates == 30


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
@pytest.mark.parametrize(("count", "batch_size"), [(280, 32), (100, 2), (29, 10), (5, 10)])
def test_batches_are_whole_shared_out_evenly_and_counted(count, batch_size, processes):
    by_rank = [list(batches(count, batch_size, processes, rank, seeded(1))) for rank in range(processes)]
    steps = steps_per_epoch(count, batch_size, processes)
    assert [len(part) for part in by_rank] == [steps] * processes
    sizes = {len(batch) for part in by_rank for batch in part}
    assert len(sizes) <= 1
    seen = [int(index) for part in by_rank for batch in part for index in batch]
    assert len(seen) == len(set(seen))
    assert set(seen) <= set(range(count))
    # What is left of an epoch is less than one step.
    assert 0 <= count - len(seen) < max(1, batch_size // processes) * processes


def test_the_clock_of_an_epoch_ends_with_its_last_step():
    for processes in (1, 2, 3):
        steps = 4 * steps_per_epoch(280, 32, processes)
        clock = Clock(None, steps, 0.0)
        assert clock.progress(steps - 1) < 1
        assert clock.progress(steps) == 1


def test_the_distillation_loss_by_hand():
    logits, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])
    targets = torch.tensor([[1.0, 0.0]])
    student = (logits / 2).softmax(1)
    expected = 0.7 * 4 * (teacher * (teacher / student).log()).sum() - 0.3 * logits.log_softmax(1)[0, 0]
    torch.testing.assert_close(distillation_loss(logits, teacher, targets), expected)
    assert distillation_loss(teacher.log(), teacher, teacher) < distillation_loss(logits, teacher, teacher)


@pytest.mark.parametrize(("capability", "precision"), [(7, "no"), (8, "bf16")])
def test_bf16_is_for_gpus_that_compute_in_it(monkeypatch, capability, precision):
    """Two GPUs: the second is the one that is asked for. The older ones emulate bf16, which is slower than float32."""
    current = [0]

    @contextlib.contextmanager
    def device(wanted):
        current[0] = wanted.index
        yield
        current[0] = 0

    properties = {0: 15 - capability, 1: capability}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(major=properties[index]))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    assert precision_of(torch.device("cuda", 1)) == precision
