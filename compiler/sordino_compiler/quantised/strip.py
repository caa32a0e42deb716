"""A PT2E-quantised graph, read: its quantise nodes as scales, and the float graph that is left without them."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch.fx import GraphModule, Node

from sordino_hw.spec.errors import CompileError

from ..fx.modules import shallow_copy
from ..fx.nodes import constant, operator_name
from ..fx.source import where
from ..ops.lowering import Scale, Weights

__all__ = ["Stripped", "strip"]

_Q, _DQ = "quantized_decomposed.quantize_per_tensor", "quantized_decomposed.dequantize_per_tensor"
_DQ_CHANNEL, _Q_CHANNEL = "quantized_decomposed.dequantize_per_channel", "quantized_decomposed.quantize_per_channel"


@dataclass
class Stripped:
    """`module` computes what the quantised one does, without rounding; `scales` and `weights` are by its nodes."""

    module: GraphModule
    scales: dict[Node, Scale]
    weights: dict[Node, Weights]
    origin: dict[Node, Node]
    """From nodes of `module` to those of the quantised graph."""


def _wrong(node: Node, text: str) -> CompileError:
    return CompileError(f"{operator_name(node)} {node.name!r} ({where(node)}): {text} Quantise the model with sordino.quantize.")


def strip(quantised: GraphModule) -> Stripped:
    """Takes the quantise and dequantise nodes out of a copy of the graph. Raises `CompileError` for a quantisation
    with zero-points, or of another kind than per tensor (activations) and per output channel (weights)."""
    module, mapped = shallow_copy(quantised)
    graph = module.graph
    scales: dict[Node, Scale] = {}
    weights: dict[Node, Weights] = {}
    for node in list(graph.nodes):
        name = operator_name(node)
        if name == _DQ_CHANNEL:
            weights[node] = _weights(module, node)
            node.meta["val"] = torch.empty(weights[node].integers.shape, device="meta")
        elif name == _Q:
            source, step, zero, lo, hi, *_ = cast(tuple[Any, ...], node.args)
            if zero != 0:
                raise _wrong(node, f"the zero-point is {zero}; the array's activations have zero-point 0.")
            found = Scale(float(step), int(lo), int(hi))
            if scales.setdefault(source, found) != found:
                raise _wrong(node, "its input is quantised in two ways.")
        elif name == _DQ:
            node.replace_all_uses_with(node.args[0].args[0])
    for node in reversed(list(graph.nodes)):
        if operator_name(node) in (_Q, _DQ):
            graph.erase_node(node)
    module.recompile()
    return Stripped(module, scales, weights, mapped)


def _weights(module: GraphModule, node: Node) -> Weights:
    integers, scale, zero, axis, *_ = node.args
    if axis != 0 or bool(constant(module, zero).any()):
        raise _wrong(node, "weights are quantised per output channel, without zero-points.")
    return Weights(constant(module, integers).numpy().astype(np.int8), constant(module, scale).numpy().astype(np.float64))
