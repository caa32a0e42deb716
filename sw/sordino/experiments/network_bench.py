"""Benchmark of whole networks: a workload on the timing model, with zeros drawn at random at each layer's density."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from sordino_compiler.driver import compile_graph
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import CompileError
from sordino_hw.spec.program import Program
from sordino_sim.timing.model import Timing
from sordino_sim.timing.patterns import time_patterns

from ..runtime.stats import CAUSES, cycles_of, of_cluster
from .layer_bench import mapping_of, run_layer
from .workloads import Workload, WorkloadLayer

__all__ = ["bench_network", "ideal_memory"]

UNLIMITED = {"act_depth": 1 << 22, "weight_depth": 1 << 22, "mask_depth": 1 << 22, "param_depth": 1 << 22, "state_depth": 1 << 22}
CONTROL = {"imem_depth": 1 << 20, "perf_depth": 1 << 20}

Told = Callable[[int, int, str], None]
"""Called with (layers done, layers in all, name of the next one)."""


def ideal_memory(arch: ArchConfig) -> ArchConfig:
    """The architecture with memories of unlimited depth, in which no layer needs tiles or more than one program segment."""
    return arch.replace(**UNLIMITED, **CONTROL, name=f"{arch.name}, ideal memory")


def bench_network(
    workload: Workload, arch: ArchConfig, seed: int = 0, rtl: bool = False, progress: Told | None = None
) -> dict[str, Any]:
    """Cycles and η of a network, and its dense cycles, by the timing model with an ideal memory.

    Each layer is run by itself. Its cycles are those from start to halt, with start, tail and control, without loading by the host.
    The η of a network is its non-zero MACs / (multipliers x cycles of all layers, with pooling and additions). Dense mode runs on the
    same patterns of zeros and ignores them.

    With `rtl`, every layer that fits `arch` as it is also runs on the RTL with random weights, checked value by value
    against the golden model and cycle by cycle against the timing model (`ToolError` if they part).
    """
    begin = time.perf_counter()
    ideal, rows = ideal_memory(arch), []
    for i, layer in enumerate(workload.layers):
        if progress is not None:
            progress(i, len(workload.layers), layer.name)
        rows.append(_layer(layer, arch, ideal, [seed, i], rtl))
    total = {k: sum(r[k] for r in rows) for k in ("macs", "macs_in_bounds", "nonzero_macs", "cycles", "dense_cycles")}
    return {
        "workload": workload.name,
        "note": workload.note,
        "arch": arch.to_dict(),
        "memory": "ideal",
        "seed": seed,
        "multipliers": arch.cores * arch.lanes,
        **total,
        "eta": total["nonzero_macs"] / (arch.cores * arch.lanes * total["cycles"]),
        "speedup": total["dense_cycles"] / total["cycles"],
        "mac_ratio": total["macs_in_bounds"] / total["nonzero_macs"] if total["nonzero_macs"] else None,
        "causes": {c: sum(r["causes"][c] for r in rows) for c in CAUSES},
        "layers": rows,
        "seconds": time.perf_counter() - begin,
    }


def _layer(layer: WorkloadLayer, arch: ArchConfig, ideal: ArchConfig, seed: list[int], rtl: bool) -> dict[str, Any]:
    nonzero = layer.draw(seed)
    densities = {name: float(found.mean()) for name, found in nonzero.items()}
    graph = layer.graph(ideal, None)
    program = compile_graph(graph, density=densities, fold=layer.on_image)
    records = time_patterns(program, nonzero)
    dense = time_patterns(compile_graph(graph, dense=True, fold=layer.on_image), nonzero)
    cycles, products = int(cycles_of(records).sum()), layer.nonzero_macs(nonzero["x"])
    row: dict[str, Any] = {
        "name": layer.name,
        "op": layer.op,
        "added": layer.added,
        "density": densities["x"],
        "mapping": mapping_of(program),
        "macs": layer.macs,
        "macs_in_bounds": layer.nonzero_macs(np.ones_like(nonzero["x"])),
        "nonzero_macs": products,
        "cycles": cycles,
        "dense_cycles": int(cycles_of(dense).sum()),
        "eta": products / (arch.cores * arch.lanes * cycles),
        "causes": dict(zip(CAUSES, of_cluster(records).sum(0).tolist(), strict=False)),
    }
    return row | {"rtl": _rtl(layer, arch, nonzero, densities, seed)} if rtl else row


def _rtl(
    layer: WorkloadLayer, arch: ArchConfig, nonzero: dict[str, np.ndarray], densities: dict[str, float], seed: list[int]
) -> dict[str, Any] | None:
    """Cycles and η on the RTL with the memories that there are; None for a layer that does not fit them."""
    try:
        program: Program = compile_graph(layer.graph(arch, seed[0]), density=densities, fold=layer.on_image)
    except CompileError:
        return None
    rng = np.random.default_rng(seed)
    high = arch.act_range(False)[1]
    inputs = {k: (rng.integers(1, high + 1, v.shape) * v).astype(np.int16)[None] for k, v in nonzero.items()}
    result = run_layer(program, inputs, "verilator", Timing(program).run(inputs))
    assert result.records is not None
    cycles = int(cycles_of(result.records).sum())
    return {"cycles": cycles, "eta": layer.nonzero_macs(nonzero["x"]) / (arch.cores * arch.lanes * cycles)}
