"""Random layers and small networks: the cases on which graph, golden model, timing model and gateware must agree.

A case is drawn from its seed alone. It takes at most some 20,000 cycles, densely, and fits its architecture even when
no memory is reused, so that every tensor can be compared.
"""

import zlib
from dataclasses import dataclass, replace

import numpy as np

from sordino_compiler.emit.mapping import Mapping
from sordino_compiler.graph import Computation, Graph, Input, Node, Rearrangement, Requant, Value, Window
from sordino_compiler.ops import Concat, Conv, Depthwise, Flatten, Lanewise, MaxPool, Slice
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.isa import RUN_MAX

__all__ = ["ARCHS", "Case", "random_case"]

ARCHS = (
    ArchConfig(name="random-32", lanes=32, weight_depth=1024, mask_depth=256, param_depth=64, state_depth=512, tables=1),
    ArchConfig(
        name="random-8-tiny",
        lanes=8,
        wide_cycles=2,
        event_bits=8,
        ppu=2,
        segment_fifo=2,
        word_fifo=2,
        row_fifo=2,
        weight_depth=128,
        mask_depth=24,
        param_depth=16,
        state_depth=64,
        tables=1,
        imem_depth=256,
        perf_depth=12,
    ),
    ArchConfig(
        name="random-2x16-narrow",
        cores=2,
        lanes=16,
        ppu=1,
        mantissa_bits=8,
        word_fifo=3,
        weight_depth=400,
        mask_depth=40,
        param_depth=64,
        state_depth=256,
        tables=2,
        imem_depth=512,
        perf_depth=32,
    ),
    ArchConfig(
        name="random-2x24",
        cores=2,
        ports=2,
        lanes=24,
        ppu=4,
        act_depth=3200,
        weight_depth=300,
        mask_depth=64,
        state_depth=100,
        tables=2,
    ),
    ArchConfig(
        name="random-4x8",
        cores=4,
        ports=2,
        lanes=8,
        ppu=2,
        segment_fifo=3,
        row_fifo=5,
        weight_depth=200,
        mask_depth=48,
        param_depth=24,
        state_depth=30,
        tables=1,
        perf_depth=24,
    ),
    ArchConfig(
        name="random-4x16-wide",
        cores=4,
        ports=4,
        lanes=16,
        ppu=16,
        mantissa_bits=2,
        weight_depth=512,
        mask_depth=64,
        param_depth=32,
        state_depth=40,
        tables=16,
    ),
    ArchConfig(
        name="random-8x8",
        cores=8,
        ports=2,
        lanes=8,
        event_bits=8,
        ppu=4,
        word_fifo=4,
        weight_depth=128,
        mask_depth=32,
        param_depth=16,
        state_depth=24,
        tables=2,
        perf_depth=32,
    ),
)
"""Few and fixed, so that builds of the gateware are shared: one core to eight, with a read port for all, for some and for each;
narrow and wide lanes, both event sizes, memories that force tiles, bands and segments."""

NAMES: dict[type[Node], str] = {Depthwise: "depthwise", Lanewise: "depthwise"}
"""What values are called, where not by the node's kind: mappings are drawn from names, so these stay as they are."""

LAYER_CYCLES, CASE_CYCLES = 5000, 14000


@dataclass(frozen=True)
class Case:
    """A graph and integers for its inputs: int16 [batch, c, h, w] by name."""

    seed: int
    graph: Graph
    inputs: dict[str, np.ndarray]
    description: str

    @property
    def arch(self) -> ArchConfig:
        return self.graph.arch

    def mapping(self, layer: str) -> Mapping:
        """A mapping of a layer, at random: for `compile_graph(..., mapping=case.mapping)`, so that every way to use the cores
        occurs, fast or not."""
        rng, cores = np.random.default_rng([self.seed, zlib.crc32(layer.encode())]), self.arch.cores
        split = int(rng.choice([s for s in (1, 2, 4, 8) if s <= cores]))
        slices = cores // split if rng.random() < 0.7 else int(rng.integers(1, cores // split + 1))
        run = 1 if rng.random() < 0.4 else int(rng.integers(1, RUN_MAX + 1))
        return Mapping(split, slices, run, bool(rng.random() < 0.7))


def random_case(seed: int, arch: ArchConfig | None = None) -> Case:
    """The case of that seed; `arch` replaces the drawn one of `ARCHS`."""
    rng = np.random.default_rng([seed, 0x50D])
    drawn = ARCHS[rng.integers(len(ARCHS))]
    while True:
        maker = _Maker(rng, drawn if arch is None else arch)
        x = maker.image() if maker.chance(0.2) else maker.input()
        for _ in range(1 if rng.random() < 0.5 else rng.integers(2, 7)):
            x = maker.layer(x)
        if any(isinstance(n, Computation) for n in maker.nodes):  # views alone compute nothing
            return maker.case(seed)


class _Maker:
    """A graph under construction."""

    def __init__(self, rng: np.random.Generator, arch: ArchConfig):
        self.rng, self.arch = rng, arch
        self.nodes: list[Node] = []
        self.used: set[str] = set()
        self.cycles = 0
        self.words = 0

    # -- drawing ---------------------------------------------------------------------------------------------------

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def channels(self) -> int:
        lanes, some = self.arch.lanes, self.rng.integers
        few = (1, 3, lanes, lanes + 1, 2 * lanes, some(1, lanes + 1), some(1, 3 * lanes))
        return int(self.pick(*few, *(some(lanes, self.most + 1) for _ in range(self.arch.cores))))

    @property
    def most(self) -> int:
        """Channels of a layer: enough for more slices than there are cores."""
        return max(4, self.arch.cores + 2) * self.arch.lanes

    def window(self, h: int, w: int) -> Window:
        """A window that has at least one output; padding is sometimes wider than the kernel."""
        while True:
            kernel = (int(self.pick(1, 1, 2, 3, 3, 5)), int(self.pick(1, 1, 2, 3, 3, 5)))
            top, left, bottom, right = (int(self.rng.integers(0, k + self.chance(0.1))) for k in (*kernel, *kernel))
            stride = (int(self.pick(1, 1, 2, 3)), int(self.pick(1, 1, 2, 3)))
            dilation = (int(self.pick(1, 1, 1, 2, 3)), int(self.pick(1, 1, 1, 2, 3)))
            window = Window(kernel, stride, (top, left, bottom, right), dilation)
            if min(window.out_size(h, w)) >= 1:
                return window

    def weight(self, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
        match self.pick("dense", "dense", "sparse", "pruned", "least", "greatest", "signs"):
            case "dense":
                return self.rng.integers(low, high + 1, shape)
            case "sparse":
                return self.rng.integers(low, high + 1, shape) * (self.rng.random(shape) < self.rng.random())
            case "pruned":
                rows = self.rng.random((1, *shape[1:])) < self.rng.random()
                return self.rng.integers(low, high + 1, shape) * rows
            case "least":
                return np.full(shape, low)
            case "greatest":
                return np.full(shape, high)
            case _:
                return np.where(self.rng.random(shape) < 0.5, low, high)

    def requant(self, power: np.ndarray, bound: np.ndarray, signed: bool) -> Requant:
        """Parameters for sums of about `power` and at most `bound` ([channels] each), most outputs in range."""
        rng, arch, c = self.rng, self.arch, len(power)
        lo, hi = arch.act_range(signed)
        table = None
        if self.chance(0.15):
            table = (rng.integers(lo, hi + 1, 256) * (rng.random(256) < rng.random())).astype(np.int16)
            lo, hi = -128, 127
        mantissa = rng.integers(1 << (arch.mantissa_bits - 1), 1 << arch.mantissa_bits, c)
        factor = (power + 1) * mantissa / max(hi, 1)
        shift = np.clip(np.round(np.log2(factor)) + rng.integers(-1, 3), 0, 31).astype(np.int64)
        bias = np.round(rng.normal(0, 0.5, c) * power).astype(np.int64)
        threshold = np.zeros(c, np.int64)
        if self.chance(0.1):
            room = (1 << 31) - 1 - bound
            bias = rng.integers(-room, room, endpoint=True)
        if self.chance(0.1):
            shift = rng.integers(0, 32, c)
        if self.chance(0.1):
            mantissa = mantissa * (rng.random(c) < 0.7)
        if self.chance(0.3):
            threshold = rng.integers(0, self.pick(2, 20, 256), c)
        if self.chance(0.2):
            lo, hi = sorted(int(v) for v in rng.integers(lo, hi + 1, 2))
        limit = (1 << 31) - 1 - bound
        return Requant(np.clip(bias, -limit, limit), mantissa, shift, lo, hi, threshold, table)

    # -- values ----------------------------------------------------------------------------------------------------

    def add(self, kind: type[Node], shape: tuple[int, int, int], signed: bool, inputs: tuple[Value, ...] = (), **fields) -> Value:
        name = f"{NAMES.get(kind, kind.kind)}{len(self.nodes)}"
        value = Value(name, shape, 1.0, signed)
        self.nodes.append(kind(out=value, inputs=tuple(v.name for v in inputs), **fields, source=f"random.py:{len(self.nodes)}"))
        self.used.update(v.name for v in inputs)
        if not issubclass(kind, Rearrangement):
            self.words += self.arch.words(shape[0]) * shape[1] * shape[2]
        return value

    def input(self, shape: tuple[int, int, int] | None = None) -> Value:
        if shape is None:
            shape = (self.channels(), int(self.rng.integers(1, 13)), int(self.rng.integers(1, 13)))
        return self.add(Input, shape, self.chance(0.5))

    def image(self) -> Value:
        """A convolution of a wide input with few channels, several pixels of which fit in a word."""
        c = int(self.rng.integers(1, min(6, self.arch.lanes // 2) + 1))
        x = self.input((c, int(self.rng.integers(1, 9)), int(self.rng.integers(13, 40))))
        return self.conv(x) or x

    def affordable(self, cycles: float) -> bool:
        """Whether a layer may take so many more cycles of one core; if so they are spent."""
        cycles /= max(1, self.arch.cores / 2)
        fits = cycles <= min(LAYER_CYCLES, CASE_CYCLES - self.cycles) and self.words < self.arch.act_depth // 4
        self.cycles += int(cycles) if fits else 0
        return fits

    def residual(self, shape: tuple[int, int, int]) -> tuple[tuple[Value, ...], np.ndarray | None]:
        """Perhaps a residual operand of that shape and its weights."""
        if not self.chance(0.3):
            return (), None
        same = [n.out for n in self.nodes if n.out.shape == shape]
        value = self.pick(*same) if same and self.chance(0.8) else self.input(shape)
        return (value,), self.weight((shape[0],), -16384, 16383).astype(np.int64)

    def peak(self, value: Value) -> int:
        return max(abs(b) for b in self.arch.act_range(value.signed))

    # -- layers ----------------------------------------------------------------------------------------------------

    def layer(self, x: Value) -> Value:
        """One more layer on `x`; `x` itself where the case has become large enough."""
        layers = (
            self.conv,
            self.conv,
            self.conv,
            self.depthwise,
            self.maxpool,
            self.upsample,
            self.concat,
            self.slice,
            self.linear,
        )
        for _ in range(20):
            y = self.pick(*layers)(x)
            if y is not None:
                return y
        return x

    def conv(self, x: Value) -> Value | None:
        c, h, w = x.shape
        window = self.window(h, w)
        cout, groups = self.channels(), 1
        if self.chance(0.25):
            groups = self.pick(*[g for g in range(1, c + 1) if c % g == 0])
            cout = groups * int(self.pick(1, 2, self.rng.integers(1, self.arch.lanes)))
        return self.convolve(x, window, cout, groups)

    def convolve(self, x: Value, window: Window, cout: int, groups: int = 1) -> Value | None:
        oh, ow = window.out_size(*x.shape[1:])
        kh, kw = window.kernel
        passes = max(-(-cout // self.arch.lanes), min(groups, -(-cout * 2 // self.arch.lanes)))
        taps = x.shape[0] * kh * kw // groups * min(groups, self.arch.lanes)
        if cout > self.most or not self.affordable(oh * ow * passes * (taps + 2 * self.arch.chunks + kh + 8)):
            return None
        weight = self.weight((cout, x.shape[0] // groups, kh, kw), -128, 127).astype(np.int8)
        residual, residual_weight = self.residual((cout, oh, ow))
        return self.weighted(Conv, x, residual, weight, residual_weight, (cout, oh, ow), window=window, groups=groups)

    def weighted(self, kind, x: Value, residual, weight, residual_weight, shape, **fields) -> Value:
        """A layer with weights and requantisation to match."""
        axes = tuple(range(1, weight.ndim))
        wide = weight.astype(np.int64)
        power = np.sqrt((wide**2).sum(axes)) * self.peak(x) / 2
        bound = np.abs(wide).sum(axes) * self.peak(x)
        if residual:
            power = power + np.abs(residual_weight) * self.peak(residual[0]) / 3
            bound = bound + np.abs(residual_weight) * self.peak(residual[0])
        signed = self.chance(0.4)
        requant = self.requant(power, bound, signed)
        return self.add(
            kind, shape, signed, (x, *residual), weight=weight, requant=requant, residual_weight=residual_weight, **fields
        )

    def depthwise(self, x: Value) -> Value | None:
        c, h, w = x.shape
        window = self.pick(self.window(h, w), Window((1, 1)), Window((h, w)))
        wide = self.chance(0.3)
        oh, ow = window.out_size(h, w)
        taps = window.kernel[0] * window.kernel[1] * (1 + wide)
        if not self.affordable(self.arch.words(c) * oh * ow * (taps + 2 * self.arch.chunks + 8)):
            return None
        low, high = (-16384, 16383) if wide else (-128, 127)
        weight = self.weight((c, *window.kernel), low, high).astype(np.int64)
        kind, fields = Depthwise, {}
        if self.chance(0.3):
            weight = np.broadcast_to(weight[:, :1, :1], weight.shape).copy()
            kind, fields = Lanewise, {"label": "avgpool"}
        residual, residual_weight = self.residual((c, oh, ow))
        return self.weighted(kind, x, residual, weight, residual_weight, (c, oh, ow), window=window, wide=wide, **fields)

    def upsample(self, x: Value) -> Value | None:
        c, h, w = x.shape
        repeat = (int(self.rng.integers(1, 4)), int(self.rng.integers(1, 4)))
        shape = (c, h * repeat[0], w * repeat[1])
        if not self.affordable(self.arch.words(c) * shape[1] * shape[2] * (2 * self.arch.chunks + 9)):
            return None
        weight = self.weight((c, 1, 1), -128, 127).astype(np.int64)
        residual, residual_weight = self.residual(shape)
        window = Window((1, 1))
        return self.weighted(Lanewise, x, residual, weight, residual_weight, shape, window=window, repeat=repeat, label="upsample")

    def maxpool(self, x: Value) -> Value | None:
        c, h, w = x.shape
        window = self.window(h, w)
        oh, ow = window.out_size(h, w)
        taps = window.kernel[0] * window.kernel[1]
        if not self.affordable(self.arch.words(c) * oh * ow * (taps + 2 * self.arch.chunks + 8)):
            return None
        requant = Requant.identity(c, self.arch, x.signed)
        if self.chance(0.5):
            requant = self.requant(np.full(c, float(self.peak(x))), np.full(c, self.peak(x)), x.signed)
        return self.add(MaxPool, (c, oh, ow), x.signed, (x,), window=window, requant=requant)

    def concat(self, x: Value) -> Value | None:
        """With itself, an earlier value of its size, or a fresh input of its kind."""
        same = [n.out for n in self.nodes if n.out.shape[1:] == x.shape[1:] and n.out.signed == x.signed]
        parts = [x, *(self.pick(*same) for _ in range(self.rng.integers(1, 3)))]
        channels = sum(v.shape[0] for v in parts)
        copies = sum(self.arch.words(v.shape[0]) for v in parts) * x.shape[1] * x.shape[2]
        if channels > self.most or not self.affordable(copies * (self.arch.lanes + 2 * self.arch.chunks + 8)):
            return None
        self.words += copies
        order = self.rng.permutation(len(parts))
        return self.add(Concat, (channels, *x.shape[1:]), x.signed, tuple(parts[i] for i in order))

    def slice(self, x: Value) -> Value | None:
        if x.shape[0] < 2:
            return None
        start = int(self.rng.integers(x.shape[0] - 1))
        stop = int(self.rng.integers(start + 1, x.shape[0] + 1))
        return self.add(Slice, (stop - start, *x.shape[1:]), x.signed, (x,), channels=tuple(range(start, stop)))

    def linear(self, x: Value) -> Value | None:
        c, h, w = x.shape
        flat = replace(x, shape=(c * h * w, 1, 1))
        cout = self.channels()
        if c * h * w > LAYER_CYCLES // 2:
            return None
        if (h, w) == (1, 1):
            return self.convolve(x, Window((1, 1)), cout)
        flat = self.add(Flatten, flat.shape, x.signed, (x,))
        return self.convolve(flat, Window((1, 1)), cout) or flat

    # -- result ----------------------------------------------------------------------------------------------------

    def case(self, seed: int) -> Case:
        outputs = [n.out.name for n in self.nodes if n.out.name not in self.used or self.chance(0.1)]
        graph = Graph(self.arch, self.nodes, outputs)
        batch = 2 if self.chance(0.15) else 1
        inputs = {v.name: self.activations(batch, v) for v in graph.inputs}
        layers = ", ".join(f"{n.label} {n.out.shape}" for n in self.nodes)
        return Case(seed, graph, inputs, f"seed {seed}, {self.arch.name}: {layers}")

    def activations(self, batch: int, value: Value) -> np.ndarray:
        rng, (lo, hi) = self.rng, self.arch.act_range(value.signed)
        shape = (batch, *value.shape)
        extreme = self.pick(None, None, lo, hi)
        x = rng.integers(lo, hi + 1, shape) if extreme is None else np.full(shape, extreme)
        density = self.pick(0, 0.02, 0.2, 0.5, 1, rng.random())
        if self.chance(0.2):  # whole pixels, so that there are empty words
            return (x * (rng.random((batch, 1, *value.shape[1:])) < density)).astype(np.int16)
        return (x * (rng.random(shape) < density)).astype(np.int16)
