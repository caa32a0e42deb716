"""Batch norms and constants per channel of a float graph: into the weights of the layer before, or a layer of their own.

The plan decides, because it knows the readers of every tensor: a layer whose output something else reads, too, keeps its
weights. A quantiser's own folding must find no batch norm left to fold.
"""

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from sordino_hw.spec.errors import CompileError

from ..fx.nodes import STANDS_FOR, arguments, attribute, constant, is_constant, is_size, operator_name
from ..fx.source import where
from ..ops.layer import Weighted
from ..plan import plan

__all__ = ["fold_norms", "freeze"]

_aten = torch.ops.aten


def fold_norms(module: GraphModule) -> None:
    """Takes every batch norm out of a captured graph, in place, and products and sums with constants; its function stays the same.

    `w' = w * gamma / sqrt(var + eps)` where the layer before is a convolution or a fully connected one that nothing else reads,
    else a product and a sum with one constant per channel. gamma, beta, weight, bias and other constants stay trainable, the
    statistics are constants. Raises `CompileError` for a graph that cannot be planned, and for a norm whose factors are not finite.
    """
    layers = plan(module).layers
    front = dict.fromkeys(constants(module))
    first = next(node for node in module.graph.nodes if node not in front)
    for node in front:
        first.prepend(node)  # a batch norm's parameters may stand behind the convolution that will read them
    for layer in layers:
        for norm in layer.norm:
            fused = isinstance(layer, Weighted)
            if operator_name(norm) == "aten.batch_norm":
                if fused:
                    _into_weights(module, layer.core, norm)
                else:
                    _as_constants(module, norm)
            elif fused:
                _constant_into_weights(module, layer.core, norm)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()


def freeze(module: GraphModule) -> None:
    """Replaces constant expressions, and the vectors among the parameters, by buffers of the graph's own, in place.

    So that what was quantised does not change with the model that it was made of. Weights are left, quantising copies them.
    """
    found = constants(module)
    inside = set(found)
    for node in found:
        value = constant(module, node)
        if inside.issuperset(node.users) or not value.is_floating_point() or (node.op == "get_attr" and value.dim() > 1):
            continue
        name = f"_frozen_{node.name}"
        module.register_buffer(name, value.float().clone())
        with module.graph.inserting_before(node):
            new = module.graph.get_attr(name)
        new.meta = {"val": torch.empty_like(value, device="meta", dtype=torch.float32)}
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user not in inside)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()


def constants(module: GraphModule) -> list[Node]:
    """Nodes that depend on no input, in order."""
    found: dict[Node, None] = {}
    for node in module.graph.nodes:
        computed = node.op == "call_function" and not is_size(node) and all(n in found for n in node.all_input_nodes)
        if node.op == "get_attr" or computed:
            found[node] = None
    return [n for n in found if n.op != "get_attr" or isinstance(attribute(module, str(n.target)), Tensor)]


def _gain_and_offset(module: GraphModule, norm: Node, bias: Node | None) -> tuple[Node, Node]:
    """Constants [channels] with `norm(x + bias) = gain * x + offset`. Raises `CompileError` if a gain is not finite."""
    graph, a = module.graph, arguments(norm)
    gain = graph.call_function(_aten.rsqrt.default, (graph.call_function(_aten.add.Tensor, (a["running_var"], a["eps"])),))
    if a["weight"] is not None:
        gain = graph.call_function(_aten.mul.Tensor, (gain, a["weight"]))
    bad = int((~torch.isfinite(constant(module, gain))).sum())
    if bad:
        raise CompileError(
            f"{operator_name(norm)} {norm.name!r} ({where(norm)}): weight / sqrt(running_var + eps) is not finite in {bad} channels. "
            f"A variance is not negative, and eps ({a['eps']:g}) keeps a variance of 0 from the denominator: repair running_var or set eps."
        )
    centre: Any = graph.call_function(_aten.neg.default, (a["running_mean"],))
    if bias is not None:
        centre = graph.call_function(_aten.add.Tensor, (centre, bias))
    offset = graph.call_function(_aten.mul.Tensor, (centre, gain))
    return gain, offset if a["bias"] is None else graph.call_function(_aten.add.Tensor, (offset, a["bias"]))


def _into_weights(module: GraphModule, core: Node, norm: Node) -> None:
    graph, a = module.graph, arguments(core)
    rank = len(a["weight"].meta["val"].shape)
    with graph.inserting_before(core):
        gain, bias = _gain_and_offset(module, norm, a["bias"])
        column = graph.call_function(_aten.reshape.default, (gain, [-1] + [1] * (rank - 1)))
        weight = graph.call_function(_aten.mul.Tensor, (a["weight"], column))
    weight.meta["val"] = a["weight"].meta["val"]
    core.args, core.kwargs = (a["input"], weight, bias, *core.args[3:]), {k: v for k, v in core.kwargs.items() if k != "bias"}
    norm.replace_all_uses_with(arguments(norm)["input"])
    graph.erase_node(norm)


def _constant_into_weights(module: GraphModule, core: Node, node: Node) -> None:
    """A product, quotient, sum or difference of a layer's output and a constant, or its negation."""
    graph, a, weighted, name = module.graph, arguments(node), arguments(core), operator_name(node)
    first = not is_constant(a["self"])
    weight, bias, channels = weighted["weight"], weighted["bias"], weighted["weight"].meta["val"].shape[0]
    alpha = a.get("alpha", 1)
    own, of_constant = {"aten.add": (1, alpha), "aten.sub": (1, -alpha), "aten.rsub": (-alpha, 1)}.get(name, (1, 1))
    own, of_constant = (own, of_constant) if first else (of_constant, own)

    def call(operator: Any, *args: Any) -> Node:
        return graph.call_function(operator, args)

    with graph.inserting_before(core):
        c: Any = 1 if name == "aten.neg" else a["other"] if first else a["self"]
        if not isinstance(c, Node):
            c = call(_aten.full.default, [1], float(c))
        c = call(_aten.reshape.default, c, [-1])
        if name in ("aten.mul", "aten.div", "aten.neg"):
            gain = (
                call(_aten.neg.default, c) if name == "aten.neg" else c if name == "aten.mul" else call(_aten.reciprocal.default, c)
            )
            bias = bias if bias is None else call(_aten.mul.Tensor, bias, gain)
        else:
            gain = call(_aten.full.default, [1], float(own))
            offset = call(_aten.expand.default, call(_aten.mul.Tensor, c, float(of_constant)), [channels])
            bias = offset if bias is None else call(_aten.add.Tensor, call(_aten.mul.Tensor, bias, gain), offset)
        column = call(_aten.reshape.default, gain, [-1] + [1] * (len(weight.meta["val"].shape) - 1))
        scaled = call(_aten.mul.Tensor, weight, column)
    scaled.meta["val"] = weight.meta["val"]
    core.args, core.kwargs = (
        (weighted["input"], scaled, bias, *core.args[3:]),
        {k: v for k, v in core.kwargs.items() if k != "bias"},
    )
    node.replace_all_uses_with(a["self"] if first else a["other"])
    graph.erase_node(node)


def _as_constants(module: GraphModule, norm: Node) -> None:
    graph = module.graph
    shape = [1, -1] + [1] * (len(norm.meta["val"].shape) - 2)
    with graph.inserting_before(norm):
        vectors = _gain_and_offset(module, norm, None)
        gain, offset = (graph.call_function(_aten.reshape.default, (v, shape)) for v in vectors)
        scaled = graph.call_function(_aten.mul.Tensor, (arguments(norm)["input"], gain))
        shifted = graph.call_function(_aten.add.Tensor, (scaled, offset))
    scaled.meta, shifted.meta = {**norm.meta, STANDS_FOR: norm.name}, dict(norm.meta)
    norm.replace_all_uses_with(shifted)
    graph.erase_node(norm)
