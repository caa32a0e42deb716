"""Factors per channel: which weights make the channels of a tensor, which read them, and how both are multiplied."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from ..fx.index_map import apply, concrete
from ..fx.nodes import arguments, constant, is_constant, is_size, operator_name
from ..ops.operator import traits

__all__ = ["NORM", "maker", "readers", "scale_output", "scale_readers"]

NORM = "aten.batch_norm"


def maker(node: Node) -> tuple[Node, bool]:
    """The node that makes the channels of `node`, behind operators with f(kx) = k f(x) that nothing else reads; and whether a gain
    per channel can go into its weights."""
    made: Any = node
    while (entry := traits(made)) and entry.homogeneous and len(made.users) == 1:
        made = made.args[0]
    takes = operator_name(made) == NORM or bool(entry and entry.weighted)
    return made, takes and len(made.users) == 1


def readers(
    node: Node, blocked: Callable[[Node], Exception], origin: Tensor | None = None, constants: bool = False
) -> list[tuple[Node, Node, Tensor]]:
    """What reads the channels of `node` with weights, also behind views and operators with f(kx) = k f(x): the reader, the node that it
    reads, and which channel of `node` each of that node's channels is made of: int64 [channels].

    With `constants`, products with a constant per channel count, too. Raises what `blocked` makes of a reader of another kind.
    """
    origin = torch.arange(node.meta["val"].shape[1]) if origin is None else origin
    found: list[tuple[Node, Node, Tensor]] = []
    for user in node.users:
        entry = traits(user)
        if (entry and entry.weighted and user.args[0] is node) or (constants and _is_product(user)):
            found.append((user, node, origin))
        elif entry and entry.homogeneous:
            found += readers(user, blocked, origin, constants)
        elif entry and entry.views and (moved := _moved(user, node, origin)) is not None:
            found += readers(user, blocked, moved, constants)
        elif not is_size(user):
            raise blocked(user)
    return found


def _is_product(node: Node) -> bool:
    return operator_name(node) == "aten.mul" and sum(map(is_constant, node.args)) == 1


def _moved(view: Node, source: Node, origin: Tensor) -> Tensor | None:
    """The origins of the channels of a view; None if a channel has several."""
    module, shape = view.graph.owning_module, [concrete(n, 1) for n in source.meta["val"].shape]
    assert module is not None
    given = origin.double().reshape(1, -1, *[1] * (len(shape) - 2)).expand(shape).contiguous()
    found = apply(module, view, source, given, 1)
    if not isinstance(found, Tensor) or found.dim() < 2 or len(found) != 1:
        return None
    flat = found.reshape(found.shape[1], -1)
    return flat[:, 0].long() if bool((flat == flat[:, :1]).all()) else None


def scale_output(module: GraphModule, made: Node, gain: Tensor) -> None:
    """Multiplies the channels that a weighted node or a batch norm makes by `gain` [c]."""
    a = arguments(made)
    if a["weight"] is None:  # a batch norm without affine parameters
        _replace(module, made, "weight", gain.float())
    else:
        _replace(module, made, "weight", _scaled(module, a["weight"], gain))
    if a["bias"] is not None:
        _replace(module, made, "bias", _scaled(module, a["bias"], gain))


def scale_readers(module: GraphModule, found: list[tuple[Node, Node, Tensor]], gain: Tensor) -> None:
    """Multiplies by `gain`, one factor per channel, what the readers that `readers` found read."""
    for user, source, origin in found:
        factors = gain[origin.to(gain.device)]
        a = arguments(user)
        if "weight" not in a:
            side = "other" if is_constant(a["other"]) else "self"
            shape = [1, -1] + [1] * (len(source.meta["val"].shape) - 2)
            value = constant(module, a[side]).to(factors.dtype) * factors.reshape(shape)
            _replace(module, user, side, value.float())
            continue
        shape, groups = a["weight"].meta["val"].shape, a.get("groups", 1)
        # Output channel o reads the input channels of its group.
        factors = factors.reshape(groups, 1, -1).expand(groups, shape[0] // groups, -1).reshape(shape[0], -1)
        _replace(module, user, "weight", _scaled(module, a["weight"], factors))


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
