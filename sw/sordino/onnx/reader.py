"""The file: parsed, bounded, and read without executing anything. A fault of the file is an `InputError` that names it."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sordino_hw.spec.errors import InputError, ToolError
from sordino_hw.spec.text import printable

__all__ = ["OnnxFile", "OnnxNode", "Value", "read"]

Value = Tensor | np.ndarray
"""What nodes read and make: tensors; and small integers (sizes, axes) as arrays, whose items may be symbolic."""

OPSETS = range(7, 27)
MAX_BYTES = 1 << 31
MAX_NODES = 100_000
MAX_VALUES = 1 << 28
"""Values of one tensor."""
SMALL = 1024
"""Integers up to so many are kept as an array: they are sizes and axes."""


@dataclass
class OnnxNode:
    """One node of the graph, its attributes as plain values."""

    name: str
    kind: str
    inputs: list[str]
    """Names; empty for an input that is left out."""
    outputs: list[str]
    attributes: dict[str, Any]
    opset: int

    def __str__(self) -> str:
        return f"{self.kind} {printable(self.name)!r}"

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)


@dataclass
class OnnxFile:
    """The graph of a file: its inputs with their dimensions (None where free), its constants and nodes."""

    path: Path
    inputs: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    constants: dict[str, Value] = field(default_factory=dict)
    nodes: list[OnnxNode] = field(default_factory=list)


def read(path: str | os.PathLike) -> OnnxFile:
    """Reads an ONNX file. Raises `InputError` for one that is damaged, beyond the limits, or not supported, and `ToolError` without `onnx`."""
    try:
        import onnx
    except ImportError:
        raise ToolError(
            "ONNX files need the package onnx, which is not installed. Install it: pip install 'sordino[onnx]'."
        ) from None
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(
                f"{path}: {size:,} bytes; at most {MAX_BYTES:,} are read. Save the weights as external data, beside the file."
            )
        data = path.read_bytes()
        model = onnx.ModelProto()
        model.ParseFromString(data)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except InputError:
        raise
    except Exception as error:  # OSError, and what protobuf raises
        raise InputError(
            f"{path}: not a readable ONNX file ({printable(str(error))}). Export it again, with torch.onnx.export for instance."
        ) from None
    opset = _opset(path, model)
    found = OnnxFile(path)
    _graph(found, model.graph, opset)
    return found


def _opset(path: Path, model: Any) -> int:
    versions = {o.domain or "ai.onnx": o.version for o in model.opset_import}
    if not model.graph.node or "ai.onnx" not in versions:
        raise InputError(
            f"{path}: no network is in it (no nodes, or no operator set). Export it again, with torch.onnx.export for instance."
        )
    opset = versions["ai.onnx"]
    if opset not in OPSETS:
        raise InputError(
            f"{path}: operator set {opset}; {OPSETS.start} to {OPSETS.stop - 1} are read. Convert it with "
            "onnx.version_converter.convert_version(model, 17), or export it with opset_version=17."
        )
    return opset


def _graph(found: OnnxFile, graph: Any, opset: int) -> None:
    path = found.path
    if len(graph.node) > MAX_NODES:
        raise InputError(
            f"{path}: {len(graph.node):,} nodes; at most {MAX_NODES:,} are read. Export the network without unrolled loops."
        )
    if graph.sparse_initializer:
        raise InputError(f"{path}: its weights are sparse tensors. Save them dense: zeros are found when the network is compiled.")
    for tensor in graph.initializer:
        found.constants[tensor.name] = as_value(path, tensor)
    for value in graph.input:
        if value.name not in found.constants:
            found.inputs[value.name] = _dimensions(value)
    found.outputs = [value.name for value in graph.output]
    if not found.inputs or not found.outputs:
        raise InputError(
            f"{path}: it has {len(found.inputs)} inputs and {len(found.outputs)} outputs; at least one of each is needed."
        )
    made = {*found.inputs, *found.constants}
    for i, proto in enumerate(graph.node):
        node = _node(path, proto, i, opset)
        for name in node.inputs:
            if name and name not in made:
                raise InputError(
                    f"{path}: {node} reads {printable(name)!r}, which nothing before it makes. The file is damaged, or its nodes are out of order: "
                    "export it again."
                )
        for name in filter(None, node.outputs):
            if name in made:
                raise InputError(
                    f"{path}: {node} makes {printable(name)!r}, which there is already. The file is damaged: export it again."
                )
            made.add(name)
        found.nodes.append(node)
    if missing := [name for name in found.outputs if name not in made]:
        raise InputError(f"{path}: no node makes the output {printable(missing[0])!r}. The file is damaged: export it again.")


def _node(path: Path, proto: Any, index: int, opset: int) -> OnnxNode:
    name = proto.name or f"{proto.op_type}_{index}"
    node = OnnxNode(name, proto.op_type, list(proto.input), list(proto.output), {}, opset)
    if proto.domain not in ("", "ai.onnx"):
        raise InputError(
            f"{path}: {node} is of the operators {printable(proto.domain)!r}, which are not supported. Export the network before it is "
            "optimised for one runtime, or quantised, in the standard operators of ONNX."
        )
    for attribute in proto.attribute:
        node.attributes[attribute.name] = _attribute(path, node, attribute)
    return node


def _attribute(path: Path, node: OnnxNode, a: Any) -> Any:
    kinds = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints", 8: "strings"}
    kind = kinds.get(a.type)
    if kind is None:
        what = "a graph of its own (control flow)" if a.type in (5, 10) else f"an attribute {printable(a.name)!r} of type {a.type}"
        raise InputError(
            f"{path}: {node} has {what}, which is not supported. Export the network with fixed control flow, for one input shape."
        )
    value = getattr(a, kind)
    if kind == "t":
        return as_value(path, value)
    if kind == "s":
        return value.decode(errors="replace")
    return list(value) if kind in ("floats", "ints", "strings") else value


def _dimensions(value: Any) -> tuple[int | None, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.WhichOneof("value") == "dim_value" and d.dim_value > 0 else None for d in dims)


def as_value(path: Path, tensor: Any) -> Value:
    """A tensor of the file: float32, or integers; few integers as an array. Raises `InputError` for bad sizes and other types."""
    import onnx
    from onnx import TensorProto as T
    from onnx import numpy_helper

    name = printable(tensor.name) or "a constant"
    plain = (
        T.FLOAT,
        T.DOUBLE,
        T.FLOAT16,
        T.BFLOAT16,
        T.INT8,
        T.UINT8,
        T.INT16,
        T.UINT16,
        T.INT32,
        T.INT64,
        T.UINT32,
        T.UINT64,
        T.BOOL,
    )
    if tensor.data_type not in plain:
        known = tensor.data_type in T.DataType.values()
        kind = T.DataType.Name(tensor.data_type) if known else str(tensor.data_type)
        raise InputError(f"{path}: tensor {name!r} has the type {kind}, which is not supported. Export the network in float32.")
    count = math.prod(tensor.dims)
    if count > MAX_VALUES or any(d < 0 for d in tensor.dims):
        raise InputError(
            f"{path}: tensor {name!r} has the dimensions {list(tensor.dims)}; at most {MAX_VALUES:,} values are read. Is the file damaged?"
        )
    if tensor.data_location == T.EXTERNAL:
        external = _external(path, tensor, name)
        tensor = onnx.TensorProto(dims=tensor.dims, data_type=tensor.data_type, raw_data=external)
    width = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    if tensor.HasField("raw_data") and len(tensor.raw_data) != count * width:
        raise InputError(
            f"{path}: tensor {name!r} has {len(tensor.raw_data):,} bytes; its dimensions {list(tensor.dims)} need {count * width:,}. "
            "The file is damaged: export it again."
        )
    try:
        array = numpy_helper.to_array(tensor)
    except Exception as error:  # ValueError and TypeError for fields of another length or type
        raise InputError(
            f"{path}: tensor {name!r} cannot be read ({printable(str(error))}). The file is damaged: export it again."
        ) from None
    if array.dtype.kind in "iu" and array.size <= SMALL:
        return array.astype(np.int64)
    if array.dtype.kind in "iub":
        return torch.from_numpy(array.astype(np.bool_ if array.dtype.kind == "b" else np.int64))
    return torch.from_numpy(array.astype(np.float32))


def _external(path: Path, tensor: Any, name: str) -> bytes:
    """The bytes of a tensor in a file beside this one. Nothing outside the folder is read."""
    entries = {e.key: e.value for e in tensor.external_data}
    folder = path.parent.resolve()
    location = entries.get("location", "")
    file = (folder / location).resolve()
    if not location or not file.is_relative_to(folder) or not file.is_file():
        raise InputError(
            f"{path}: the data of tensor {name!r} should be in {printable(location)!r}; it must be a file in the folder of the model. "
            "Put the file of weights that was exported with the model beside it."
        )
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
        size = file.stat().st_size
        length = size - offset if length < 0 else length
        if offset < 0 or offset + length > size or length > MAX_BYTES:
            raise ValueError(f"bytes {offset} to {offset + length} of {size}")
        with file.open("rb") as f:
            f.seek(offset)
            return f.read(length)
    except (ValueError, OSError) as error:
        raise InputError(
            f"{path}: the data of tensor {name!r} cannot be read from {file.name} ({error}). Export the model again."
        ) from None


def names(found: OnnxFile) -> Iterator[tuple[OnnxNode, str]]:
    """The nodes, and for each a name that a module may have: of letters, digits and `_`, and its own."""
    taken: set[str] = set()
    for node in found.nodes:
        base = "".join(c if c.isascii() and c.isalnum() else "_" for c in node.name.strip("/")).strip("_") or node.kind.lower()
        base = base if not base[0].isdigit() else f"{node.kind.lower()}_{base}"
        unique, k = base, 1
        while unique in taken:
            unique, k = f"{base}_{k}", k + 1
        taken.add(unique)
        yield node, unique
