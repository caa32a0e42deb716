"""Sparsity methods on the digits, by seed: test accuracy, non-zero activations, cycles on the timing model.

    python benchmarks/digits_methods.py [--seeds 3] [--json FILE]

Every method starts from the same plain network of a seed and trains for as many epochs; see docs/results/digits.md.
"""

import argparse
from collections import defaultdict

import numpy as np
from rich.console import Console
from rich.table import Table

import sordino as sd
from sordino.experiments.tasks import DIGITS, train_task
from sordino.report.jsonfile import write_json

RUNS = [
    ("relu", {}),
    ("l1", {"strength": 3e-5}),
    ("l1", {"strength": 1e-4}),
    ("l1", {"strength": 3e-4}),
    ("star", {"quantile": 0.5, "strength": 1e-5}),
    ("star", {"quantile": 0.6, "strength": 1e-5}),
    ("star", {"quantile": 0.7, "strength": 1e-5}),
    ("star", {"quantile": 0.6, "strength": 0.0}),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    data, rows = DIGITS.data(), defaultdict(list)
    for seed in range(arguments.seeds):
        plain = train_task(DIGITS, "relu", seed, progress=False)
        for kind, options in RUNS:
            trained = (
                plain if kind == "relu" else train_task(DIGITS, kind, seed, plain=plain.model, options=options, progress=False)
            )
            acc = sd.Accelerator(sd.compile(sd.quantize(trained.model, data.train[0][:256])), "timing")
            accuracy = float((acc(data.test[0]).argmax(1) == data.test[1]).double().mean())
            rows[kind, tuple(options.items())].append((accuracy, acc.stats.nonzero_activations, acc.stats.total.cycles))
            print(seed, kind, options, *rows[kind, tuple(options.items())][-1], flush=True)
    base = np.array(rows["relu", ()])
    table = Table("method", "options", "test accuracy", "points lost", "fewer non-zero", "fewer cycles", "worst loss")
    figures = []
    for (kind, options), values in rows.items():
        v = np.array(values)
        lost, fewer, cycles = 100 * (base - v)[:, 0], (base / v)[:, 1], (base / v)[:, 2]
        table.add_row(
            kind,
            " ".join(f"{k}={x:g}" for k, x in options),
            f"{v[:, 0].mean():.2%}",
            f"{lost.mean():+.2f}",
            f"{fewer.mean():.2f} x",
            f"{cycles.mean():.2f} x",
            f"{lost.max():+.2f}",
        )
        figures.append({"method": kind, "options": dict(options), "accuracy_nonzero_cycles": v.tolist()})
    Console().print(table)
    if arguments.json:
        write_json(arguments.json, "digits methods", {"seeds": arguments.seeds, "rows": figures})


if __name__ == "__main__":
    main()
