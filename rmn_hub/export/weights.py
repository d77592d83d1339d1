"""
The weights of an ONNX graph in fewer bytes, for files that many people load. The arithmetic stays in fp32.

The graph unpacks its weights by nodes in front of the layers, which onnxruntime runs once, when it opens the file. A
graph in fp16 would compute in 32 bits as well where there is no GPU, but with two casts around every layer.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..packages import require

if TYPE_CHECKING:
    import onnx

Stored = Literal["fp16", "int8"]
# How far a probability may move when weights are stored so. Measured on the Space's examples: the bundled checkpoint
# moves by 0.0003 and 0.009, one of 6.5 million weights by 0.0007 and 0.012.
TOLERANCE: dict[Stored, float] = {"fp16": 0.02, "int8": 0.03}
# ... and what the form is called in a sentence.
BITS: dict[Stored, str] = {"fp16": "16 bits", "int8": "8 bits"}
# Weights smaller than this stay as they are: they are not worth a node.
_SMALL = 4096
# Bits of fp32 that `rounded` leaves out.
_LEFT_OUT = 8


def stored(graph: Path, form: Stored) -> bytes:
    """
    Return a graph with its large weights in 16 or 8 bits.

    `"int8"` stores whole numbers of -127..127 with one factor for each output channel. Cast and multiplication are what
    DequantizeLinear does, but onnxruntime folds them without an option: with DequantizeLinear it unpacks the weights
    again in every call, and needs 12 ms instead of 8 for two faces.

    Args:
        graph: an ONNX file in fp32.
        form: `"fp16"` or `"int8"`.

    Raises:
        MissingPackageError: the package `onnx` is not installed.
    """
    onnx = _onnx()
    model = onnx.load(graph)
    nodes = []
    for weight in _large(model):
        values, name = onnx.numpy_helper.to_array(weight), weight.name
        if form == "fp16":
            weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.16"))
            nodes.append(onnx.helper.make_node("Cast", [weight.name], [name], to=onnx.TensorProto.FLOAT))
            continue
        factors = np.abs(values).max(tuple(range(1, values.ndim)), keepdims=True) / 127
        factors[factors == 0] = 1
        weight.CopyFrom(onnx.numpy_helper.from_array(np.rint(values / factors).astype(np.int8), f"{name}.8"))
        model.graph.initializer.append(onnx.numpy_helper.from_array(factors.astype(np.float32), f"{name}.factors"))
        nodes += [
            onnx.helper.make_node("Cast", [weight.name], [f"{name}.whole"], to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("Mul", [f"{name}.whole", f"{name}.factors"], [name]),
        ]
    nodes += model.graph.node
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def rounded(graph: Path) -> bytes:
    """
    Return a graph whose weights have lost their last 8 of 32 bits, so that it can be compressed.

    MTCNN takes 1.51 MB instead of 1.86, and its boxes move by 0.005 pixels. In 16 bits they would move by up to half a
    pixel, and a probability with them by up to 0.04.

    Raises:
        MissingPackageError: the package `onnx` is not installed.
    """
    onnx = _onnx()
    model = onnx.load(graph)
    for weight in _large(model, 0):
        bits = onnx.numpy_helper.to_array(weight).astype(np.float32).view(np.uint32)
        # Half of what is left out is added first. Only the largest number of fp32 would overflow.
        bits = (bits + np.uint32(1 << (_LEFT_OUT - 1))) >> _LEFT_OUT << _LEFT_OUT
        weight.CopyFrom(onnx.numpy_helper.from_array(bits.view(np.float32), weight.name))
    return bytes(model.SerializeToString())


def _large(model: "onnx.ModelProto", least: int = _SMALL) -> list["onnx.TensorProto"]:
    """Return the weights in fp32 that have more than one axis and at least so many values."""
    return [
        weight
        for weight in model.graph.initializer
        if weight.data_type == weight.FLOAT and len(weight.dims) > 1 and np.prod(weight.dims) >= least
    ]


def _onnx() -> Any:
    require("onnx", "pages in the browser", extra="export")
    import onnx

    return onnx


__all__ = ["BITS", "TOLERANCE", "Stored", "rounded", "stored"]
