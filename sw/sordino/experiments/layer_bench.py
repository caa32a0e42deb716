"""Benchmarks of the array: cycles and η of layers by density, and the speed of the simulators."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from sordino_compiler.driver import compile_graph
from sordino_compiler.emit.mapping import Mapping
from sordino_compiler.graph import Graph
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import CompileError, InputError
from sordino_hw.spec.program import Program
from sordino_sim.backend import Progress, Result
from sordino_sim.golden.model import Golden
from sordino_sim.rtl.backend import Verilator
from sordino_sim.timing.model import Timing

from ..quantization import quantize
from ..runtime.compare import require_equal
from ..runtime.stats import Stats, cycles_of
from .tasks import DIGITS
from .workloads import WorkloadLayer

__all__ = [
    "DENSITIES",
    "SUITE",
    "LayerShape",
    "bench_layer",
    "bench_sim",
    "bench_suite",
    "largest_shape",
    "layer_graph",
    "mapping_of",
    "roomy",
    "run_layer",
]

ENOUGH = 250_000
"""Largest number of issue cycles of a layer of the suite in dense mode; at a density of 0.1 they are 25,000."""

DENSITIES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.0)
"""Activation densities of the suite."""


def _type(name: str, op: str, k: int, cin: int, cout: int, size: int, stride: int = 1) -> WorkloadLayer:
    groups = cin if op == "dwconv" else 1
    return WorkloadLayer(op, name, size, size, cin, cout, 1.0, k, stride, k // 2, groups=groups)


SUITE = (
    _type("resnet50 conv1", "conv", 7, 3, 64, 224, 2),
    _type("resnet50 layer1 1x1", "conv", 1, 64, 64, 56),
    _type("resnet50 layer1 3x3", "conv", 3, 64, 64, 56),
    _type("resnet50 layer1 expand", "conv", 1, 64, 256, 56),
    _type("resnet50 layer1 reduce", "conv", 1, 256, 64, 56),
    _type("resnet50 layer2 3x3 /2", "conv", 3, 128, 128, 56, 2),
    _type("resnet50 layer2 3x3", "conv", 3, 128, 128, 28),
    _type("resnet50 layer2 reduce", "conv", 1, 512, 128, 28),
    _type("resnet50 layer3 3x3", "conv", 3, 256, 256, 14),
    _type("resnet50 layer3 expand", "conv", 1, 256, 1024, 14),
    _type("resnet50 layer4 3x3", "conv", 3, 512, 512, 7),
    _type("resnet50 layer4 reduce", "conv", 1, 2048, 512, 7),
    _type("vgg16 conv0", "conv", 3, 3, 64, 224),
    _type("vgg16 fc3", "conv", 1, 4096, 1000, 1),
    _type("mobilenetv2 project", "conv", 1, 96, 24, 56),
    _type("mobilenetv2 depthwise", "dwconv", 3, 144, 144, 56),
)
"""Layer types of the workloads in benchmarks/workloads. Where a size does not fit an architecture, the largest one that does is taken."""


def roomy(arch: ArchConfig) -> ArchConfig:
    """The architecture with memories that hold every layer of the suite, with `ENOUGH` cycles, in one piece."""
    room = {"act_depth": 1 << 20, "weight_depth": 1 << 20, "mask_depth": 1 << 16}
    sizes = {name: bits // arch.lanes for name, bits in room.items()}
    return arch.replace(**sizes, param_depth=1024, state_depth=2048, name=f"{arch.name}, roomy")


@dataclass(frozen=True)
class LayerShape:
    """A convolution: `cin` -> `cout` channels, `kernel` x `kernel`, on `size` x `size` pixels, same padding."""

    cin: int = 64
    cout: int = 64
    kernel: int = 3
    size: int = 14
    stride: int = 1

    def __post_init__(self):
        for name, value in vars(self).items():
            if value < 1:
                raise InputError(f"bench: {name} must be positive, not {value}")

    def __str__(self) -> str:
        return f"{self.kernel}x{self.kernel}, {self.cin} -> {self.cout}, {self.size}x{self.size}, stride {self.stride}"


def layer_graph(shape: LayerShape, arch: ArchConfig, seed: int = 0) -> Graph:
    """One convolution with random weights, none of them zero, and a requantiser that uses the whole output range."""
    return _type(str(shape), "conv", shape.kernel, shape.cin, shape.cout, shape.size, shape.stride).graph(arch, seed)


def largest_shape(shape: LayerShape, arch: ArchConfig) -> LayerShape:
    """The layer at the largest size up to its own that compiles for `arch`. Raises the `CompileError` of the smallest."""
    for size in range(shape.size, 0, -1):
        small = replace(shape, size=size)
        words = size * size * arch.words(shape.cin) + (-(-size // shape.stride)) ** 2 * arch.words(shape.cout)
        if words > arch.act_depth and size > 1:
            continue
        try:
            compile_graph(layer_graph(small, arch))
        except CompileError:
            if size == 1:
                raise
        else:
            return small
    raise AssertionError("a size of 1 returns or raises")


def _activations(program: Program, density: float, rng: np.random.Generator) -> np.ndarray:
    """One image whose activations are not zero with probability `density`: int16 [1, c, h, w]."""
    shape = program.tensors["x"].shape
    values = rng.integers(1, program.arch.act_range(False)[1] + 1, shape)
    return (values * (rng.random(shape) < density)).astype(np.int16)[None]


def bench_layer(
    shape: LayerShape, arch: ArchConfig, densities: tuple[float, ...], backend: str = "verilator", seed: int = 0
) -> dict[str, Any]:
    """Cycles and η of one layer at several activation densities, and its dense cycles.

    On the RTL (`backend="verilator"`) each run is checked against the golden model and the timing model; "timing" runs
    the timing model alone. η is taken from the layer's own cycles, from start to its last store.

    Raises `InputError` for a bad shape or density, `CompileError` if the layer does not fit, `ToolError` if the models part.
    """
    _check_sweep(densities, backend)
    figures = _sweep(layer_graph(shape, arch, seed), densities, backend, seed)
    return {"shape": vars(shape), "arch": arch.to_dict(), "backend": backend, "seed": seed, **figures}


def _check_sweep(densities: tuple[float, ...], backend: str) -> None:
    for d in densities:
        if not 0 <= d <= 1:
            raise InputError(f"bench: a density must be from 0 to 1, not {d}")
    if backend not in ("timing", "verilator"):
        raise InputError(f"bench: the back end must be timing or verilator, not {backend!r}")


def bench_suite(
    arch: ArchConfig,
    densities: tuple[float, ...] = DENSITIES,
    backend: str = "verilator",
    seed: int = 0,
    suite: tuple[WorkloadLayer, ...] = SUITE,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """`bench_layer` for every layer type of `suite`, each at the largest size up to its own that fits `arch`.

    `progress` is called with (layers done, layers in all, name of the next one).
    """
    _check_sweep(densities, backend)
    layers = []
    for i, layer in enumerate(suite):
        if progress is not None:
            progress(i, len(suite), layer.name)
        fitted = _fitted(layer, arch)
        figures = _sweep(fitted.graph(arch, seed), densities, backend, seed, fold=layer.on_image)
        size = {"cin": layer.cin, "cout": layer.cout, "kernel": layer.k, "size": fitted.h, "stride": layer.stride}
        layers.append({"name": layer.name, "op": layer.op, "shape": size, "of_size": layer.h, **figures})
    return {"arch": arch.to_dict(), "backend": backend, "seed": seed, "layers": layers}


def _fitted(layer: WorkloadLayer, arch: ArchConfig) -> WorkloadLayer:
    """The layer at the largest square size that compiles and takes at most `ENOUGH` cycles, or at the smallest.

    Raises the `CompileError` of the smallest.
    """
    for size in range(layer.h, 0, -1):
        small = replace(layer, h=size, w=size)
        if size > 1 and small.macs > ENOUGH * arch.cores * arch.lanes:
            continue
        oh, ow = small.out_size
        inputs = 0 if layer.on_image else size * size * arch.words(layer.cin)
        fits = inputs + oh * ow * arch.words(layer.cout) <= arch.act_depth
        if not fits and size > 1:
            continue
        try:
            compile_graph(small.graph(arch, None), mapping=Mapping(arch.cores), fold=layer.on_image)
        except CompileError:
            if size == 1:
                raise
        else:
            return small
    raise AssertionError("a size of 1 returns or raises")


def _sweep(graph: Graph, densities: tuple[float, ...], backend: str, seed: int, fold: bool = True) -> dict[str, Any]:
    """Dense cycles, and a row for each density, of a graph from `x` to `y`, compiled for each."""
    arch = graph.arch
    dense = compile_graph(graph, dense=True, fold=fold)
    rng = np.random.default_rng(seed)
    full = _activations(dense, 1.0, rng)
    dense_cycles = _run(dense, full, backend).total.cycles
    rows = []
    for d in densities:
        program = compile_graph(graph, density=d, fold=fold)
        stats = _run(program, _activations(program, d, rng), backend)
        layer = stats.layers[0]
        cycles = stats.total.cycles
        assert cycles is not None and dense_cycles is not None
        rows.append(
            {
                "density": d,
                "measured_density": layer.density,
                "mapping": mapping_of(program),
                "cycles": cycles,
                "of_dense": cycles / dense_cycles,
                "events": layer.events,
                "nonzero_macs": layer.nonzero_macs,
                "eta": layer.nonzero_macs / (arch.cores * arch.lanes * cycles),
                "causes": stats.total.causes,
            }
        )
    return {"macs": dense.layers[0].macs, "dense_cycles": dense_cycles, "rows": rows}


def _run(program: Program, x: np.ndarray, backend: str) -> Stats:
    timing = Timing(program).run({"x": x})
    return Stats.of(program, backend, run_layer(program, {"x": x}, backend, timing))


def mapping_of(program: Program) -> str:
    """The mapping of the layer that writes `y`, in words."""
    return next(layer.mapping for layer in program.layers if layer.output == "y")


def run_layer(program: Program, inputs: dict[str, np.ndarray], backend: str, timing: Result) -> Result:
    """The result of the back end: `timing` itself, or that of the RTL. Raises `ToolError` if the RTL's differs from it."""
    if backend == "timing":
        return timing
    with Verilator(program) as rtl:
        result = rtl.run(inputs)
    require_equal(program, result, timing)
    return result


def bench_sim(arch: ArchConfig, images: int = 450, seed: int = 0, progress: Progress | None = None) -> dict[str, Any]:
    """Speed of the simulators: cycles per second of the RTL on one layer, images per second of the models on the digits network.

    The network has random weights, because its speed does not depend on them; the images are those of the test set.
    """
    program = compile_graph(layer_graph(LayerShape(), arch, seed))
    x = _activations(program, 0.5, np.random.default_rng(seed))
    with Verilator(program) as rtl:
        rtl.run({"x": x})
        begin, cycles = time.perf_counter(), 0
        while time.perf_counter() - begin < 5:
            records = rtl.run({"x": x}).records
            assert records is not None
            cycles += int(cycles_of(records).sum())
        rtl_rate = cycles / (time.perf_counter() - begin)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DIGITS.build()
    data = DIGITS.data()
    quantised = quantize(network, data.train[0][:128], arch)
    digits = compile_graph(quantised.graph)
    integers = quantised.quantise_inputs(data.test[0][:images])
    rates = {}
    for name, model in (("golden", Golden(digits)), ("timing", Timing(digits))):
        model.run({k: v[:4] for k, v in integers.items()})
        begin = time.perf_counter()
        model.run(integers, progress=progress)
        rates[name] = len(data.test[0][:images]) / (time.perf_counter() - begin)
    return {
        "arch": arch.to_dict(),
        "seed": seed,
        "verilator_cycles_per_second": rtl_rate,
        "golden_images_per_second": rates["golden"],
        "timing_images_per_second": rates["timing"],
        "images": len(data.test[0][:images]),
    }
