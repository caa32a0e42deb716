"""The limits of each operator. The docstring is what the user reads, so it states the rule and what to do."""

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from .arguments import constant, is_constant, pair
from .plan import Planner, feature_rank, feature_shape

__all__ = ["HINTS", "Constraint", "rule", "unknown"]

Constraint = Callable[[Planner, Node, dict[str, Any]], str | None]
"""None if the node keeps the rule, else what was found."""

HINTS = {
    "softmax": "Return the logits and apply softmax on the host.",
    "log_softmax": "Return the logits and apply log_softmax on the host.",
    "argmax": "Return the logits and take argmax on the host.",
    "conv_transpose2d": "Use nn.Upsample(mode='nearest') and a convolution.",
    "upsample_bilinear2d": "Use nn.Upsample(mode='nearest').",
    "layer_norm": "Use nn.BatchNorm2d, which folds into the convolution.",
    "group_norm": "Use nn.BatchNorm2d, which folds into the convolution.",
    "instance_norm": "Use nn.BatchNorm2d, which folds into the convolution.",
    "prelu": "Use nn.ReLU or nn.LeakyReLU.",
    "matmul": "The array multiplies activations by constant weights; use nn.Linear or nn.Conv2d.",
    "bmm": "The array multiplies activations by constant weights; use nn.Linear or nn.Conv2d.",
    "scaled_dot_product_attention": "The array multiplies activations by constant weights; attention does not map.",
    "lstm": "Recurrent layers do not map; use convolutions over a window of frames.",
    "gru": "Recurrent layers do not map; use convolutions over a window of frames.",
    "conv3d": "Use nn.Conv2d on each frame.",
}
"""What to do instead of some operators that are not supported."""


def unknown(operator: str) -> str:
    """Message for an operator that has no entry in the table."""
    hint = HINTS.get(operator.rpartition(".")[2].removeprefix("_").rstrip("_"))
    return "This operator is not supported. " + (
        hint or "Replace it by operators of docs/operators.md, or move it out of the model."
    )


def rule(constraint: Constraint) -> str:
    """The text of a constraint, on one line."""
    return " ".join((constraint.__doc__ or "").split())


def fixed_sizes(planner: Planner, node: Node, a: dict) -> str | None:
    """Activations are (N, F), (N, C, L) or (N, C, H, W), of sizes that are fixed when the model is exported. Keep the
    batch first and derive no size from the data."""
    if isinstance(node.meta.get("val"), list | tuple):
        return None
    try:
        feature_shape(node)
    except ValueError as error:
        return str(error)
    return None


def float_tensor(planner: Planner, node: Node, a: dict) -> str | None:
    """Activations are floating point before quantisation. Remove conversions to integers."""
    dtype = node.meta["val"].dtype
    return None if dtype.is_floating_point else str(dtype)


def constant_weight(planner: Planner, node: Node, a: dict) -> str | None:
    """Weights and biases are parameters, not computed from activations. Use nn.Conv2d or nn.Linear."""
    moving = [k for k in ("weight", "bias") if planner.known(a[k]) or not is_constant(a[k])]
    return f"{' and '.join(moving)} computed from an input" if moving else None


def kernel_size(planner: Planner, node: Node, a: dict) -> str | None:
    """A kernel has 1 to 255 rows and columns. Use a smaller kernel."""
    shape = a["kernel_size"] if "kernel_size" in a else a["weight"].meta["val"].shape[2:]
    k = pair(list(shape) if not isinstance(shape, int) else shape, 1, feature_rank(node) == 3)
    return None if max(k) <= 255 else f"kernel {k}"


def steps(planner: Planner, node: Node, a: dict) -> str | None:
    """Stride and dilation are 1 to 255. Use smaller steps."""
    found = {k: list(v) if not isinstance(v, int) else [v] for k in ("stride", "dilation") if (v := a.get(k))}
    big = {k: v for k, v in found.items() if max(v) > 255}
    return ", ".join(f"{k} {v}" for k, v in big.items()) or None


def vector_input(planner: Planner, node: Node, a: dict) -> str | None:
    """A fully connected layer takes (N, F). Flatten its input, or use a 1x1 convolution."""
    rank = len(a["input"].meta["val"].shape)
    return None if rank == 2 else f"an input of {rank} dimensions"


def constant_statistics(planner: Planner, node: Node, a: dict) -> str | None:
    """A batch norm's mean and variance are constants, its running statistics; without them it normalises each batch by itself,
    also in evaluation, which the array cannot do. Build it with track_running_stats=True and run some training batches, so that
    it has statistics, before quantising."""
    missing = [k for k in ("running_mean", "running_var") if a[k] is None or not is_constant(a[k])]
    if missing:
        return f"no {' and no '.join(missing)}"
    return "training=True" if a["training"] else None


def constant_operand(planner: Planner, node: Node, a: dict) -> str | None:
    """One operand is a constant: a number, or one per channel. Products and quotients of two activations (gates,
    squeeze and excitation, attention) are not supported: replace them by additions or leave them out."""
    x, y = (a["self"], a["other"]) if "other" in a else (None, None)
    if planner.known(x) and planner.known(y):
        return "two activations"
    if not planner.known(x) and node.target is not None and "div" in str(node.target):
        return "a constant divided by an activation"
    if a.get("rounding_mode"):
        return f"rounding_mode={a['rounding_mode']!r}"
    return _per_channel(planner, node, y if planner.known(x) else x)


def _per_channel(planner: Planner, node: Node, value: Any) -> str | None:
    if not is_constant(value):
        return "an operand that is neither an activation nor a constant"
    shape = tuple(constant(planner.module, value).shape)
    rank = feature_rank(node) + 1
    full = (1,) * (rank - len(shape)) + shape
    channels = node.meta["val"].shape[1]
    good = len(full) == rank and full[0] == 1 and full[1] in (1, channels) and all(s == 1 for s in full[2:])
    return (
        None
        if good
        else f"a constant of shape {shape} with an activation of shape (N, {', '.join(map(str, node.meta['val'].shape[1:]))})"
    )


def same_shape(planner: Planner, node: Node, a: dict) -> str | None:
    """The operands of an addition or subtraction have the same shape, or one is a constant per tensor or channel. Bring both to
    the same channels, height and width, for instance by a 1x1 convolution."""
    x, y = a["self"], a["other"]
    if planner.known(x) and planner.known(y):
        shapes = feature_shape(x), feature_shape(y)
        return None if shapes[0] == shapes[1] else f"{shapes[0]} and {shapes[1]}"
    return _per_channel(planner, node, y if planner.known(x) else x)


def unit_alpha(planner: Planner, node: Node, a: dict) -> str | None:
    """The `alpha` of an addition is 1. Multiply by a constant instead."""
    return None if a.get("alpha", 1) == 1 else f"alpha={a['alpha']}"


def constant_bounds(planner: Planner, node: Node, a: dict) -> str | None:
    """The bounds of a clamp are numbers, the lower one below the upper one. Use torch.clamp(x, lo, hi)."""
    bounds = list(a.values())[1:]
    if any(isinstance(b, Node) for b in bounds):
        return "bounds that are tensors"
    low, high = (*bounds, None, None)[:2]
    return f"{low}..{high}" if low is not None and high is not None and not float(low) < float(high) else None


def constant_threshold(planner: Planner, node: Node, a: dict) -> str | None:
    """The threshold is a constant, not computed from activations. Pass a buffer or a parameter of shape [] or [channels]."""
    return None if is_constant(a["threshold"]) else "a threshold computed from an input"


def constant_step(planner: Planner, node: Node, a: dict) -> str | None:
    """The step is a constant, not computed from activations, and lo <= 0 < hi. Pass a buffer or a parameter."""
    if not is_constant(a["step"]):
        return "a step computed from an input"
    return None if a["lo"] <= 0 < a["hi"] else f"lo={a['lo']}, hi={a['hi']}"


def zero_below_threshold(planner: Planner, node: Node, a: dict) -> str | None:
    """A threshold is not negative and puts 0 in place of what lies below. Use nn.Threshold(t, 0) with t >= 0."""
    t, v = float(a["threshold"]), float(a["value"])
    return None if t >= 0 and v == 0 else f"threshold={t:g}, value={v:g}"


def padding_counts(planner: Planner, node: Node, a: dict) -> str | None:
    """Average pooling counts its padding as zeros (count_include_pad=True). Pad with 0 or leave the default."""
    pad = a["padding"]
    padded = bool(pad) if isinstance(pad, int) else any(pad)
    return "count_include_pad=False" if padded and not a["count_include_pad"] else None


def whole_windows(planner: Planner, node: Node, a: dict) -> str | None:
    """Average pooling has no windows that hang over the edge (ceil_mode=False). Pad the input, or crop it."""
    return "ceil_mode=True" if a["ceil_mode"] else None


def plain_divisor(planner: Planner, node: Node, a: dict) -> str | None:
    """Average pooling divides by the size of its window. Multiply by a constant behind it instead of divisor_override."""
    return f"divisor_override={a['divisor_override']}" if a.get("divisor_override") is not None else None


def divisible_output(planner: Planner, node: Node, a: dict) -> str | None:
    """Adaptive pooling's input size is a multiple of its output size. Use an output size that divides the input's."""
    (_, h, w), (_, oh, ow) = feature_shape(a["self"]), feature_shape(node)
    return None if h % oh == 0 and w % ow == 0 else f"{h}x{w} to {oh}x{ow}"


def spatial_mean(planner: Planner, node: Node, a: dict) -> str | None:
    """A mean is taken over the whole height and width of (N, C, H, W), or the length of (N, C, L). Use dim=(2, 3)."""
    rank = len(a["self"].meta["val"].shape)
    dims = sorted(d % rank for d in (a.get("dim") or range(rank)))
    return None if rank > 2 and dims == list(range(2, rank)) else f"dim={a.get('dim')} of {rank} dimensions"


def whole_factor(planner: Planner, node: Node, a: dict) -> str | None:
    """Nearest upsampling enlarges by a whole factor of at most 255. Use scale_factor=2 (or 3, ...)."""
    (_, h, w), (_, oh, ow) = feature_shape(a["input"] if "input" in a else a["self"]), feature_shape(node)
    return None if oh % h == 0 and ow % w == 0 and max(oh // h, ow // w) <= 255 else f"{h}x{w} to {oh}x{ow}"


def zero_pad(planner: Planner, node: Node, a: dict) -> str | None:
    """Padding is by zeros, at the edges of height and width, and not negative. Use nn.ZeroPad2d."""
    mode = a.get("mode") or "constant"
    if mode != "constant" or (a.get("value") or 0) != 0:
        return f"mode {mode!r}, value {a.get('value')}"
    pads = list(a["pad"])
    spatial = 2 * (feature_rank(node) - 1)
    return None if min(pads) >= 0 and not any(pads[spatial:]) and spatial else f"padding {pads}"


def _axis(node: Node, a: dict) -> int:
    return int(a["dim"] if a["dim"] is not None else 0) % len(_like(node).shape)


def _like(node: Node) -> torch.Tensor:
    value = node.meta["val"]
    return value[0] if isinstance(value, list | tuple) else value


def channel_axis(planner: Planner, node: Node, a: dict) -> str | None:
    """Concatenation and splitting work along the channels (dim=1). Use dim=1."""
    axis = _axis(node, a)
    return None if axis == 1 else f"dim={axis}"


def channel_axis_or_all(planner: Planner, node: Node, a: dict) -> str | None:
    """Slices take channels (dim=1); along other dimensions they take everything. Crop outside the model."""
    whole = list(_like(node).shape[1:]) == list(a["self"].meta["val"].shape[1:])
    axis = _axis(node, a)
    start, end = a["start"], a.get("end")
    everything = whole and (axis != 0 or (start in (0, None) and (end is None or end == (1 << 63) - 1)))
    return None if axis == 1 or everything else f"dim={axis}"


def unit_step(planner: Planner, node: Node, a: dict) -> str | None:
    """Slices take neighbouring channels (step 1). Reorder the channels of the layer before."""
    return None if a.get("step", 1) == 1 else f"step {a['step']}"


def tensors_only(planner: Planner, node: Node, a: dict) -> str | None:
    """All parts of a concatenation are activations. Leave constants out, or use a convolution's bias."""
    count = sum(not planner.known(n) for n in a["tensors"])
    return f"{count} constant parts" if count else None


def part_of_split(planner: Planner, node: Node, a: dict) -> str | None:
    """Parts are taken of torch.split and torch.chunk only."""
    parts = node.args[0]
    name = str(getattr(parts, "target", ""))
    return None if any(k in name for k in ("aten.split", "aten.chunk")) else f"a part of {name}"


def flatten_only(planner: Planner, node: Node, a: dict) -> str | None:
    """Reshapes flatten everything but the batch, to (N, C*H*W), or add or drop dimensions of size 1 behind the channels. Use
    torch.flatten(x, 1)."""
    x = next(iter(a.values()))
    before, after = x.meta["val"].shape, node.meta["val"].shape
    flat = len(after) == 2
    moved = feature_shape(x) != feature_shape(node)
    # An unsqueezed (N, C, 1, L) holds the same as (N, C, L); a channel axis that changes its size does not.
    good = str(before[0]) == str(after[0]) and (flat or not moved)
    return None if good else f"{tuple(map(str, before))} to {tuple(map(str, after))}"
