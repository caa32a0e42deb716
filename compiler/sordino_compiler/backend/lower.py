"""Nodes to operations: word columns of output channels, spread over the cores, in tiles of inputs and bands of outputs."""

from collections.abc import Iterator
from dataclasses import replace

from sordino_hw.arch import ArchConfig
from sordino_hw.errors import CompileError
from sordino_hw.isa import ADDR_BITS, REGISTERS

from ..graph import Conv, Depthwise, MaxPool, Node, Window
from .mapping import Mapping
from .operation import Operation, View
from .outputs import Outputs, Work
from .tiles import STEP_MAX

__all__ = ["lower", "work"]


def work(node: Node, layer: int, inputs: list[View], out: View, arch: ArchConfig, dense: bool) -> Work:
    """A layer to be lowered."""
    assert isinstance(node, Conv | Depthwise | MaxPool)
    node, inputs = _as_one_row(node, inputs)
    return Work(node, layer, inputs[0], inputs[1] if len(inputs) > 1 else None, out, arch, dense)


def lower(layer: Work, plan: list[tuple[range, Mapping]]) -> Iterator[Operation]:
    """The operations of a layer, in order: for the word columns of each entry of the plan with its mapping.

    Raises `CompileError` for what no tiling can make fit.
    """
    for columns, mapping in plan:
        for op in Outputs(layer, columns, mapping).operations():
            _check_registers(op)
            yield op


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
        if r.bits == ADDR_BITS:
            continue
        low, high = (-(1 << (r.bits - 1)), (1 << (r.bits - 1)) - 1) if r.signed else (0, (1 << r.bits) - 1)
        if not low <= value <= high:
            raise CompileError(
                f"{op.where}: register {name} ({r.doc}) cannot hold {value}: it goes from {low} to {high}. "
                "Use a smaller kernel, stride, dilation, padding or input."
            )
