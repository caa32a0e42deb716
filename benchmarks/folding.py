"""First layers with and without folded inputs: `python benchmarks/folding.py [--arch NAME] [--densities D,...] [--json FILE]`.

Cycles by the timing model with an ideal memory, zeros of the input drawn at random at each density, and the rows that the
input and the layer take in memory. `folded` holds several pixels of the input in a word, `plain` one.

Keys of the JSON: `arch`, `seed`, `layers`: for each `name` and `shape`, and for `plain` and `folded` the `fold` (pixels in a
word), `input_words`, `weight_rows`, `mask_rows`, `operations` and `cycles` by density.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from sordino.experiments.network_bench import ideal_memory
from sordino.experiments.workloads import WorkloadLayer
from sordino_compiler.driver import compile_graph
from sordino_hw.spec.arch import ArchConfig, preset
from sordino_hw.spec.isa import Cause
from sordino_sim.timing.patterns import time_patterns

LAYERS = (
    WorkloadLayer("conv", "ResNet-50 conv1", 224, 224, 3, 64, 1.0, 7, 2, 3),
    WorkloadLayer("conv", "VGG-16 conv0", 224, 224, 3, 64, 1.0, 3, 1, 1),
    WorkloadLayer("conv", "MobileNetV2 conv0", 224, 224, 3, 32, 1.0, 3, 2, 1),
    WorkloadLayer("conv", "AlexNet conv1", 224, 224, 3, 64, 1.0, 11, 4, 2),
    WorkloadLayer("conv", "3x3, 32x32", 32, 32, 3, 32, 1.0, 3, 1, 1),
    WorkloadLayer("conv", "7x7 /2, 32x32", 32, 32, 3, 32, 1.0, 7, 2, 3),
)


def measure(layer: WorkloadLayer, arch: ArchConfig, densities: list[float], fold: bool, seed: int) -> dict[str, Any]:
    """Memory and cycles of one layer."""
    graph = layer.graph(arch, seed)
    cycles = []
    for d in densities:
        program = compile_graph(graph, fold=fold, density=d)
        nonzero = np.random.default_rng(seed).random((layer.cin, layer.h, layer.w)) < d
        cycles.append(int(time_patterns(program, {"x": nonzero})[:, 0, : len(Cause)].sum()))
    (segment,) = program.segments
    return {
        "fold": program.tensors["x"].fold,
        "input_words": program.addresses("x").size,
        "weight_rows": segment.weight.shape[1],
        "mask_rows": segment.mask.shape[1],
        "operations": len(segment.ops),
        "cycles": cycles,
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--arch", default="ulx3s-85f", help="preset; its memories count as ideal")
    p.add_argument("--densities", default="1,0.5,0.3,0.2,0.1,0.05")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--json", type=Path, metavar="FILE")
    a = p.parse_args()
    arch, densities = ideal_memory(preset(a.arch)), [float(d) for d in a.densities.split(",")]
    print("| layer | | pixels a word | input words | weight rows | mask rows | operations |", *(f"{d:g} |" for d in densities))
    print("|---|---|" + "---:|" * (5 + len(densities)))
    layers = []
    for layer in LAYERS:
        plain, folded = (measure(layer, arch, densities, fold, a.seed) for fold in (False, True))
        shape = {k: getattr(layer, k) for k in ("h", "w", "cin", "cout", "k", "stride", "pad")}
        layers.append({"name": layer.name, "shape": shape, "plain": plain, "folded": folded})
        for way, row in (("plain", plain), ("folded", folded)):
            fixed = [f"{row[k]:,}" for k in ("fold", "input_words", "weight_rows", "mask_rows", "operations")]
            gain = [f" ({c / b - 1:+.1%})" if row is folded else "" for b, c in zip(plain["cycles"], row["cycles"], strict=True)]
            figures = [f"{c:,}{g}" for c, g in zip(row["cycles"], gain, strict=True)]
            print(f"| {layer.name if row is plain else ''} | {way} |", " | ".join([*fixed, *figures]), "|", flush=True)
    if a.json:
        a.json.write_text(json.dumps({"arch": arch.to_dict(), "seed": a.seed, "densities": densities, "layers": layers}, indent=1))


if __name__ == "__main__":
    main()
