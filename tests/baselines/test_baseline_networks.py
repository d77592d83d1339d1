"""The networks of the paper's comparison: made by name, saved and loaded as transformers models and by rmn_hub."""

import json

import numpy as np
import pytest
import torch
from evaluation_helpers import faces
from transformers import AutoModelForImageClassification, TimmWrapperForImageClassification

from rmn_hub import ExpressionRecognizer, RMNImageProcessor, RMNModel
from rmn_hub.baselines import networks
from rmn_hub.baselines.networks import BASELINES, NETWORKS, from_config, name_of, network, read_config
from rmn_hub.baselines.resattnet import ResAttNetConfig, ResAttNetForImageClassification
from rmn_hub.errors import CheckpointError, InputError, MissingPackageError
from rmn_hub.expressions import EXPRESSIONS
from rmn_hub.hub import checkpoint

SMALL = {"embedding_size": 8, "hidden_sizes": [16, 16, 32]}


def saved(model, folder, size):
    model.save_pretrained(folder)
    RMNImageProcessor(size={"height": size, "width": size}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return network("resnet18", 32).eval()


@pytest.fixture(scope="module")
def resattnet():
    torch.manual_seed(0)
    return network("resattnet56", 32, **SMALL).eval()


@pytest.fixture(scope="module")
def folders(resnet, resattnet, tmp_path_factory):
    root = tmp_path_factory.mktemp("networks")
    return {
        "resnet18": saved(resnet, root / "resnet18", 32),
        "resattnet56": saved(resattnet, root / "resattnet56", 32),
    }


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("vgg19", 35.0),
        ("resattnet56", 29.5),
        ("densenet121", 7.0),
        ("resnet18", 11.2),
        ("resnet34", 21.3),
        ("resnet152", 58.2),
        ("cbam_resnet50", 26.0),
    ],
)
def test_each_network(name, millions, monkeypatch):
    """On the meta device: its size, and that it takes faces of 48 pixels and of others."""
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda self, *_, **__: None)
    with torch.device("meta"):
        model = network(name, 48).eval()
        for size in (32, 48, 61):
            assert model(torch.zeros(2, 3, size, size)).logits.shape == (2, 7)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(millions * 1e6, rel=0.05)
    assert (name_of(model.config), model.config.image_size) == (name, 48)
    assert tuple(model.config.id2label.values()) == EXPRESSIONS
    again = read_config(json.loads(model.config.to_json_string()))
    assert (name_of(again), again.image_size, again.id2label) == (name, 48, model.config.id2label)


def test_large_images_have_the_original_heads_and_stems():
    content = {"model_type": "timm_wrapper", "architecture": "vgg19_bn", "image_size": 224, "num_classes": 7}
    assert name_of(read_config({**content, "label_names": list(EXPRESSIONS)})) == "vgg19"
    with torch.device("meta"):
        model = ResAttNetForImageClassification(ResAttNetConfig())
    assert model.config.mask_depths() == (3, 2, 1)
    assert ResAttNetConfig(image_size=48, stem="small").mask_depths() == (2, 1, 1)
    # Table 2 of the paper: 31.9 million with the classifier of ImageNet's 1000 classes.
    parameters = sum(parameter.numel() for parameter in model.parameters()) + 993 * 2049
    assert parameters == pytest.approx(31.9e6, rel=0.05)


def test_the_attention_module_is_equation_1(resattnet):
    module = resattnet.stages[0][1]
    hidden_state = torch.randn(2, 16, 16, 16)
    with torch.no_grad():
        inside = module.first(hidden_state)
        mask = module.mask(inside)
        assert mask.shape == inside.shape
        assert 0 <= mask.min() < mask.max() <= 1
        torch.testing.assert_close(module(hidden_state), module.last((1 + mask) * module.trunk(inside)))


def test_timm_draws_the_first_weights(resnet):
    """transformers' own deviation of 0.02 would be 0.6 times He's for the stem and half of it in the last stage."""
    weights = resnet.timm_model.layer1[0].conv1.weight.detach()
    assert float(weights.std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)


@pytest.mark.parametrize("name", ["resnet18", "resattnet56"])
def test_saved_and_loaded(name, folders, request):
    model = request.getfixturevalue("resnet" if name == "resnet18" else "resattnet")
    pixel_values = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(pixel_values).logits
        loaded = checkpoint.load(folders[name], expressions=EXPRESSIONS)
        torch.testing.assert_close(loaded.model(pixel_values).logits, expected)
        theirs = type(model).from_pretrained(folders[name]).eval()
        torch.testing.assert_close(theirs(pixel_values).logits, expected)
        if name == "resnet18":  # anywhere where there are transformers and timm
            plain = AutoModelForImageClassification.from_pretrained(folders[name]).eval()
            assert isinstance(plain, TimmWrapperForImageClassification)
            torch.testing.assert_close(plain(pixel_values).logits, expected)
    labels = model(pixel_values, labels=torch.tensor([0, 1]))
    torch.testing.assert_close(labels.loss, torch.nn.functional.cross_entropy(labels.logits, torch.tensor([0, 1])))


@pytest.mark.parametrize("name", ["resnet18", "resattnet56"])
def test_a_recognizer_takes_them(name, folders, resnet, resattnet):
    recognizer = ExpressionRecognizer.from_pretrained(folders[name], views=1, device="cpu")
    model = resnet if name == "resnet18" else resattnet
    images = faces(3)
    found = recognizer([image.convert("RGB") for image in images], faces_only=True)
    pixel_values = RMNImageProcessor(size={"height": 32, "width": 32})(images, return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = model(pixel_values).logits.softmax(1).numpy()
    probabilities = [list(result[0].probabilities.values()) for result in found]
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    assert not recognizer.has_masks


def test_an_rmn_may_be_asked_for(folders):
    with pytest.raises(CheckpointError, match="timm_wrapper"):
        checkpoint.load(folders["resnet18"], rmn_only=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "hf-hub:somebody/something"},
        {"architecture": "resnet50", "model_args": {"checkpoint_path": "weights.pth"}},
        {"model_args": {"pretrained_cfg_overlay": {"url": "x"}}},
        {"image_size": "large"},
        {"num_channels": 1},
        {"model_type": "vit"},
    ],
)
def test_only_the_networks_of_the_table_are_made(changes, folders, tmp_path, monkeypatch):
    """What a stranger's configuration asks for is neither downloaded nor read."""
    for file in folders["resnet18"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, **changes}))
    monkeypatch.delattr("timm.create_model")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        checkpoint.load(tmp_path)


def test_what_has_no_network(monkeypatch):
    with pytest.raises(InputError, match="network='alexnet'"):
        network("alexnet")
    assert set(NETWORKS) == {"rmn", *BASELINES}
    assert isinstance(network("rmn", 32, stem="small", hidden_sizes=[8, 8], depths=[1, 1], mask_depths=None), RMNModel)

    def missing(package, purpose, **_):
        raise MissingPackageError(f"{purpose} need {package}")

    monkeypatch.setattr(networks, "require", missing)
    with pytest.raises(MissingPackageError, match="timm"):
        network("resnet18")


def test_weights_are_never_downloaded(monkeypatch):
    import timm

    asked = []
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *words, **how: asked.append(how) or create(*words, **how))
    from_config(network("resnet18", 32).config)
    assert asked
    assert not any(options["pretrained"] for options in asked)
