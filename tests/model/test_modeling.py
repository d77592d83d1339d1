"""The network: the original's answers, gradients, and the ways in which people run a transformers model."""

import copy
import json

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from reference_weights import REFERENCE, original_state_dict, pixel_values
from transformers import AutoConfig, AutoModelForImageClassification, pipeline

from rmn_hub import (
    BUNDLED_CHECKPOINT,
    RMNBackbone,
    RMNBaseModel,
    RMNConfig,
    RMNForImageClassification,
    RMNImageProcessor,
    RMNModel,
)
from rmn_hub.hub.convert import convert_state_dict
from rmn_hub.model.modeling_rmn import RMNMaskingBlock

TINY = {
    "image_size": 32,
    "stem": "small",
    "embedding_size": 8,
    "hidden_sizes": (8, 8, 16, 16),
    "depths": (1, 1, 1, 1),
    "mask_depths": (2, 1, 1, 1),
    "mask_ratio": 0.25,
}
COMPACT = {**TINY, "image_size": 48, "mask_depths": "auto", "mask_activation": "sigmoid"}


@pytest.fixture(scope="module")
def golden():
    with np.load(REFERENCE / "golden.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def original():
    """The original network with the reference's weights."""
    config, state_dict = convert_state_dict(original_state_dict(), allow_contradictions=True)
    with torch.device("meta"):
        model = RMNModel(config)
    model.load_state_dict(state_dict, assign=True)
    return model.eval()


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return RMNModel(RMNConfig(**TINY)).eval()


def awake(model):
    """Statistics as after some training: with those of a new model, folding them would prove nothing."""
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(4, 3, model.config.image_size, model.config.image_size))
    return model.eval()


# The original's answers


@torch.inference_mode()
def test_the_original_networks_answers(original, golden):
    outputs = original(pixel_values(), output_masks=True)
    np.testing.assert_allclose(outputs.logits, golden["logits"], atol=1e-4)
    for stage, mask in enumerate(outputs.masks, start=1):
        assert mask.shape == tuple(golden[f"mask{stage}_shape"])
        np.testing.assert_allclose(mask[:, :4], golden[f"mask{stage}_head"], atol=1e-4)
        np.testing.assert_allclose(mask.mean((2, 3)), golden[f"mask{stage}_channel_mean"], atol=1e-4)
        torch.testing.assert_close(mask.sum(1), torch.ones_like(mask[:, 0]))  # a softmax over the channels


@torch.inference_mode()
def test_the_folded_original_answers_the_same(original):
    expected = original(pixel_values(), output_masks=True)
    folded = original.for_inference()
    found = folded(pixel_values(), output_masks=True)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=0)
    for mask, other in zip(found.masks, expected.masks):
        torch.testing.assert_close(mask, other, atol=1e-4, rtol=0)
    assert not [name for name in folded.state_dict() if "running" in name]


def test_the_size_and_cost_of_the_original():
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = RMNModel(RMNConfig()).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(137.8, abs=0.05)
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() / 1e9 == pytest.approx(43.8, abs=0.05)


# Outputs


@pytest.mark.parametrize("settings", [TINY, COMPACT], ids=["softmax", "sigmoid"])
def test_masks_and_features_fit_equation_1(settings):
    model = awake(RMNModel(RMNConfig(**settings)))
    size = settings["image_size"]
    with torch.no_grad():
        outputs = model(torch.rand(2, 3, size, size), output_masks=True, output_hidden_states=True)
    assert len(outputs.masks) == 4
    assert len(outputs.hidden_states) == 8
    for mask, before, after in zip(outputs.masks, outputs.hidden_states[::2], outputs.hidden_states[1::2]):
        assert mask.shape == before.shape
        assert mask.min() >= 0
        assert mask.max() <= 1
        torch.testing.assert_close(after, (1 + mask) * before)
    with torch.no_grad():
        pooled = outputs.hidden_states[-1].mean((2, 3))
        torch.testing.assert_close(model.classifier(pooled), outputs.logits)


def test_nothing_is_returned_that_nobody_asked_for(tiny):
    outputs = tiny(torch.rand(1, 3, 32, 32))
    assert list(outputs) == ["logits"]
    logits, masks, hidden_states = tiny(
        torch.rand(1, 3, 32, 32), output_masks=True, output_hidden_states=True, return_dict=False
    )
    assert (logits.shape, len(masks), len(hidden_states)) == ((1, 7), 4, 8)


def test_the_masks_can_be_switched_off():
    model = RMNModel(RMNConfig(**{**TINY, "mask_depths": None})).eval()
    outputs = model(torch.rand(1, 3, 32, 32), output_masks=True, output_hidden_states=True)
    assert outputs.masks == ()
    torch.testing.assert_close(outputs.hidden_states[0], outputs.hidden_states[1])


@pytest.mark.parametrize("size", [32, 33, 37, 50, 96])
def test_other_sizes_work_odd_ones_too(tiny, size):
    mask = tiny(torch.rand(1, 3, size, size + 3), output_masks=True).masks[0]
    assert mask.shape[-2:] == ((size + 1) // 2, (size + 4) // 2)


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (3, 32, 32), (1, 4, 32, 32)])
def test_wrong_channels_are_named(tiny, shape):
    with pytest.raises(ValueError, match=r"`pixel_values` .*num_channels=3"):
        tiny(torch.rand(shape))


def test_hidden_states_are_returned_all_or_none(tiny):
    with pytest.raises(ValueError, match="output_hidden_states"):
        tiny(torch.rand(1, 3, 32, 32), output_hidden_states=[0])


def test_images_too_small_to_be_masked_are_refused():
    model = RMNModel(RMNConfig(**{**TINY, "mask_depths": (4, 2, 1, 1)})).eval()
    assert model(torch.rand(1, 3, 16, 15)).logits.shape == (1, 7)
    with pytest.raises(ValueError, match=r"`pixel_values` .* 8 x 7 pixels"):
        model(torch.rand(1, 3, 16, 14))


def test_a_bottleneck_network_works():
    model = RMNModel(RMNConfig(**{**TINY, "layer_type": "bottleneck"})).eval()
    assert model(torch.rand(2, 3, 32, 32)).logits.shape == (2, 7)


def test_a_mask_ratio_of_one_has_the_originals_widths():
    block = RMNMaskingBlock(24, 3, 1.0, "softmax")
    assert [layer.layer[0].convolution.out_channels for layer in block.down_layers] == [48, 96, 192]


# The backbone


def test_a_backbone_has_the_features_of_the_classifier_that_was_saved(tiny, tmp_path):
    awake(tiny).save_pretrained(tmp_path)
    backbone, report = RMNBackbone.from_pretrained(
        tmp_path, out_features=["stem", "stage2", "stage4"], output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = tiny(pixels, output_masks=True, output_hidden_states=True)
        found = backbone(pixels, output_masks=True, output_hidden_states=True)
        plain = backbone(pixels)
        parts = backbone(pixels, return_dict=False)
    stem, second, fourth = found.feature_maps
    torch.testing.assert_close(stem, tiny.embedder(pixels))
    torch.testing.assert_close(second, expected.hidden_states[3])  # after masking
    torch.testing.assert_close(fourth, expected.hidden_states[7])
    torch.testing.assert_close(found.masks, expected.masks)
    assert [state.shape[1] for state in found.hidden_states] == [8, 8, 8, 16, 16]
    assert backbone.channels == [8, 8, 16] == [features.shape[1] for features in found.feature_maps]
    assert list(plain) == ["feature_maps"]
    assert len(parts) == 1


def test_masks_are_a_setting_of_the_configuration():
    for loads in (RMNModel, RMNBaseModel, AutoModelForImageClassification):
        model = loads.from_pretrained(BUNDLED_CHECKPOINT, output_masks=True)
        pixel_values = torch.rand(1, 3, 48, 48)
        assert len(model(pixel_values).masks) == 4
        assert model(pixel_values, output_masks=False).masks is None
    assert AutoConfig.from_pretrained(BUNDLED_CHECKPOINT, output_masks=True).output_masks is True
    assert AutoConfig.from_pretrained(BUNDLED_CHECKPOINT).output_masks is False


def test_a_backbone_takes_its_switches_by_name_or_from_the_configuration():
    backbone = RMNBackbone(RMNConfig(**TINY, output_masks=True)).eval()
    pixel_values = torch.rand(1, 3, 48, 48)
    assert len(backbone(pixel_values).masks) == 4
    outputs = backbone(pixel_values, output_masks=False, output_hidden_states=True)
    assert outputs.masks is None
    assert len(outputs.hidden_states) == 5
    with pytest.raises(TypeError, match="positional"):
        backbone(pixel_values, None, True)


def test_a_backbone_gives_the_last_stage_when_nothing_else_is_asked_for(tiny):
    backbone = RMNBackbone(RMNConfig(**TINY))
    assert backbone.out_features == ["stage4"]
    backbone.load_state_dict(tiny.state_dict(), strict=False)
    fast = backbone.eval().for_inference()
    pixels = torch.rand(1, 3, 32, 32)
    (features,) = fast(pixels).feature_maps
    torch.testing.assert_close(features, tiny(pixels, output_hidden_states=True).hidden_states[-1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("choice", [{"out_features": ["stage5"]}, {"out_indices": [9]}])
def test_a_stage_that_is_not_there_cannot_be_chosen(choice):
    with pytest.raises((ValueError, StrictDataclassError), match=next(iter(choice))):
        RMNConfig(**TINY, **choice)


def test_checkpoints_of_both_names_load_by_both(tiny, tmp_path):
    assert RMNModel is RMNForImageClassification
    tiny.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["RMNForImageClassification"]
    for name in ("out_features", "out_indices", "stage_names"):
        del config[name]
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["RMNModel"]}))  # as of version 0.1
    pixels = torch.rand(1, 3, 32, 32)
    loaded = RMNForImageClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(pixels).logits, tiny(pixels).logits)
    assert RMNBackbone.from_pretrained(tmp_path).out_features == ["stage4"]


# Training


@pytest.mark.parametrize("settings", [TINY, COMPACT], ids=["softmax", "sigmoid"])
def test_gradients_reach_every_parameter(settings):
    torch.manual_seed(0)
    model = RMNModel(RMNConfig(**settings)).train()
    size = settings["image_size"]
    model(torch.rand(8, 3, size, size), labels=torch.arange(8) % 7).loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    masks = [(name, parameter.grad) for name, parameter in model.named_parameters() if "masking_blocks" in name]
    assert [name for name, gradient in masks if not gradient.abs().sum() > 0] == []


def test_gradients_are_right():
    torch.manual_seed(0)
    model = RMNModel(RMNConfig(**{**TINY, "image_size": 16, "mask_depths": (1, 1, 1, 1)})).double().eval()
    pixels = torch.rand(1, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: model(x).logits, pixels, fast_mode=True)


def overfit(model, size, steps, rate, enough=0.01):
    torch.manual_seed(0)
    model.train()
    model.dropout.p = 0.0
    pixels, labels = torch.rand(7, 3, size, size), torch.arange(7)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0)
    for _ in range(steps):
        loss = model(pixels, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss < enough:
            break
    return loss.item()


@pytest.mark.parametrize("settings", [TINY, COMPACT], ids=["softmax", "sigmoid"])
def test_a_small_network_learns_one_batch_by_heart(settings):
    torch.manual_seed(0)
    assert overfit(RMNModel(RMNConfig(**settings)), settings["image_size"], 200, 0.01) < 0.01


def test_the_default_network_learns_one_batch_by_heart():
    torch.manual_seed(0)
    # On small images, which its masks' depths of 4, 3, 2 and 1 just allow: at 224 pixels this takes minutes.
    assert overfit(RMNModel(RMNConfig()), 64, 40, 3e-4, enough=0.05) < 0.05


def test_soft_labels_make_a_cross_entropy(tiny):
    pixels, labels = torch.rand(2, 3, 32, 32), torch.tensor([1, 5])
    hard = tiny(pixels, labels=labels)
    torch.testing.assert_close(hard.loss, torch.nn.functional.cross_entropy(hard.logits, labels))
    soft = tiny(pixels, labels=torch.eye(7)[labels])
    torch.testing.assert_close(soft.loss, hard.loss)


def test_other_problems_take_their_own_labels():
    pixels = torch.rand(2, 3, 32, 32)
    several = RMNModel(RMNConfig(**TINY, problem_type="multi_label_classification")).eval()
    labels = torch.tensor([[1.0, 0, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0]])
    outputs = several(pixels, labels=labels)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(outputs.logits, labels)
    torch.testing.assert_close(outputs.loss, expected)
    values = torch.tensor([0.5, 2.0])
    for labels in (values, values[:, None]):
        outputs = RMNModel(RMNConfig(**TINY, num_labels=1)).eval()(pixels, labels=labels)
        torch.testing.assert_close(outputs.loss, ((outputs.logits[:, 0] - values) ** 2).mean())


@pytest.mark.parametrize("masks", [(2, 1, 1, 1), None])
def test_one_image_that_shrinks_to_a_pixel_cannot_be_trained_on(masks):
    model = RMNModel(RMNConfig(**{**TINY, "mask_depths": masks}))
    with pytest.raises(ValueError, match="`pixel_values`"):
        model.train()(torch.rand(1, 3, 16, 16))
    assert model(torch.rand(2, 3, 16, 16)).logits.shape == (2, 7)
    assert model(torch.rand(1, 3, 32, 32)).logits.shape == (1, 7)
    assert model.eval()(torch.rand(1, 3, 16, 16)).logits.shape == (1, 7)


def test_what_was_assigned_to_a_configuration_is_checked_by_the_model():
    config = RMNConfig(**TINY)
    config.mask_depths = (9, 9, 9, 9)
    with pytest.raises(StrictDataclassError, match="mask_depths"):
        RMNModel(config)


# As people run it


def test_saving_and_loading_is_bit_equal(tiny, tmp_path):
    awake(tiny).save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "configuration_rmn.py",
        "layers_rmn.py",
        "model.safetensors",
        "modeling_rmn.py",
    ]
    loaded, report = RMNModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, tensor in tiny.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(pixels).logits, tiny(pixels).logits)


@pytest.mark.parametrize("through_the_configuration", [False, True])
def test_new_classes_as_the_tutorials_of_transformers_name_them(tiny, tmp_path, through_the_configuration):
    """Their numbers are strings: `id2label[str(i)] = label; label2id[label] = str(i)`."""
    tiny.save_pretrained(tmp_path / "start")
    names = ["calm", "tense", "tired"]
    given = {
        "num_labels": 3,
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: str(number) for number, name in enumerate(names)},
    }
    if through_the_configuration:
        given = {"config": AutoConfig.from_pretrained(tmp_path / "start", **given)}
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "start", ignore_mismatched_sizes=True, **given)
    model.save_pretrained(tmp_path / "new")
    RMNImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "new")
    for each in (model, RMNModel.from_pretrained(tmp_path / "new")):
        assert each.config.id2label == dict(enumerate(names))
        assert each(torch.rand(1, 3, 32, 32)).logits.shape == (1, 3)
    found = pipeline("image-classification", str(tmp_path / "new"))(Image.new("L", (48, 48), 128))
    assert sorted(each["label"] for each in found) == names


@pytest.mark.parametrize("given", [{"id2label": {0: "calm", 1: "tense"}}, {"label2id": {"calm": 0, "tense": 1}}])
def test_one_mapping_of_new_classes_is_enough(tiny, tmp_path, given):
    tiny.save_pretrained(tmp_path)
    model = RMNModel.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **given)
    assert (model.config.id2label, model.config.label2id) == ({0: "calm", 1: "tense"}, {"calm": 0, "tense": 1})
    assert model.classifier.out_features == 2


@pytest.mark.parametrize("names", [{"0": "calm", "2": "tense"}, {"calm": 0}])
def test_class_numbers_with_a_gap_or_in_place_of_names_are_refused_on_loading(tiny, tmp_path, names):
    tiny.save_pretrained(tmp_path)
    with pytest.raises(StrictDataclassError, match="id2label"):
        RMNModel.from_pretrained(tmp_path, id2label=names, ignore_mismatched_sizes=True)


@pytest.mark.parametrize("settings", [TINY, COMPACT], ids=["softmax", "sigmoid"])
def test_the_inference_form_answers_the_same(settings, tmp_path):
    model = awake(RMNModel(RMNConfig(**settings)))
    fast = model.for_inference()
    pixels = torch.rand(3, 3, settings["image_size"], settings["image_size"])
    with torch.inference_mode():
        expected = model(pixels, output_masks=True, output_hidden_states=True)
        found = fast(pixels, output_masks=True, output_hidden_states=True)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=0)
    for one, other in zip((*found.masks, *found.hidden_states), (*expected.masks, *expected.hidden_states)):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())  # left as it was
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fast.modules())
    with pytest.raises(ValueError, match="for_inference"):
        fast.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


@torch.inference_mode()
def test_the_inference_form_can_be_used_as_any_model(tiny):
    awake(tiny)
    fast = tiny.for_inference()
    for shape in ((1, 3, 32, 32), (5, 3, 32, 32), (2, 3, 45, 33), (1, 3, 96, 64)):
        pixels = torch.rand(shape)
        torch.testing.assert_close(fast(pixels).logits, tiny(pixels).logits, atol=1e-4, rtol=0)
    pixels = torch.rand(2, 3, 32, 32)
    expected = tiny(pixels).logits
    torch.testing.assert_close(copy.deepcopy(fast)(pixels).logits, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(fast.for_inference()(pixels).logits, expected, atol=1e-4, rtol=0)
    compiled = torch.compile(fast, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(pixels).logits, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(fast.double()(pixels.double()).logits.float(), expected, atol=1e-4, rtol=0)


def test_the_inference_form_has_weights_of_its_own(tiny):
    fast = awake(tiny).for_inference()
    pixels = torch.rand(2, 3, 32, 32)
    expected = fast(pixels).logits
    with torch.no_grad():
        for parameter in tiny.parameters():
            parameter.zero_()
    torch.testing.assert_close(fast(pixels).logits, expected)
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    assert all(parameter.requires_grad for parameter in tiny.parameters())


def test_gradients_go_through_the_inference_form_to_the_pixels(tiny):
    fast = awake(tiny).for_inference()
    gradients = []
    for model in (tiny, fast):
        pixels = torch.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32).requires_grad_()
        model(pixels).logits[0, 3].backward()
        gradients.append(pixels.grad)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-3)


def test_answers_do_not_depend_on_the_batch(tiny):
    awake(tiny)
    pixels = torch.rand(32, 3, 32, 32)
    with torch.inference_mode():
        together = tiny(pixels).logits
        alone = torch.cat([tiny(pixels[i : i + 1]).logits for i in range(0, 32, 8)])
    torch.testing.assert_close(together[::8], alone, atol=1e-5, rtol=0)


def test_export_answers_the_same(tiny):
    pixels = torch.rand(2, 3, 32, 32)
    program = torch.export.export(tiny, (pixels,))
    torch.testing.assert_close(program.module()(pixels).logits, tiny(pixels).logits, atol=1e-5, rtol=0)


def test_compile_traces_without_breaks(tiny):
    pixels = torch.rand(2, 3, 32, 32)
    # The graph alone: turning it into machine code takes a minute and is torch's own business.
    compiled = torch.compile(tiny, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(pixels).logits, tiny(pixels).logits, atol=1e-5, rtol=0)


def test_bfloat16_keeps_the_normalisation_in_float32(tiny, tmp_path):
    awake(tiny).save_pretrained(tmp_path)
    model = RMNModel.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert model.stages[0].layers[0].layer[0].convolution.weight.dtype == torch.bfloat16
    assert model.stages[0].layers[0].layer[0].normalization.running_var.dtype == torch.float32
    pixels = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model(pixels.bfloat16()).logits.float(), tiny(pixels).logits, atol=0.1, rtol=0.1)
    assert torch.equal(model(pixels).logits, model(pixels.bfloat16()).logits)  # what the processor makes


def test_float64_is_whole(tiny, tmp_path):
    awake(tiny).save_pretrained(tmp_path / "single")
    pixels = torch.rand(2, 3, 32, 32)
    models = [RMNModel.from_pretrained(tmp_path / "single", dtype=torch.float64).eval()]
    models[0].save_pretrained(tmp_path / "double")
    models.append(RMNModel.from_pretrained(tmp_path / "double").eval())
    models.append(AutoModelForImageClassification.from_config(tiny.config, dtype=torch.float64).eval())
    for model in models:
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
        assert model(pixels.double()).logits.dtype == torch.float64
    torch.testing.assert_close(models[1](pixels).logits.float(), tiny(pixels).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_device_map(tiny, tmp_path, device_map):
    tiny.save_pretrained(tmp_path)
    model = RMNModel.from_pretrained(tmp_path, device_map=device_map).eval()
    pixels = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(model(pixels.to(model.device)).logits.cpu(), tiny(pixels).logits)


def test_parts_of_the_network_can_live_in_different_places(tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "checkpoint")
    places = {"embedder": "cpu", "stages": "disk", "masking_blocks": "cpu", "classifier": "cpu"}
    model = RMNModel.from_pretrained(
        tmp_path / "checkpoint", device_map=places, offload_folder=tmp_path / "offload"
    ).eval()
    pixels = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(model(pixels).logits, tiny(pixels).logits)


@torch.inference_mode()
def test_the_inference_form_keeps_the_number_format(tiny):
    pixels = torch.rand(2, 3, 32, 32)
    expected = awake(tiny).to(torch.bfloat16)(pixels.bfloat16()).logits
    fast = tiny.for_inference()
    assert {parameter.dtype for parameter in fast.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(fast(pixels.bfloat16()).logits, expected, atol=0.1, rtol=0.1)
