"""Steps fixed in the model (`sordino::round_to_step`): one per tensor is its scale, one per channel goes into the weights."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from sordino_hw.spec.errors import CompileError

from ..fx.nodes import arguments, constant, is_constant, is_size, operator_name
from ..fx.source import where
from ..ops.operator import traits

__all__ = ["fold_steps"]

_NORM = "aten.batch_norm"


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
            _before(module, node, scale / q)
            for user in list(node.users):
                _behind(module, node, user, node, q / scale)
            q = scale
        name = f"_{node.name}_scale"
        module.register_buffer(name, (q[0] if q.dim() else q).float())
        with module.graph.inserting_before(node):
            node.update_arg(1, module.graph.get_attr(name))


def _refuse(node: Node, text: str) -> CompileError:
    return CompileError(f"{operator_name(node)} {node.name!r} ({where(node)}): {text}")


def _before(module: GraphModule, node: Node, gain: Tensor) -> None:
    """Multiplies the channels that enter `node` by `gain` [c], in the weights that make them."""
    made: Any = node.args[0]
    while (entry := traits(made)) and entry.homogeneous and len(made.users) == 1:
        made = made.args[0]
    name = operator_name(made)
    if not (name == _NORM or (entry and entry.weighted)) or len(made.users) > 1:
        raise _refuse(
            node,
            f"a step per channel goes into the weights of the layer before, but this is {name} {made.name!r}"
            f"{' with other readers' if len(made.users) > 1 else ''}. Use one step per layer here: per='layer'.",
        )
    a = arguments(made)
    weight = a["weight"]
    if weight is None:  # a batch norm without affine parameters
        _replace(module, made, "weight", gain.float())
    else:
        _replace(module, made, "weight", _scaled(module, weight, gain))
    if a["bias"] is not None:
        _replace(module, made, "bias", _scaled(module, a["bias"], gain))


def _behind(module: GraphModule, node: Node, user: Node, source: Node, gain: Tensor) -> None:
    """Multiplies what `user` reads of `source` by `gain`, one factor per channel, in the weights that read it."""
    name, entry = operator_name(user), traits(user)
    if entry and entry.weighted and user.args[0] is source:
        a = arguments(user)
        shape = a["weight"].meta["val"].shape
        groups = a.get("groups", 1)
        # Output channel o reads the input channels of its group.
        factors = gain.reshape(groups, 1, -1).expand(groups, shape[0] // groups, -1).reshape(shape[0], -1)
        _replace(module, user, "weight", _scaled(module, a["weight"], factors))
    elif entry and (entry.homogeneous or entry.flattens):
        channels = user.meta["val"].shape[1]
        if channels != len(gain):  # flattened
            gain = gain.repeat_interleave(channels // len(gain))
        for reader in list(user.users):
            _behind(module, node, reader, user, gain)
    elif not is_size(user):
        raise _refuse(
            node,
            f"a step per channel is taken back in the weights of the layers behind, but {name} {user.name!r} reads it. "
            "Use one step per layer here: per='layer'.",
        )


def _scaled(module: GraphModule, parameter: Node, gain: Tensor) -> Tensor:
    value = constant(module, parameter)
    gain = gain.to(value.device).reshape(*gain.shape, *[1] * (value.dim() - gain.dim()))
    return (value * gain).to(parameter.meta["val"].dtype)


def _replace(module: GraphModule, node: Node, argument: str, value: Tensor) -> None:
    """Gives `node` a parameter of its own in place of one that other modules may share."""
    name = f"_{node.name}_{argument}_{sum(1 for n, _ in module.named_parameters(recurse=False))}"
    module.register_parameter(name, nn.Parameter(value))
    with module.graph.inserting_before(node):
        new = module.graph.get_attr(name)
    with torch.no_grad():
        new.meta["val"] = torch.empty_like(value, device="meta")
    position = list(arguments(node)).index(argument)
    if position < len(node.args):
        node.update_arg(position, new)
    else:
        node.update_kwarg(argument, new)
