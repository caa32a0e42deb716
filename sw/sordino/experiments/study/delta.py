"""Temporal sparsity on the integer graph: what a network costs if only changes between frames are sent.

The array has no temporal mode yet, so this is a simulation. Its values are exact; it counts events and products, not
cycles.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sordino_compiler.graph import Computation, Graph, Input, Node
from sordino_hw.spec.errors import InputError
from sordino_hw.spec.numbers import wrap32

__all__ = ["DeltaRun", "LayerEvents", "delta_run"]

CLIPS = 16
"""Clips that are run at a time, so that memory does not grow with their number."""


@dataclass(frozen=True)
class LayerEvents:
    """What one weighted layer reads, mean of a frame. `plain` counts non-zero values; `first` and `later` what is sent with
    differences, in the first frame of a clip (its non-zero values) and in a later one (those that have changed)."""

    plain: float
    first: float
    later: float
    products: tuple[float, float, float]
    """Products of weights with those values: plain, first, later."""


@dataclass
class DeltaRun:
    """Outputs int64 [clips, time, c, h, w] by name, and the events of each weighted layer by the name of its output."""

    frames: int
    outputs: dict[str, np.ndarray]
    layers: dict[str, LayerEvents] = field(default_factory=dict)

    def totals(self) -> dict[str, float]:
        """Mean of a frame, over all layers: `plain_events`, `delta_events` (a clip's first frame, sent in full, counted
        in), `later_events` (without it), and the same of `products`."""
        found: dict[str, float] = {}
        for name, parts in (
            ("events", [(e.plain, e.first, e.later) for e in self.layers.values()]),
            ("products", [e.products for e in self.layers.values()]),
        ):
            plain, first, later = (sum(p[i] for p in parts) for i in range(3))
            found |= {f"plain_{name}": plain, f"later_{name}": later}
            found[f"delta_{name}"] = (first + (self.frames - 1) * later) / self.frames
        return found


def delta_run(graph: Graph, inputs: Mapping[str, np.ndarray], thresholds: Mapping[str, int] | None = None) -> DeltaRun:
    """Runs clips with differences.

    Parameters
    ----------
    inputs : int64 [clips, time, c, h, w] by input name
    thresholds : by the name of a value, in its integers. It is sent where it differs from what was sent last by at least
        the threshold, else the readers keep what they have (send on delta). Default 1, which is exact

    Weighted layers add the products of what was sent to the accumulators that they keep from frame to frame; post-
    processing, and layers without weights, see whole values. So without thresholds every value equals `graph.run`'s.
    Raises `InputError` for thresholds below 1 or of unknown values, and inputs that are not clips of equal length.
    """
    thresholds = dict(thresholds or {})
    for name, t in thresholds.items():
        if name not in graph.values or t < 1:
            raise InputError(f"delta: the threshold {t!r} of {name!r} must be at least 1, and a value's of the graph")
    shapes = {x.shape[:2] for x in inputs.values()}
    if len(shapes) != 1 or any(x.ndim != 5 for x in inputs.values()):
        raise InputError("delta: every input must be [clips, time, c, h, w], with as many clips and frames as the others")
    clips, time = next(iter(shapes))
    outputs: dict[str, list[np.ndarray]] = {name: [] for name in graph.outputs}
    counts: dict[str, np.ndarray] = {}
    for i in range(0, clips, CLIPS):
        values = _run(graph, {n: x[i : i + CLIPS] for n, x in inputs.items()}, thresholds, counts)
        for name in outputs:
            outputs[name].append(values[name])
    scale = np.array([clips * time, clips, max(1, clips * (time - 1))])
    layers = {}
    for name, count in counts.items():
        (plain, first, later), products = (count / scale).tolist()
        layers[name] = LayerEvents(plain, first, later, tuple(products))
    return DeltaRun(time, {n: np.concatenate(parts) for n, parts in outputs.items()}, layers)


def _run(graph: Graph, inputs: dict[str, np.ndarray], thresholds: dict[str, int], counts: dict[str, np.ndarray]):
    """Values [clips, time, c, h, w]; adds to `counts`: [events, products] x [plain, first, later] by layer."""
    values: dict[str, np.ndarray] = {}
    for node in graph.nodes:
        if isinstance(node, Input):
            y = inputs[node.out.name]
        else:
            read = [values[name] for name in node.inputs]
            if isinstance(node, Computation) and node.linear:
                y = _weighted(node, read, graph)
                made = np.sum([_count(node, x, i) for i, x in enumerate(read)], 0)
                counts[node.out.name] = counts.get(node.out.name, 0.0) + made
            else:
                y = _whole(node, read, graph)
        values[node.out.name] = _sent(y, thresholds.get(node.out.name, 1))
    return values


def _whole(node: Node, read: list[np.ndarray], graph: Graph) -> np.ndarray:
    clips, time = read[0].shape[:2]
    y = node.evaluate([x.reshape(-1, *x.shape[2:]) for x in read], graph.arch)
    return y.reshape(clips, time, *y.shape[1:])


def _weighted(node: Computation, read: list[np.ndarray], graph: Graph) -> np.ndarray:
    clips, time = read[0].shape[:2]
    steps = [np.diff(x, axis=1, prepend=0).reshape(-1, *x.shape[2:]) for x in read]
    step = node.accumulate(steps)
    acc = wrap32(step.reshape(clips, time, *step.shape[1:]).cumsum(1))
    return node.requant.apply(acc.reshape(step.shape), graph.arch).reshape(acc.shape)


def _sent(x: np.ndarray, threshold: int) -> np.ndarray:
    """Send on delta over axis 1."""
    if threshold == 1:
        return x
    y = x.copy()
    for t in range(1, x.shape[1]):
        y[:, t] = np.where(np.abs(x[:, t] - y[:, t - 1]) >= threshold, x[:, t], y[:, t - 1])
    return y


def _count(node: Computation, x: np.ndarray, operand: int) -> np.ndarray:
    """[events, products] x [plain, first, later] of one operand, summed."""
    cost = np.ones(x.shape[3:]) if operand else node.products(*x.shape[3:])  # a residual takes part in one product
    moved = x[:, 1:] != x[:, :-1]
    masks = [m.sum((0, 1, 2)) for m in (x != 0, x[:, :1] != 0, moved)]
    return np.array([[m.sum() for m in masks], [(m * cost).sum() for m in masks]], np.float64)
