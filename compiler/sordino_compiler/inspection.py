"""Looking at a model before it is trained or quantised: what is supported, and a graph with made-up scales."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.fx import GraphModule, Node

from sordino_hw.spec.arch import ArchConfig, preset

from .capture import capture
from .edges import Cut, cut_edges
from .factors import snap_factor
from .fx.nodes import constant, operator_name
from .fx.problems import Problem, refuse
from .fx.source import where
from .graph import Graph
from .ops import OPERATORS
from .ops.activation import BECOMES
from .ops.affine import affine
from .ops.layer import Weighted
from .ops.lowering import Scale, Weights
from .quantised.build import build

__all__ = ["Inspection", "NodeReport", "inspect", "provisional_graph"]


@dataclass(frozen=True)
class NodeReport:
    """One operator of the exported graph."""

    node: str
    operator: str
    source: str
    shape: tuple[int, ...]
    """(channels, height, width), or () where it is not fixed."""
    becomes: str
    """What it becomes on the array, or that it is a step of the host; empty if it is not supported."""
    reason: str
    """Why it is not supported; empty if it is."""

    @property
    def supported(self) -> bool:
        return not self.reason


@dataclass
class Inspection:
    """Every operator of a model, in order."""

    nodes: list[NodeReport]
    problems: list[Problem]
    cut: Cut
    """The captured model, cut at the edges of the array, for `provisional_graph`."""

    @property
    def supported(self) -> bool:
        return not self.problems


def inspect(model: Any, example: Any, arch: ArchConfig | None = None) -> Inspection:
    """Walks the exported float graph: seconds, no weights are looked at. With `arch`, what that lacks is a problem, too.

    Model and example, and their errors, are those of `capture`.
    """
    module = capture(model, example)
    cut = cut_edges(module, arch)
    reasons: dict[str, list[str]] = {}
    for p in cut.problems:
        reasons.setdefault(p.node, []).append(p.reason)
    tables, host = {n.name for n in cut.plan.tables}, {*cut.before, *cut.after}
    known = tables | {n.name for n in (*cut.plan.alias, *cut.plan.views, *cut.inputs, *host)}
    rows = []
    for node in module.graph.nodes:
        if node.name not in known and node.name not in reasons:
            continue
        name = operator_name(node)
        reason = " ".join(reasons.get(node.name, []))
        becomes = OPERATORS[name].becomes if name in OPERATORS else ""
        becomes = "input" if node.op == "placeholder" else BECOMES if node.name in tables else becomes
        if node in host:
            becomes = f"host step {'before' if node in cut.before else 'after'} the array"
        shape = tuple(getattr(node.meta.get("val"), "shape", ()))[1:]
        sizes = tuple(int(s) for s in shape) if all(isinstance(s, int) for s in shape) else ()
        rows.append(NodeReport(node.name, name, where(node), sizes, "" if reason else becomes, reason))
    return Inspection(rows, cut.problems, cut)


def provisional_graph(model: Any, example: Any, arch: str | ArchConfig, cut: Cut | None = None) -> Graph:
    """The model's integer graph with its present weights in 8 bits and made-up activation scales.

    Layers, shapes, zero weights and sizes are right, so it can be compiled and its cycles predicted; its values mean
    nothing. `cut`: the captured model, where `inspect` has made it already. Raises `CompileError` naming everything that is not
    supported.
    """
    arch = preset(arch)
    cut = cut_edges(capture(model, example), arch) if cut is None else cut
    refuse(cut.problems)
    module, found = cut.core, cut.plan
    nonnegative = found.nonnegative() if module.meta["nonnegative"] and not cut.before else set()
    roots = found.roots()
    signed = {roots[x.out] for x in found.layers if x.out not in nonnegative}

    def scale_of(node: Node) -> Scale:
        if node not in roots:
            return Scale(1.0, -128, 127)  # a table's input
        return Scale(1.0, *arch.act_range(roots[node] in signed))

    weights = {x.core: _provisional_weights(module, x, arch) for x in found.layers if isinstance(x, Weighted)}
    layers = [dataclasses.replace(x, norm=[], bias=None) if isinstance(x, Weighted) else x for x in found.layers]
    bare = dataclasses.replace(found, layers=layers)
    graph = build(module, bare, arch, scale_of, lambda x: weights[x.core]).graph
    return graph if cut.whole else dataclasses.replace(graph, outputs=list(dict.fromkeys(graph.outputs)))


def _provisional_weights(module: GraphModule, layer: Weighted, arch: ArchConfig) -> Weights:
    real = constant(module, layer.weight).double().numpy()
    gain, _ = affine(module, layer.norm, len(real))
    real = real * gain.reshape(-1, *[1] * (real.ndim - 1))
    largest = np.abs(real).reshape(len(real), -1).max(1)
    scale = np.where(largest > 0, largest, 1.0) / 127
    integers = np.rint(real / scale.reshape(-1, *[1] * (real.ndim - 1))).astype(np.int8)
    return Weights(integers, snap_factor(scale.clip(max=8.0), arch))
