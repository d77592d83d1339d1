"""A torch module as an ONNX file without traces of where it was made."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..packages import require


def write_graph(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    *,
    free: tuple[dict[int, Any], ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """
    Write a module as one self-contained ONNX file.

    Args:
        module: a module in evaluation mode.
        inputs: example inputs.
        path: the file, which is overwritten.
        free: for each input its axes of free size, as `torch.export.Dim` by number.
        input_names: the names of the inputs.
        output_names: the names of the outputs.
        metadata: names and values that the file carries.

    Raises:
        MissingPackageError: the packages `onnx` and `onnxscript` are not installed.
    """
    # torch.onnx.export needs onnxscript, too, and reports its absence less clearly.
    for package in ("onnx", "onnxscript"):
        require(package, "exports", extra="export")
    import onnx

    program = torch.onnx.export(
        module,
        inputs,
        dynamo=True,
        dynamic_shapes=free,
        input_names=list(input_names),
        output_names=list(output_names),
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    # torch notes the line of code behind every node, with the paths of the machine: half of a small file.
    for item in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]
        item.doc_string = ""
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(metadata or {}))
    onnx.save(model, path)


__all__ = ["write_graph"]
