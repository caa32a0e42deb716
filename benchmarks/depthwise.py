"""Ways to run a depthwise layer: `python benchmarks/depthwise.py [--lanes N] [--kernel N] [--ppu N] [--json FILE]`.

Lane cycles for one word of outputs (`lanes` of them) of a k x k depthwise convolution at stride 1, zeros drawn at random,
for the ways that the array could take. An experiment in numbers, not the timing model: fetch is free, the drain is the least
that an output word takes.

- `vector`: what VEC does; every lane takes its own channel, k*k cycles, empty words skipped.
- `diagonal`: CONV with block-diagonal weights; every non-zero activation is an event that one lane uses.
- `row`: a word holds `lanes` pixels of one row of one channel, lanes are output pixels; every non-zero activation is an
  event that k lanes use (Toeplitz weights).
- `queues`: each lane skips its own zeros, with a weight register file and an activation multiplexer of its own; the word takes
  as long as its busiest lane.

Keys of the JSON: `lanes`, `kernel`, `ppu`, `samples`, `rows`: for each density `density` and cycles by way.
"""

import argparse
import json
from pathlib import Path

import numpy as np

WAYS = ("vector", "diagonal", "row", "queues")
DENSITIES = (1.0, 0.5, 0.35, 0.2, 0.1, 0.05, 0.02)


def cycles(density: float, lanes: int, kernel: int, drain: int, samples: int, rng: np.random.Generator) -> dict[str, float]:
    """Mean lane cycles of one output word, by way."""
    taps = rng.random((samples, kernel * kernel, lanes)) < density
    row = rng.binomial(kernel * (lanes + kernel - 1), density, samples)
    ways = {
        "vector": taps.any(2).sum(1),
        "diagonal": taps.sum((1, 2)),
        "row": row,
        "queues": taps.sum(1).max(1),
    }
    return {way: float(np.maximum(n, drain).mean()) for way, n in ways.items()}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("lanes", 32), ("kernel", 3), ("ppu", 8), ("samples", 20000), ("seed", 0)):
        p.add_argument(f"--{name}", type=int, default=default)
    p.add_argument("--json", type=Path, metavar="FILE")
    a = p.parse_args()
    rng = np.random.default_rng(a.seed)
    rows = [{"density": d, **cycles(d, a.lanes, a.kernel, -(-a.lanes // a.ppu), a.samples, rng)} for d in DENSITIES]
    print("density  " + "".join(f"{way:>10}" for way in WAYS))
    for r in rows:
        print(f"{r['density']:<9}" + "".join(f"{r[way]:>10.2f}" for way in WAYS))
    if a.json:
        a.json.write_text(
            json.dumps({**{k: getattr(a, k) for k in ("lanes", "kernel", "ppu", "samples", "seed")}, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
