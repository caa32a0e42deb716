"""Statistics of a run: cycles by cause, events, densities and η, by layer and for the whole network."""

from dataclasses import dataclass

import numpy as np

from sordino_hw.spec.isa import PERF_FIELDS, Cause
from sordino_hw.spec.program import Program
from sordino_sim.backend import Result

__all__ = ["CAUSES", "LayerStats", "Stats", "cycles_of", "of_cluster"]

CAUSES = tuple(c.name.lower() for c in Cause)
"""What a cycle can be spent on, in the order of `isa.Cause`."""


def cycles_of(records: np.ndarray) -> np.ndarray:
    """Cycles of performance records [..., cores, fields]: int64 [...]. They are the same for every core."""
    return records[..., 0, : len(CAUSES)].sum(-1)


def of_cluster(records: np.ndarray) -> np.ndarray:
    """Performance records [..., cores, fields] of the cluster as a whole: float64 [..., fields].

    Cycles by cause are means over the cores, so that they add up to the cycles; words are sums.
    """
    return np.concatenate([records[..., : len(CAUSES)].mean(-2), records[..., len(CAUSES) :].sum(-2)], -1)


@dataclass(frozen=True)
class LayerStats:
    """Figures of one layer, means over the images of a run. `None` where the back end counts no cycles."""

    name: str
    kind: str
    source: str
    macs: float
    """Multiply-accumulates of the original layer, zeros included."""
    nonzero_macs: float
    """Multiply-accumulates whose activation is in bounds and not zero and whose weight row is not zero."""
    events: float
    """Weight rows issued (event mode), or non-zero lanes read (vector mode)."""
    density: float
    """Non-zero share of the layer's input tensor; for the whole network, of all tensors between its layers."""
    cycles: float | None
    causes: dict[str, float] | None
    """Cycles by cause (see `CAUSES`), means over the cores; they add up to `cycles`."""
    words: float | None
    """Activation words read."""
    skipped: float | None
    """Empty activation words skipped."""
    eta: float | None
    """Share of the non-zero-MAC roofline that is reached: nonzero_macs / (cores x lanes x cycles)."""

    def to_dict(self) -> dict:
        return dict(vars(self))


@dataclass(frozen=True)
class Stats:
    """Figures of one run of a batch: per layer, and for the whole network.

    The cycles of the whole network include the tail of each program segment, which belongs to no layer.
    """

    backend: str
    images: int
    layers: list[LayerStats]
    total: LayerStats
    densities: dict[str, float]
    """Non-zero share of every tensor, network inputs and outputs included."""
    nonzero: dict[str, float]
    """Non-zero values of every tensor, mean over the images."""
    nonzero_activations: float
    """Non-zero values of the tensors between the layers together, mean over the images."""
    cycles: np.ndarray | None
    """int64 [images]: cycles of each image."""
    records: np.ndarray | None = None
    """int64 [records, cores, fields]: the performance records of the first image, for a timeline."""

    def __str__(self) -> str:
        from rich.console import Console

        from ..report.tables import stats_table

        console = Console(width=120, no_color=True)
        with console.capture() as text:
            console.print(stats_table(self, f"{self.backend}, {self.images} images"))
        return text.get()

    def to_dict(self) -> dict:
        """Everything as JSON values (see docs/reference/figures.md)."""
        return {
            "backend": self.backend,
            "images": self.images,
            "layers": [x.to_dict() for x in self.layers],
            "total": self.total.to_dict(),
            "densities": self.densities,
            "nonzero": self.nonzero,
            "nonzero_activations": self.nonzero_activations,
            "cycles": None if self.cycles is None else self.cycles.tolist(),
        }

    @classmethod
    def of(cls, program: Program, backend: str, result: Result) -> "Stats":
        """Derives the figures from a back end's `result`."""
        images = len(result.events)
        nonzero = {name: int(counts.sum()) for name, counts in result.nonzero.items()}
        op_layers = np.array([op.layer for op in program.ops], np.int64)
        densities = {n: nonzero[n] / (images * int(np.prod(program.tensors[n].shape))) for n in program.tensors}
        owner = _record_layers(program)
        counted = None if result.records is None else of_cluster(result.records).mean(0)
        layers = []
        for i, layer in enumerate(program.layers):
            mine = op_layers == i
            records = None if counted is None else counted[owner == i].sum(0)
            layers.append(
                _layer(
                    program,
                    (layer.name, layer.kind, layer.source),
                    layer.macs,
                    float(result.nonzero_macs[:, mine].sum(1).mean()),
                    float(result.events[:, mine].sum(1).mean()),
                    densities[layer.inputs[0]],
                    records,
                )
            )
        inner = [layer.output for layer in program.layers if layer.output not in program.outputs]
        size = sum(int(np.prod(program.tensors[n].shape)) for n in inner)
        total = _layer(
            program,
            ("total", "network", ""),
            sum(layer.macs for layer in program.layers),
            float(result.nonzero_macs.sum(1).mean()),
            float(result.events.sum(1).mean()),
            sum(nonzero[n] for n in inner) / (images * size) if size else densities[program.inputs[0]],
            None if counted is None else counted.sum(0),
        )
        cycles = None if result.records is None else cycles_of(result.records).sum(1)
        first = None if result.records is None else result.records[0]
        means = {n: nonzero[n] / images for n in program.tensors}
        return cls(backend, images, layers, total, densities, means, sum(means[n] for n in inner), cycles, first)


def _record_layers(program: Program) -> np.ndarray:
    """Layer of each performance record: for each program segment those of its operations, then -1 for its tail."""
    owners: list[int] = []
    for segment in program.segments:
        owners += [*(op.layer for op in segment.ops), -1]
    return np.array(owners, np.int64)


def _layer(
    program: Program,
    names: tuple[str, str, str],
    macs: float,
    nonzero_macs: float,
    events: float,
    density: float,
    record: np.ndarray | None,
) -> LayerStats:
    cycles = causes = words = skipped = eta = None
    if record is not None:
        counters = dict(zip(PERF_FIELDS, map(float, record), strict=True))
        causes = {c: counters[c] for c in CAUSES}
        cycles, words, skipped = sum(causes.values()), counters["words"], counters["skipped"]
        eta = nonzero_macs / (program.arch.cores * program.arch.lanes * cycles) if cycles else None
    name, kind, source = names
    return LayerStats(name, kind, source, float(macs), nonzero_macs, events, density, cycles, causes, words, skipped, eta)
