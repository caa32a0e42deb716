"""Folding: several neighbouring pixels of a narrow network input in one word, and the layers that read it.

An image of three channels would leave most lanes of every word empty. Folded, a word of the input holds `fold` pixels
side by side: channel c of pixel x is slot `x % fold * channels + c` of word `x // fold`. An event layer reads such words
as pixels with `fold * channels` channels, through a convolution that has its kernel shifted to where the output's first
pixel lies in its word. Outputs that have it at the same place, every `period`-th of a row, are a *phase*: one ordinary
operation with strides of whole words. Lanes beside the kernel have zero weights, so their events are masked off; and as
the weight row of a lane moves with the lane, the phases of a layer share their weight rows.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from sordino_hw.spec.arch import ArchConfig

from ..emit.operation import View
from ..graph import Computation, Graph, Input, Window
from ..ops.conv import Conv
from ..ops.rearrange import Flatten

__all__ = ["PHASE_OUTPUTS", "Phase", "choose_folds", "in_phases", "phases"]

PHASE_OUTPUTS = 32
"""Outputs that a phase must have on average: each is an operation of its own, which takes instructions and cycles to start."""


@dataclass(frozen=True, kw_only=True)
class Phase(Conv):
    """A convolution over words, and the columns of the original output that it makes."""

    columns: range
    """Steps by the period."""
    taps: np.ndarray | None = None
    """bool [fold * channels, kh, span]: which channels of the words are inside the kernel."""


def choose_folds(graph: Graph) -> dict[str, int]:
    """The folded network inputs, by name: how many pixels share a word.

    An input can be folded if only event layers read it; a flattened value does not count, it may have any layout. Chosen are
    the fewest words that suit all of these layers; among equally many, the fewest phases.
    """
    folds: dict[str, int] = {}
    for n in graph.nodes:
        if not isinstance(n, Input):
            continue
        (c, _, w), name = n.out.shape, n.out.name
        readers = [r for r in graph.nodes if name in r.inputs and not isinstance(r, Flatten)]
        convs = [r for r in readers if type(r) is Conv and r.groups == 1 and name not in r.inputs[1:]]
        if len(convs) == len(readers):
            choices = [p for p in range(2, min(graph.arch.lanes // c, w) + 1) if all(_suits(r, p, graph.arch) for r in convs)]
            cost = {p: (-(-w // p), sum(_count(r, p) for r in convs)) for p in choices}
            folds |= {name: min(choices, key=cost.__getitem__)} if choices else {}
    return folds


def _suits(node: Conv, fold: int, arch: ArchConfig) -> bool:
    """Whether the layer needs no tile, the masks of all its phases are resident together, and no phase is too short."""
    (kh, kw), sx, left, dx = node.window.kernel, node.window.stride[1], node.window.padding[1], node.window.dilation[1]
    (_, oh, ow), count = node.out.shape, _count(node, fold)
    spans = [((i * sx - left) % fold + (kw - 1) * dx) // fold + 1 for i in range(count)]
    rows = kh * max(spans) * fold * node.weight.shape[1] + 2 * (node.residual_weight is not None)
    long = count == 1 or oh * ow >= PHASE_OUTPUTS * count
    return rows <= arch.weight_depth and kh * sum(spans) <= arch.mask_depth and long


def _count(node: Conv, fold: int) -> int:
    """Phases of a layer."""
    return min(period(fold, node.window.stride[1]), node.out.shape[2])


def period(fold: int, stride: int) -> int:
    """The number of outputs after which the first pixel lies at the same place of its word again."""
    return fold // math.gcd(fold, stride)


def phases(node: Conv, fold: int, width: int) -> Iterator[Phase]:
    """The phases of a convolution (groups == 1) whose input, `width` pixels wide, has `fold` pixels in a word.

    Each reads [fold * channels, h, ceil(width / fold)]. Its padding on the left and on the right counts words and may be
    negative: so many words lie outside the kernel's reach.
    """
    (sy, sx), (dy, dx), (top, left, bottom, _) = node.window.stride, node.window.dilation, node.window.padding
    outputs, words, step = node.out.shape[2], -(-width // fold), period(fold, sx)
    stride = sx * step // fold
    for first in range(_count(node, fold)):
        columns = range(first, outputs, step)
        word, offset = divmod(first * sx - left, fold)
        weight = shifted(node.weight, dx, offset, fold)
        taps = shifted(np.ones((1, *node.weight.shape[1:]), bool), dx, offset, fold)[0]
        span = taps.shape[2]
        right = (len(columns) - 1) * stride + span + word - words
        window = Window((node.window.kernel[0], span), (sy, stride), (top, -word, bottom, right), (dy, 1))
        out = replace(node.out, shape=(*node.out.shape[:2], len(columns)))
        yield Phase(
            out=out,
            inputs=node.inputs,
            weight=weight,
            window=window,
            requant=node.requant,
            residual_weight=node.residual_weight,
            columns=columns,
            taps=taps,
            source=node.source,
        )


def in_phases(node: Computation, inputs: list[View], out: View) -> Iterator[tuple[Phase, list[View], View]]:
    """The phases of a convolution whose first input is folded, each with its operands and its outputs in memory."""
    assert isinstance(node, Conv), "convolutions alone read folded inputs: see `choose_folds`"
    x, *others = inputs
    c, h, w = x.shape
    words = replace(x, shape=(x.fold * c, h, -(-w // x.fold)), slots=np.arange(x.fold * c), fold=1)
    for phase in phases(node, x.fold, w):
        rows = range(out.shape[1])
        yield phase, [words, *(v.part(rows, phase.columns) for v in others)], out.part(rows, phase.columns)


def shifted(weight: np.ndarray, dilation: int, offset: int, fold: int) -> np.ndarray:
    """A kernel [cout, c, kh, kw] over pixels as one over words: [cout, fold * c, kh, span].

    Its first tap meets pixel `offset` of the first word.
    """
    cout, c, kh, kw = weight.shape
    last = offset + (kw - 1) * dilation
    span = last // fold + 1
    pixels = np.zeros((cout, c, kh, span * fold), weight.dtype)
    pixels[..., offset : last + 1 : dilation] = weight
    return pixels.reshape(cout, c, kh, span, fold).transpose(0, 4, 1, 2, 3).reshape(cout, fold * c, kh, span)
