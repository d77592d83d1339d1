import numpy as np
import pytest
import torch

from rmn_hub import RMNConfig, RMNModel
from rmn_hub.baselines.ensemble import Ensemble, ensemble_probabilities, resized
from rmn_hub.errors import InputError

TINY = {"image_size": 32, "stem": "small", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
TINY["mask_depths"] = [2, 1]
FACES = np.random.default_rng(0).integers(0, 256, (9, 48, 48), dtype=np.uint8)


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    return [RMNModel(RMNConfig(**{**TINY, "image_size": size})).eval() for size in (32, 48)]


def test_the_mean_of_the_members(models):
    singles = [ensemble_probabilities([model], FACES) for model in models]
    both = Ensemble(models).probabilities(FACES, batch_size=4)
    np.testing.assert_allclose(both, (singles[0] + singles[1]) / 2, atol=1e-6)
    np.testing.assert_allclose(both.sum(1), 1, atol=1e-5)
    assert not np.allclose(singles[0], singles[1])


def test_the_mean_over_mirror_images(models):
    straight = ensemble_probabilities(models, FACES)
    mirrored = ensemble_probabilities(models, FACES[..., ::-1].copy())
    np.testing.assert_allclose(ensemble_probabilities(models, FACES, flip=True), (straight + mirrored) / 2, atol=1e-6)


def test_each_member_sees_faces_of_its_size(models):
    faces = torch.from_numpy(FACES)[:, None]
    assert resized(faces, 48).shape[-1] == 48
    pixel_values = resized(faces, 32).expand(-1, 3, -1, -1)
    with torch.no_grad():
        expected = models[0](pixel_values).logits.softmax(1)
    np.testing.assert_allclose(ensemble_probabilities(models[:1], FACES), expected, atol=1e-5)


def test_what_is_no_ensemble(models):
    with pytest.raises(InputError, match="models"):
        Ensemble([])
    other = RMNModel(RMNConfig(**TINY, id2label={0: "cat", 1: "dog"}))
    with pytest.raises(InputError, match="models"):
        Ensemble([models[0], other])
