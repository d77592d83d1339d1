"""A network as an ONNX file: logits and attention maps in one graph."""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..attention import reduce_mask
from ..engines.engine import check_softmax, softmax
from ..errors import CheckpointError, InputError
from ..files import replacing
from ..model.modeling_rmn import RMNModel
from ..packages import VERSION
from ..sessions import OnnxSession
from .graph import write_graph

Form = Literal["fp32", "fp16", "int8"]
# The file of each form in a checkpoint's folder `onnx`, as on the Hub.
FILES: dict[Form, str] = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_int8.onnx"}
# How far probabilities may lie from torch's. Of int8 the accuracy is looked at.
_TOLERANCE: dict[Form, float] = {"fp32": 1e-4, "fp16": 2e-2, "int8": 1.0}
# How much accuracy a form may lose without `allow_loss`: one point.
_MOST_LOSS = 0.01
# Faces that int8 takes its ranges from.
_CALIBRATION = 256
# Fewer say nothing of a loss of one point, and little of ranges.
_LEAST_FACES = 32
_BATCH = 64


@dataclass(frozen=True)
class ExportReport:
    """
    What an export wrote.

    Args:
        path: the file.
        megabytes: its size.
        difference: the largest difference of a probability from torch's on the faces.
        agreement: the share of faces with torch's expression, in 0..1.
        accuracy: of the file on the labelled faces that it was not calibrated on, in 0..1, or `None` without labels.
        torch_accuracy: the network's in torch on the same faces.
    """

    path: Path
    megabytes: float
    difference: float
    agreement: float
    accuracy: float | None = None
    torch_accuracy: float | None = None


class _WithMaps(nn.Module):
    """A network whose outputs are those of [`EngineOutput`], one after the other."""

    def __init__(self, model: RMNModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model.for_inference().to(dtype)
        self.dtype = dtype
        self.has_masks = len(model.masking_blocks) > 0

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        hidden_state, masks, states = self.model.run_stages(pixel_values.to(self.dtype), self.has_masks, self.has_masks)
        features = self.model.pooler(hidden_state).flatten(1)
        logits = self.model.classifier(features).float()
        if not self.has_masks:
            return logits, features.float()
        before, after = states[::2], states[1::2]
        maps = (reduce_mask(mask, stage) for mask, stage in zip(masks, before))
        return (logits, *maps, *(stage.float().abs().mean(1) for stage in (*before, *after)), features.float())


def output_names(stages: int) -> list[str]:
    """
    Return the names of the graph's outputs: `logits`, then `map1`, ..., `before1`, ..., `after1`, ..., then `features`.
    """
    maps = (f"{kind}{stage}" for kind in ("map", "before", "after") for stage in range(1, stages + 1))
    return ["logits", *maps, "features"]


def export(
    model: RMNModel,
    path: str | Path,
    pixel_values: np.ndarray,
    *,
    weights_hash: str,
    labels: np.ndarray | None = None,
    form: Form = "fp32",
    allow_loss: bool = False,
) -> ExportReport:
    """
    Write a network as one self-contained ONNX file, after comparing the file with torch on real faces.

    The input is `pixel_values`, float32 `(N, 3, image_size, image_size)` in 0..1 with free N. The outputs are those of
    [`EngineOutput`], named as [`output_names`] gives them; a network without masks has `logits` and `features` alone.
    BatchNorm is folded into the convolutions. The metadata hold what [`OnnxEngine`] reads.

    Args:
        model: the network, in float32 on the CPU.
        path: the file.
        pixel_values: faces as the image processor makes them: at least one, for int8 at least 32. int8 takes its
            ranges from the first half of them, 256 at most.
        weights_hash: SHA-256 of the checkpoint's weights, which the file is tied to.
        labels: the class of each face `(N,)`, to report accuracies.
        form: `"fp32"`; `"fp16"`, half as large and for GPUs; or `"int8"`, a quarter as large and for CPUs.
        allow_loss: whether to write a file that is more than one point less accurate than torch.

    Raises:
        InputError: the faces do not fit, a package is missing, the form loses more than one point, or the network does
            not predict one of several classes.
        CheckpointError: the file's outputs differ from torch's.
    """
    path = Path(path)
    # The file is compared by its probabilities.
    check_softmax(model.config.num_labels, model.config.problem_type)
    size = model.config.image_size
    if pixel_values.ndim != 4 or pixel_values.shape[1:] != (3, size, size) or len(pixel_values) < 1:
        raise InputError(
            f"pixel_values of shape {pixel_values.shape} must be (N, 3, {size}, {size}) with N of at least 1"
        )
    if form == "int8" and len(pixel_values) < _LEAST_FACES:
        raise InputError(
            f"int8 must be calibrated and measured on at least {_LEAST_FACES} faces: there are {len(pixel_values)}"
        )
    if labels is not None and len(labels) != len(pixel_values):
        raise InputError(f"labels must be one for each of the {len(pixel_values)} faces: there are {len(labels)}")
    if form == "int8" and labels is None and not allow_loss:
        raise InputError("form='int8' needs labels: without them its loss of accuracy is unknown. Give labelled faces.")
    pixel_values = np.ascontiguousarray(pixel_values, np.float32)
    calibration, rest = pixel_values[:0], slice(None)
    if form == "int8":
        count = min(_CALIBRATION, len(pixel_values) // 2)
        calibration, rest = pixel_values[:count], slice(count, None)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        _write(model, beside, form, calibration, weights_hash)
        report = _compare(
            model, path, OnnxSession(beside), form, pixel_values[rest], None if labels is None else labels[rest]
        )
        megabytes = beside.stat().st_size / 1e6
        if report["difference"] > _TOLERANCE[form]:
            raise CheckpointError(
                f"{path} cannot be written: its probabilities differ by {report['difference']:.2g} from torch's. "
                "Try another version of torch or onnxruntime."
            )
        if report["accuracy"] is not None and not allow_loss:
            loss = report["torch_accuracy"] - report["accuracy"]
            if loss > _MOST_LOSS:
                raise InputError(
                    f"{path} cannot be written: {form} loses {100 * loss:.1f} points of accuracy "
                    f"({100 * report['torch_accuracy']:.1f}% to {100 * report['accuracy']:.1f}%). Allow the loss."
                )
    return ExportReport(path, megabytes, **report)


def _write(model: RMNModel, path: Path, form: Form, calibration: np.ndarray, weights_hash: str) -> None:
    config = model.config
    module = _WithMaps(model, torch.float16 if form == "fp16" else torch.float32).eval()
    metadata = {
        "classes": json.dumps([config.id2label[index] for index in range(config.num_labels)]),
        "image_size": str(config.image_size),
        "has_masks": json.dumps(module.has_masks),
        "stages": str(len(config.depths)),
        "form": form,
        "rmn_hub_version": VERSION,
        "weights_sha256": weights_hash,
    }
    write_graph(
        module,
        (torch.rand(2, 3, config.image_size, config.image_size, generator=torch.Generator().manual_seed(0)),),
        path,
        free=({0: torch.export.Dim("batch")},),
        input_names=["pixel_values"],
        output_names=output_names(len(config.depths) if module.has_masks else 0),
        metadata=metadata,
    )
    if form == "int8":
        _quantize(path, calibration)


def _quantize(path: Path, calibration: np.ndarray) -> None:
    """Replace an fp32 file by its int8 form: convolutions with 8-bit weights per channel and 8-bit features."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(np.array_split(calibration, max(1, len(calibration) // _BATCH)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"pixel_values": batch}

    with TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=["Conv", "MaxPool", "Add", "Concat"],
            calibrate_method=CalibrationMethod.MinMax,
        )


def _compare(
    model: RMNModel, path: Path, session: OnnxSession, form: Form, pixel_values: np.ndarray, labels: np.ndarray | None
) -> dict[str, Any]:
    """
    Return the fields of a report from the outputs of a file and of torch.

    Raises:
        CheckpointError: an attention map or the features differ.
    """
    expected_module = _WithMaps(model, torch.float32).eval()
    expected, found = [], []
    for start in range(0, len(pixel_values), _BATCH):
        batch = pixel_values[start : start + _BATCH]
        with torch.inference_mode():
            logits, *rest = (output.numpy() for output in expected_module(torch.from_numpy(batch)))
        outputs = session.run({"pixel_values": batch})
        for output, tensor in zip(outputs[1:], rest):
            if form == "fp32" and not np.allclose(output, tensor, rtol=1e-3, atol=1e-4 * tensor.max()):
                raise CheckpointError(
                    f"{path} cannot be written: its maps or features differ from torch's. Try another version of torch."
                )
        expected.append(softmax(logits))
        found.append(softmax(outputs[0]))
    theirs, ours = np.concatenate(expected), np.concatenate(found)

    def accuracy(probabilities: np.ndarray) -> float | None:
        return None if labels is None else float((probabilities.argmax(1) == labels).mean())

    return {
        "difference": float(np.abs(ours - theirs).max()),
        "agreement": float((ours.argmax(1) == theirs.argmax(1)).mean()),
        "accuracy": accuracy(ours),
        "torch_accuracy": accuracy(theirs),
    }


__all__ = ["FILES", "ExportReport", "Form", "export", "output_names"]
