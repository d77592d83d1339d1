"""The torch engine: numpy in, numpy out, and nothing of torch's settings is changed or matters."""

import copy
import pickle
import threading

import numpy as np
import pytest
import torch

from rmn_hub import BUNDLED_CHECKPOINT, InputError, RMNModel
from rmn_hub.attention import reduce_mask
from rmn_hub.engines.engine import Engine, EngineOutput
from rmn_hub.engines.torch import TorchEngine


@pytest.fixture(scope="module")
def model():
    return RMNModel.from_pretrained(BUNDLED_CHECKPOINT).eval()


@pytest.fixture(scope="module")
def engine(model):
    return TorchEngine(model, "cpu")


@pytest.fixture(scope="module")
def pixel_values():
    noise = np.random.default_rng(0).random((5, 1, 12, 12), dtype=np.float32)
    return np.repeat(np.kron(noise, np.ones((1, 1, 4, 4), np.float32)), 3, axis=1)


def outputs_of(model, pixel_values):
    with torch.no_grad():
        return model(torch.from_numpy(pixel_values), output_masks=True, output_hidden_states=True)


def assert_equal(first: EngineOutput, second: EngineOutput, tolerance=0.0):
    for name in ("maps", "before", "after"):
        assert len(getattr(first, name)) == len(getattr(second, name))
        for one, other in zip(getattr(first, name), getattr(second, name)):
            np.testing.assert_allclose(one, other, atol=tolerance)
    np.testing.assert_allclose(first.logits, second.logits, atol=tolerance)


def test_it_is_an_engine(engine, model):
    assert isinstance(engine, Engine)
    assert engine.name == "torch"
    assert engine.expressions == tuple(model.config.id2label[index] for index in range(7))
    assert (engine.image_size, engine.has_masks) == (model.config.image_size, True)


def test_outputs_equal_the_plain_models(engine, model, pixel_values):
    expected = outputs_of(model, pixel_values)
    output = engine(pixel_values, attention=True)
    np.testing.assert_allclose(output.logits, expected.logits, atol=1e-4)
    assert output.logits.dtype == np.float32
    for stage, mask in enumerate(expected.masks):
        before, after = expected.hidden_states[2 * stage : 2 * stage + 2]
        np.testing.assert_allclose(output.maps[stage], reduce_mask(mask, before), atol=1e-3)
        np.testing.assert_allclose(output.before[stage], before.abs().mean(1), atol=1e-3)
        np.testing.assert_allclose(output.after[stage], after.abs().mean(1), atol=1e-3)
        assert output.maps[stage].dtype == np.float32
    assert engine(pixel_values).maps == ()


def test_one_crop_does_not_depend_on_its_batch(engine, pixel_values):
    together = engine(pixel_values).logits
    for index in range(len(pixel_values)):
        np.testing.assert_allclose(engine(pixel_values[index : index + 1]).logits[0], together[index], atol=1e-4)


def test_the_model_stays_as_it_was(model, pixel_values):
    own = copy.deepcopy(model).train()
    state = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    TorchEngine(own, "cpu")(pixel_values, attention=True)
    assert own.training
    assert all(tensor.equal(state[name]) for name, tensor in own.state_dict().items())


def test_a_network_without_masks_has_no_maps(tmp_path):
    from evaluation_helpers import save_checkpoint

    plain = TorchEngine(RMNModel.from_pretrained(save_checkpoint(tmp_path / "plain", mask_depths=None)), "cpu")
    assert not plain.has_masks
    output = plain(np.full((1, 3, 32, 32), 0.5, np.float32), attention=True)
    assert (output.maps, output.before, output.after) == ((), (), ())


@pytest.mark.parametrize("device", ["cuda:99", "toaster", "meta", "cpu:x", "cpu:3", 3.5])
def test_a_device_that_does_not_exist_is_named(model, device):
    with pytest.raises(InputError, match="device="):
        TorchEngine(model, device)


def settings_of_torch():
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.enabled,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.get_float32_matmul_precision(),
    )


def test_a_callers_settings_neither_matter_nor_change(model, engine, pixel_values):
    expected = engine(pixel_values, attention=True)
    before = settings_of_torch()
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        changed = settings_of_torch()
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad():
            own = TorchEngine(model, "cpu")
            assert_equal(own(pixel_values, attention=True), expected, tolerance=1e-4)
            assert_equal(engine(pixel_values, attention=True), expected, tolerance=1e-4)
        assert settings_of_torch() == changed
    finally:
        torch.set_default_dtype(before[0])
        torch.set_default_device(None)
        torch.set_num_threads(before[2])
        torch.use_deterministic_algorithms(before[4])
    assert settings_of_torch() == before


def test_many_threads_get_what_one_gets(engine, pixel_values):
    expected = engine(pixel_values, attention=True)
    outputs = [None] * 8

    def run(place):
        outputs[place] = engine(pixel_values, attention=True)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(outputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for output in outputs:
        assert_equal(output, expected, tolerance=1e-4)


def test_it_can_be_pickled(engine, pixel_values):
    assert_equal(pickle.loads(pickle.dumps(engine))(pixel_values), engine(pixel_values), tolerance=1e-5)


def test_a_network_in_half_precision_stays_one(model, engine, pixel_values):
    half = TorchEngine(copy.deepcopy(model).to(torch.bfloat16), "cpu")
    output = half(pixel_values, attention=True)
    assert output.logits.dtype == output.maps[0].dtype == np.float32
    np.testing.assert_allclose(output.logits, engine(pixel_values).logits, atol=0.2)
    assert not np.array_equal(output.logits, engine(pixel_values).logits)


def test_a_network_is_folded_before_it_is_rounded(model, engine, pixel_values):
    rounded = TorchEngine(model, "cpu", torch.bfloat16)
    given = TorchEngine(copy.deepcopy(model).to(torch.bfloat16), "cpu")
    exact = engine(pixel_values).logits
    off = [np.abs(each(pixel_values).logits - exact).mean() for each in (rounded, given)]
    assert 0 < off[0] < off[1]
    assert model.dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_the_cpu_gives(model, engine, pixel_values):
    gpu = TorchEngine(model, "cuda")
    first, second = gpu(pixel_values, attention=True), engine(pixel_values, attention=True)
    assert_equal(first, second, tolerance=2e-2)  # TensorFloat-32, see TorchEngine
