"""
Start checkpoints: the trunk of a network that was trained on something else becomes the trunk of an RMN.

A trunk is the stem and the stages. The masks start as a constant m (the last BatchNorms of the masking blocks have the
weight 0) and the next stage's first convolutions are divided by 1 + m, so that the features are the source's until
training begins. Sources:

- ResNet18 and ResNet34 for ImageNet, as torchvision, timm and transformers store them. The paper starts from ResNet34.
- The face network of dlib (CC0), `dlib_face_recognition_resnet_model_v1.dat`. Its stem and its down-sampling differ in
  padding and in the shortcut, a mean of 2x2 pixels there: these features are near the source's, not equal.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import InputError
from ..images import find_images, is_folder, load_image
from ..model.configuration_rmn import RMNConfig
from ..model.image_processing_rmn import RMNImageProcessor
from ..model.modeling_rmn import RMNConvLayer, RMNModel
from .checkpoint import WEIGHTS
from .convert import find_file, load_original, new_folder, write_checkpoint

FACE_NETWORK_SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
# Of the source's input, for pixels in 0..1.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_FACES = ((122.782 / 255, 117.001 / 255, 104.298 / 255), (256 / 255,) * 3)
MAX_FACES = 512  # enough for means and variances


def convert_trunk(
    source: str | Path,
    output: str | Path,
    *,
    filename: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    faces: str | Path | None = None,
    seed: int = 0,
) -> Path:
    """
    Turn a ResNet for ImageNet or dlib's face network into a checkpoint for `rmn-hub train --start-from`.

    Args:
        source: the file (safetensors, what `torch.save` wrote, or dlib's `.dat`), or a Hub id.
        output: the folder to make; it may exist when it is empty.
        filename: the file in `source`; `model.safetensors` of a Hub repository when not given.
        revision: branch, tag or commit of that repository.
        token: for a private one.
        faces: folder of face crops that set the statistics of every BatchNorm without changing the features. The face
            network has none of its own, and without them the first training step would break its features.
        seed: of the masks' and the classifier's random weights.

    Returns:
        `output`. Nothing is left there when the conversion fails.

    Raises:
        InputError: the source cannot be read or holds another network, or the folder cannot be made.
    """
    output = new_folder(output)
    if filename is None and not Path(source).exists() and len(Path(source).parts) == 2:
        filename = WEIGHTS
    path = find_file(source, filename, revision, token)
    try:
        if path.suffix == ".dat":
            model = start_model(*read_face_network(path), *_FACES, seed=seed)
        else:
            model = start_model(*read_image_network(path), *_IMAGENET, seed=seed)
    except InputError as error:
        raise InputError(f"{source} cannot be converted: {error}") from error
    if faces is not None:
        set_statistics(model, _pixel_values(Path(faces), model.config))
    write_checkpoint(model, output)
    return output


def read_image_network(path: Path) -> tuple[RMNConfig, dict[str, Tensor]]:
    """
    Read the trunk of a ResNet of basic blocks, in the names of torchvision, timm or transformers.

    Returns:
        The original network's configuration with the source's sizes, and the tensors by RMN's names.

    Raises:
        InputError: the file cannot be read, or holds another network.
    """
    try:
        source: Mapping[str, Tensor] = load_file(path) if path.suffix == ".safetensors" else load_original(path)
    except (OSError, SafetensorError) as error:
        raise InputError("it is truncated or damaged. Copy or download it again.") from error
    tensors = {_trunk_name(name): tensor for name, tensor in source.items() if not _HEAD.match(name)}
    first = re.compile(r"stages\.(\d+)\.layers\.(\d+)\.layer\.0\.convolution\.weight")
    blocks = [tuple(map(int, match.groups())) for name in tensors if (match := first.fullmatch(name))]
    depths = tuple(sum(stage == number for stage, _ in blocks) for number in range(4))
    stem = tensors.get("embedder.embedder.convolution.weight")
    if stem is None or not all(depths) or any(".layer.2." in name for name in tensors):
        raise InputError("it does not hold a ResNet of four stages of basic blocks. Give a ResNet18 or ResNet34.")
    widths = [len(tensors[f"stages.{stage}.layers.0.layer.0.convolution.weight"]) for stage in range(4)]
    config = RMNConfig(depths=depths, hidden_sizes=tuple(widths), embedding_size=len(stem))
    return config, tensors


_HEAD = re.compile(r"(fc|classifier)\.")


def _trunk_name(name: str) -> str:
    """Return RMN's name of a tensor of torchvision's, timm's or transformers' ResNet."""
    name = re.sub(r"^(resnet\.)?(encoder\.)?", "", name)
    if match := re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", name):
        name = f"stages.{int(match[1]) - 1}.layers.{match[2]}.{match[3]}"
    name = re.sub(r"^(?=(conv|bn)1\.)", "embedder.embedder.", name)
    name = name.replace("downsample.0.", "shortcut.convolution.").replace("downsample.1.", "shortcut.normalization.")

    def part(match: re.Match[str]) -> str:
        kind = "convolution" if match[2] == "conv" else "normalization"
        number = f"layer.{int(match[3]) - 1}." if name.startswith("stages.") else ""
        return f"{match[1]}{number}{kind}."

    return re.sub(r"(^|\.)(conv|bn)(\d)\.", part, name)


def read_face_network(path: Path) -> tuple[RMNConfig, dict[str, Tensor]]:
    """
    Read the trunk of dlib's face network, but for its last block.

    Returns:
        A configuration of its sizes for faces of 80 x 80 pixels, and the tensors by RMN's names.

    Raises:
        InputError: the file cannot be read, or is another one.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"it cannot be read ({error.strerror or error}). Check the file.") from error
    if hashlib.sha256(data).hexdigest() != FACE_NETWORK_SHA256:
        raise InputError("its SHA-256 is not that of dlib_face_recognition_resnet_model_v1.dat. Give that file.")
    config = RMNConfig(
        image_size=80,
        embedding_size=32,
        hidden_sizes=(32, 64, 128, 256),
        depths=(3, 4, 3, 3),
        mask_depths="auto",
        mask_ratio=0.25,
        mask_activation="sigmoid",
        dropout=0.2,
    )
    with torch.device("meta"):
        stages = RMNModel(config)
    tensors: dict[str, Tensor] = {}
    stored = _dlib_tensors(data)
    for name, module in stages.named_modules():
        if not isinstance(module, RMNConvLayer) or name.startswith("masking_blocks"):
            continue
        weight = module.convolution.weight
        width = len(weight)
        if name.endswith("shortcut"):
            # There, missing channels are zeros.
            values, shift = torch.eye(*weight.shape[:2])[:, :, None, None], torch.zeros(width)
            scale = torch.ones(width)
        else:
            filters, affine = next(stored), next(stored)
            values, bias = filters[: weight.numel()].view(weight.shape), filters[weight.numel() :]
            scale = affine[:width]
            shift = affine[width:] + scale * bias
        tensors |= {
            f"{name}.convolution.weight": values,
            f"{name}.normalization.weight": scale,
            f"{name}.normalization.bias": shift,
            f"{name}.normalization.running_mean": torch.zeros(width),
            f"{name}.normalization.running_var": torch.full((width,), 1 - 1e-5),  # less BatchNorm's epsilon
            f"{name}.normalization.num_batches_tracked": torch.tensor(0),
        }
    return config, tensors


def _dlib_tensors(data: bytes) -> Iterator[Tensor]:
    """Yield the tensors of a network that dlib saved, in the file's order and without their shapes."""
    place = 0
    while (place := data.find(b"\x01\x02", place)) >= 0:  # the integer 2, with which a tensor begins
        end = place
        sizes = []
        for _ in range(5):
            value, end = _dlib_integer(data, end)
            sizes.append(value)
        count = math.prod(sizes[1:])
        # Other pairs of these bytes are followed by sizes that make no sense.
        if sizes[0] == 2 and min(sizes) > 0 and 16 < count <= (len(data) - end) // 4:
            values = np.frombuffer(data, "<f4", count, end)
            if np.isfinite(values).all() and np.abs(values).max() < 1e4:
                yield torch.from_numpy(values.astype(np.float32))
                place = end + 4 * count
                continue
        place += 1


def _dlib_integer(data: bytes, place: int) -> tuple[int, int]:
    """Return an integer, 0 where there is none, and where it ends: a byte with sign and length, then little-endian."""
    head = data[place] if place < len(data) else 0
    end = place + 1 + (head & 0x0F)
    value = int.from_bytes(data[place + 1 : end], "little")
    return (-value if head & 0x80 else value), end


@torch.no_grad()
def start_model(
    config: RMNConfig,
    tensors: Mapping[str, Tensor],
    mean: tuple[float, ...],
    deviation: tuple[float, ...],
    *,
    seed: int = 0,
) -> RMNModel:
    """
    Make a network with a given trunk, whose features are the trunk's until it is trained.

    Args:
        config: sizes of the trunk, and how the masks are to be.
        tensors: of the trunk, by RMN's names.
        mean: one number a channel, which is subtracted from the trunk's input. This goes into the stem, as RMN's input
            is in 0..1. Beyond its border an image is black then, where the source has the mean colour.
        deviation: one number a channel, which the trunk's input is divided by.
        seed: of the masks' and the classifier's random weights.

    Raises:
        InputError: tensors are missing, unknown, or of another shape.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RMNModel(config)
    expected = model.state_dict()
    trunk = {name for name in expected if name.startswith(("embedder.", "stages."))}
    # Files from before PyTorch 0.4.1, as torchvision's ResNets are, have no such counters; nothing depends on them.
    counters = {name: expected[name] for name in trunk if name.endswith(".num_batches_tracked")}
    tensors = {**counters, **tensors}
    wrong = sorted(trunk ^ tensors.keys())
    wrong += sorted(name for name in trunk & tensors.keys() if tensors[name].shape != expected[name].shape)
    if wrong:
        raise InputError(f"it holds another network: {len(wrong)} tensors differ, {wrong[0]} for one. Give a ResNet34.")
    model.load_state_dict(tensors, strict=False)

    values = model.state_dict()  # the tensors of the model themselves
    weight = values["embedder.embedder.convolution.weight"]
    weight.div_(torch.tensor(deviation)[:, None, None])
    values["embedder.embedder.normalization.running_mean"].add_(weight.sum((2, 3)) @ torch.tensor(mean))
    for stage, width in enumerate(config.hidden_sizes):
        for part in ("layer.1", "shortcut"):
            last = f"masking_blocks.{stage}.out_layer.{part}.normalization"
            if f"{last}.weight" not in values:
                raise InputError(f"`mask_ratio`={config.mask_ratio} must leave no masking block as wide as its stage")
            values[f"{last}.weight"].zero_()
            if config.mask_activation == "softmax":
                # A ReLU comes before the softmax: at 0 no gradient would ever reach the mask. The softmax stays 1 / C.
                values[f"{last}.bias"].fill_(1)
        mask = 0.5 if config.mask_activation == "sigmoid" else 1 / width
        for part in ("layer.0", "shortcut"):
            if stage + 1 < len(config.hidden_sizes):  # the last stage's b goes to a new classifier
                values[f"stages.{stage + 1}.layers.0.{part}.convolution.weight"].div_(1 + mask)
    return model.eval()


@torch.no_grad()
def set_statistics(model: RMNModel, pixel_values: Tensor) -> None:
    """
    Set every BatchNorm's running mean and variance to those of some faces.

    Weights and biases of the trunk's move along, so that its features stay the same. Masks stay constant.

    Args:
        model: in evaluation mode.
        pixel_values: faces `(batch, num_channels, height, width)`, a few hundred.
    """
    statistics: dict[nn.BatchNorm2d, tuple[Tensor, Tensor]] = {}

    def measure(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        statistics[norm] = (inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3)))

    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms.values()]
    try:
        model(pixel_values)
    finally:
        for hook in hooks:
            hook.remove()
    for name, norm in norms.items():
        mean, variance = statistics[norm]
        assert norm.running_mean is not None
        assert norm.running_var is not None
        if not name.startswith("masking_blocks"):
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            norm.bias.add_(scale * (mean - norm.running_mean))
            norm.weight.copy_(scale * (variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


def _pixel_values(folder: Path, config: RMNConfig) -> Tensor:
    paths = find_images(folder)[:MAX_FACES] if is_folder(folder) else []
    if len(paths) < 2:
        raise InputError(f"`faces`={str(folder)!r} must be a folder of face crops, some hundred of them")
    processor = RMNImageProcessor(size={"height": config.image_size, "width": config.image_size})
    return processor([load_image(path).image for path in paths], return_tensors="pt")["pixel_values"]


__all__ = [
    "FACE_NETWORK_SHA256",
    "convert_trunk",
    "read_face_network",
    "read_image_network",
    "set_statistics",
    "start_model",
]
