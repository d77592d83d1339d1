"""Start checkpoints: the features are the source's, which is held against torchvision, transformers and a made file."""

import hashlib
import math

import numpy as np
import pytest
import torch
from evaluation_helpers import faces as draw_faces
from safetensors.torch import save_file
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from transformers import ResNetConfig, ResNetForImageClassification
from typer.testing import CliRunner

from rmn_hub import RMNConfig, RMNModel
from rmn_hub.cli.shared import main
from rmn_hub.errors import InputError
from rmn_hub.hub import trunk

MEAN, DEVIATION = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
TINY = {"stem": "imagenet", "mask_ratio": 0.75, "mask_depths": "auto", "image_size": 64}


def awake(network):
    """Running statistics as after some training."""
    with torch.no_grad():
        network.train()
        for _ in range(3):
            network(torch.rand(8, 3, 64, 64) * 4 - 2)
    return network.eval()


def padded(pixels):
    """A trunk's input, for a stem that does not pad: as in RMN, black beyond the border."""
    return (functional.pad(pixels, (3, 3, 3, 3)) - MEAN) / DEVIATION


@pytest.fixture(scope="module")
def of_torchvision():
    torch.manual_seed(0)
    return awake(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10))


def features_of_torchvision(network, pixels):
    network.conv1.padding = (0, 0)
    features = network.maxpool(network.relu(network.bn1(network.conv1(padded(pixels)))))
    network.conv1.padding = (3, 3)
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        features = layer(features)
    return features


def test_a_trunk_of_torchvision_keeps_its_features(of_torchvision, tmp_path):
    # torchvision's own files are older than the counters of batch normalisation.
    weights = {name: tensor for name, tensor in of_torchvision.state_dict().items() if "num_batches" not in name}
    torch.save(weights, tmp_path / "resnet.pth")
    config, tensors = trunk.read_image_network(tmp_path / "resnet.pth")
    assert (config.depths, config.hidden_sizes, config.embedding_size) == ((1, 1, 1, 1), (64, 128, 256, 512), 64)
    assert (config.mask_depths, config.mask_activation, config.image_size) == ((4, 3, 2, 1), "softmax", 224)
    config.mask_ratio, config.mask_depths = 0.25, (1, 1, 1, 1)  # the originals' masks take a minute
    model = trunk.start_model(config, tensors, MEAN.flatten().tolist(), DEVIATION.flatten().tolist())
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        outputs = model(pixels, output_masks=True, output_hidden_states=True)
        expected = features_of_torchvision(of_torchvision, pixels)
    torch.testing.assert_close(outputs.hidden_states[-2], expected, atol=1e-4, rtol=1e-4)
    for mask, width in zip(outputs.masks, config.hidden_sizes, strict=True):
        torch.testing.assert_close(mask, torch.full_like(mask, 1 / width))
    # The masks can learn: gradients reach what is zero now.
    model.train()(pixels, labels=torch.tensor([0, 1])).loss.backward()
    assert model.masking_blocks[0].out_layer.layer[1].normalization.weight.grad.abs().sum() > 0


def test_a_trunk_of_transformers_keeps_its_features(tmp_path):
    torch.manual_seed(0)
    settings = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 2, 1, 1], "layer_type": "basic"}
    source = awake(ResNetForImageClassification(ResNetConfig(**settings)))
    source.save_pretrained(tmp_path)
    config, tensors = trunk.read_image_network(tmp_path / "model.safetensors")
    config = RMNConfig(**{**config.to_dict(), **TINY, "mask_activation": "sigmoid"})
    model = trunk.start_model(config, tensors, MEAN.flatten().tolist(), DEVIATION.flatten().tolist())
    pixels = torch.rand(2, 3, 64, 64)
    source.resnet.embedder.embedder.convolution.padding = (0, 0)
    with torch.no_grad():
        found = model(pixels, output_hidden_states=True).hidden_states[-2]
        expected = source.resnet(padded(pixels)).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


# The face network


WIDTHS, DEPTHS = (32, 64, 128, 256), (3, 4, 3, 3)


def integer(value):
    data = value.to_bytes(math.ceil(value.bit_length() / 8), "little")
    return bytes([len(data)]) + data


def stored(values):
    return integer(2) + integer(len(values)) + integer(1) * 3 + values.astype("<f4").tobytes()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A file of the face network's sizes with random weights, and these weights."""
    rng = np.random.default_rng(0)
    shapes = [(32, 3, 7)]
    before = 32
    for width, depth in zip(WIDTHS, DEPTHS):
        for _ in range(depth):
            shapes += [(width, before, 3), (width, width, 3)]
            before = width
    weights, parts = [], [b"a header with \x01\x02 in it"]
    for width, channels, kernel in shapes:
        filters = rng.standard_normal((width, channels, kernel, kernel)) * math.sqrt(2 / (channels * kernel**2))
        bias, gamma, beta = (
            rng.standard_normal(width) * scale + mean for scale, mean in ((0.1, 0), (0.1, 1), (0.1, 0))
        )
        parts += [stored(np.concatenate([filters.ravel(), bias])), b"between", stored(np.concatenate([gamma, beta]))]
        weights.append([torch.tensor(part, dtype=torch.float32) for part in (filters, bias, gamma, beta)])
    path = tmp_path_factory.mktemp("trunk") / "faces.dat"
    path.write_bytes(b"".join(parts))
    return path, weights


def features_of_faces(weights, pixels):
    """The same network in plain functions, with RMN's padding and shortcuts."""
    weights = iter(weights)

    def convolve(features, stride=1):
        filters, bias, gamma, beta = next(weights)
        features = functional.conv2d(features, filters, bias, stride, padding=filters.shape[-1] // 2)
        return features * gamma[:, None, None] + beta[:, None, None]

    filters, bias, gamma, beta = next(weights)
    mean = torch.tensor([122.782, 117.001, 104.298])[:, None, None]
    pixels = (functional.pad(pixels * 255, (3, 3, 3, 3)) - mean) / 256
    features = functional.conv2d(pixels, filters, bias, stride=2) * gamma[:, None, None] + beta[:, None, None]
    features = functional.max_pool2d(features.relu(), 3, 2, 1)
    for stage, (width, depth) in enumerate(zip(WIDTHS, DEPTHS)):
        for block in range(depth):
            stride = 2 if stage and not block else 1
            skip = features[:, :, ::stride, ::stride]
            skip = functional.pad(skip, (0, 0, 0, 0, 0, width - skip.shape[1]))
            features = convolve(convolve(features, stride).relu()) + skip
            features = features.relu()
    return features


def test_the_face_network_keeps_its_features_also_with_statistics_of_faces(made, monkeypatch, tmp_path):
    path, weights = made
    monkeypatch.setattr(trunk, "FACE_NETWORK_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    (tmp_path / "faces").mkdir()
    for number, face in enumerate(draw_faces(8, size=80)):
        face.save(tmp_path / "faces" / f"{number}.png")
    for name, options in (("plain", []), ("set", ["--faces", str(tmp_path / "faces")])):
        result = CliRunner().invoke(main, ["convert", str(path), str(tmp_path / name), "--trunk", *options])
        assert result.exit_code == 0, result.output
    pixels = torch.rand(2, 3, 80, 80)
    plain, settled = (RMNModel.from_pretrained(tmp_path / name) for name in ("plain", "set"))
    with torch.no_grad():
        expected = features_of_faces(weights, pixels)
        for model in (plain, settled):
            found = model(pixels, output_hidden_states=True).hidden_states[-2]
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
        # What the statistics are for: a first step in training sees the same features.
        crops = trunk._pixel_values(tmp_path / "faces", settled.config)
        quiet = settled(crops, output_hidden_states=True).hidden_states[-2]
        stirred = settled.train()(crops, output_hidden_states=True).hidden_states[-2]
        broken = plain.train()(crops, output_hidden_states=True).hidden_states[-2]
    assert (stirred - quiet).abs().mean() < 0.1 * (broken - quiet).abs().mean()


# What is refused


def _bottlenecks(folder):
    torch.save(ResNet(Bottleneck, [1, 1, 1, 1]).state_dict(), folder / "source.pth")
    return "source.pth"


def _incomplete(folder):
    network = ResNet(BasicBlock, [1, 1, 1, 1]).state_dict()
    del network["layer3.0.bn2.running_var"]
    torch.save(network, folder / "source.pth")
    return "source.pth"


def _other(folder):
    save_file({"weight": torch.zeros(3)}, folder / "source.safetensors")
    return "source.safetensors"


def _damaged(folder):
    (folder / "source.safetensors").write_bytes(b"\x00" * 100)
    return "source.safetensors"


def _another_face_network(folder):
    (folder / "source.dat").write_bytes(b"\x01\x02" * 100)
    return "source.dat"


@pytest.mark.parametrize("spoil", [_bottlenecks, _incomplete, _other, _damaged, _another_face_network])
def test_another_network_is_refused_with_a_sentence(spoil, tmp_path):
    source = tmp_path / spoil(tmp_path)
    with pytest.raises(InputError, match=source.name) as caught:
        trunk.convert_trunk(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_faces_that_are_not_there_are_refused(made, monkeypatch, tmp_path):
    path, _ = made
    monkeypatch.setattr(trunk, "FACE_NETWORK_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(InputError, match="`faces`"):
        trunk.convert_trunk(path, tmp_path / "out", faces=tmp_path / "no folder")
    assert not (tmp_path / "out").exists()
