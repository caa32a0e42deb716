"""The integer graph: what a quantised network computes, exactly, and nothing about how.

Front ends build it, passes rewrite it, the back end lowers it to instructions. `Graph.run` is its executable
spec: plain NumPy, and the reference that golden model and gateware are compared with, tensor by tensor.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import CompileError
from sordino_hw.spec.numbers import requantise, wrap32

__all__ = ["Concat", "Conv", "Depthwise", "Flatten", "Graph", "Input", "MaxPool", "Node", "Requant", "Slice", "Value", "Window"]


@dataclass(frozen=True)
class Value:
    """One activation tensor: integers of `shape` (channels, height, width); real value = integer x `scale`."""

    name: str
    shape: tuple[int, int, int]
    scale: float
    signed: bool


@dataclass(frozen=True)
class Requant:
    """Post-processing of one layer; arrays are int64 [channels].

    y = clip(numbers.requantise(acc, bias, mantissa, shift), lo, hi); y = table[y + 128] if there is a table;
    y = 0 where |y| < threshold.
    """

    bias: np.ndarray
    mantissa: np.ndarray
    shift: np.ndarray
    lo: int
    hi: int
    threshold: np.ndarray
    table: np.ndarray | None = None
    """int16 [256], indexed by the clamped value (-128..127) + 128."""

    @classmethod
    def identity(cls, channels: int, arch: ArchConfig, signed: bool) -> "Requant":
        """Passes accumulators through unchanged, clamped to the activation range."""
        lo, hi = arch.act_range(signed)
        m = arch.mantissa_bits - 1
        full = np.full
        return cls(
            np.zeros(channels, np.int64),
            full(channels, 1 << m, np.int64),
            full(channels, m, np.int64),
            lo,
            hi,
            np.zeros(channels, np.int64),
        )

    def apply(self, acc: np.ndarray, arch: ArchConfig) -> np.ndarray:
        """acc: int64 [batch, channels, h, w] -> activations of the same shape."""
        col = (slice(None), None, None)
        y = requantise(acc, self.bias[col], self.mantissa[col], self.shift[col], arch).clip(self.lo, self.hi)
        if self.table is not None:
            y = self.table.astype(np.int64)[y + 128]
        return np.where(np.abs(y) < self.threshold[col], 0, y)


@dataclass(frozen=True)
class Node:
    """Base of all nodes. `inputs` are names of values; `out` is the value that the node defines."""

    out: Value
    inputs: tuple[str, ...]
    source: str = field(default="", kw_only=True)
    """Where it comes from in the user's model: module path and source line, for messages and reports."""

    kind: ClassVar[str] = "node"

    def evaluate(self, inputs: list[np.ndarray], arch: ArchConfig) -> np.ndarray:
        """int64 arrays [batch, c, h, w] in, one out."""
        raise TypeError(f"{type(self).__name__} has no value of its own")


@dataclass(frozen=True)
class Input(Node):
    """A network input."""

    kind: ClassVar[str] = "input"


@dataclass(frozen=True)
class Window:
    """Geometry of a sliding window; `padding` is (top, left, bottom, right)."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    def out_size(self, h: int, w: int) -> tuple[int, int]:
        t, left, b, r = self.padding
        return (
            (h + t + b - self.dilation[0] * (self.kernel[0] - 1) - 1) // self.stride[0] + 1,
            (w + left + r - self.dilation[1] * (self.kernel[1] - 1) - 1) // self.stride[1] + 1,
        )

    def patches(self, x: np.ndarray, fill: int = 0) -> np.ndarray:
        """[b, c, h, w] -> [b, c, oh, ow, kh, kw], padding filled with `fill`."""
        t, left, b, r = self.padding
        x = np.pad(x, ((0, 0), (0, 0), (t, b), (left, r)), constant_values=fill)
        extent = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        view = np.lib.stride_tricks.sliding_window_view(x, extent, axis=(2, 3))
        return view[:, :, :: self.stride[0], :: self.stride[1], :: self.dilation[0], :: self.dilation[1]]


def _dot(patches: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Exact integer contraction through float64 GEMM (sums stay below 2**53): [b,c,oh,ow,kh,kw] x [o,c,kh,kw]."""
    b, c, oh, ow, kh, kw = patches.shape
    a = np.ascontiguousarray(patches.transpose(0, 2, 3, 1, 4, 5), np.float64).reshape(b * oh * ow, c * kh * kw)
    y = a @ weight.reshape(len(weight), -1).T.astype(np.float64)
    return y.reshape(b, oh, ow, len(weight)).transpose(0, 3, 1, 2).astype(np.int64)


@dataclass(frozen=True)
class Conv(Node):
    """Convolution (also fully connected layers: kernel = input size), event mode.

    `weight` int8 [cout, cin / groups, kh, kw]. With a residual, `inputs` = (x, r) and the accumulator of output
    channel o gets `r[o] * residual_weight[o]` too (int64 [cout], -16384..16383).
    """

    weight: np.ndarray
    window: Window
    requant: Requant
    groups: int = 1
    residual_weight: np.ndarray | None = None

    kind: ClassVar[str] = "conv"

    def accumulate(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Final accumulators before bias, wrapped to 32 bits: int64 [batch, cout, oh, ow]."""
        x = self.window.patches(inputs[0])
        acc = np.concatenate(
            [_dot(p, w) for p, w in zip(np.split(x, self.groups, 1), np.split(self.weight, self.groups), strict=True)], 1
        )
        if self.residual_weight is not None:
            acc = acc + inputs[1] * self.residual_weight[:, None, None]
        return wrap32(acc)

    def evaluate(self, inputs, arch):
        return self.requant.apply(self.accumulate(inputs), arch)


@dataclass(frozen=True)
class Depthwise(Node):
    """One weight per channel and tap, vector mode: depthwise convolution, average pooling, standalone activation,
    standalone add (1x1 with a residual), nearest upsampling (1x1 with `repeat`).

    `weight` int64 [c, kh, kw]: 8 bit, or -16384..16383 where `wide` (two cycles a tap). `label` names what it is.
    """

    weight: np.ndarray
    window: Window
    requant: Requant
    wide: bool = False
    repeat: tuple[int, int] = (1, 1)
    residual_weight: np.ndarray | None = None
    label: str = "depthwise"

    kind: ClassVar[str] = "depthwise"

    def accumulate(self, inputs: list[np.ndarray]) -> np.ndarray:
        """As `Conv.accumulate`."""
        acc = np.einsum("bchwij,cij->bchw", self.window.patches(inputs[0]), self.weight, optimize=True)
        acc = acc.repeat(self.repeat[0], 2).repeat(self.repeat[1], 3)
        if self.residual_weight is not None:
            acc = acc + inputs[1] * self.residual_weight[:, None, None]
        return wrap32(acc)

    def evaluate(self, inputs, arch):
        return self.requant.apply(self.accumulate(inputs), arch)


@dataclass(frozen=True)
class MaxPool(Node):
    """Max pooling; padding never wins. A window that lies wholly in the padding counts as 0."""

    window: Window
    requant: Requant

    kind: ClassVar[str] = "maxpool"

    def accumulate(self, inputs: list[np.ndarray]) -> np.ndarray:
        least = -(1 << 31)
        acc = self.window.patches(inputs[0], fill=least).max((4, 5))
        return np.where(acc == least, 0, acc)

    def evaluate(self, inputs, arch):
        return self.requant.apply(self.accumulate(inputs), arch)


@dataclass(frozen=True)
class Concat(Node):
    """Concatenation of channels; all parts share one scale and signedness with the output."""

    kind: ClassVar[str] = "concat"

    def evaluate(self, inputs, arch):
        return np.concatenate(inputs, 1)


@dataclass(frozen=True)
class Slice(Node):
    """Channels `start` to `stop` of the input."""

    start: int
    stop: int

    kind: ClassVar[str] = "slice"

    def evaluate(self, inputs, arch):
        return inputs[0][:, self.start : self.stop]


@dataclass(frozen=True)
class Flatten(Node):
    """(c, h, w) to (c * h * w, 1, 1), in that order."""

    kind: ClassVar[str] = "flatten"

    def evaluate(self, inputs, arch):
        return inputs[0].reshape(len(inputs[0]), -1, 1, 1)


@dataclass
class Graph:
    """Nodes in execution order, and the names of the outputs. `check` is the spec of a valid graph."""

    arch: ArchConfig
    nodes: list[Node]
    outputs: list[str]

    @property
    def values(self) -> dict[str, Value]:
        return {n.out.name: n.out for n in self.nodes}

    @property
    def inputs(self) -> list[Value]:
        return [n.out for n in self.nodes if isinstance(n, Input)]

    def check(self) -> None:
        """Raises `CompileError` naming the node unless every shape, range and reference is consistent."""
        known: dict[str, Value] = {}
        for n in self.nodes:

            def rule(ok, text, n=n):
                if not ok:
                    raise CompileError(f"{n.kind} {n.out.name!r}{f' ({n.source})' if n.source else ''}: {text}")

            for i in n.inputs:
                rule(i in known, f"input {i!r} is not defined before it")
            rule(n.out.name not in known, "its name is taken")
            rule(len(n.out.shape) == 3 and min(n.out.shape) >= 1, f"shape {n.out.shape} is not (channels, height, width)")
            rule(n.out.scale > 0, f"scale {n.out.scale} is not positive")
            self._check_node(n, [known[i] for i in n.inputs], rule)
            known[n.out.name] = n.out
        for name in self.outputs:
            if name not in known:
                raise CompileError(f"output {name!r} is not defined")

    def _check_node(self, n: Node, ins: list[Value], rule) -> None:
        shape = n.out.shape
        if isinstance(n, Input):
            rule(not ins, "an input has no inputs")
            return
        if isinstance(n, Conv | Depthwise | MaxPool):
            c, h, w = ins[0].shape
            oh, ow = n.window.out_size(h, w)
            if isinstance(n, Depthwise):
                oh, ow = oh * n.repeat[0], ow * n.repeat[1]
            channels = len(n.weight) if isinstance(n, Conv) else c
            rule(shape == (channels, oh, ow), f"shape {shape} should be {(channels, oh, ow)}")
            if isinstance(n, Conv):
                rule(c % n.groups == 0 and channels % n.groups == 0, f"groups {n.groups} do not divide the channels")
                rule(n.weight.shape[1:] == (c // n.groups, *n.window.kernel), f"weight shape {n.weight.shape}")
                rule(n.weight.dtype == np.int8, f"weight dtype {n.weight.dtype}")
            if isinstance(n, Depthwise):
                rule(n.weight.shape == (c, *n.window.kernel), f"weight shape {n.weight.shape}")
                low, high = (-16384, 16383) if n.wide else (-128, 127)
                rule(n.weight.min() >= low and n.weight.max() <= high, f"weights outside {low}..{high}")
            if isinstance(n, Conv | Depthwise):
                rule(len(ins) == 1 + (n.residual_weight is not None), f"{len(ins)} inputs")
                if n.residual_weight is not None:
                    rule(ins[1].shape == shape, f"residual shape {ins[1].shape} differs from {shape}")
                    rule(n.residual_weight.shape == (channels,), f"residual weight shape {n.residual_weight.shape}")
                    rule(
                        n.residual_weight.min() >= -16384 and n.residual_weight.max() <= 16383,
                        "residual weight outside -16384..16383",
                    )
            q = n.requant
            for name in ("bias", "mantissa", "shift", "threshold"):
                rule(getattr(q, name).shape == (channels,), f"requant {name} shape {getattr(q, name).shape}")
            lo, hi = self.arch.act_range(n.out.signed)
            if q.table is None:
                rule(lo <= q.lo <= q.hi <= hi, f"clamp {q.lo}..{q.hi} outside {lo}..{hi}")
            else:
                rule(-128 <= q.lo <= q.hi <= 127, f"clamp {q.lo}..{q.hi} outside the table's -128..127")
                rule(q.table.shape == (256,) and q.table.min() >= lo and q.table.max() <= hi, f"table outside {lo}..{hi}")
            rule(q.shift.min() >= 0 and q.shift.max() <= 31, "shift outside 0..31")
            rule(q.mantissa.min() >= 0 and q.mantissa.max() < 1 << self.arch.mantissa_bits, "mantissa out of range")
            rule(q.threshold.min() >= 0 and q.threshold.max() <= 255, "threshold outside 0..255")
        elif isinstance(n, Concat):
            rule(shape == (sum(v.shape[0] for v in ins), *ins[0].shape[1:]), f"shape {shape}")
            for v in ins:
                rule(v.shape[1:] == shape[1:], f"part {v.name!r} has size {v.shape[1:]}")
                rule(v.scale == n.out.scale and v.signed == n.out.signed, f"part {v.name!r} has another scale or sign")
        elif isinstance(n, Slice):
            rule(0 <= n.start < n.stop <= ins[0].shape[0] and shape == (n.stop - n.start, *ins[0].shape[1:]), f"shape {shape}")
            rule(ins[0].scale == n.out.scale and ins[0].signed == n.out.signed, "another scale or sign than its input")
        elif isinstance(n, Flatten):
            rule(shape == (int(np.prod(ins[0].shape)), 1, 1), f"shape {shape}")
            rule(ins[0].scale == n.out.scale and ins[0].signed == n.out.signed, "another scale or sign than its input")

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Executes the graph: integers [batch, c, h, w] by input name -> every value, int64, by name."""
        values: dict[str, np.ndarray] = {}
        for n in self.nodes:
            if isinstance(n, Input):
                values[n.out.name] = np.asarray(inputs[n.out.name], np.int64)
            else:
                values[n.out.name] = n.evaluate([values[i] for i in n.inputs], self.arch)
        return values
