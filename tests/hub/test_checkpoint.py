"""Finding and loading checkpoints from folders: what comes out, what is refused, and what is left alone."""

import json
import os
import shutil
import threading

import pytest
import torch
from evaluation_helpers import save_checkpoint
from huggingface_hub.utils import are_progress_bars_disabled
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from rmn_hub import BUNDLED_CHECKPOINT, EXPRESSIONS, CheckpointError, InputError, RMNModel
from rmn_hub.hub import checkpoint as checkpoints
from rmn_hub.hub import files


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "whole")


@pytest.fixture
def folder(whole, tmp_path):
    """A checkpoint to spoil."""
    return shutil.copytree(whole, tmp_path / "checkpoint")


def change(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def pixels(model):
    size = model.config.image_size
    return torch.linspace(0, 1, 2 * 3 * size * size).reshape(2, 3, size, size)


# What comes out


@pytest.mark.parametrize("name", ["whole", "bundled"])
def test_a_checkpoint_is_loaded_as_transformers_loads_it(whole, name):
    folder = whole if name == "whole" else BUNDLED_CHECKPOINT
    loaded = checkpoints.load(folder)
    expected = RMNModel.from_pretrained(folder)
    found = loaded.model.state_dict()
    assert found.keys() == expected.state_dict().keys()
    for key, tensor in expected.state_dict().items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor), key
    assert loaded.model.config.to_dict() == expected.config.to_dict()
    assert not loaded.model.training
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.folder.samefile(folder)
    assert loaded.expressions == EXPRESSIONS
    assert loaded.processor.size["height"] == loaded.model.config.image_size


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(folder, dtype):
    RMNModel.from_pretrained(folder).to(dtype).save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    assert stored["classifier.weight"].dtype == dtype
    model = checkpoints.load_model(folder)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32} == {model.dtype}
    assert torch.equal(model.classifier.weight, stored["classifier.weight"].float())
    assert model(pixels(model)).logits.dtype == torch.float32


def test_weights_in_several_files(folder, whole):
    RMNModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()  # transformers leaves it
    assert len(list(folder.glob("*.safetensors"))) > 2
    model, expected = checkpoints.load_model(folder), checkpoints.load_model(whole)
    torch.testing.assert_close(model(pixels(model)).logits, expected(pixels(model)).logits)


def test_a_network_without_an_image_processor_can_be_loaded_alone(folder):
    (folder / "preprocessor_config.json").unlink()
    assert checkpoints.load_model(folder).config.image_size == 32
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        checkpoints.load(folder)


def test_saving_over_the_files_that_were_loaded(folder):
    model = checkpoints.load_model(folder)
    expected = model(pixels(model)).logits
    model.save_pretrained(folder)
    torch.testing.assert_close(model(pixels(model)).logits, expected)
    torch.testing.assert_close(checkpoints.load_model(folder)(pixels(model)).logits, expected)


# What is refused


def _truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def _rename(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.other"] = tensors.pop("classifier.bias")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _only_a_pickle(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def _index(content):
    def spoil(folder):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(content)

    return spoil


CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
SPOILED = {
    "no configuration": (lambda folder: (folder / CONFIG).unlink(), CONFIG),
    "no JSON": (lambda folder: (folder / CONFIG).write_text("{"), CONFIG),
    "not in UTF-8": (lambda folder: (folder / CONFIG).write_bytes(b"\xff\xfe{}"), CONFIG),
    "deep JSON": (lambda folder: (folder / CONFIG).write_text("[" * 100_000), CONFIG),
    "a list": (lambda folder: (folder / CONFIG).write_text("[]"), CONFIG),
    "no architecture": (lambda folder: (folder / CONFIG).write_text("{}"), "model_type=None"),
    "other architecture": (lambda folder: change(folder / CONFIG, model_type="bert"), "model_type='bert'"),
    "impossible masks": (lambda folder: change(folder / CONFIG, mask_depths=[9, 9, 9, 9]), "mask_depths"),
    "odd labels": (lambda folder: change(folder / CONFIG, id2label=["happy"]), "id2label"),
    "odd dtype": (lambda folder: change(folder / CONFIG, dtype="float33"), CONFIG),
    "odd number": (lambda folder: change(folder / CONFIG, hidden_sizes=7), CONFIG),
    "odd stages": (lambda folder: change(folder / CONFIG, depths="four"), CONFIG),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), WEIGHTS),
    "only a pickle": (_only_a_pickle, "rmn-hub convert"),
    "truncated": (_truncate, WEIGHTS),
    "empty": (lambda folder: (folder / WEIGHTS).write_bytes(b""), WEIGHTS),
    "a pickle by the name of safetensors": (lambda folder: torch.save({}, folder / WEIGHTS), WEIGHTS),
    "other names": (_rename, "2 tensors differ"),
    "other shapes": (lambda folder: change(folder / CONFIG, embedding_size=16), "tensors differ"),
    "missing tensors": (lambda folder: change(folder / CONFIG, mask_depths=[2, 2, 1, 1]), "tensors differ"),
    "unexpected tensors": (lambda folder: change(folder / CONFIG, mask_depths=None), "tensors differ"),
    "index of nothing": (_index("{}"), "index"),
    "index of other folders": (_index('{"weight_map": {"a": "../../a.safetensors"}}'), "index"),
    "index of numbers": (_index('{"weight_map": {"a": 7}}'), "index"),
    "index of what is not there": (_index('{"weight_map": {"a": "a.safetensors"}}'), r"a\.safetensors"),
    "processor without JSON": (lambda folder: (folder / PROCESSOR).write_text("{"), PROCESSOR),
    "processor of a list": (lambda folder: (folder / PROCESSOR).write_text("[]"), PROCESSOR),
    "processor of another kind": (
        lambda folder: change(folder / PROCESSOR, image_processor_type="ViTImageProcessor"),
        "ViTImageProcessor",
    ),
    "odd size": (lambda folder: change(folder / PROCESSOR, size="large"), PROCESSOR),
    "no size": (lambda folder: change(folder / PROCESSOR, size={"height": 0, "width": 0}), PROCESSOR),
    "odd scale": (lambda folder: change(folder / PROCESSOR, rescale_factor="small"), PROCESSOR),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_cannot_be_used_is_refused_with_a_sentence(name, folder):
    spoil, part = SPOILED[name]
    spoil(folder)
    with pytest.raises(CheckpointError, match=part) as caught:
        checkpoints.load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["./no/such/folder", "no/such/folder", "/no/such/folder", "~/models", "a b", "", "http://host/org/name"]
)
def test_a_mistyped_path_is_not_looked_for_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(files, "hf_hub_download", pytest.fail)
    with pytest.raises(CheckpointError, match="no such folder"):
        checkpoints.load(name)


def test_a_file_is_no_checkpoint(folder):
    with pytest.raises(CheckpointError, match="folder"):
        checkpoints.load(folder / "model.safetensors")


def test_other_expressions_than_the_callers_are_refused(folder):
    assert checkpoints.load(folder, expressions=EXPRESSIONS).expressions == EXPRESSIONS
    with pytest.raises(CheckpointError, match="predicts angry"):
        checkpoints.load(folder, expressions=EXPRESSIONS[::-1])


def test_a_device_that_is_not_there_is_named(folder):
    with pytest.raises(InputError, match="device='cuda:77'"):
        checkpoints.load(folder, device="cuda:77")


# What is left alone


def test_nothing_is_printed_and_no_setting_is_touched(folder, capfd):
    def settings():
        bars = (logging.is_progress_bar_enabled(), are_progress_bars_disabled())
        return dict(os.environ), logging.get_verbosity(), bars, torch.get_default_dtype(), torch.nn.init.kaiming_normal_

    before = settings()
    checkpoints.load(folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError):
        checkpoints.load(folder)
    assert settings() == before
    assert capfd.readouterr() == ("", "")


def test_many_threads_at_once(whole):
    expected = checkpoints.load_model(whole)
    expected = expected(pixels(expected)).logits
    barrier, found = threading.Barrier(8), []

    def run():
        barrier.wait()
        for _ in range(3):
            model = checkpoints.load(whole).model
            found.append(torch.allclose(model(pixels(model)).logits, expected, atol=1e-5))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 24
