"""Linear and cubic resizing: every output pixel is a weighted sum of a few input pixels, with weights for rows and for columns.

Outputs whose weights are alike and whose inputs lie evenly spaced form one depthwise operation (see `pieces`). Enlarging by a whole
factor r without aligned corners takes r operations along each axis, and those of the edges; with aligned corners every row has
weights of its own. So rows and columns are resized one after the other where that takes fewer operations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar

import numpy as np
import torch
from torch.fx import GraphModule, Node

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.numbers import wrap32

from ..factors import exact_factor
from ..fx.index_map import apply
from ..fx.nodes import feature_shape
from ..graph import Computation, Window
from ..slots import compact
from .lanewise import Lanewise
from .layer import Layer
from .operator import operator
from .pieces import MOST_PIECES, runs
from .planner import Planner

__all__ = ["Resample", "ResampleLayer"]


# -- meaning and instructions ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Taps:
    """Outputs of an axis, evenly spaced, that share their weights, int64 [taps]; the first's first input, and the step to the next's."""

    outputs: range
    first: int
    step: int
    weight: np.ndarray


def taps(matrix: np.ndarray) -> list[Taps]:
    """The rows of a matrix [outputs, inputs] in which few inputs beside each other are not zero."""
    used = [np.flatnonzero(row) for row in matrix]
    first = np.array([u[0] if len(u) else 0 for u in used])
    weights = [row[f : u[-1] + 1] if len(u) else row[:1] for row, f, u in zip(matrix, first, used, strict=True)]
    found = []
    for outputs, step in runs([w.tobytes() for w in weights], first[:, None]):
        found.append(Taps(outputs, int(first[outputs.start]), int(step[0]), weights[outputs.start]))
    return found


@dataclass(frozen=True, kw_only=True)
class Resample(Computation):
    """Accumulator [y, x] of every channel is the sum over i, j of rows[y, i] * columns[x, j] * input[i, j].

    `rows` int64 [out height, height], `columns` int64 [out width, width]; products are 8 bit, or -16384..16383 where `wide`.
    """

    rows: np.ndarray
    columns: np.ndarray
    wide: bool = False

    kind: ClassVar[str] = "resample"
    linear: ClassVar[bool] = True

    def accumulate(self, inputs):
        return wrap32(np.einsum("yi,bcij,xj->bcyx", self.rows, inputs[0], self.columns, optimize=True))

    def bound(self, peaks):
        peak = np.abs(self.rows).sum(1).max() * np.abs(self.columns).sum(1).max() * peaks[0]
        return np.full(self.out.shape[0], peak, np.int64)

    def problems(self, ins, arch):
        c, h, w = ins[0].shape
        shape = (c, len(self.rows), len(self.columns))
        if self.out.shape != shape:
            yield f"shape {self.out.shape} should be {shape}"
        if self.rows.shape[1:] != (h,) or self.columns.shape[1:] != (w,):
            yield f"rows {self.rows.shape}, columns {self.columns.shape}"
        if np.abs(self.rows).max() * np.abs(self.columns).max() > (16383 if self.wide else 127):
            yield f"products beyond {'15' if self.wide else '8'} bits"
        if self.window != Window((1, 1)) or self.residual_weight is not None:
            yield "it has no kernel and no residual"
        yield from super().problems(ins, arch)

    def slots(self, inputs, lanes):
        return compact(inputs[0].slots, lanes)

    def parts(self, inputs, out, arch):
        (x,) = inputs
        for down, right in product(taps(self.rows), taps(self.columns)):
            weight = np.outer(down.weight, right.weight)
            starts, steps = (down.first, right.first), (down.step, right.step)
            counts = len(down.outputs), len(right.outputs)
            reach = [range(a, a + s * (n - 1) + k) for a, s, n, k in zip(starts, steps, counts, weight.shape, strict=True)]
            node = Lanewise(
                out=replace(self.out, shape=(self.out.shape[0], *counts)),
                inputs=self.inputs,
                weight=np.broadcast_to(weight, (self.out.shape[0], *weight.shape)).copy(),
                window=Window(weight.shape, (max(1, steps[0]), max(1, steps[1]))),
                repeat=(1 if steps[0] else counts[0], 1 if steps[1] else counts[1]),
                requant=self.requant,
                wide=self.wide,
                label=self.kind,
                source=self.source,
            )
            yield node, [x.part(*reach)], out.part(down.outputs, right.outputs)


# -- from PyTorch ----------------------------------------------------------------------------------------------------

AT_ONCE = 64
"""Operations up to which rows and columns are resized together: values are rounded once then."""
NEAR = 127
"""Largest denominator of an axis' weights where both axes are resized."""
WIDE = 16383
"""And where one is."""
SMALL_ERROR = 2.0**-14
"""Relative error of the requantiser's factor that is as good as none."""


def fractions(matrix: np.ndarray, limit: int) -> tuple[np.ndarray, int]:
    """Integers n int64 up to the limit and a denominator d with n / d near to the matrix, whose rows sum up to 1: theirs sum up to d.

    The least denominator that is exact, of those up to `NEAR` and of powers of two; else the largest.
    """
    most = int(limit / max(1.0, np.abs(matrix).max()))
    some = [*range(1, min(NEAR, most) + 1), *(1 << n for n in range(7, most.bit_length()) if 1 << n <= most)]
    denominator = next((d for d in some if np.abs(matrix * d - np.rint(matrix * d)).max() < 1e-6), most)
    integers = np.rint(matrix * denominator).astype(np.int64)
    largest = np.abs(integers).argmax(1)
    integers[np.arange(len(integers)), largest] += denominator - integers.sum(1)
    return integers, denominator


@dataclass
class ResampleLayer(Layer):
    """Resizing by real weights: `rows` and `columns` float64 [outputs, inputs]."""

    rows: np.ndarray
    columns: np.ndarray

    quantised_anew: ClassVar[bool] = True
    takes_activations: ClassVar[bool] = True
    named_by_module: ClassVar[bool] = True

    @property
    def keeps_sign(self) -> bool:
        return not self.activation.table and min(self.rows.min(), self.columns.min()) >= 0

    def _weights(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Integers for rows and columns, and their common denominator."""
        idle = [len(m) == m.shape[1] and bool((m == np.eye(len(m))).all()) for m in (self.rows, self.columns)]
        limit = WIDE if any(idle) else NEAR
        (rows, below), (columns, right) = (fractions(m, limit) for m in (self.rows, self.columns))
        return rows, columns, below * right

    def snapped_scale(self, sources: Sequence[float], target: float, arch: ArchConfig) -> float | None:
        """Less than 1 / 2**(mantissa_bits - 1) larger, so that the requantiser divides by the denominator exactly."""
        if self.activation.table:
            return None
        unit = sources[0] / self._weights()[2]
        step = 2.0 ** np.floor(np.log2(unit / target) - arch.mantissa_bits + 1)
        return unit / (np.floor(unit / target / step) * step)

    def lower(self, low, value, inputs, source):
        rows, columns, denominator = self._weights()
        factor = low.scale_of(self.inputs[0]).scale / low.target(self).scale / denominator
        # Weights some times as large where that brings the factor nearer to one that the requantiser has.
        times = np.arange(1, max(1, WIDE // (np.abs(rows).max() * np.abs(columns).max())) + 1)
        error = exact_factor(factor / times, low.arch)[2]
        best = int(np.flatnonzero(error <= max(error.min(), SMALL_ERROR))[0])
        rows, factor = rows * times[best], factor / times[best]
        mantissa, shift, _ = exact_factor(np.full(self.shape[0], factor), low.arch)
        return Resample(
            out=value,
            inputs=inputs,
            rows=rows,
            columns=columns,
            wide=bool(np.abs(rows).max() * np.abs(columns).max() > NEAR),
            window=Window((1, 1)),
            requant=low.requant(self, np.zeros(self.shape[0]), mantissa, shift),
            source=source,
        )


def matrices(node: Node) -> tuple[np.ndarray, np.ndarray]:
    """The weights of a resizing call for rows and columns, float64 [outputs, inputs] each: it is run on unit vectors."""
    x = node.all_input_nodes[0]
    _, h, w = feature_shape(x)
    two, module = len(x.meta["val"].shape) == 4, node.graph.owning_module
    assert module is not None

    def run(unit: torch.Tensor) -> torch.Tensor:
        """float64 [1, n, h, w] -> [n, out height, out width]"""
        given = unit if two else unit[:, :, 0]
        found = apply(module, node, x, given, 1)[0]
        return found if two else found[:, None]

    rows = run(torch.eye(h, dtype=torch.float64)[None, :, :, None].expand(1, h, h, w).contiguous())[:, :, 0].T
    columns = run(torch.eye(w, dtype=torch.float64)[None, :, None, :].expand(1, w, h, w).contiguous())[:, 0].T
    return rows.numpy(), columns.numpy()


def one_axis_at_a_time(module: GraphModule, node: Node) -> None:
    """Resizes the rows first, by a call of its own, where that takes fewer operations or makes the weights exact."""
    x = node.all_input_nodes[0]
    if len(x.meta["val"].shape) != 4 or len(node.all_input_nodes) > 1:
        return
    rows, columns = matrices(node)
    parts = len(taps(rows)), len(taps(columns))
    exact = all(fractions(m, NEAR)[1] < NEAR for m in (rows, columns))
    if np.array_equal(rows, np.eye(*rows.shape)) or np.array_equal(columns, np.eye(*columns.shape)):
        return
    if exact and parts[0] * parts[1] <= max(AT_ONCE, sum(parts)):
        return
    size, factors = node.args[1], node.args[-1]
    height, width = len(rows), columns.shape[1]
    first, second = ([height, width], [height, len(columns)]) if size is not None else (None, None)
    scales = ([factors[0], 1.0], [1.0, factors[1]]) if size is None else (None, None)  # type: ignore[index]
    with module.graph.inserting_before(node):
        taller = module.graph.call_function(node.target, (x, first, *node.args[2:-1], scales[0]))  # type: ignore[arg-type]
    value = node.meta["val"]
    taller.meta = {**node.meta, "val": value.new_empty([*value.shape[:2], height, width])}
    node.args = (taller, second, *node.args[2:-1], scales[1])


def few_operations(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """Linear and cubic resizing takes at most 256 operations, one for each set of evenly spaced rows and columns with equal weights,
    and reads at most 255 rows or columns for an output. Resize by a whole factor, to fewer pixels, or by mode='nearest'."""
    rows, columns = matrices(node)
    found = taps(rows), taps(columns)
    widest = max(len(t.weight) for t in (*found[0], *found[1]))
    if widest > 255:
        return f"{widest} rows or columns"
    count = len(found[0]) * len(found[1])
    return (
        f"{count} operations from {rows.shape[1]}x{columns.shape[1]} to {len(rows)}x{len(columns)}" if count > MOST_PIECES else None
    )


@operator(
    "aten.upsample_bilinear2d",
    "aten.upsample_linear1d",
    "aten.upsample_bicubic2d",
    "aten._upsample_bilinear2d_aa",
    "aten._upsample_bicubic2d_aa",
    becomes="VEC, depthwise, one for each set of evenly spaced rows and columns with equal weights",
    constraints=(few_operations,),
    rewrite=one_axis_at_a_time,
    homogeneous=True,
)
def resample(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    rows, columns = matrices(node)
    source = planner.value(node.all_input_nodes[0])
    planner.add(ResampleLayer(node, node, [source], feature_shape(node), rows, columns))
