"""Small graphs for the tests of the compiler."""

import numpy as np

from sordino_compiler.graph import Graph, Input, Node, Requant, Value, Window
from sordino_compiler.ops import Concat, Conv, Depthwise, Flatten, Lanewise, MaxPool, Slice
from sordino_hw.spec.arch import ArchConfig, preset

ULX3S = preset("ulx3s-85f")
ROOMY = ArchConfig(name="roomy")
SMALL = ArchConfig(name="small", lanes=8, ppu=2, act_depth=256, weight_depth=256, mask_depth=32, param_depth=32, state_depth=64)


class Net:
    """Builds a graph layer by layer; methods return the name of the new value."""

    def __init__(self, arch: ArchConfig = SMALL, seed: int = 0):
        self.arch, self.rng, self.nodes = arch, np.random.default_rng(seed), []
        self.shapes: dict[str, tuple[int, int, int]] = {}

    def _add(self, kind: type[Node], name: str, shape, inputs=(), **fields) -> str:
        self.shapes[name] = tuple(int(n) for n in shape)
        value = Value(name, self.shapes[name], 1.0, False)
        self.nodes.append(kind(out=value, inputs=tuple(inputs), **fields, source=f"net.py:{len(self.nodes) + 1}" if inputs else ""))
        return name

    def requant(self, channels: int, shift: int = 10, **fields) -> Requant:
        lo, hi = self.arch.act_range(False)
        full = np.full(channels, 1, np.int64)
        values = {
            "bias": 0 * full,
            "mantissa": full << (self.arch.mantissa_bits - 1),
            "shift": shift * full,
            "lo": lo,
            "hi": hi,
            "threshold": 0 * full,
        }
        return Requant(**{**values, **fields})

    def input(self, name, c, h, w):
        return self._add(Input, name, (c, h, w))

    def conv(self, name, x, cout, kernel=(3, 3), padding=None, residual=None, groups=1, requant=None, weight=None, **window):
        kh, kw = kernel
        pad = (kh // 2, kw // 2, kh // 2, kw // 2) if padding is None else padding
        shape = (cout, self.shapes[x][0] // groups, kh, kw)
        w = Window(kernel, padding=pad, **window)
        return self._add(
            Conv,
            name,
            (cout, *w.out_size(*self.shapes[x][1:])),
            (x,) if residual is None else (x, residual),
            weight=self.rng.integers(-128, 128, shape).astype(np.int8) if weight is None else weight,
            window=w,
            requant=requant or self.requant(cout),
            groups=groups,
            residual_weight=None if residual is None else self.rng.integers(-200, 200, cout),
        )

    def depthwise(self, name, x, kernel=(3, 3), residual=None, **fields):
        c = self.shapes[x][0]
        w = Window(kernel)
        return self._add(
            Lanewise if "label" in fields else Depthwise,
            name,
            (c, *w.out_size(*self.shapes[x][1:])),
            (x,) if residual is None else (x, residual),
            **{"weight": self.rng.integers(-128, 128, (c, *kernel)), "window": w, "requant": self.requant(c)} | fields,
            residual_weight=None if residual is None else self.rng.integers(-200, 200, c),
        )

    def maxpool(self, name, x, kernel=(2, 2)):
        w = Window(kernel, kernel)
        c, *size = self.shapes[x]
        return self._add(MaxPool, name, (c, *w.out_size(*size)), (x,), window=w, requant=Requant.identity(c, self.arch, False))

    def concat(self, name, *parts):
        return self._add(Concat, name, (sum(self.shapes[p][0] for p in parts), *self.shapes[parts[0]][1:]), parts)

    def slice(self, name, x, start, stop):
        return self._add(Slice, name, (stop - start, *self.shapes[x][1:]), (x,), channels=tuple(range(start, stop)))

    def flatten(self, name, x):
        c, h, w = self.shapes[x]
        return self._add(Flatten, name, (c * h * w, 1, 1), (x,))

    def graph(self, *outputs) -> Graph:
        return Graph(self.arch, self.nodes, list(outputs))

    def inputs(self, batch=1, density=0.5):
        return {
            n.out.name: (
                self.rng.integers(1, self.arch.act_range(False)[1] + 1, (batch, *n.out.shape))
                * (self.rng.random((batch, *n.out.shape)) < density)
            ).astype(np.int16)
            for n in self.nodes
            if isinstance(n, Input)
        }
