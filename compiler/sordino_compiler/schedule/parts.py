"""A node in the parts that are lowered one after the other: the phases of a folded input, or what the node itself asks for."""

from collections.abc import Iterator
from dataclasses import replace

from sordino_hw.spec.arch import ArchConfig

from ..emit.instructions import Placed
from ..emit.operation import View
from ..emit.tiling import STEP_MAX
from ..graph import Computation, Window
from .folding import in_phases

__all__ = ["parts"]


def parts(node: Computation, layer: int, inputs: list[View], out: View, arch: ArchConfig, dense: bool) -> list[Placed]:
    """A layer to be lowered: in one part, or in several that together make its outputs."""
    return [Placed(n, layer, v[0], v[1] if len(v) > 1 else None, o, arch, dense) for n, v, o in _parts(node, inputs, out, arch)]


def _parts(node: Computation, inputs: list[View], out: View, arch: ArchConfig) -> Iterator[tuple[Computation, list[View], View]]:
    inputs = [inputs[0], *(_repeated(v, out.shape) for v in inputs[1:])]
    if inputs[0].fold > 1:
        yield from in_phases(node, inputs, out)
        return
    for part, views, target in node.parts(inputs, out, arch):
        yield *_as_one_row(part, views), target


def _repeated(residual: View, shape: tuple[int, int, int]) -> View:
    """A residual of one row, or one column, as one of the output's shape: every row, or column, lies at the same place."""
    return replace(
        residual,
        shape=shape,
        row_pitch=residual.row_pitch if residual.shape[1] == shape[1] else 0,
        pixel_pitch=residual.pixel_pitch if residual.shape[2] == shape[2] else 0,
    )


def _as_one_row(node: Computation, inputs: list[View]) -> tuple[Computation, list[View]]:
    """A kernel that is the whole input, as a single kernel row: the input's rows follow each other in memory.

    One span is walked then, not one for each row: linear layers after a flatten, global pooling.
    """
    x, w = inputs[0], node.window
    pixels = x.shape[1] * x.shape[2]
    contiguous = x.row_pitch == x.shape[2] * x.pixel_pitch
    if w.kernel != x.shape[1:] or any(w.padding) or w.dilation != (1, 1) or not contiguous or pixels > STEP_MAX:
        return node, inputs
    row = replace(x, shape=(x.shape[0], 1, pixels), row_pitch=pixels * x.pixel_pitch)
    return node.as_row(Window((1, pixels), padding=w.padding)), [row, *inputs[1:]]
