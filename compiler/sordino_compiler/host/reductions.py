"""Operators over whole dimensions as host steps: sums, means, norms, the largest elements, softmax."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.fx import Node

from sordino_hw.spec.host.operations import Combine, Cumulate, Gather, Map, Position, Reduce, Softmax, Top

from ..fx.nodes import operator_name
from .arithmetic import of
from .lowering import Lowering, NotOnHost, Ref, Result, form

__all__: list[str] = []


def _dims(x: Ref, dim: Any) -> tuple[int, ...]:
    """The host's dimensions; without any, all of them, which is across the batch."""
    if dim is None or (isinstance(dim, Sequence) and not dim):
        raise NotOnHost("it works across the images of a batch")
    return tuple(x.axis(d) for d in ([dim] if isinstance(dim, int) else dim))


@form("aten.sum", "aten.mean", "aten.amax", "aten.amin", "aten.any", "aten.all", "aten.prod")
def _reduce(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    name = operator_name(node).removeprefix("aten.")
    x = low.ref(a["self"])
    if name in ("any", "all"):
        x = low.cast(x, "bool")
    elif x.kind.dtype in ("bool", "uint8"):
        x = low.cast(x, "int64")
    function = {"amax": "max", "amin": "min"}.get(name, name)
    return low.emit(Reduce(function, _dims(x, a.get("dim")), bool(a.get("keepdim"))), x)


@form("aten.max", "aten.min")
def _largest(low: Lowering, node: Node, a: dict[str, Any]) -> Result:
    function = operator_name(node).removeprefix("aten.")
    if "other" in a:
        left, right = low.operands(a["self"], a["other"])
        return low.emit(Combine(f"{function}imum"), left, right)
    x = low.ref(a["self"])
    dims, keep = _dims(x, a.get("dim")), bool(a.get("keepdim"))
    return low.emit(Reduce(function, dims, keep), x), low.emit(Position(function, dims[0], keep), x)


@form("aten.argmax", "aten.argmin")
def _position(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.ref(a["self"])
    return low.emit(Position(operator_name(node)[-3:], _dims(x, a.get("dim"))[0], bool(a.get("keepdim"))), x)


@form("aten.softmax", "aten._softmax", "aten.log_softmax", "aten._log_softmax", "aten.softmin")
def _softmax(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.real(a["self"])
    if operator_name(node) == "aten.softmin":
        x = low.emit(Map("neg"), x)
    return low.emit(Softmax(x.axis(a["dim"]), "log" in operator_name(node)), x)


@form("aten.logsumexp")
def _logsumexp(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x, keep = low.real(a["self"]), bool(a.get("keepdim"))
    dims = _dims(x, a["dim"])
    top = low.emit(Reduce("max", dims, True), x)
    total = low.emit(Reduce("sum", dims, keep), low.emit(Map("exp"), low.emit(Combine("sub"), x, top)))
    top = top if keep else low.shaped(top, total.kind.shape, x.joined)
    return low.emit(Combine("add"), low.emit(Map("log"), total), top)


@form("aten.topk", "aten.sort", "aten.argsort")
def _top(low: Lowering, node: Node, a: dict[str, Any]) -> Result:
    x = low.ref(a["self"])
    dim = a.get("dim")
    at = x.axis(-1 if dim is None else dim)
    largest = bool(a.get("descending", a.get("largest", False)))
    found = low.several(Top(at, a["k"] if "k" in a else x.kind.shape[at], largest), x)
    return found[1] if operator_name(node) == "aten.argsort" else found


@form("aten.gather", "aten.take_along_dim")
def _gather(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.ref(a["self"])
    if a.get("dim") is None or not low.known(a.get("index", a.get("indices"))):
        raise NotOnHost("it takes constant positions, or from all dimensions together")
    index = low.ref(a.get("index", a.get("indices")))
    return low.emit(Gather(x.axis(a["dim"])), x, index)


@form("aten.cumsum")
def _cumsum(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.ref(a["self"])
    return low.emit(Cumulate(x.axis(a["dim"])), x)


# -- norms -------------------------------------------------------------------------------------------------------------


@form("aten.linalg_vector_norm", "aten.norm")
def _norm(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.real(a["self"])
    order = a.get("ord", a.get("p"))
    order = 2 if order is None else order
    dims, keep = _dims(x, a.get("dim")), bool(a.get("keepdim"))
    if order == 2:
        return low.emit(Map("sqrt"), low.emit(Reduce("sum", dims, keep), low.emit(Map("square"), x)))
    if order in (1, math.inf):
        return low.emit(Reduce("sum" if order == 1 else "max", dims, keep), low.emit(Map("abs"), x))
    raise NotOnHost(f"it is a norm of order {order}")


def _deviation(low: Lowering, x: Ref, dims: tuple[int, ...]) -> tuple[Ref, Ref]:
    """x without its mean, and its variance over some dimensions, which stay."""
    centred = low.emit(Combine("sub"), x, low.emit(Reduce("mean", dims, True), x))
    return centred, low.emit(Reduce("mean", dims, True), low.emit(Map("square"), centred))


def _normalised(low: Lowering, x: Ref, dims: tuple[int, ...], eps: float) -> Ref:
    centred, variance = _deviation(low, x, dims)
    return low.emit(Combine("div"), centred, low.emit(Map("sqrt"), of(low, "add", variance, eps)))


def _scaled(low: Lowering, x: Ref, weight: Any, bias: Any, shape: tuple[int, ...]) -> Ref:
    for function, value in (("mul", weight), ("add", bias)):
        if value is not None:
            x = low.emit(Combine(function), x, low.beside(low.array(value).reshape(shape), x))
    return x


@form("aten.layer_norm")
def _layer_norm(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.real(a["input"])
    n = len(a["normalized_shape"])
    x = _normalised(low, x, tuple(x.axis(d) for d in range(x.rank - n, x.rank)), a["eps"])
    return _scaled(low, x, a["weight"], a["bias"], tuple(a["normalized_shape"]))


@form("aten.group_norm", "aten.instance_norm")
def _group_norm(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.real(a["input"])
    if x.joined or a.get("running_mean") is not None:
        raise NotOnHost("it has running statistics, or no batch")
    shape = x.kind.shape
    groups = a.get("num_groups", shape[0])
    y = low.shaped(x, (groups, shape[0] // groups, *shape[1:]))
    y = _normalised(low, y, tuple(range(1, len(shape) + 1)), a["eps"])
    return _scaled(low, low.shaped(y, shape), a["weight"], a["bias"], (1, -1, *[1] * (len(shape) - 1)))


@form("aten.var", "aten.std")
def _variance(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.real(a["self"])
    dims, keep = _dims(x, a.get("dim")), bool(a.get("keepdim"))
    correction = a.get("correction")
    correction = (1 if a.get("unbiased", True) else 0) if correction is None else correction
    count = int(np.prod([x.kind.shape[d] for d in dims]))
    if count <= correction:
        raise NotOnHost("it is a variance of too few values")
    centred = low.emit(Combine("sub"), x, low.emit(Reduce("mean", dims, True), x))
    total = low.emit(Reduce("sum", dims, keep), low.emit(Map("square"), centred))
    y = of(low, "div", total, count - correction)
    return low.emit(Map("sqrt"), y) if operator_name(node) == "aten.std" else y
