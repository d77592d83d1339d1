"""Settings: the original by default, sentences for what cannot work, and the same after saving and loading."""

import pytest
from huggingface_hub.errors import StrictDataclassError

from rmn_hub import EXPRESSIONS, RMNConfig, RMNModel
from rmn_hub.model import configuration_rmn


def test_the_default_is_the_original_network():
    config = RMNConfig()
    assert config.hidden_sizes == (64, 128, 256, 512)
    assert config.depths == (3, 4, 6, 3)
    assert config.mask_depths == (4, 3, 2, 1)
    assert (config.stem, config.mask_activation, config.dropout) == ("imagenet", "softmax", 0.4)
    assert (config.image_size, config.num_channels, config.num_labels) == (224, 3, 7)
    assert config.id2label == dict(enumerate(EXPRESSIONS))
    assert config.label2id == {name: index for index, name in enumerate(EXPRESSIONS)}
    assert EXPRESSIONS == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def test_the_copy_of_the_expressions_that_travels_to_the_hub_is_the_same():
    assert configuration_rmn.EXPRESSIONS == EXPRESSIONS
    assert configuration_rmn.EXPRESSIONS is not EXPRESSIONS


@pytest.mark.parametrize(("content", "error"), [('{"model_type": "bert"}', ValueError), ("{}", OSError)])
def test_another_architectures_checkpoint_never_ends_in_random_weights(content, error, tmp_path):
    (tmp_path / "config.json").write_text(content)
    for loads in (RMNConfig, RMNModel):
        with pytest.raises(error, match="model_type"):
            loads.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"stem": "large"}, "stem"),
        ({"stem": "small", "stem_stride": 3}, "stem_stride"),
        ({"layer_type": "wide"}, "layer_type"),
        ({"mask_activation": "tanh"}, "mask_activation"),
        ({"mask_ratio": 0}, "mask_ratio"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": "half"}, "dropout"),
        ({"depths": (2, 2, 2)}, "depths"),
        ({"hidden_sizes": (8, 8, 8, 0)}, "hidden_sizes"),
        ({"mask_depths": (1, 1)}, "mask_depths"),
        ({"mask_depths": (0, 1, 1, 1)}, "mask_depths"),
        ({"mask_depths": "deep"}, "mask_depths"),
        ({"image_size": 16}, "image_size"),
        ({"image_size": 0}, "image_size"),
        ({"image_size": 1.5}, "image_size"),
        ({"num_labels": 0}, "num_labels"),
        ({"id2label": {0: "a", 2: "b"}}, "id2label"),
        ({"id2label": {0: "a", 1: "a"}}, "id2label"),
        ({"id2label": ["a", "b"]}, "id2label"),
        ({"id2label": {"a": 0}}, "id2label"),
        ({"label2id": ["a", "b"]}, "label2id"),
        ({"label2id": {0: "a"}}, "label2id"),
        ({"num_labels": "7"}, "num_labels"),
        ({"problem_type": "guess"}, "problem_type"),
        ({"output_masks": "all"}, "output_masks"),
        ({"layer_type": "bottleneck", "hidden_sizes": (6, 8, 8, 8)}, "hidden_sizes"),
        ({"mask_ratio": float("nan")}, "mask_ratio"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(settings, name):
    with pytest.raises((StrictDataclassError, ValueError, TypeError), match=name) as caught:
        RMNConfig(**settings)
    reason = caught.value.__cause__ or caught.value
    assert name in str(reason)


def test_later_assignments_are_checked_too():
    config = RMNConfig()
    with pytest.raises((StrictDataclassError, TypeError), match="dropout"):
        config.dropout = "half"


@pytest.mark.parametrize(
    ("image_size", "stem", "expected"),
    [
        (224, "imagenet", (4, 3, 2, 1)),
        (48, "small", (3, 2, 1, 1)),
        (80, "small", (4, 3, 2, 1)),
        (112, "imagenet", (3, 2, 1, 1)),
        (8, "imagenet", (1, 1, 1, 1)),
    ],
)
def test_auto_depths_leave_a_bottleneck_of_about_six_pixels(image_size, stem, expected):
    config = RMNConfig(image_size=image_size, stem=stem, mask_depths="auto")
    assert config.resolved_mask_depths() == expected
    assert RMNConfig(image_size=image_size, stem=stem, mask_depths=expected).resolved_mask_depths() == expected


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({"num_labels": 3}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ({"id2label": {0: "calm", 1: "tense"}}, ["calm", "tense"]),
        ({"id2label": {"0": "calm", "1": "tense"}}, ["calm", "tense"]),
        ({"label2id": {"calm": 0, "tense": 1}}, ["calm", "tense"]),
        ({"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}, ["a", "b"]),
        ({}, list(EXPRESSIONS)),
    ],
)
def test_own_labels_survive_saving(tmp_path, labels, names):
    config = RMNConfig(**labels)
    config.save_pretrained(tmp_path)
    for each in (config, RMNConfig.from_pretrained(tmp_path)):
        assert [each.id2label[index] for index in range(each.num_labels)] == names
        assert each.label2id == {name: index for index, name in enumerate(names)}


@pytest.mark.parametrize(
    "config",
    [
        RMNConfig(),
        RMNConfig(mask_depths=None),
        RMNConfig(image_size=48, stem="small", mask_depths="auto", mask_ratio=0.25, mask_activation="sigmoid"),
    ],
)
def test_saved_and_loaded_is_equal(tmp_path, config):
    config.save_pretrained(tmp_path)
    loaded = RMNConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.mask_depths == config.mask_depths
