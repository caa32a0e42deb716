"""`SordinoQuantizer`: tells PT2E what to quantise, from the same plan that is lowered afterwards."""

import math

import torch
from torch.fx import GraphModule, Node

from sordino_compiler.fx.source import where
from sordino_compiler.ops.layer import Weighted
from sordino_compiler.plan import Plan, plan
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import CompileError

from ._torchao import QuantizationAnnotation, QuantizationSpec, Quantizer, SharedQuantizationSpec
from .fixed import FixedQuantizer
from .observers import ActivationQuantizer, WeightQuantizer

__all__ = ["SordinoQuantizer", "link"]


class SordinoQuantizer(Quantizer):
    """PT2E quantizer of one architecture.

    The output of every layer that computes is quantised, zero-point 0; what only moves values (pooling by maximum,
    slices, concatenation, upsampling) keeps its input's scale, and the parts of a concatenation share theirs. In
    front of a table the accumulator is quantised to the table's index. A convolution whose result is added to another
    tensor is not quantised before the addition.

    Parameters
    ----------
    arch : ArchConfig
    method, quantile
        See `ActivationQuantizer`.
    """

    def __init__(self, arch: ArchConfig, method: str = "mse", quantile: float = 0.9999):
        self.arch, self.method, self.quantile = arch, method, quantile
        self.plan: Plan | None = None

    def annotate(self, model: GraphModule) -> GraphModule:
        """Writes the annotations. Raises `CompileError` naming everything in the model that is not supported."""
        found = self.plan = plan(model, arch=self.arch)
        roots = found.roots()
        steps = fixed_steps(found, roots)
        for layer in found.layers:
            root = roots[layer.out]
            if layer.own_scale and root is layer.out:
                fixed = {"step": steps[root]} if root in steps else {}
                asymmetric = (layer.asymmetric or bool(layer.activation.table)) and not fixed
                spec = self._activation(layer.out, asymmetric=asymmetric, **fixed)
                _annotation(layer.out).output_qspec = spec
            elif layer.own_scale or not {layer.activation.lo, layer.activation.hi} <= {-math.inf, 0.0, math.inf}:
                # A clamp of its own keeps its input's scale, but its bounds are rounded to it.
                _annotation(layer.out).output_qspec = SharedQuantizationSpec(root)
            if layer.table_is_fused:
                assert layer.pre is not None
                _annotation(layer.pre).output_qspec = self._activation(layer.pre, table_index=True)
            if isinstance(layer, Weighted):
                self._weight(layer, roots, layer.pre.name if layer.table_is_fused and layer.pre else root.name)
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to do: `annotate` has planned the whole graph."""

    def _activation(self, node: Node, **options) -> QuantizationSpec:
        kind = FixedQuantizer if "step" in options else ActivationQuantizer
        options |= {"tensor": node.name, "layer": where(node)}
        make = kind.with_args(arch=self.arch, method=self.method, quantile=self.quantile, **options)
        return QuantizationSpec(torch.int16, make, qscheme=torch.per_tensor_symmetric)

    def _weight(self, layer: Weighted, roots: dict[Node, Node], target: str) -> None:
        make = WeightQuantizer.with_args(
            layer=f"{layer.core.name} ({where(layer.core)})",
            source=roots[layer.inputs[0]].name,
            target=target,
            residual=roots[layer.inputs[1]].name if layer.residual else None,
            residual_gain=layer.residual_gain,
            arch=self.arch,
        )
        spec = QuantizationSpec(torch.int8, make, -127, 127, torch.per_channel_symmetric, 0)
        annotation = _annotation(layer.core)
        # PT2E's folding of batch norm in training expects (input, weight), in this order.
        annotation.input_qspec_map = {layer.core.args[0]: None, layer.weight: spec}  # type: ignore[dict-item]
        annotation.allow_implicit_sharing = False


def fixed_steps(found: Plan, roots: dict[Node, Node]) -> dict[Node, float]:
    """Scales that the model itself fixes, by root. Raises `CompileError` where tensors that share a scale disagree."""
    steps: dict[Node, float | None] = {}
    for layer in found.layers:
        if not layer.own_scale:
            continue
        step, root = layer.activation.step, roots[layer.out]
        if steps.setdefault(root, step) != step:
            raise CompileError(
                f"{layer.out.name!r} ({where(layer.out)}): tensors that are concatenated share one scale, but the model fixes "
                f"different steps for them ({steps[root] or 'none'} and {step or 'none'}). Give them the same step, or none."
            )
    return {root: step for root, step in steps.items() if step is not None}


def _annotation(node: Node) -> QuantizationAnnotation:
    return node.meta.setdefault("quantization_annotation", QuantizationAnnotation(_annotated=True))


def link(prepared: GraphModule) -> dict[str, ActivationQuantizer]:
    """Connects every weight quantiser of a prepared graph with those of its layer's tensors; returns these by name."""
    modules = list(prepared.modules())
    activations = {m.tensor: m for m in modules if isinstance(m, ActivationQuantizer)}
    for m in modules:
        if isinstance(m, WeightQuantizer):
            m.link(activations)
    return activations
