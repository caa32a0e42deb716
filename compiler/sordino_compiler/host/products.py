"""Products of matrices as host steps: attention, fully connected layers behind one, expectations, bilinear resizing."""

import math
from typing import Any

import numpy as np
from torch.fx import Node

from sordino_hw.spec.host.operations import Choose, Combine, Matmul, Permute, Softmax

from .arithmetic import of
from .lowering import Lowering, NotOnHost, Ref, form

__all__: list[str] = []


def _constant(low: Lowering, x: np.ndarray, like: Ref) -> Ref:
    return low.beside(x.astype(np.float32), like)


def _swapped(low: Lowering, x: Ref) -> Ref:
    """The last two dimensions, exchanged."""
    rank = len(x.kind.shape)
    return low.emit(Permute((*range(rank - 2), rank - 1, rank - 2)), x)


@form("aten.matmul", "aten.bmm", "aten.mm")
def _matmul(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x, y = list(a.values())[:2]
    if not low.known(x):
        raise NotOnHost("the constant stands on the left")
    left = low.real(x)
    right = low.real(y) if low.known(y) else None
    if left.place:
        raise NotOnHost("its batch does not come first")
    vector = left.rank == 2 and not left.joined  # (N, K) @ (K, M): every image has a row
    if vector:
        left = low.shaped(left, (1, *left.kind.shape))
    if right is None:
        array = low.array(y)
        if array.ndim < 2:
            raise NotOnHost("a product with a vector")
        right = _constant(low, array, left)
    product = low.emit(Matmul(), left, right)
    return low.shaped(product, product.kind.shape[1:]) if vector else product


def _linear(low: Lowering, x: Ref, weight: np.ndarray, bias: np.ndarray | None) -> Ref:
    """x @ weight.T + bias in the last dimension."""
    shape = x.kind.shape
    if x.joined and len(shape) == 1:
        raise NotOnHost("it is fully connected over the batch")
    y = low.shaped(x, (1, *shape), x.joined) if len(shape) == 1 else x
    y = low.emit(Matmul(), y, _constant(low, weight.T, y))
    if bias is not None:
        y = low.emit(Combine("add"), y, _constant(low, bias, y))
    return low.shaped(y, (*shape[:-1], len(weight)), x.joined)


@form("aten.linear")
def _fully_connected(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    bias = None if a["bias"] is None else low.array(a["bias"])
    return _linear(low, low.real(a["input"]), low.array(a["weight"]), bias)


@form("aten.conv2d", "aten.conv1d")
def _pointwise(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    """A convolution with a kernel of one: products with constants in the channels, such as an expectation over bins."""
    weight = low.array(a["weight"])
    plain = {*np.atleast_1d(a["stride"]).tolist(), *np.atleast_1d(a["dilation"]).tolist()} == {1}
    padded = a["padding"] == "same" or (not isinstance(a["padding"], str) and any(np.atleast_1d(a["padding"]).tolist()))
    if set(weight.shape[2:]) != {1} or a["groups"] != 1 or not plain or (padded and a["padding"] != "same"):
        raise NotOnHost("the host convolves with kernels of one only")
    x = low.real(a["input"])
    rank = len(x.kind.shape)
    last = low.emit(Permute((*range(1, rank), 0)), x)
    y = _linear(low, last, weight.reshape(weight.shape[:2]), None if a["bias"] is None else low.array(a["bias"]))
    return low.emit(Permute((rank - 1, *range(rank - 1))), y)


@form("aten.scaled_dot_product_attention")
def _attention(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    query, key, value = (low.real(a[k]) for k in ("query", "key", "value"))
    if a.get("dropout_p") or a.get("is_causal") or a.get("enable_gqa"):
        raise NotOnHost("it is causal, groups its heads, or drops at random")
    scale = a.get("scale") or 1 / math.sqrt(query.kind.shape[-1])
    scores = of(low, "mul", low.emit(Matmul(), query, _swapped(low, key)), scale)
    mask = a.get("attn_mask")
    if mask is not None:
        constant = low.array(mask)
        beside = low.beside(constant, scores)
        if constant.dtype == np.bool_:
            scores = low.emit(Choose(), beside, scores, _constant(low, np.asarray(-np.inf), scores))
        else:
            scores = low.emit(Combine("add"), scores, beside)
    return low.emit(Matmul(), low.emit(Softmax(len(scores.kind.shape) - 1, False), scores), value)


@form("aten.upsample_bilinear2d", "aten.upsample_linear1d")
def _bilinear(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.real(a["input"])
    sizes = [int(s) for s in node.meta["val"].shape[2:]]
    given = a.get("scale_factors") or [a.get(k) for k in ("scales_h", "scales_w", "scales") if k in a]
    factors = list(given or [None] * len(sizes))
    for i, (size, factor) in enumerate(zip(sizes, factors, strict=True)):
        at = 1 + i
        weights = _interpolation(x.kind.shape[at], size, bool(a["align_corners"]), factor)
        if at == len(x.kind.shape) - 1:
            x = low.emit(Matmul(), x, _constant(low, weights.T, x))
        else:
            swapped = _swapped(low, x)
            x = _swapped(low, low.emit(Matmul(), swapped, _constant(low, weights.T, swapped)))
    return x


def _interpolation(old: int, new: int, corners: bool, factor: float | None) -> np.ndarray:
    """Weights [new, old] of linear interpolation, as PyTorch's."""
    positions = np.arange(new)
    if corners:
        source = positions * ((old - 1) / (new - 1) if new > 1 else 0.0)
    else:
        source = ((positions + 0.5) * (1 / factor if factor else old / new) - 0.5).clip(0)
    low = np.floor(source).astype(int).clip(0, old - 1)
    weights = np.zeros((new, old))
    weights[positions, low] += 1 - (source - low)
    weights[positions, (low + 1).clip(0, old - 1)] += source - low
    return weights
