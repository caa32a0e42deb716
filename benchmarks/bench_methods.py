"""Cost of the sparsity methods in training: `python benchmarks/bench_methods.py [--width N] [--turns N] [--threads N] [--json FILE]`.

One training step (forward, loss with penalties, backward, SGD) of a small network, for every method on the CPU, against
the same network with plain ReLUs. The methods and the ReLU take turns, step by step, so that whatever else the machine
does falls on all of them alike; the figure is the median over the turns of each method's CPU time over the ReLU's
in the same turn. Then the time of `sparsify` on the zoo's ResNet-50, without calibration (that is the model's own time).

Keys of the JSON: `batch`, `frames`, `width`, `threads`, `turns`, `versions`; `relu_ms` (median, plain ReLU's step); `methods`: for each
row `method`, `options`, `ratio` (median) and `quartiles` of the ratio; `sparsify`: `network` and `seconds` by method.
"""

import argparse
import importlib.metadata
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import sordino as sd
from sordino import zoo
from sordino.nn import METHODS, Clips, penalty

BATCH, FRAMES, SIZE = 4, 8, 16
VARIANTS: dict[str, list[dict]] = {
    "wta": [{"scope": s} for s in ("layer", "channel", "position")],
    "dal": [{"per": p} for p in ("channel", "layer")],
}


def network(width: int) -> nn.Module:
    """Four 3x3 convolutions with batch norm, of `width` and twice as many channels."""

    def block(cin: int, cout: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout), nn.ReLU()]

    layers = [*block(3, width, 1), *block(width, width, 1), *block(width, 2 * width, 2), *block(2 * width, 2 * width, 1)]
    return Clips(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10)))


class Training:
    """A model and its optimiser; a call makes one step and returns its CPU seconds."""

    def __init__(self, model: nn.Module):
        self.model = model.train()
        self.optimiser = torch.optim.SGD(model.parameters(), 1e-4)

    def __call__(self, x: Tensor, y: Tensor) -> float:
        start = time.process_time()
        self.optimiser.zero_grad()
        loss = nn.functional.cross_entropy(self.model(x), y)
        extra = penalty(self.model)
        (loss if extra is None else loss + extra).backward()
        self.optimiser.step()
        return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of the sparsity methods in training.")
    parser.add_argument("--turns", type=int, default=40, help="steps of each method")
    parser.add_argument("--width", type=int, default=64, help="channels of the first layers; 64 is ResNet-18's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    x, y = torch.randn(BATCH, FRAMES, 3, SIZE, SIZE), torch.randint(0, 10, (BATCH,))
    base = network(args.width)
    plain = Training(sd.sparsify(base, "relu"))
    rows = [(name, options) for name in METHODS if name != "relu" for options in VARIANTS.get(name, [{}])]
    trainings = [Training(sd.sparsify(base, name, calibration=x, **options)) for name, options in rows]
    times = np.zeros((args.turns, 1 + len(trainings)))
    for turn in range(-2, args.turns):  # two turns to warm up
        taken = [t(x, y) for t in (plain, *trainings)]
        if turn >= 0:
            times[turn] = taken
    ratios = times[:, 1:] / times[:, :1]
    figures: dict = {"batch": BATCH, "frames": FRAMES, "width": args.width, "threads": args.threads, "turns": args.turns}
    figures["versions"] = {p: importlib.metadata.version(p) for p in ("torch", "sordino")}
    figures["versions"] |= {"python": platform.python_version(), "machine": platform.machine()}
    figures["relu_ms"] = float(np.median(times[:, 0]) * 1e3)
    print(
        f"plain ReLU: {figures['relu_ms']:.2f} ms of CPU time a step ({BATCH} clips of {FRAMES} frames, {args.width} channels, {args.threads} thread)"
    )
    figures["methods"] = []
    for (name, options), column in zip(rows, ratios.T, strict=True):
        low, middle, high = np.quantile(column, [0.25, 0.5, 0.75])
        figures["methods"].append({"method": name, "options": options, "ratio": middle, "quartiles": [low, high]})
        label = f"{name} {', '.join(map(str, options.values()))}".strip()
        print(f"{label:20} {middle:.2f}x ({low:.2f} to {high:.2f})")
    figures["sparsify"] = {"network": "resnet50", "seconds": {}}
    resnet = zoo.model("resnet50")
    for name in METHODS:
        start = time.perf_counter()
        sd.sparsify(resnet, name)
        figures["sparsify"]["seconds"][name] = time.perf_counter() - start
    slowest = max(figures["sparsify"]["seconds"].values())
    print(f"sparsify, ResNet-50: {slowest:.2f} s (slowest method)")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
