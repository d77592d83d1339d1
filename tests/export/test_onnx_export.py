"""The export: what the file holds, that it is compared with torch, and what is refused."""

import json
import shutil

import numpy as np
import onnx
import pytest
from evaluation_helpers import faces, save_checkpoint

from rmn_hub import __version__
from rmn_hub.engines.onnx import OnnxEngine
from rmn_hub.errors import CheckpointError, InputError
from rmn_hub.export import onnx as onnx_export
from rmn_hub.export.onnx import export, output_names
from rmn_hub.hub import checkpoint as checkpoints


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return checkpoints.load(save_checkpoint(tmp_path_factory.mktemp("export") / "checkpoint"))


@pytest.fixture(scope="module")
def pixel_values(loaded):
    return loaded.processor(faces(80), return_tensors="np")["pixel_values"]


@pytest.fixture(scope="module")
def labels(loaded, pixel_values):
    """Return what the network itself predicts, so that torch's accuracy is 1."""
    return loaded.model(loaded.processor(faces(80), return_tensors="pt")["pixel_values"]).logits.argmax(1).numpy()


@pytest.fixture(scope="module")
def written(loaded, pixel_values, tmp_path_factory):
    """A file of the network in fp32, which takes some seconds to write."""
    path = tmp_path_factory.mktemp("written") / "network.onnx"
    export(loaded.model, path, pixel_values, weights_hash="")
    return path


def test_the_file_is_self_contained_and_describes_itself(loaded, pixel_values, tmp_path):
    path = tmp_path / "new" / "folder" / "network.onnx"
    report = export(loaded.model, path, pixel_values, weights_hash="abc")
    assert (report.path, report.agreement, report.accuracy) == (path, 1.0, None)
    assert report.difference < 1e-4
    assert report.megabytes == pytest.approx(path.stat().st_size / 1e6)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    model = onnx.load(path)
    onnx.checker.check_model(model)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["classes"]) == list(loaded.expressions)
    assert metadata["image_size"] == str(loaded.model.config.image_size)
    assert metadata["weights_sha256"] == "abc"
    assert metadata["rmn_hub_version"] == __version__
    assert [output.name for output in model.graph.output] == output_names(4)
    assert not model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    # Folded, and without the paths of the machine that made it.
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert b"modeling_rmn.py" not in path.read_bytes()


def test_a_network_without_masks_has_logits_alone(tmp_path):
    loaded = checkpoints.load(save_checkpoint(tmp_path / "checkpoint", mask_depths=None))
    values = loaded.processor(faces(3), return_tensors="np")["pixel_values"]
    export(loaded.model, tmp_path / "network.onnx", values, weights_hash="")
    engine = OnnxEngine(tmp_path / "network.onnx")
    assert not engine.has_masks
    outputs = engine(values, attention=True)
    assert outputs.logits.shape == (3, 7)
    assert outputs.maps == outputs.before == outputs.after == ()


@pytest.mark.parametrize("form", ["fp16", "int8"])
def test_smaller_forms(loaded, pixel_values, labels, written, tmp_path, form):
    report = export(
        loaded.model, tmp_path / "small.onnx", pixel_values, weights_hash="", labels=labels, form=form, allow_loss=True
    )
    assert report.torch_accuracy == 1
    assert report.accuracy > 0.6
    assert form == "int8" or report.megabytes < written.stat().st_size / 1e6
    kinds = {
        onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type) for tensor in onnx.load(report.path).graph.initializer
    }
    assert np.dtype(np.float16 if form == "fp16" else np.int8) in kinds
    assert OnnxEngine(report.path)(pixel_values[:2], attention=True).logits.dtype == np.float32


def test_a_loss_of_more_than_one_point_is_refused_unless_asked_for(
    loaded, pixel_values, labels, written, tmp_path, monkeypatch
):
    path = tmp_path / "network.onnx"
    compare = onnx_export._compare
    monkeypatch.setattr(onnx_export, "_write", lambda model, path, *rest: shutil.copy(written, path))
    monkeypatch.setattr(onnx_export, "_compare", lambda *arguments: compare(*arguments) | {"accuracy": 0.98})
    with pytest.raises(InputError, match="accuracy"):
        export(loaded.model, path, pixel_values, weights_hash="", labels=labels)
    assert list(tmp_path.iterdir()) == []
    export(loaded.model, path, pixel_values, weights_hash="", labels=labels, allow_loss=True)
    assert path.is_file()


def test_a_file_with_other_numbers_never_appears(loaded, pixel_values, written, tmp_path, monkeypatch):
    def write_damaged(model, path, *rest):
        file = onnx.load(written)
        bias = next(tensor for tensor in file.graph.initializer if list(tensor.dims) == [7])
        values = onnx.numpy_helper.to_array(bias) + np.arange(7, dtype=np.float32)
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        onnx.save(file, path)

    monkeypatch.setattr(onnx_export, "_write", write_damaged)
    with pytest.raises(CheckpointError, match="differ"):
        export(loaded.model, tmp_path / "network.onnx", pixel_values, weights_hash="")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("pixel_values", {"pixel_values": np.zeros((2, 3, 9, 9), np.float32)}),
        ("at least 32 faces", {"form": "int8", "pixel_values": np.zeros((5, 3, 32, 32), np.float32)}),
        ("labels", {"labels": np.zeros(3, int)}),
        ("labels", {"form": "int8"}),
    ],
)
def test_what_does_not_fit_is_refused(loaded, pixel_values, tmp_path, name, arguments):
    with pytest.raises(InputError, match=name):
        export(loaded.model, tmp_path / "x.onnx", **{"pixel_values": pixel_values, "weights_hash": "", **arguments})
    assert list(tmp_path.iterdir()) == []
