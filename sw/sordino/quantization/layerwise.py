"""PyTorch's quantised model against the integer graph: layer by layer, and by their decisions."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sordino_compiler.graph import Computation, Node

from .model import QuantizedModel

__all__ = ["Agreement", "LayerDifference", "layerwise", "top1_agreement"]


@dataclass(frozen=True)
class LayerDifference:
    """How far one layer's integers are from PyTorch's, both computed from PyTorch's integers at its inputs."""

    name: str
    kind: str
    source: str
    largest: int
    """Largest difference, in steps of the scale."""
    share: float
    """Share of the values that differ."""
    first: tuple[int, int, int, int] | None
    """(image, channel, row, column) of the first difference."""
    expected: int | None
    """PyTorch's integer there."""
    found: int | None
    """The integer graph's."""


def layerwise(model: QuantizedModel, *inputs: Tensor | np.ndarray) -> list[LayerDifference]:
    """One row per layer, before its table or threshold (which may turn one step into any difference)."""
    values, expected = model.torch_values(*inputs), model.torch_accumulated(*inputs)
    rows = []
    for node in model.graph.nodes:
        if not node.inputs:
            continue
        found = _bare(node).evaluate([values[i] for i in node.inputs], model.arch)
        difference = np.abs(found - expected[node.out.name])
        where = np.argwhere(difference)
        first = tuple(int(i) for i in where[0]) if len(where) else None
        rows.append(
            LayerDifference(
                node.out.name,
                node.label,
                node.source,
                int(difference.max(initial=0)),
                float((difference > 0).mean()),
                first,  # type: ignore[arg-type]
                int(expected[node.out.name][first]) if first else None,
                int(found[first]) if first else None,
            )
        )
    return rows


def _bare(node: Node) -> Node:
    """The node without its table and threshold."""
    if not isinstance(node, Computation):
        return node
    return node.post_processed(lambda q: dataclasses.replace(q, table=None, threshold=np.zeros_like(q.threshold)))


@dataclass(frozen=True)
class Agreement:
    """`share` of the inputs for which both name the same class, and the logits of the others."""

    share: float
    disagreements: list[dict]
    """index, torch (class), integer (class), torch_logits, integer_logits."""


def top1_agreement(model: QuantizedModel, *inputs: Tensor | np.ndarray, output: int = 0) -> Agreement:
    """Compares the classes that PyTorch's quantised model and the integer graph name.

    Both compare integers; of equal logits the first class wins in both.
    """
    name = model.graph.outputs[output]
    scale = model.graph.values[name].scale
    integer = model.graph.run(model.quantise_inputs(*inputs))[name].reshape(len(inputs[0]), -1)
    ours = model.torch_values(*inputs)[name]
    ours = ours.reshape(len(ours), -1)
    a, b = ours.argmax(1), integer.argmax(1)
    rows = [
        {
            "index": int(i),
            "torch": int(a[i]),
            "integer": int(b[i]),
            "torch_logits": (ours[i] * scale).tolist(),
            "integer_logits": (integer[i] * scale).tolist(),
        }
        for i in np.flatnonzero(a != b)
    ]
    return Agreement(1 - len(rows) / len(a), rows)
