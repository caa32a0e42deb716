"""`QuantizedModel`: PyTorch's quantised module and the integer graph that equals it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from sordino_compiler.edge_steps import Edges, edges
from sordino_compiler.edges import Cut
from sordino_compiler.graph import Graph, Value
from sordino_compiler.ops.layer import Layer
from sordino_compiler.ops.lowering import Scale
from sordino_compiler.quantised import lower_quantised
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import InputError
from sordino_hw.spec.numbers import quantise

from ..runtime.edges import restored, returned

__all__ = ["QuantizedModel"]


@dataclass
class QuantizedModel:
    """A quantised network, in both its forms.

    Calling it runs PyTorch's form on float tensors (N, C, H, W): fake-quantised, so that its values are multiples of
    the scales. `graph` is the integer form, which is compiled.
    """

    module: GraphModule
    """What `convert_pt2e` returned."""
    arch: ArchConfig
    example: tuple[Tensor, ...]
    name: str = "model"
    cut: Cut | None = field(default=None, repr=False)
    """Where the array's part of the model begins and ends; None where it is the whole model."""
    graph: Graph = field(init=False)
    layers: dict[str, Layer] = field(init=False, repr=False)
    """The planned layer behind each value of `graph`."""
    edges: Edges | None = field(init=False, repr=False, default=None)
    """What the host computes before and after the array; None where the array runs the whole model."""

    def __post_init__(self):
        lowered, self._origin = lower_quantised(self.module, self.arch)
        self.graph, self.layers = lowered.graph, lowered.layers
        if self.cut is not None and not self.cut.whole:
            self._exits = list(self.graph.outputs)
            self.edges = edges(self.cut, [v.name for v in self.graph.inputs], self._exits)
            self.graph.outputs = self.edges.outputs

    def __repr__(self) -> str:
        weights = sum(row["weights"] for row in self.report())
        shapes = ", ".join(f"(N, {', '.join(map(str, t.shape[1:]))})" for t in self.example)
        return f"QuantizedModel({self.name!r}, {len(self.graph.nodes)} layers, {weights:,} weights, input {shapes}, arch={self.arch.name!r})"

    # -- inputs and outputs ----------------------------------------------------------------------------------------

    @property
    def inputs(self) -> list[Value]:
        return self.graph.inputs

    @property
    def outputs(self) -> list[Value]:
        values = self.graph.values
        return [values[name] for name in self.graph.outputs]

    def check_inputs(self, inputs: Sequence[Tensor | np.ndarray]) -> tuple[Tensor, ...]:
        """Float tensors of the example's shapes, any batch. Raises `InputError` otherwise, and for NaN or infinity."""
        return check_batch(inputs, self.example, "input")

    @torch.no_grad()
    def __call__(self, *inputs: Tensor | np.ndarray):
        """PyTorch's quantised model: float in, float out, in the structure that the model returns."""
        tensors = self.check_inputs(inputs)
        if self.edges is None:
            return self._array(tensors)
        return restored(self.edges.host, self.returned(*tensors), tensors[0])

    @torch.no_grad()
    def returned(self, *inputs: Tensor | np.ndarray) -> dict[str, np.ndarray]:
        """Every value that is returned, by name, as the host's steps make it of PyTorch's quantised activations."""
        tensors = self.check_inputs(inputs)
        if self.edges is None:
            return {}
        found = self._array(self._entering(tensors))
        outputs = found if isinstance(found, list | tuple) else (found,)
        named = {name: y.numpy() for name, y in reversed(list(zip(self._exits, outputs, strict=True)))}
        host = self.edges.host
        values = host.enter({a.name: t.numpy() for a, t in zip(host.inputs, tensors, strict=True)})
        return returned(host, values, named)

    def _array(self, tensors: Sequence[Tensor]) -> Any:
        """The array's part, on its own inputs."""
        if self.module.meta.get("batch") is None:
            return self.module(*tensors)
        single = [self.module(*(t[i : i + 1] for t in tensors)) for i in range(len(tensors[0]))]
        if isinstance(single[0], Tensor):
            return torch.cat(single)
        return type(single[0])(torch.cat(parts) for parts in zip(*single, strict=True))

    def _entering(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The array's inputs, of those of the model."""
        if self.edges is None:
            return tuple(tensors)
        host = self.edges.host
        values = host.enter({a.name: t.numpy() for a, t in zip(host.inputs, tensors, strict=True)})
        return tuple(torch.from_numpy(np.array(values[v.name], np.float32)) for v in self.inputs)

    def quantise_inputs(self, *inputs: Tensor | np.ndarray) -> dict[str, np.ndarray]:
        """Integers [batch, c, h, w] (int64) by input name, rounded as PyTorch's quantise node rounds."""
        tensors = self._entering(self.check_inputs(inputs))
        return {v.name: self._integers(t, v) for v, t in zip(self.inputs, tensors, strict=True)}

    def _integers(self, x: Tensor, value: Value) -> np.ndarray:
        lo, hi = value.range(self.arch)
        return quantise(x.numpy(), value.scale, lo, hi).reshape(len(x), *value.shape)

    # -- PyTorch's values, for comparison --------------------------------------------------------------------------

    @torch.no_grad()
    def torch_values(self, *inputs: Tensor | np.ndarray) -> dict[str, np.ndarray]:
        """PyTorch's activations as integers: int64 [batch, c, h, w] for every value of `graph`."""
        seen = self._interpret(inputs, {self._node(layer.out) for layer in self.layers.values()})
        values = self.graph.values
        return {name: self._integers(seen[self._node(layer.out)], values[name]) for name, layer in self.layers.items()}

    @torch.no_grad()
    def torch_accumulated(self, *inputs: Tensor | np.ndarray) -> dict[str, np.ndarray]:
        """As `torch_values`, but before a layer's table or threshold: what the requantiser produces."""
        before = {name: self._node(layer.pre or layer.out) for name, layer in self.layers.items()}
        seen = self._interpret(inputs, set(before.values()))
        values, result = self.graph.values, {}
        for name, layer in self.layers.items():
            value, act = values[name], layer.activation
            lo, hi = value.range(self.arch)
            scale = value.scale
            first = 0
            if act.table:
                entry = self.table_entry(name)
                lo, hi, scale, first = entry.lo, entry.hi, entry.scale, entry.table_offset
            x = seen[before[name]].clamp(act.lo, act.hi)
            result[name] = quantise(x.numpy(), scale, lo, hi).reshape(len(x), *value.shape) - first
        return result

    def graph_inputs(self, name: str) -> tuple[str, ...]:
        """Names of the values that the node defining `name` reads."""
        return next(n.inputs for n in self.graph.nodes if n.out.name == name)

    def table_entry(self, name: str) -> Scale:
        """Scale and range of what enters a layer's table."""
        layer = self.layers[name]
        if not layer.table_is_fused:
            entry = self.graph.values[self.graph_inputs(name)[0]]
            return Scale(entry.scale, *entry.range(self.arch))
        assert layer.pre is not None
        step, _, lo, hi = next(u.args[1:5] for u in self._node(layer.pre).users if "quantize_per_tensor" in str(u.target))
        return Scale(float(step), int(lo), int(hi))  # type: ignore[arg-type]

    def _node(self, node: Node) -> Node:
        return self._origin[node]

    def _interpret(self, inputs, wanted: set[Node]) -> dict[Node, Tensor]:
        tensors = self._entering(self.check_inputs(inputs))
        if self.module.meta.get("batch") is None:
            return _Recorder(self.module, wanted).record(tensors)
        parts = [_Recorder(self.module, wanted).record(tuple(t[i : i + 1] for t in tensors)) for i in range(len(tensors[0]))]
        return {n: torch.cat([p[n] for p in parts]) for n in wanted}

    # -- report ----------------------------------------------------------------------------------------------------

    def report(self) -> list[dict]:
        """One row per layer: name, kind, source, shape, scale, signed, weights, zero_weights (share)."""
        rows = []
        for node in self.graph.nodes:
            weight = getattr(node, "weight", None)
            rows.append(
                {
                    "name": node.out.name,
                    "kind": node.label,
                    "source": node.source,
                    "shape": list(node.out.shape),
                    "scale": node.out.scale,
                    "signed": node.out.signed,
                    "weights": 0 if weight is None else int(weight.size),
                    "zero_weights": 0.0 if weight is None else float((weight == 0).mean()),
                }
            )
        return rows


class _Recorder(Interpreter):
    """Runs a graph and keeps the values of some nodes."""

    def __init__(self, module: GraphModule, wanted: set[Node]):
        super().__init__(module)
        self.wanted, self.seen = wanted, dict[Node, Tensor]()

    def record(self, inputs: tuple[Tensor, ...]) -> dict[Node, Tensor]:
        self.run(*inputs)
        return self.seen

    def run_node(self, n: Node):
        value = super().run_node(n)
        if n in self.wanted:
            self.seen[n] = value
        return value


def check_batch(inputs: Sequence[Tensor | np.ndarray], example: Sequence[Tensor], what: str) -> tuple[Tensor, ...]:
    """Checks one batch against the example's shapes: float32 tensors. Raises `InputError`, naming what is wrong."""
    if len(inputs) != len(example):
        raise InputError(f"the model takes {len(example)} inputs, found {len(inputs)}. Pass one tensor for each.")
    result = []
    for i, (given, like) in enumerate(zip(inputs, example, strict=True)):
        name = what if len(example) == 1 else f"{what} {i}"
        expected = f"(N, {', '.join(str(s) for s in like.shape[1:])})"
        if not isinstance(given, Tensor | np.ndarray):
            raise InputError(f"{name}: expected a tensor or an array of shape {expected}, found {type(given).__name__}.")
        if isinstance(given, np.ndarray) and given.dtype.kind not in "fiub":
            raise InputError(f"{name}: dtype {given.dtype} does not hold real numbers. Convert with .astype(numpy.float32).")
        x = torch.as_tensor(given).detach().float()
        if x.dim() != like.dim() or x.shape[1:] != like.shape[1:] or not len(x):
            raise InputError(f"{name}: shape {tuple(x.shape)} does not match {expected} with N >= 1. Reshape or resize it.")
        if not bool(torch.isfinite(x).all()):
            raise InputError(f"{name}: it holds NaN or infinite values. Check the preprocessing.")
        result.append(x)
    if len({len(t) for t in result}) > 1:
        raise InputError(f"{what}: the batch sizes differ: {', '.join(str(len(t)) for t in result)}.")
    return tuple(result)
