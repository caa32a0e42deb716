"""Elementwise operators as host steps."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch.fx import Node

from sordino_hw.spec.host.operations import Choose, Combine, Expand, Map

from .lowering import Lowering, NotOnHost, Ref, form

__all__ = ["clamp", "of"]

_MAPS = {
    **{f"aten.{n}": n for n in ("abs", "neg", "exp", "expm1", "log", "log1p", "sqrt", "reciprocal", "square", "sigmoid", "tanh")},
    **{f"aten.{n}": n for n in ("floor", "ceil", "trunc", "sign", "sin", "cos", "atan")},
    "aten.negative": "neg",
    "aten.absolute": "abs",
    "aten.special_expit": "sigmoid",
    "aten.sgn": "sign",
    "aten.arctan": "atan",
}


def of(low: Lowering, function: str, x: Ref, y: Ref | float) -> Ref:
    """x and a number, or another value, combined."""
    if not isinstance(y, Ref):
        y = low.beside(np.asarray(y, x.kind.dtype), x)
    return low.emit(Combine(function), x, y)


def clamp(low: Lowering, x: Ref, lo: float | None, hi: float | None) -> Ref:
    """x within lo..hi."""
    if lo is not None and lo != -math.inf:
        x = of(low, "maximum", x, lo)
    return x if hi is None or hi == math.inf else of(low, "minimum", x, hi)


@form(*_MAPS)
def _map(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    function = _MAPS[_name(node)]
    x = low.ref(a["self"])
    return low.emit(Map(function), x if function in ("abs", "neg", "sign") else low.real(a["self"]))


def _name(node: Node) -> str:
    return str(node.target.overloadpacket)  # type: ignore[union-attr]


@form("aten.round")
def _round(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    if a.get("decimals"):
        raise NotOnHost("it rounds to decimals")
    return low.emit(Map("round"), low.real(a["self"]))


@form("aten.logical_not", "aten.bitwise_not")
def _not(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    return low.emit(Map("not"), low.ref(a["self"]))


@form("aten.rsqrt")
def _rsqrt(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    return low.emit(Map("reciprocal"), low.emit(Map("sqrt"), low.real(a["self"])))


# -- activations -------------------------------------------------------------------------------------------------------


@form("aten.relu", "aten.relu6", "aten.hardtanh", "aten.clamp", "aten.clip", "aten.clamp_min", "aten.clamp_max")
def _clamp(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    name = _name(node).removeprefix("aten.")
    x = low.ref(a["self"])
    bounds: tuple[Any, Any] = {
        "relu": (0, None),
        "relu6": (0, 6),
        "hardtanh": (a.get("min_val"), a.get("max_val")),
        "clamp_min": (a.get("min"), None),
        "clamp_max": (None, a.get("max")),
    }.get(name, (a.get("min"), a.get("max")))
    for bound, function in zip(bounds, ("maximum", "minimum"), strict=True):
        if isinstance(bound, Node):
            x = low.emit(Combine(function), x, low.beside(low.array(bound).astype(x.kind.dtype), x))
        elif bound is not None:
            x = of(low, function, x, bound)
    return x


def _silu(low: Lowering, x: Ref, a: dict[str, Any]) -> Ref:
    return of(low, "mul", x, low.emit(Map("sigmoid"), x))


def _hardsigmoid(low: Lowering, x: Ref, a: dict[str, Any]) -> Ref:
    return of(low, "mul", clamp(low, of(low, "add", x, 3), 0, 6), 1 / 6)


def _hardswish(low: Lowering, x: Ref, a: dict[str, Any]) -> Ref:
    return of(low, "mul", x, _hardsigmoid(low, x, a))


def _leaky(low: Lowering, x: Ref, a: dict[str, Any]) -> Ref:
    return _positive(low, x, of(low, "mul", x, a["negative_slope"]))


def _elu(low: Lowering, x: Ref, a: dict[str, Any]) -> Ref:
    below = low.emit(Map("expm1"), of(low, "mul", x, a["input_scale"]))
    return of(low, "mul", _positive(low, x, of(low, "mul", below, a["alpha"])), a["scale"])


def _positive(low: Lowering, x: Ref, otherwise: Ref) -> Ref:
    return low.emit(Choose(), of(low, "gt", x, 0), x, otherwise)


def _softplus(low: Lowering, x: Ref, a: dict[str, Any]) -> Ref:
    return of(low, "div", low.emit(Map("softplus"), of(low, "mul", x, a["beta"])), a["beta"])


def _mish(low: Lowering, x: Ref, a: dict[str, Any]) -> Ref:
    return of(low, "mul", x, low.emit(Map("tanh"), low.emit(Map("softplus"), x)))


def _gelu(low: Lowering, x: Ref, a: dict[str, Any]) -> Ref:
    if a.get("approximate") != "tanh":
        raise NotOnHost("the host has GELU with approximate='tanh' only")
    cubed = of(low, "mul", of(low, "mul", x, x), x)
    inner = of(low, "mul", of(low, "add", x, of(low, "mul", cubed, 0.044715)), math.sqrt(2 / math.pi))
    return of(low, "mul", of(low, "mul", x, 0.5), of(low, "add", low.emit(Map("tanh"), inner), 1))


_ACTIVATIONS: dict[str, Callable[[Lowering, Ref, dict[str, Any]], Ref]] = {
    "aten.silu": _silu,
    "aten.hardsigmoid": _hardsigmoid,
    "aten.hardswish": _hardswish,
    "aten.leaky_relu": _leaky,
    "aten.elu": _elu,
    "aten.softplus": _softplus,
    "aten.mish": _mish,
    "aten.gelu": _gelu,
}


@form(*_ACTIVATIONS)
def _activation(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    return _ACTIVATIONS[_name(node)](low, low.real(a["self"]), a)


@form("aten.batch_norm")
def _batch_norm(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    if a["training"] or a["running_mean"] is None or a["running_var"] is None:
        raise NotOnHost("a batch norm without running statistics works across the batch")
    x = low.real(a["input"])
    gain = 1 / np.sqrt(low.array(a["running_var"]).astype(np.float64) + a["eps"])
    if a["weight"] is not None:
        gain = gain * low.array(a["weight"])
    offset = -low.array(a["running_mean"]) * gain
    if a["bias"] is not None:
        offset = offset + low.array(a["bias"])
    shape = (1, -1) + (1,) * (x.rank - 2)
    x = low.emit(Combine("mul"), x, low.beside(gain.astype(np.float32).reshape(shape), x))
    return low.emit(Combine("add"), x, low.beside(offset.astype(np.float32).reshape(shape), x))


# -- two operands ------------------------------------------------------------------------------------------------------

_BINARY = {
    **{f"aten.{n}": n for n in ("mul", "pow", "maximum", "minimum", "remainder", "floor_divide", "atan2")},
    **{f"aten.{n}": n for n in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{f"aten.logical_{n}": n for n in ("and", "or", "xor")},
    **{f"aten.bitwise_{n}": n for n in ("and", "or", "xor")},
    "aten.multiply": "mul",
    "aten.greater": "gt",
    "aten.less": "lt",
}


@form(*_BINARY)
def _binary(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    function = _BINARY[_name(node)]
    x, y = list(a.values())[:2]
    if function == "pow":
        return _power(low, x, y)
    left, right = low.operands(x, y)
    return low.emit(Combine(function), left, right)


def _power(low: Lowering, x: Any, y: Any) -> Ref:
    if low.known(x) and y in (2, 0.5, -1, -0.5):
        base = low.real(x)
        if y == 2:
            return low.emit(Map("square"), base)
        base = base if y == -1 else low.emit(Map("sqrt"), base)
        return base if y == 0.5 else low.emit(Map("reciprocal"), base)
    left, right = low.operands(x, y)
    return low.emit(Combine("pow"), low.cast(left, "float32"), low.cast(right, "float32"))


@form("aten.div", "aten.divide", "aten.true_divide")
def _divide(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    mode = a.get("rounding_mode")
    left, right = low.operands(a["self"], a["other"])
    if mode == "floor":
        return low.emit(Combine("floor_divide"), left, right)
    y = low.emit(Combine("div"), low.cast(left, "float32"), low.cast(right, "float32"))
    return low.emit(Map("trunc"), y) if mode == "trunc" else y


@form("aten.add", "aten.sub", "aten.rsub", "aten.subtract")
def _sum(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x, y, alpha = a["self"], a["other"], a.get("alpha", 1)
    if _name(node) == "aten.rsub":
        x, y = y, x
    if alpha != 1:
        if _name(node) == "aten.rsub" or isinstance(alpha, Node):
            raise NotOnHost("its alpha is not 1")
        left, right = low.operands(x, y)
        right = of(low, "mul", right, alpha)
    else:
        left, right = low.operands(x, y)
    return low.emit(Combine("add" if _name(node) == "aten.add" else "sub"), left, right)


@form("aten.where")
def _where(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x, y = a["self"], a["other"]
    condition = low.ref(a["condition"])
    values = [low.ref(v) for v in (x, y) if low.known(v)]
    if values:
        left, right = low.operands(x, y)
    else:
        dtype = str(low.array(x).dtype if isinstance(x, Node) else np.dtype(np.float32))
        left, right = (low.beside(np.asarray(low.array(v) if isinstance(v, Node) else v).astype(dtype), condition) for v in (x, y))
    return low.emit(Choose(), condition, left, right)


@form("aten.masked_fill")
def _masked_fill(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.ref(a["self"])
    mask = low.ref(a["mask"]) if low.known(a["mask"]) else low.beside(low.array(a["mask"]), x)
    return low.emit(Choose(), mask, low.beside(np.asarray(low.number(a["value"]), x.kind.dtype), x), x)


# -- copies ------------------------------------------------------------------------------------------------------------


@form("aten.to", "aten._to_copy", "aten.type_as")
def _to(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.ref(a["self"])
    dtype = node.meta["val"].dtype
    return low.cast(x, "float32" if dtype.is_floating_point else str(dtype).removeprefix("torch."))


@form("aten.clone", "aten.contiguous", "aten.detach", "aten.alias", "aten.lift_fresh_copy")
def _same(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    return low.ref(next(iter(a.values())))


@form("aten.dropout", "aten.feature_dropout", "aten.alpha_dropout")
def _dropout(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    if a["train"]:
        raise NotOnHost("its values are random")
    return low.ref(a["input"])


@form("aten.zeros_like", "aten.ones_like", "aten.full_like")
def _like(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.ref(a["self"])
    value = {"aten.zeros_like": 0, "aten.ones_like": 1}.get(_name(node), a.get("fill_value"))
    dtype = "float32" if node.meta["val"].dtype.is_floating_point else str(node.meta["val"].dtype).removeprefix("torch.")
    return low.emit(Expand(x.kind.shape), low.beside(np.asarray(value, dtype), x))
