"""From an ONNX graph to a module of PyTorch: a layer of `torch.nn` for each node that is one, a function for each other node."""

import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from sordino_hw.spec.errors import InputError
from sordino_hw.spec.text import printable

from .functions import FUNCTIONS
from .layers import LAYERS, Unsupported
from .reader import MAX_VALUES, OnnxFile, OnnxNode, Value, names, read

__all__ = ["OnnxModel", "load_onnx"]

REMEDIES = {
    "QuantizeLinear": "Export the float network: sordino.quantize quantises it for the array.",
    "DequantizeLinear": "Export the float network: sordino.quantize quantises it for the array.",
    "QLinearConv": "Export the float network: sordino.quantize quantises it for the array.",
    "QLinearMatMul": "Export the float network: sordino.quantize quantises it for the array.",
    "LSTM": "The array has no recurrent layers: use convolutions over time.",
    "GRU": "The array has no recurrent layers: use convolutions over time.",
    "NonMaxSuppression": "Export the network up to the boxes, and suppress them on the host.",
    "TopK": "Export the network up to the scores, and choose on the host.",
}
"""What to do about operators that are not supported; others: see `load_onnx`."""


READS_VALUES = ("Resize", "Upsample", "Pad", "Tile", "Reshape", "Slice", "Expand", "Split")
"""Functions whose constants say what they do: they need values, not only shapes."""


class OnnxModel(GraphModule):
    """A network from an ONNX file. Its children are named after the file's nodes; it trains and is sparsified like any module."""

    example: tuple[Tensor, ...]
    """Zeros, one tensor for each input, with a batch of 1; empty where the file leaves a dimension free."""


class Step(nn.Module):
    """A node without weights of its own: a function of what comes in and of constants."""

    def __init__(self, node: OnnxNode, function: Callable[..., Any], constants: list[Value | None]):
        super().__init__()
        self.node, self.function = node, function
        if node.kind in READS_VALUES:  # values of a buffer are not known while a graph is traced
            constants = [c.numpy() if i and isinstance(c, Tensor) and not c.is_meta else c for i, c in enumerate(constants)]
        self.fixed: list[np.ndarray | None] = [c if isinstance(c, np.ndarray) else None for c in constants]
        self.places = [i for i, name in enumerate(node.inputs) if name and constants[i] is None]
        self.tensors = [i for i, c in enumerate(constants) if isinstance(c, Tensor)]
        for i in self.tensors:
            self.register_buffer(f"constant_{i}", constants[i])  # type: ignore[arg-type]

    def forward(self, *inputs: Any) -> Any:
        values: list[Any] = list(self.fixed)
        for i in self.tensors:
            values[i] = getattr(self, f"constant_{i}")
        for i, x in zip(self.places, inputs, strict=True):
            values[i] = x
        return self.function(self.node, *values)

    def extra_repr(self) -> str:
        return self.node.kind


def load_onnx(path: str | os.PathLike) -> OnnxModel:
    """The network of an ONNX file, as a module of PyTorch in evaluation mode: give it to `sparsify`, `check`, `quantize`, `compare`.

    Operator sets 7 to 26 are read, with the operators of the page on ONNX; weights may lie in files beside this one. Needs the package
    onnx (`pip install 'sordino[onnx]'`). Nothing in the file is executed.

    Raises `InputError` for a file that is damaged, beyond the limits (2 GiB, 100,000 nodes, 2^28 values a tensor) or unsupported,
    naming all operators at fault with their nodes, and `ToolError` without the package.
    """
    file = read(path)
    _supported(file)
    builder = _Builder(file)
    for node, name in names(file):
        try:
            builder.add(node, name)
        except Unsupported as reason:
            raise InputError(f"{file.path}: {node}: {reason}.") from None
        except Exception as error:  # attributes and constants of any kind meet PyTorch
            raise InputError(
                f"{file.path}: {node} cannot be read: {_first_line(error)}. Is the file damaged? Export it again."
            ) from None
    return builder.module()


def _supported(file: OnnxFile) -> None:
    """Raises one `InputError` that names every operator that is not supported, and attributes that are not known."""
    bad: dict[str, list[str]] = {}
    for node in file.nodes:
        if node.kind not in LAYERS and node.kind not in FUNCTIONS:
            bad.setdefault(node.kind, []).append(node.name)
        known = {a for table in (LAYERS, FUNCTIONS) if node.kind in table for a in table[node.kind][1]}
        if odd := node.attributes.keys() - known if known or node.kind not in bad else ():
            raise InputError(
                f"{file.path}: {node} has the attribute {printable(sorted(odd)[0])!r}, which is not known in operator sets up to 26. "
                "Export it with opset_version=17."
            )
    if not bad:
        return
    listed = "; ".join(
        f"{printable(kind)} ({', '.join(map(printable, nodes[:3]))}{', ...' * (len(nodes) > 3)})" for kind, nodes in bad.items()
    )
    cut = "Write the network without them, or cut it before them: onnx.utils.extract_model(path, new_path, inputs, outputs)."
    remedy = next((REMEDIES[kind] for kind in bad if kind in REMEDIES), cut)
    raise InputError(f"{file.path}: operators that are not supported: {listed}. {remedy}")


def _first_line(error: Exception) -> str:
    lines = (line.strip().rstrip(".") for line in str(error).splitlines() if line.strip())
    return printable(next(lines, type(error).__name__))


class _Builder:
    """The modules and the graph that calls them, node by node. What depends on no input is computed on the way."""

    def __init__(self, file: OnnxFile):
        self.file, self.root, self.graph = file, nn.Module(), Graph()
        self.constants: dict[str, Value] = dict(file.constants)
        self.values: dict[str, Node] = {}
        taken: set[str] = set()
        for name in file.inputs:
            base = "".join(c if c.isascii() and c.isalnum() else "_" for c in name).strip("_") or "input"
            base = base if not base[0].isdigit() else f"input_{base}"
            base = base if base not in taken else f"{base}_{len(taken)}"
            taken.add(base)
            self.values[name] = self.graph.placeholder(base)

    def add(self, node: OnnxNode, name: str) -> None:
        constants = [self.constants.get(i) for i in node.inputs]
        running = [self.values[i] for i in node.inputs if i in self.values]
        if not running:
            self._fold(node, constants)
            return
        layer = None
        if node.kind in LAYERS and len(running) == 1 and node.inputs[0] in self.values:
            layer = LAYERS[node.kind][0](node, constants)
        if layer is None:
            if node.kind not in FUNCTIONS:
                raise Unsupported("its weights are computed from an input; give them as float constants")
            layer = Step(node, FUNCTIONS[node.kind][0], constants)
        self.root.add_module(name, layer)
        made = self.graph.call_module(name, tuple(running))
        self._name_outputs(node, made)

    def _name_outputs(self, node: OnnxNode, made: Node) -> None:
        outputs = [o for o in node.outputs if o]
        if len(node.outputs) == 1 or node.kind != "Split":
            self.values[outputs[0]] = made
            return
        for i, output in enumerate(node.outputs):
            if output:
                self.values[output] = self.graph.call_function(_item, (made, i))

    def _fold(self, node: OnnxNode, constants: list[Value | None]) -> None:
        """Computes a node of constants, after its size was found to be within bounds."""
        kinds = FUNCTIONS if node.kind in FUNCTIONS else {}
        if node.kind not in kinds:
            raise Unsupported(
                "it computes with constants only, which is not supported for this operator. Fold constants when exporting"
            )
        step = Step(node, kinds[node.kind][0], constants)
        with torch.no_grad():
            if step.tensors:
                values = node.kind in READS_VALUES
                shapes = [c.to("meta") if isinstance(c, Tensor) and not (values and i) else c for i, c in enumerate(constants)]
                sizes = Step(node, kinds[node.kind][0], shapes)
                probe = sizes()
                for value in probe if isinstance(probe, tuple | list) else (probe,):
                    if isinstance(value, Tensor) and value.numel() > MAX_VALUES:
                        raise Unsupported(f"it makes a tensor of the dimensions {list(value.shape)}; at most {MAX_VALUES:,} values")
            made = step()
        for output, value in zip(node.outputs, made if isinstance(made, tuple | list) else (made,), strict=False):
            self.constants[output] = value

    def module(self) -> OnnxModel:
        outputs = []
        for name in self.file.outputs:
            if name not in self.values:
                raise InputError(
                    f"{self.file.path}: the output {printable(name)!r} does not depend on an input. Leave it out of the network."
                )
            outputs.append(self.values[name])
        self.graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        found = OnnxModel(self.root, self.graph, "OnnxModel")
        found.graph.eliminate_dead_code()
        found.graph.lint()
        found.delete_all_unused_submodules()
        found.recompile()
        found.example = self._example()
        if found.example:
            self._check_sizes(found)
        return found.eval()

    def _example(self) -> tuple[Tensor, ...]:
        shapes = [(dims[0] or 1, *dims[1:]) if dims else () for dims in self.file.inputs.values()]
        if any(None in s or not s for s in shapes):
            return ()
        if any(np.prod([float(d or 1) for d in s]) > MAX_VALUES for s in shapes):
            raise InputError(
                f"{self.file.path}: an input of the dimensions {shapes}; at most {MAX_VALUES:,} values. Is the file damaged?"
            )
        return tuple(torch.zeros(()).expand(tuple(int(d or 1) for d in s)) for s in shapes)

    def _check_sizes(self, module: OnnxModel) -> None:
        """Runs the shapes through the network, without values, so that a fault names its node."""
        run = _Shapes(module, self.file)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run.run(*(t.to("meta") for t in module.example))


class _Shapes(torch.fx.Interpreter):
    """Runs a network on the device meta. Raises `InputError`, naming the node, where shapes do not fit or are too large."""

    def __init__(self, module: OnnxModel, file: OnnxFile):
        super().__init__(module)
        self.file, self.extra_traceback = file, False

    def call_module(self, target: Any, args: tuple, kwargs: dict) -> Any:
        layer = self.fetch_attr(str(target))
        own = (*layer.named_parameters(), *layer.named_buffers())
        tensors = {n: torch.empty_like(t, device="meta") for n, t in own}
        try:
            made = torch.func.functional_call(layer, tensors, args, kwargs)
        except Unsupported as reason:
            raise InputError(f"{self.file.path}: node {target!r}: {reason}.") from None
        except Exception as error:  # whatever PyTorch says of shapes that do not fit
            given = ", ".join(str(tuple(a.shape)) for a in args if isinstance(a, Tensor))
            raise InputError(
                f"{self.file.path}: node {target!r} ({layer}) does not take {given}: {_first_line(error)}. Export it again."
            ) from None
        for value in made if isinstance(made, tuple | list) else (made,):
            if isinstance(value, Tensor) and value.numel() > MAX_VALUES:
                raise InputError(
                    f"{self.file.path}: node {target!r} makes a tensor of the dimensions {list(value.shape)}; at most {MAX_VALUES:,} values."
                )
        return made


def _item(values: Any, index: int) -> Any:
    return values[index]
