"""MLPerf Tiny's four networks on the array: cycles at given activation densities, from whole compiled networks.

No data set comes with the project, so nothing is trained here: weights are random, and the offset of each batch norm is set
such that the wanted share of the ReLU's outputs behind it is positive on smooth random inputs. Latency follows from where
zeros are, and not from the accuracy.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sordino as sd
from sordino_compiler.driver import compile_graph
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import CompileError, InputError, ToolError
from sordino_hw.spec.program import Program

from .. import zoo
from ..runtime.speed import clock_of
from ..runtime.stats import Stats

__all__ = ["NETWORKS", "PUBLISHED", "TinyNetwork", "at_density", "bench_tiny"]

DENSITIES = (1.0, 0.45, 0.15)
CALIBRATION, IMAGES = 32, 4

DEEP = {"act_depth": 1 << 14, "weight_depth": 1 << 14, "mask_depth": 1 << 12, "param_depth": 1 << 10, "state_depth": 1 << 12}
"""Memories in which each of the four fits whole, in one segment."""

Told = Callable[[int, int, str], None]
"""Called with (runs done, runs in all, name of the next one)."""


@dataclass(frozen=True)
class TinyNetwork:
    """A network of the zoo and its task in MLPerf Tiny."""

    task: str
    name: str
    data: str


NETWORKS = {
    "kws": TinyNetwork("key word spotting", "ds_cnn", "Speech Commands, 49 x 10 MFCC"),
    "vww": TinyNetwork("visual wake words", "mobilenet_v1_025", "COCO, 96 x 96"),
    "ic": TinyNetwork("image classification", "resnet8", "CIFAR-10, 32 x 32"),
    "ad": TinyNetwork("anomaly detection", "autoencoder", "ToyADMOS, 5 x 128 mel bands"),
}
"""By the short name that MLPerf Tiny uses."""

PUBLISHED: dict[str, dict[str, float | None]] = {
    "STM32L4R5, Cortex-M4, 120 MHz (v1.3)": {"kws": 43.4, "vww": 89.4, "ic": 165.7, "ad": 4.79},
    "STM32H7A3, Cortex-M7, 280 MHz (v1.2)": {"kws": 11.3, "vww": 23.8, "ic": 40.8, "ad": 1.23},
    "Renesas RA8D1, Cortex-M85, 480 MHz (v1.2)": {"kws": 3.47, "vww": 13.4, "ic": 8.48, "ad": 0.531},
    "Syntiant NDP120, 98 MHz (v1.3)": {"kws": 1.48, "vww": 4.10, "ic": 5.12, "ad": None},
    "GAP9, 370 MHz (v1.0)": {"kws": 0.476, "vww": 1.13, "ic": 0.616, "ad": 0.176},
    "K1 board, RVV, 1.6 GHz (v1.3)": {"kws": 0.577, "vww": 2.18, "ic": 0.977, "ad": 0.316},
    "fpgaConvNet, ZedBoard, 111-143 MHz, 188-211 DSP (v1.1)": {"kws": 0.324, "vww": 9.49, "ic": 0.411, "ad": None},
    "fpgaConvNet, ZyBo, 125 MHz, 60-78 DSP (v1.1)": {"kws": 2.15, "vww": None, "ic": 3.15, "ad": None},
}
"""Milliseconds an inference: 1000 / median throughput in MLPerf Tiny's public results of the version named."""


def at_density(model: nn.Module, x: Tensor, density: float) -> None:
    """Sets batch norms, in place, such that each ReLU's output has the `density` on the batch `x`; 1 means three deviations above 0.

    Statistics are those of `x`. The offset of the batch norm that ran last before a ReLU is moved, also where a sum stands between
    the two, as in a residual block. The model is left in evaluation mode.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    with torch.no_grad():
        model.train()(x)
        model.eval()
        last: list[nn.Module] = []
        hooks = []

        def norm(module: nn.Module, _: Any, __: Any) -> None:
            last.append(module)

        def relu(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            (y,) = args
            share = min(density, _gauss(3.0))
            shift = torch.quantile(y.flatten()[: 1 << 22], 1 - share)
            last[-1].bias -= shift  # type: ignore[operator]
            return (y - shift,)

        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                hooks.append(module.register_forward_hook(norm))
            elif isinstance(module, nn.ReLU):
                hooks.append(module.register_forward_pre_hook(relu))
        try:
            model(x)
        finally:
            for hook in hooks:
                hook.remove()


def _gauss(deviations: float) -> float:
    return 0.5 * (1 + math.erf(deviations / math.sqrt(2)))


def bench_tiny(
    arch: ArchConfig,
    names: Sequence[str] = tuple(NETWORKS),
    densities: Sequence[float] = DENSITIES,
    seed: int = 0,
    rtl: bool = False,
    mhz: float | None = None,
    progress: Told | None = None,
) -> dict[str, Any]:
    """Cycles, milliseconds and η of the networks at each density, compute only, by the timing model; with `rtl` on the RTL as well.

    A network that does not fit `arch` runs with memories of unlimited depth, by the timing model alone; the row says why.
    Raises `InputError` for an unknown network or a density outside (0, 1].
    """
    for name in names:
        if name not in NETWORKS:
            raise InputError(f"unknown network {name!r}: MLPerf Tiny has {', '.join(NETWORKS)}")
    for density in densities:
        if not 0 < density <= 1:
            raise InputError(f"a density is above 0 and at most 1, not {density:g}")
    clock = clock_of(arch, mhz)
    at = None if clock is None else clock.mhz
    rows = []
    for i, name in enumerate(names):
        for j, density in enumerate(densities):
            if progress is not None:
                progress(i * len(densities) + j, len(names) * len(densities), f"{name} at {density:g}")
            rows.append(_run(name, density, arch, seed, rtl, at))
    return {
        "arch": arch.to_dict(),
        "multipliers": arch.cores * arch.lanes,
        "clock_mhz": at,
        "seed": seed,
        "images": IMAGES,
        "rows": rows,
        "published_ms": {system: {n: ms.get(n) for n in NETWORKS} for system, ms in PUBLISHED.items()},
    }


def _run(name: str, density: float, arch: ArchConfig, seed: int, rtl: bool, mhz: float | None) -> dict[str, Any]:
    found = NETWORKS[name]
    entry = zoo.entry(found.name)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = zoo.model(found.name)
        x = _smooth(CALIBRATION + IMAGES, entry.shape)
    at_density(model, x[:CALIBRATION], density)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sd.QuantizationWarning)  # no result of a random network is looked at
        quantised = sd.quantize(model, x[:CALIBRATION], arch)
    refused = None
    try:
        program = sd.compile(quantised)
    except CompileError as error:
        refused = str(error)
        program = compile_graph(
            replace(quantised.graph, arch=arch.replace(**DEEP, imem_depth=1 << 14, name=f"{arch.name}, deep memories"))
        )
    stats = _stats(program, x[CALIBRATION:], "timing")
    cycles = _cycles(stats)
    if rtl and refused is None and (measured := _cycles(_stats(program, x[CALIBRATION:], "verilator"))) != cycles:
        raise ToolError(f"{name} at density {density:g}: the RTL takes {measured:,.2f} cycles, the timing model says {cycles:,.2f}")
    macs = zoo.count_macs(model, torch.zeros(1, *entry.shape))
    return {
        "network": name,
        "task": found.task,
        "model": found.name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "macs": macs,
        "wanted_density": density,
        "density": stats.total.density,
        "memory": "architecture" if refused is None else "deep",
        "refused": refused,
        "segments": len(program.segments),
        "cycles": cycles,
        "eta": stats.total.eta,
        "ms": None if mhz is None else cycles / mhz / 1e3,
        "on_rtl": rtl and refused is None,
    }


def _stats(program: Program, x: Tensor, backend: str) -> Stats:
    with sd.Accelerator(program, backend) as accelerator:
        accelerator(x)
        return accelerator.stats


def _cycles(stats: Stats) -> float:
    """Mean over the inputs."""
    assert stats.cycles is not None
    return float(np.mean(stats.cycles))


def _smooth(count: int, shape: tuple[int, int, int]) -> Tensor:
    """Random images of unit variance, most of it at low frequencies as in photographs and spectrograms: [count, c, h, w]."""
    channels, h, w = shape
    parts = [F.interpolate(torch.randn(count, channels, -(-h // k), -(-w // k)), (h, w), mode="bilinear") for k in (8, 3)]
    x = parts[0] + 0.5 * parts[1] + 0.15 * torch.randn(count, *shape)
    return x / x.std()
