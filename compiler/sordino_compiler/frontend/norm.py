"""Batch norms and constants after a layer, as one gain and one offset per channel."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.fx import GraphModule, Node

from .arguments import arguments, constant, is_constant
from .plan import operator_name

__all__ = ["affine"]


def affine(module: GraphModule, nodes: Sequence[Node], channels: int) -> tuple[np.ndarray, np.ndarray]:
    """`y = gain * x + offset` of a chain of nodes: float64 [channels] each."""
    gain, offset = np.ones(channels), np.zeros(channels)
    for node in nodes:
        g, o = _one(module, node)
        gain, offset = gain * g, offset * g + o
    return np.broadcast_to(gain, (channels,)).copy(), np.broadcast_to(offset, (channels,)).copy()


def _one(module: GraphModule, node: Node) -> tuple[np.ndarray, np.ndarray]:
    name, a = operator_name(node), arguments(node)

    def vector(value) -> np.ndarray:
        return constant(module, value).to(torch.float64).reshape(-1).numpy()

    if name == "aten.batch_norm":
        gain = 1 / np.sqrt(vector(a["running_var"]) + float(a["eps"]))
        gain = gain if a["weight"] is None else gain * vector(a["weight"])
        offset = -vector(a["running_mean"]) * gain
        return gain, offset if a["bias"] is None else offset + vector(a["bias"])
    if name == "aten.neg":
        return np.array([-1.0]), np.array([0.0])
    x, y = a["self"], a["other"]
    first = not is_constant(x)
    c = vector(y if first else x)
    zero = np.zeros(1)
    if name == "aten.mul":
        return c, zero
    if name == "aten.div":
        return 1 / c, zero
    if name == "aten.add":
        return np.ones(1), c
    minus_second = (name == "aten.sub") == first  # x - c, or rsub(c, x) = x - c
    return (np.ones(1), -c) if minus_second else (-np.ones(1), c)
