"""The integer graph: what a quantised network computes, exactly, and nothing about how.

`Graph.run` is its executable spec: plain NumPy, and the reference that golden model and gateware are compared with, tensor
by tensor. `Graph.check` is the spec of a valid graph, run after every pass. The nodes stand in `ops`, one file an operator
family, each with its meaning, its rules and its instructions; here is what all of them share.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import CompileError
from sordino_hw.spec.numbers import requantise

from .slots import Layout, Slots, natural, owner

if TYPE_CHECKING:
    from .emit.operation import Images, View
    from .emit.tiling import Tile

__all__ = ["Computation", "Graph", "Input", "Node", "Reading", "Rearrangement", "Requant", "Value", "Window"]


@dataclass(frozen=True)
class Value:
    """One activation tensor: integers of `shape` (channels, height, width); real value = integer x `scale`."""

    name: str
    shape: tuple[int, int, int]
    scale: float
    signed: bool
    lowest: int | None = None
    """The least integer, where the range is not `ArchConfig.act_range`: as many values, more of them on one side of 0."""

    def range(self, arch: ArchConfig) -> tuple[int, int]:
        """Smallest and largest integer, inclusive."""
        return arch.act_range(self.signed) if self.lowest is None else (self.lowest, self.lowest + (1 << arch.act_bits) - 1)


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

    def problems(self, out: Value, arch: ArchConfig) -> Iterator[str]:
        """What is wrong with it as the post-processing that makes `out`."""
        channels = out.shape[0]
        for name in ("bias", "mantissa", "shift", "threshold"):
            if getattr(self, name).shape != (channels,):
                yield f"requant {name} shape {getattr(self, name).shape}"
        lo, hi = out.range(arch)
        if self.table is None:
            if not lo <= self.lo <= self.hi <= hi:
                yield f"clamp {self.lo}..{self.hi} outside {lo}..{hi}"
        else:
            if not -128 <= self.lo <= self.hi <= 127:
                yield f"clamp {self.lo}..{self.hi} outside the table's -128..127"
            if self.table.shape != (256,) or self.table.min() < lo or self.table.max() > hi:
                yield f"table outside {lo}..{hi}"
        if self.shift.min() < 0 or self.shift.max() > 31:
            yield "shift outside 0..31"
        if self.mantissa.min() < 0 or self.mantissa.max() >= 1 << arch.mantissa_bits:
            yield "mantissa out of range"
        if self.threshold.min() < 0 or self.threshold.max() > 255:
            yield "threshold outside 0..255"


@dataclass(frozen=True)
class Window:
    """Geometry of a sliding window; `padding` is (top, left, bottom, right), negative where rows or columns are left out."""

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
        added = [(max(before, 0), max(after, 0)) for before, after in ((t, b), (left, r))]
        x = np.pad(x, ((0, 0), (0, 0), *added), constant_values=fill)
        rows, columns = (slice(max(-n, 0), size) for n, size in zip((t, left), x.shape[2:], strict=True))
        x = x[:, :, rows, columns][:, :, : min(b, 0) or None, : min(r, 0) or None]
        extent = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        view = np.lib.stride_tricks.sliding_window_view(x, extent, axis=(2, 3))
        return view[:, :, :: self.stride[0], :: self.stride[1], :: self.dilation[0], :: self.dilation[1]]

    def products(self, h: int, w: int) -> np.ndarray:
        """How many outputs and taps read each pixel of an input: int64 [h, w]."""
        counts = []
        for axis, (size, outputs) in enumerate(zip((h, w), self.out_size(h, w), strict=True)):
            first = np.arange(outputs)[:, None] * self.stride[axis] - self.padding[axis]
            reads = (first + np.arange(self.kernel[axis]) * self.dilation[axis]).ravel()
            counts.append(np.bincount(reads[(reads >= 0) & (reads < size)], minlength=size))
        return np.outer(*counts)


@dataclass(frozen=True)
class Node:
    """Base of all nodes. `inputs` are names of values; `out` is the value that the node defines."""

    out: Value
    inputs: tuple[str, ...]
    source: str = field(default="", kw_only=True)
    """Where it comes from in the user's model: module path and source line, for messages and reports."""

    kind: ClassVar[str] = "node"
    """The node's name in messages and reports, where it has no `label` of its own."""
    copies: ClassVar[bool] = False
    """Whether the output's values are those of the inputs, so that it is as dense as they are."""

    @property
    def label(self) -> str:
        """What it is called in reports."""
        return self.kind

    def described(self, ins: Sequence[Value]) -> str:
        """As `label`, where that depends on the inputs."""
        return self.label

    @property
    def where(self) -> str:
        """Node and source, for messages."""
        return f"{self.label} {self.out.name!r}{f' ({self.source})' if self.source else ''}"

    def problems(self, ins: Sequence[Value], arch: ArchConfig) -> Iterator[str]:
        """What is wrong with the node, given its inputs. Each rule may rely on those before it."""
        yield from ()

    def evaluate(self, inputs: list[np.ndarray], arch: ArchConfig) -> np.ndarray:
        """The meaning: int64 arrays [batch, c, h, w] in, one out."""
        raise TypeError(f"{type(self).__name__} has no value of its own")

    def layout(self, inputs: list[Layout], shapes: list[tuple[int, int, int]], lanes: int, fold: int = 1) -> Layout:
        """Where the value lies, given the layouts and shapes of the inputs: in its own memory, but for a `Reading`."""
        raise NotImplementedError

    def homes(self, inputs: list[Layout], shapes: list[tuple[int, int, int]], lanes: int) -> dict[str, tuple[int, int, int]]:
        """The inputs that live inside this value's memory, each with the word of a pixel, the row and the column at which it begins."""
        return {}


@dataclass(frozen=True)
class Input(Node):
    """A network input."""

    kind: ClassVar[str] = "input"

    def problems(self, ins, arch):
        if ins:
            yield "an input has no inputs"

    def layout(self, inputs, shapes, lanes, fold=1):
        return owner(self.out.name, self.out.shape[2], natural(self.out.shape[0]), lanes, fold)


@dataclass(frozen=True)
class Rearrangement(Node):
    """Base of the nodes that take no instruction: where their inputs lie is all that they decide."""

    copies: ClassVar[bool] = True


@dataclass(frozen=True)
class Reading(Rearrangement):
    """Base of the nodes whose value is a part, or another reading, of their only input's memory."""


@dataclass(frozen=True, kw_only=True)
class Computation(Node):
    """Base of the nodes that the array computes: accumulators over a sliding window, then post-processing.

    With a residual, `inputs` = (x, r), and the accumulator of output channel o gets `r[o] * residual_weight[o]` too (int64
    [cout], -16384..16383). A residual of one row or column is the same for all of them.
    """

    window: Window
    requant: Requant
    residual_weight: np.ndarray | None = None

    events: ClassVar[bool] = False
    """Whether every input channel may reach every lane (CONV), or only its own (VEC)."""
    linear: ClassVar[bool] = False
    """Whether the accumulators are linear in the inputs."""

    @property
    def operands(self) -> int:
        """Number of inputs."""
        return 1 + (self.residual_weight is not None)

    @property
    def repeat(self) -> tuple[int, int]:
        """Output rows and columns that read the same input rows and columns."""
        return 1, 1

    # -- meaning ---------------------------------------------------------------------------------------------------

    def accumulate(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Final accumulators before bias, wrapped to 32 bits: int64 [batch, cout, oh, ow]."""
        raise NotImplementedError

    def evaluate(self, inputs, arch):
        return self.requant.apply(self.accumulate(inputs), arch)

    def bound(self, peaks: list[int]) -> np.ndarray:
        """The largest magnitude of the accumulators, int64 [channels], over all inputs up to these magnitudes."""
        raise NotImplementedError

    def peak(self, peaks: list[int]) -> np.ndarray:
        """As `bound`, with the bias."""
        return np.abs(self.requant.bias.astype(np.int64)) + self.bound(peaks)

    def post_processed(self, change: Callable[[Requant], Requant]) -> "Computation":
        """The same with another post-processing."""
        return replace(self, requant=change(self.requant))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the model's layer, zeros and padding included."""
        return 0

    def products(self, h: int, w: int) -> np.ndarray:
        """Multiply-accumulates that each pixel of a channel of the first input, [h, w], takes part in: int64 [h, w]."""
        return self.window.products(h, w)

    def problems(self, ins, arch):
        channels = self.out.shape[0]
        if len(ins) != self.operands:
            yield f"{len(ins)} inputs"
        if self.residual_weight is not None:
            (c, *size), r = self.out.shape, ins[1].shape
            if r[0] != c or any(n not in (1, m) for m, n in zip(size, r[1:], strict=True)):
                yield f"residual shape {r} differs from {self.out.shape}, and is not 1 there"
            if self.residual_weight.shape != (channels,):
                yield f"residual weight shape {self.residual_weight.shape}"
            if self.residual_weight.min() < -16384 or self.residual_weight.max() > 16383:
                yield "residual weight outside -16384..16383"
        yield from self.requant.problems(self.out, arch)

    # -- layout ----------------------------------------------------------------------------------------------------

    def slots(self, inputs: list[Layout], lanes: int) -> Slots:
        """The slots of the output's channels, from the first word of its own memory."""
        raise NotImplementedError

    def residual_slots(self, inputs: list[Layout], lanes: int) -> Slots | None:
        """The slots that a second operand must have; None where the output's follow its."""
        return self.slots(inputs, lanes)

    def layout(self, inputs, shapes, lanes, fold=1):
        return owner(self.out.name, self.out.shape[2], self.slots(inputs, lanes), lanes, fold)

    # -- instructions ----------------------------------------------------------------------------------------------

    def parts(self, inputs: "list[View]", out: "View", arch: ArchConfig) -> "Iterator[tuple[Computation, list[View], View]]":
        """The nodes that are lowered in place of this one, in order, with their operands and their part of the outputs."""
        yield self, inputs, out

    def as_row(self, window: Window) -> "Computation":
        """The same with a kernel that is the whole input, its rows joined: `window` has the kernel (1, h * w)."""
        raise NotImplementedError

    def reaching(self, channels: np.ndarray) -> np.ndarray:
        """The input channels, ascending, that reach these output channels."""
        return channels

    def fits(self, tile: "Tile", channels: np.ndarray, arch: ArchConfig) -> bool:
        """Whether what an operation over a tile of the inputs needs for these output channels fits the memories."""
        raise NotImplementedError

    def images(
        self, x: "View", slices: "list[tuple[np.ndarray, np.ndarray]]", tile: "Tile", span: int, arch: ArchConfig, dense: bool
    ) -> "Images":
        """What an operation over a tile multiplies with. `slices`: the output channels of each slice, and their lanes."""
        raise NotImplementedError

    def macs_per_event(self, slices: list[np.ndarray]) -> list[int]:
        """Multiply-accumulates of the model's layer that one event stands for, by slice (its output channels)."""
        return [0 for _ in slices]


@dataclass
class Graph:
    """Nodes in execution order, and the names of the outputs. `check` is the spec of a valid graph."""

    arch: ArchConfig
    nodes: list[Node]
    outputs: list[str]

    def __repr__(self) -> str:
        made = ", ".join(f"{self.values[name].shape}" for name in self.outputs if name in self.values)
        return f"Graph({len(self.nodes)} nodes, {', '.join(str(v.shape) for v in self.inputs)} -> {made}, arch={self.arch.name!r})"

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
            for problem in self._problems(n, known):
                raise CompileError(f"{n.where}: {problem}")
            known[n.out.name] = n.out
        for name in self.outputs:
            if name not in known:
                raise CompileError(f"output {name!r} is not defined")

    def _problems(self, n: Node, known: dict[str, Value]) -> Iterator[str]:
        for i in n.inputs:
            if i not in known:
                yield f"input {i!r} is not defined before it"
        if n.out.name in known:
            yield "its name is taken"
        if len(n.out.shape) != 3 or min(n.out.shape) < 1:
            yield f"shape {n.out.shape} is not (channels, height, width)"
        if not n.out.scale > 0:
            yield f"scale {n.out.scale} is not positive"
        yield from n.problems([known[i] for i in n.inputs], self.arch)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Executes the graph: integers [batch, c, h, w] by input name -> every value, int64, by name."""
        values: dict[str, np.ndarray] = {}
        for n in self.nodes:
            if isinstance(n, Input):
                values[n.out.name] = np.asarray(inputs[n.out.name], np.int64)
            else:
                values[n.out.name] = n.evaluate([values[i] for i in n.inputs], self.arch)
        return values
