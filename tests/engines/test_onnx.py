"""The engine for onnxruntime: torch's numbers, its own checks, threads, pickling, forks."""

import json
import multiprocessing
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from evaluation_helpers import faces, save_checkpoint

from rmn_hub import BUNDLED_CHECKPOINT, EXPRESSIONS, ExpressionRecognizer, MTCNNDetector, RMNModel
from rmn_hub.attention import reduce_mask
from rmn_hub.checkpoints import weights_hash
from rmn_hub.engines.engine import Engine
from rmn_hub.engines.onnx import OnnxEngine
from rmn_hub.errors import CheckpointError, InputError
from rmn_hub.export.onnx import export
from rmn_hub.files import file_hash
from rmn_hub.hub import checkpoint as checkpoints

BUNDLED = Path(BUNDLED_CHECKPOINT)


@pytest.fixture(scope="module")
def loaded():
    return checkpoints.load(BUNDLED)


@pytest.fixture(scope="module")
def engine():
    return OnnxEngine.from_checkpoint(BUNDLED)


@pytest.fixture(scope="module")
def pixel_values(loaded):
    """A thousand made faces."""
    return loaded.processor(faces(1000), return_tensors="np")["pixel_values"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny checkpoint with its ONNX file."""
    folder = save_checkpoint(tmp_path_factory.mktemp("onnx") / "checkpoint")
    loaded = checkpoints.load(folder)
    values = loaded.processor(faces(4), return_tensors="np")["pixel_values"]
    export(loaded.model, folder / "onnx" / "model.onnx", values, weights_hash=file_hash(folder / "model.safetensors"))
    return folder


def test_the_bundled_file_has_the_bundled_weights_and_classes(engine, loaded):
    assert isinstance(engine, Engine)
    assert engine.name == "onnx"
    assert engine.expressions == loaded.expressions
    assert engine.image_size == loaded.model.config.image_size
    assert engine.has_masks


def test_a_thousand_faces_have_the_probabilities_of_torch(engine, loaded, pixel_values):
    with torch.inference_mode():
        model = loaded.model.for_inference()
        expected = torch.cat([model(part).logits for part in torch.from_numpy(pixel_values).split(100)])
    logits = np.concatenate([engine(part).logits for part in np.split(pixel_values, 10)])
    assert len(set(logits.argmax(1))) > 1
    difference = torch.from_numpy(logits).softmax(-1) - expected.softmax(-1)
    assert difference.abs().max() < 1e-4


@pytest.mark.parametrize(("detection", "tolerance"), [("onnx", 1e-4), ("torch", 5e-4)])
def test_example_images_have_the_results_of_torch(bundled, detection, tolerance):
    images = sorted((Path(__file__).parents[2] / "space" / "examples").glob("*.jpg"))
    torch_recognizer = ExpressionRecognizer.from_pretrained(
        device="cpu", engine="torch", detector=MTCNNDetector(runtime=detection)
    )
    assert (bundled.engine.name, torch_recognizer.engine.name) == ("onnx", "torch")
    results = [(bundled(image), torch_recognizer(image)) for image in images]
    assert sum(len(result) for result, _ in results) >= 10
    for result, expected in results:
        assert len(result) == len(expected)
        for face, other in zip(result, expected):
            np.testing.assert_allclose(face.box, other.box, atol=0.5)
            # Boxes of another detector differ by a thousandth of a pixel, and so do the crops.
            assert face.probabilities == pytest.approx(other.probabilities, abs=tolerance)


def test_maps_are_the_reduced_masks(engine, loaded, pixel_values):
    outputs = engine(pixel_values[:3], attention=True)
    with torch.inference_mode():
        expected = loaded.model(torch.from_numpy(pixel_values[:3]), output_masks=True, output_hidden_states=True)
    before, after = expected.hidden_states[::2], expected.hidden_states[1::2]
    assert len(outputs.maps) == len(outputs.before) == len(outputs.after) == len(before) == 4
    for stage in range(4):
        for found, tensor in (
            (outputs.maps[stage], reduce_mask(expected.masks[stage], before[stage])),
            (outputs.before[stage], before[stage].abs().mean(1)),
            (outputs.after[stage], after[stage].abs().mean(1)),
        ):
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, tensor, rtol=1e-3, atol=1e-5)
    assert engine(pixel_values[:3]).maps == ()


def test_a_face_does_not_depend_on_its_batch(engine, pixel_values):
    together = engine(pixel_values[:17]).logits
    alone = np.concatenate([engine(pixel_values[place : place + 1]).logits for place in range(17)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 3, 48, 48), (1, 1, 48, 48), (1, 3, 40, 48), (3, 48, 48)])
def test_other_shapes_are_refused(engine, shape):
    with pytest.raises(InputError, match="pixel_values"):
        engine(np.zeros(shape, np.float32))


def test_other_weights_are_refused(tiny, tmp_path):
    OnnxEngine.from_checkpoint(tiny)
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    shutil.copy(BUNDLED / "model.safetensors", other)
    with pytest.raises(CheckpointError, match="weights"):
        OnnxEngine.from_checkpoint(other)
    # Without weights the ONNX file is the checkpoint.
    (other / "model.safetensors").unlink()
    assert OnnxEngine.from_checkpoint(other).expressions == OnnxEngine.from_checkpoint(tiny).expressions


def test_classes_have_the_names_of_the_configuration(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "renamed")
    model = RMNModel.from_pretrained(folder)
    model.config.id2label = dict(enumerate(["Wut", "Ekel", "Angst", "Freude", "Trauer", "Staunen", "neutral"]))
    model.config.label2id = {name: number for number, name in model.config.id2label.items()}
    model.save_pretrained(folder)
    [face] = faces(1)
    found = {
        engine: ExpressionRecognizer.from_pretrained(folder, engine=engine, device="cpu")(face, faces_only=True)[0]
        for engine in ("onnx", "torch")
    }
    assert found["onnx"].probabilities == pytest.approx(found["torch"].probabilities, abs=1e-4)
    assert list(found["onnx"].probabilities) == list(model.config.id2label.values())
    # Without names, those of the export.
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "id2label": None}))
    assert OnnxEngine.from_checkpoint(folder).expressions == EXPRESSIONS


@pytest.mark.parametrize("id2label", [{"0": "yes", "1": "no"}, {"1": "yes"}, ["yes"], {"one": "yes"}])
def test_classes_of_another_network_are_refused(id2label, tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "other")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "id2label": id2label}))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        OnnxEngine.from_checkpoint(folder)


def test_other_weights_in_several_files_are_refused(tmp_path):
    folder = save_checkpoint(tmp_path / "shards")
    model = RMNModel.from_pretrained(folder)

    def save():
        model.save_pretrained(folder, max_shard_size="20KB")
        (folder / "model.safetensors").unlink(missing_ok=True)
        return (folder / "model.safetensors.index.json").read_bytes()

    index, before = save(), weights_hash(folder)
    values = np.zeros((1, 3, 32, 32), np.float32)
    export(model, folder / "onnx" / "model.onnx", values, weights_hash=before)
    assert OnnxEngine.from_checkpoint(folder).weights_hash == before
    torch.nn.init.ones_(model.classifier.bias)
    assert save() == index
    with pytest.raises(CheckpointError, match="not of the weights"):
        OnnxEngine.from_checkpoint(folder)
    max(folder.glob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        OnnxEngine.from_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"problem_type": "multi_label_classification"}, "problem_type='multi_label_classification'"),
        ({"problem_type": "regression"}, "problem_type='regression'"),
        ({"num_labels": 1}, "two classes"),
    ],
)
def test_networks_whose_probabilities_are_no_softmax_are_refused(changes, part, tiny, tmp_path):
    folder = save_checkpoint(tmp_path / "network", **changes)
    with pytest.raises(InputError, match=part):
        ExpressionRecognizer.from_pretrained(folder, device="cpu")
    model = checkpoints.load_model(folder)
    with pytest.raises(InputError, match=part):
        export(model, tmp_path / "model.onnx", np.zeros((1, 3, 32, 32), np.float32), weights_hash="")
    if "problem_type" in changes:
        # An ONNX file has no problem type.
        copy = shutil.copytree(tiny, tmp_path / "copy")
        shutil.copy(folder / "config.json", copy)
        with pytest.raises(InputError, match=part):
            ExpressionRecognizer.from_pretrained(copy, device="cpu")


def test_files_that_are_not_of_the_export_are_refused(tiny, tmp_path):
    path = tmp_path / "onnx" / "model.onnx"
    with pytest.raises(CheckpointError, match=r"model\.onnx"):
        OnnxEngine.from_checkpoint(tmp_path)
    path.parent.mkdir()
    path.write_bytes(b"not a graph")
    with pytest.raises(CheckpointError, match=r"model\.onnx"):
        OnnxEngine.from_checkpoint(tmp_path)
    model = onnx.load(tiny / "onnx" / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match="metadata"):
        OnnxEngine.from_checkpoint(tmp_path)


@pytest.mark.parametrize("setting", [{"threads": 0}, {"threads": 1.5}, {"providers": ["NoSuchProvider"]}])
def test_settings_out_of_range_are_named(setting, tiny):
    with pytest.raises(InputError, match=next(iter(setting))):
        OnnxEngine.from_checkpoint(tiny, **setting)


def test_threads_change_nothing_but_rounding(tiny, engine, pixel_values):
    one = OnnxEngine.from_checkpoint(BUNDLED, threads=1)(pixel_values[:5]).logits
    np.testing.assert_allclose(one, engine(pixel_values[:5]).logits, atol=1e-5)


def test_a_recognizer_hands_its_threads_to_network_and_detector(collage, bundled, monkeypatch):
    numbers = []

    class Watched(onnxruntime.InferenceSession):
        def __init__(self, path, options, **rest):
            numbers.append(options.intra_op_num_threads)
            super().__init__(path, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Watched)
    recognizer = ExpressionRecognizer.from_pretrained(device="cpu", threads=1)
    result = recognizer(collage)
    assert numbers == [1, 1, 1, 1]  # the network and MTCNN's three
    assert [face.expression for face in result] == [face.expression for face in bundled(collage)]
    # torch's own setting stays, and a detector of the caller has its own.
    threads = torch.get_num_threads()
    ExpressionRecognizer.from_pretrained(device="cpu", engine="torch", threads=1, detector=MTCNNDetector(threads=2))
    assert torch.get_num_threads() == threads


def test_it_is_used_by_many_threads_pickled_and_spawned(engine, pixel_values):
    expected = engine(pixel_values[:2]).logits
    with ThreadPoolExecutor(4) as pool:
        for outputs in pool.map(engine, [pixel_values[:2]] * 16):
            np.testing.assert_array_equal(outputs.logits, expected)
    copy = pickle.loads(pickle.dumps(engine))
    assert copy.expressions == engine.expressions
    np.testing.assert_array_equal(copy(pixel_values[:2]).logits, expected)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        outputs = processes.submit(engine, pixel_values[:2]).result(timeout=120)
    np.testing.assert_array_equal(outputs.logits, expected)


def test_it_works_after_a_fork(engine, pixel_values):
    expected = engine(pixel_values[:2]).logits
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sending.send(engine(pixel_values[:2]).logits))
    child.start()
    try:
        assert receiving.poll(60)
        np.testing.assert_array_equal(receiving.recv(), expected)
    finally:
        child.kill()
        child.join()


def test_it_imports_no_torch(run_python):
    code = f"""
        import sys
        import numpy as np
        from rmn_hub.engines.onnx import OnnxEngine
        engine = OnnxEngine.from_checkpoint({str(BUNDLED)!r})
        engine(np.zeros((1, 3, engine.image_size, engine.image_size), np.float32), attention=True)
        print({{"torch", "torchvision", "transformers"}} & set(sys.modules))
    """
    assert run_python(code) == "set()"
