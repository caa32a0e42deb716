"""Nodes to operations: word columns of output channels, spread over the cores, in tiles of inputs and bands of outputs."""

from collections.abc import Iterator
from dataclasses import replace

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import CompileError
from sordino_hw.spec.isa import REGISTERS

from ..graph import Conv, Depthwise, MaxPool, Node, Window
from .fold import in_phases
from .mapping import Mapping
from .operation import Operation, View
from .outputs import Outputs, Work
from .tiles import STEP_MAX

__all__ = ["lower", "parts"]


def parts(node: Node, layer: int, inputs: list[View], out: View, arch: ArchConfig, dense: bool) -> list[Work]:
    """A layer to be lowered: in one part, or in the phases of a folded input."""
    assert isinstance(node, Conv | Depthwise | MaxPool)
    found = _in_parts(node, inputs, out)
    return [Work(n, layer, v[0], v[1] if len(v) > 1 else None, o, arch, dense) for n, v, o in found]


def lower(layer: list[Work], plan: list[tuple[range, Mapping]]) -> Iterator[Operation]:
    """The operations of a layer's parts, in order: for the word columns of each entry of the plan with its mapping.

    Raises `CompileError` for what no tiling can make fit.
    """
    for columns, mapping in plan:
        for part in layer:
            for op in Outputs(part, columns, mapping).operations():
                _check_registers(op)
                yield op


def _in_parts(
    node: Conv | Depthwise | MaxPool, inputs: list[View], out: View
) -> Iterator[tuple[Conv | Depthwise | MaxPool, list[View], View]]:
    """The node of each part, with its operands and its outputs."""
    if isinstance(node, Conv) and inputs[0].fold > 1:
        yield from in_phases(node, inputs, out)
    else:
        yield *_as_one_row(node, inputs), out


def _as_one_row(node: Conv | Depthwise | MaxPool, inputs: list[View]) -> tuple[Conv | Depthwise | MaxPool, list[View]]:
    """A kernel that is the whole input, as a single kernel row: the input's rows follow each other in memory.

    One span is walked then, not one for each row: linear layers after a flatten, global pooling.
    """
    x, w = inputs[0], node.window
    pixels = x.shape[1] * x.shape[2]
    contiguous = x.row_pitch == x.shape[2] * x.pixel_pitch
    if w.kernel != x.shape[1:] or any(w.padding) or w.dilation != (1, 1) or not contiguous or pixels > STEP_MAX:
        return node, inputs
    row = replace(x, shape=(x.shape[0], 1, pixels), row_pitch=pixels * x.pixel_pitch)
    window = Window((1, pixels), padding=w.padding)
    if isinstance(node, MaxPool):
        return replace(node, window=window), [row, *inputs[1:]]
    weight = node.weight.reshape(*node.weight.shape[:-2], 1, pixels)
    return replace(node, window=window, weight=weight), [row, *inputs[1:]]


def _check_registers(op: Operation) -> None:
    for name, value in op.registers.items():
        r = REGISTERS[name]
        if r.region:
            continue
        low, high = (-(1 << (r.bits - 1)), (1 << (r.bits - 1)) - 1) if r.signed else (0, (1 << r.bits) - 1)
        if not low <= value <= high:
            raise CompileError(
                f"{op.where}: register {name} ({r.doc}) cannot hold {value}: it goes from {low} to {high}. "
                "Use a smaller kernel, stride, dilation, padding or input."
            )
