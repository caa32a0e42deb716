"""Steps fixed in the model (`sordino::round_to_step`): one per tensor is its scale, one per channel goes into the weights."""

from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

from sordino_hw.spec.errors import CompileError

from ..fx.nodes import arguments, constant, is_constant, operator_name
from ..fx.source import where
from .channels import maker, readers, scale_output, scale_readers

__all__ = ["fold_steps"]


def fold_steps(module: GraphModule) -> None:
    """Gives every `round_to_step` one step per tensor, in place.

    With a step q_c per channel, the layer before makes channel c larger by s / q_c, and the layers behind read it
    q_c / s times: the integers stay `round(x / q_c)`, and s is the tensor's scale. Raises `CompileError` where no weighted
    layer stands before, or something else than a weighted layer reads it.
    """
    for node in list(module.graph.nodes):
        if operator_name(node) != "sordino.round_to_step":
            continue
        step = arguments(node)["step"]
        if not is_constant(step):
            continue  # reported by the operator's constraint
        q = constant(module, step)
        if not bool((q > 0).all()):
            raise _refuse(node, f"a step of {float(q.min()):g}; steps are positive.")
        if q.dim() and bool((q != q[0]).any()):
            scale = q.mean()
            _move(module, node, scale / q, q / scale)
            q = scale
        name = f"_{node.name}_scale"
        module.register_buffer(name, (q[0] if q.dim() else q).float())
        with module.graph.inserting_before(node):
            node.update_arg(1, module.graph.get_attr(name))


def _refuse(node: Node, text: str) -> CompileError:
    return CompileError(f"{operator_name(node)} {node.name!r} ({where(node)}): {text}")


def _move(module: GraphModule, node: Node, gain: Tensor, inverse: Tensor) -> None:
    """Multiplies the channels that enter `node` by `gain` [c], and those that are read behind it by its inverse."""
    source: Any = node.args[0]
    made, takes = maker(source)
    if not takes:
        raise _refuse(
            node,
            f"a step per channel goes into the weights of the layer before, but this is {operator_name(made)} {made.name!r}"
            f"{' with other readers' if len(made.users) > 1 else ''}. Use one step per layer here: per='layer'.",
        )

    def blocked(user: Node) -> CompileError:
        return _refuse(
            node,
            f"a step per channel is taken back in the weights of the layers behind, but {operator_name(user)} {user.name!r} reads it. "
            "Use one step per layer here: per='layer'.",
        )

    found = readers(node, blocked)
    scale_output(module, made, gain)
    scale_readers(module, found, inverse)
