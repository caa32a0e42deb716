"""From a PT2E-quantised module to the integer graph: its quantise nodes are read and taken out, what is left is planned and lowered."""

from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from sordino_hw.spec.arch import ArchConfig, preset
from sordino_hw.spec.errors import CompileError

from ..fx.nodes import operator_name
from ..fx.source import where
from ..graph import Graph
from ..ops.layer import Weighted
from ..ops.lowering import Scale, Weights
from ..plan import plan
from .build import Lowered, build
from .strip import strip

__all__ = ["from_exported", "lower_quantised"]


def from_exported(quantised: GraphModule | ExportedProgram, arch: str | ArchConfig) -> Graph:
    """The integer graph of a quantised module, as `torchao`'s `convert_pt2e` returns it.

    Raises `CompileError`, naming the node and its source line, for an operator that is not supported (all of them at
    once), a tensor without a scale, or a scale that `arch` cannot represent.
    """
    if isinstance(quantised, ExportedProgram):
        quantised = quantised.module(check_guards=False)
    return lower_quantised(quantised, preset(arch))[0].graph


def lower_quantised(quantised: GraphModule, arch: ArchConfig) -> tuple[Lowered, dict[Node, Node]]:
    """As `from_exported`; also the layers of the graph's values, and the nodes of `quantised` that theirs stand for."""
    stripped = strip(quantised)
    found = plan(stripped.module, arch=arch)
    roots = found.roots()

    def scale_of(node: Node) -> Scale:
        root = roots.get(node, node)
        scale = stripped.scales.get(root)
        if scale is None:
            raise CompileError(
                f"{operator_name(node)} {node.name!r} ({where(node)}): this tensor is not quantised. "
                "Quantise the model with sordino.quantize, which gives every layer's output a scale."
            )
        if stripped.scales.get(node, scale) != scale:
            raise CompileError(
                f"{operator_name(node)} {node.name!r} ({where(node)}): it must have the scale of {root.name!r}, because it only moves values. "
                "Quantise the model with sordino.quantize."
            )
        lo, hi = arch.act_range(scale.signed)
        fits = lo <= scale.lo and scale.hi <= hi if scale.lowest is None else scale.hi - scale.lo == hi - lo and scale.hi >= 0
        if not fits and node in roots:
            raise CompileError(
                f"{operator_name(node)} {node.name!r} ({where(node)}): quantised to {scale.lo}..{scale.hi}, but activations of {arch.name} "
                f"(event_bits={arch.event_bits}) are {lo}..{hi}. Quantise the model for this architecture: sordino.quantize(..., arch={arch.name!r})."
            )
        return scale

    def weights_of(layer: Weighted) -> Weights:
        if layer.weight not in stripped.weights:
            raise CompileError(
                f"{operator_name(layer.core)} {layer.core.name!r} ({where(layer.core)}): its weights are not quantised per output channel. "
                "Quantise the model with sordino.quantize."
            )
        return stripped.weights[layer.weight]

    return build(stripped.module, found, arch, scale_of, weights_of), stripped.origin
