"""Nodes without weights, as functions of tensors, and of small integer arrays where sizes are computed."""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import Unsupported
from .reader import MAX_VALUES, OnnxNode, Value

__all__ = ["FUNCTIONS"]


def _tensor(x: Value) -> Tensor:
    """A tensor of floats, or of integers where `x` is an array."""
    if not isinstance(x, np.ndarray):
        return x
    return torch.as_tensor(x if x.dtype.kind == "f" else x.astype(np.int64))


def _ints(x: Any) -> list[int]:
    """Integers (which may be symbolic) of an array, attribute or tensor."""
    if isinstance(x, Tensor):
        return [int(v) for v in x.reshape(-1).tolist()]
    return list(x.reshape(-1)) if isinstance(x, np.ndarray) else list(x)


def _bounded(size: list[int]) -> list[int]:
    known = [s for s in size if isinstance(s, int | np.integer)]
    if any(s < 0 for s in known) or math.prod(int(s) for s in known) > MAX_VALUES:
        raise Unsupported(f"it makes a tensor of the dimensions {[int(s) for s in known]}; at most {MAX_VALUES:,} values")
    return size


def _argument(node: OnnxNode, inputs: tuple, position: int, attribute: str, default: Any = None) -> Any:
    """A parameter that is an input in newer operator sets and an attribute in older ones."""
    given = inputs[position] if position < len(inputs) else None
    return given if given is not None else node.get(attribute, default)


def _tensors(*values: Value) -> list[Tensor]:
    """Tensors on one device: on meta, where one of them is there."""
    found = [_tensor(v) for v in values]
    return [t.to("meta") for t in found] if any(t.is_meta for t in found) else found


def _both(op: Callable) -> Callable:
    """An operator on two tensors, or on two arrays."""

    def apply(node: OnnxNode, a: Value, b: Value) -> Value:
        return op(a, b) if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) else op(*_tensors(a, b))

    return apply


def _two(op: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    return lambda node, a, b: op(*_tensors(a, b))


def divide(a: Any, b: Any) -> Any:
    whole = isinstance(a, np.ndarray) or not (a.is_floating_point() or b.is_floating_point())
    if whole and isinstance(b, np.ndarray) and (b == 0).any():
        raise Unsupported("a division of integers by 0")
    return a // b if whole else a / b


def _many(op: Callable) -> Callable:
    return lambda node, *xs: reduce(op, _tensors(*xs))


def _one(op: Callable[[Tensor], Tensor]) -> Callable:
    return lambda node, x: op(_tensor(x))


def identity(node: OnnxNode, x: Value, *_: Any) -> Value:
    return x


def cast(node: OnnxNode, x: Value, *_: Any) -> Value:
    target = node.get("to", 1)
    if target in (2, 3, 4, 5, 6, 7, 12, 13):
        return x if isinstance(x, np.ndarray) else x.long()
    if target == 9:
        return _tensor(x).bool()
    if target in (1, 10, 11, 16):
        return _tensor(x).float()
    raise Unsupported(f"it converts to type {target}. Export the network in float32")


def shape(node: OnnxNode, x: Value) -> Value:
    sizes = list(x.shape)[node.get("start", 0) : node.get("end")]
    return np.array(sizes, dtype=object)


def gather(node: OnnxNode, x: Value, index: Value) -> Value:
    axis = node.get("axis", 0)
    if isinstance(x, np.ndarray):
        return np.asarray(np.take(x, np.asarray(_ints(index)).reshape(_tensor(index).shape), axis=axis), dtype=x.dtype)
    where = _tensor(index).long()
    if where.dim() == 0:
        return x.select(axis, int(where))
    if where.dim() > 1:
        raise Unsupported("indices of more than one dimension")
    return x.index_select(axis, torch.where(where < 0, where + x.shape[axis], where).to(x.device))


def concat(node: OnnxNode, *xs: Value) -> Value:
    if all(isinstance(x, np.ndarray) for x in xs):
        return np.concatenate(xs, axis=node.get("axis", 0))
    return torch.cat(_tensors(*xs), node.get("axis", 1))


def unsqueeze(node: OnnxNode, x: Value, *more: Value) -> Value:
    axes = _ints(_argument(node, (x, *more), 1, "axes"))
    rank = x.ndim + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = np.expand_dims(x, axis) if isinstance(x, np.ndarray) else x.unsqueeze(axis)
    return x


def squeeze(node: OnnxNode, x: Value, *more: Value) -> Value:
    given = _argument(node, (x, *more), 1, "axes")
    axes = [i for i, s in enumerate(x.shape) if i and s == 1] if given is None else [a % x.ndim for a in _ints(given)]
    for axis in sorted(axes, reverse=True):
        x = np.squeeze(x, axis) if isinstance(x, np.ndarray) else x.squeeze(axis)
    return x


def reshape(node: OnnxNode, x: Value, *more: Value) -> Value:
    size = _ints(_argument(node, (x, *more), 1, "shape"))
    if not node.get("allowzero", 0):
        size = [x.shape[i] if isinstance(s, int | np.integer) and s == 0 else s for i, s in enumerate(size)]
    return x.reshape([s if not isinstance(s, np.integer) else int(s) for s in size])


def flatten(node: OnnxNode, x: Tensor) -> Tensor:
    axis = node.get("axis", 1) % (x.dim() + 1)
    if axis == 1:
        return torch.flatten(x, 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


def transpose(node: OnnxNode, x: Value) -> Value:
    order = node.get("perm") or list(reversed(range(x.ndim)))
    return x.transpose(order) if isinstance(x, np.ndarray) else x.permute(order)


def slice_(node: OnnxNode, x: Value, *more: Value) -> Value:
    inputs = (x, *more)
    starts, ends = (_ints(_argument(node, inputs, i, name)) for i, name in ((1, "starts"), (2, "ends")))
    axes = _argument(node, inputs, 3, "axes")
    axes = list(range(len(starts))) if axes is None else _ints(axes)
    steps = [1] * len(starts) if len(more) < 4 or more[3] is None else _ints(more[3])
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1 and not isinstance(x, np.ndarray):
            if (start, step) != (-1, -1) or end > -x.shape[axis]:
                raise Unsupported(f"a step of {step}; steps are positive, or -1 over the whole dimension")
            x = x.flip(axis)
            continue
        cut: list[Any] = [slice(None)] * x.ndim
        cut[axis] = slice(start, None if isinstance(end, int | np.integer) and end > 1 << 30 else end, step)
        x = x[tuple(cut)]
    return x


def split(node: OnnxNode, x: Tensor, *more: Value) -> Any:
    sizes, axis = _argument(node, (x, *more), 1, "split"), node.get("axis", 0)
    if sizes is None:
        return torch.split(x, -(-x.shape[axis] // len(node.outputs)), axis)
    return torch.split(x, [int(s) for s in _ints(sizes)], axis)


def pad(node: OnnxNode, x: Tensor, *more: Value) -> Tensor:
    inputs = (x, *more)
    pads, rank = [int(p) for p in _ints(_argument(node, inputs, 1, "pads"))], x.dim()
    axes = range(rank) if len(more) < 3 or more[2] is None else [int(a) % rank for a in _ints(more[2])]
    both = dict.fromkeys(range(rank), (0, 0)) | {a: (pads[i], pads[i + len(pads) // 2]) for i, a in enumerate(axes)}
    order = [p for axis in reversed(range(rank)) for p in both[axis]]
    while len(order) > 2 and order[-2:] == [0, 0]:
        order = order[:-2]
    value = more[1] if len(more) > 1 and more[1] is not None else node.get("value", 0.0)
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}[node.get("mode", "constant")]
    _bounded([s + sum(both[i]) if isinstance(s, int) else 1 for i, s in enumerate(x.shape)])
    return F.pad(x, order, mode, float(value)) if mode == "constant" else F.pad(x, order, mode)


def constant(node: OnnxNode) -> Value:
    a = node.attributes
    if "value" in a:
        return a["value"]
    if "value_float" in a:
        return torch.tensor(a["value_float"])
    if "value_floats" in a:
        return torch.tensor(a["value_floats"])
    if "value_int" in a or "value_ints" in a:
        return np.array(a.get("value_int", a.get("value_ints")), dtype=np.int64)
    raise Unsupported("it holds no number")


def constant_of_shape(node: OnnxNode, size: Value) -> Value:
    dims = _bounded(_ints(size))
    value = _tensor(node.get("value", torch.zeros(1)))
    if not value.is_floating_point() and not value.is_meta and len(dims) <= 1:
        return np.full([int(d) for d in dims], int(value.reshape(-1)[0]), dtype=np.int64)
    return value.reshape(-1)[0].expand(dims)


def expand(node: OnnxNode, x: Value, size: Value) -> Value:
    dims = _bounded(_ints(size))
    x = _tensor(x)
    if len(dims) < x.dim():
        dims = [1] * (x.dim() - len(dims)) + dims
    own = [1] * (len(dims) - x.dim()) + list(x.shape)
    return x.expand([s if isinstance(d, int | np.integer) and d == 1 else d for s, d in zip(own, dims, strict=True)])


def tile(node: OnnxNode, x: Tensor, repeats: Value) -> Tensor:
    times = [int(r) for r in _ints(repeats)]
    _bounded([s * r if isinstance(s, int) else r for s, r in zip(x.shape, times, strict=True)])
    return x.repeat(times)


def where(node: OnnxNode, condition: Value, a: Value, b: Value) -> Value:
    if all(isinstance(v, np.ndarray) for v in (a, b)):
        chosen = np.asarray(_tensor(condition)) if isinstance(condition, Tensor) else condition.astype(bool)
        return np.where(chosen, a, b)
    given, first, second = _tensors(condition, a, b)
    return torch.where(given.bool(), first, second)


def equal(node: OnnxNode, a: Value, b: Value) -> Value:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        x, y = np.broadcast_arrays(a, b)
        return np.array([isinstance(p, int | np.integer) and p == q for p, q in zip(x.flat, y.flat, strict=True)], bool).reshape(
            x.shape
        )
    return torch.eq(*_tensors(a, b))


def _reduction(op: Callable) -> Callable:
    def apply(node: OnnxNode, x: Value, *more: Value) -> Value:
        keep = bool(node.get("keepdims", 1))
        given = _argument(node, (x, *more), 1, "axes")
        axes = [] if given is None else _ints(given)
        if not axes and node.get("noop_with_empty_axes", 0):
            return x
        if isinstance(x, np.ndarray):
            x = torch.as_tensor(x.astype(np.int64))
        return op(x, [int(a) for a in axes] or list(range(x.dim())), keep)

    return apply


def reduce_prod(node: OnnxNode, x: Value, *more: Value) -> Value:
    if not isinstance(x, np.ndarray):
        raise Unsupported("the product of activations; it is for sizes")
    return np.array(reduce(lambda a, b: a * b, x.flat, 1), dtype=object).reshape([1] * x.ndim if node.get("keepdims", 1) else [])


def global_pool(op: Callable) -> Callable:
    return lambda node, x: op(x, list(range(2, x.dim())), True)


def adaptive(node: OnnxNode, x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1) if x.dim() == 4 else x.mean(list(range(2, x.dim())), True)


def softmax(node: OnnxNode, x: Tensor) -> Tensor:
    axis = node.get("axis", 1 if node.opset < 13 else -1)
    if node.opset < 13 and axis % x.dim() != x.dim() - 1 and any(s != 1 for s in x.shape[axis % x.dim() + 1 :]):
        raise Unsupported(
            "before operator set 13 it goes over several dimensions at once. Export it with opset_version=13 or later"
        )
    return (F.log_softmax if node.kind == "LogSoftmax" else F.softmax)(x, dim=axis)


def hard_sigmoid(node: OnnxNode, x: Tensor) -> Tensor:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return F.hardsigmoid(x)
    return (x * alpha + beta).clamp(0, 1)


def resize(node: OnnxNode, x: Tensor, *more: Value | None) -> Tensor:
    scales: Any = (more[0] if node.kind == "Upsample" or len(more) == 1 else more[1]) if more else node.get("scales")
    if len(more) > 2 and more[2] is not None:
        size = [int(s) for s in _ints(more[2])][-(x.dim() - 2) :]
    else:
        factors = [float(s) for s in (scales if isinstance(scales, list) else scales.tolist())]
        if any(f != 1 for f in factors[:2]) or len(factors) != x.dim():
            raise Unsupported(f"scales {factors}; batch and channels keep their size")
        size = [math.floor(s * f) for s, f in zip(x.shape[2:], factors[2:], strict=True)]
    if node.get("axes") or node.get("antialias", 0) or node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Unsupported("axes, antialias or keep_aspect_ratio_policy. Export it without")
    _bounded([*x.shape[1:2], *size])
    mode, how = node.get("mode", "nearest"), node.get("coordinate_transformation_mode", "half_pixel")
    whole = all(isinstance(s, int) and t % s == 0 for s, t in zip(x.shape[2:], size, strict=True))
    if node.kind == "Upsample" or node.opset < 11:
        how = "asymmetric"
    if mode == "nearest" and ((how == "asymmetric" and node.get("nearest_mode", "floor") == "floor") or whole):
        return F.interpolate(x, size=size, mode="nearest")
    if mode == "linear" and how in ("half_pixel", "pytorch_half_pixel", "align_corners") and x.dim() in (3, 4):
        return F.interpolate(x, size=size, mode="linear" if x.dim() == 3 else "bilinear", align_corners=how == "align_corners")
    raise Unsupported(
        f"mode {mode!r} with coordinates {how!r}. Export nearest (asymmetric, floor) or linear (half_pixel or align_corners)"
    )


def depth_to_space(node: OnnxNode, x: Tensor) -> Tensor:
    if node.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, node.get("blocksize"))
    n, c, h, w = x.shape
    b = node.get("blocksize")
    return x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // (b * b), h * b, w * b)


def space_to_depth(node: OnnxNode, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = node.get("blocksize")
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


def arg_max(node: OnnxNode, x: Tensor) -> Tensor:
    return x.argmax(node.get("axis", 0), bool(node.get("keepdims", 1)))


def mean_of(node: OnnxNode, *xs: Value) -> Tensor:
    return reduce(torch.add, _tensors(*xs)) / len(xs)


def instance_norm(node: OnnxNode, x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    return F.instance_norm(x, None, None, gain, offset, True, 0.0, node.get("epsilon", 1e-5))


def layer_norm(node: OnnxNode, x: Tensor, gain: Tensor, *more: Tensor) -> Tensor:
    axis = node.get("axis", -1) % x.dim()
    return F.layer_norm(x, list(x.shape[axis:]), gain, more[0] if more else None, node.get("epsilon", 1e-5))


REDUCE = ("axes", "keepdims", "noop_with_empty_axes")
RESIZE = (
    "mode", "scales", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside", "extrapolation_value",
    "antialias", "axes", "keep_aspect_ratio_policy",
)  # fmt: skip
FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "Add": (_both(lambda a, b: a + b), ()),
    "Sub": (_both(lambda a, b: a - b), ()),
    "Mul": (_both(lambda a, b: a * b), ()),
    "Div": (_both(divide), ()),
    "Pow": (_two(torch.pow), ()),
    "Sum": (_many(torch.add), ()),
    "Mean": (mean_of, ()),
    "Max": (_many(torch.maximum), ()),
    "Min": (_many(torch.minimum), ()),
    "Neg": (_one(torch.neg), ()),
    "Abs": (_one(torch.abs), ()),
    "Exp": (_one(torch.exp), ()),
    "Log": (_one(torch.log), ()),
    "Sqrt": (_one(torch.sqrt), ()),
    "Reciprocal": (_one(torch.reciprocal), ()),
    "Erf": (_one(torch.erf), ()),
    "Floor": (_one(torch.floor), ()),
    "Ceil": (_one(torch.ceil), ()),
    "Sin": (_one(torch.sin), ()),
    "Cos": (_one(torch.cos), ()),
    "Not": (_one(torch.logical_not), ()),
    "Equal": (equal, ()),
    "Greater": (_two(torch.gt), ()),
    "Less": (_two(torch.lt), ()),
    "GreaterOrEqual": (_two(torch.ge), ()),
    "LessOrEqual": (_two(torch.le), ()),
    "Where": (where, ()),
    "Identity": (identity, ()),
    "Dropout": (identity, ("ratio", "seed")),
    "Cast": (cast, ("to", "saturate")),
    "Constant": (constant, ("value", "value_float", "value_floats", "value_int", "value_ints")),
    "ConstantOfShape": (constant_of_shape, ("value",)),
    "Shape": (shape, ("start", "end")),
    "Gather": (gather, ("axis",)),
    "Concat": (concat, ("axis",)),
    "Unsqueeze": (unsqueeze, ("axes",)),
    "Squeeze": (squeeze, ("axes",)),
    "Reshape": (reshape, ("allowzero", "shape")),
    "Flatten": (flatten, ("axis",)),
    "Transpose": (transpose, ("perm",)),
    "Slice": (slice_, ("starts", "ends", "axes")),
    "Split": (split, ("axis", "split", "num_outputs")),
    "Pad": (pad, ("mode", "pads", "value")),
    "Expand": (expand, ()),
    "Tile": (tile, ()),
    "ReduceMean": (_reduction(torch.mean), REDUCE),
    "ReduceSum": (_reduction(torch.sum), REDUCE),
    "ReduceMax": (_reduction(torch.amax), REDUCE),
    "ReduceMin": (_reduction(torch.amin), REDUCE),
    "ReduceProd": (reduce_prod, REDUCE),
    "GlobalAveragePool": (adaptive, ()),
    "GlobalMaxPool": (global_pool(torch.amax), ()),
    "Softmax": (softmax, ("axis",)),
    "LogSoftmax": (softmax, ("axis",)),
    "HardSigmoid": (hard_sigmoid, ("alpha", "beta")),
    "Resize": (resize, RESIZE),
    "Upsample": (resize, ("mode", "scales")),
    "DepthToSpace": (depth_to_space, ("blocksize", "mode")),
    "SpaceToDepth": (space_to_depth, ("blocksize",)),
    "MatMul": (_two(torch.matmul), ()),
    "ArgMax": (arg_max, ("axis", "keepdims", "select_last_index")),
    "InstanceNormalization": (instance_norm, ("epsilon",)),
    "LayerNormalization": (layer_norm, ("axis", "epsilon", "stash_type")),
}
"""By operator: the function of its inputs, and the attributes that it knows."""
