"""A cut's edges as host steps of a program, and as PyTorch modules for training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from sordino_hw.spec.errors import CompileError
from sordino_hw.spec.host import Argument, Group, Host, Leaf, Literal, Tree

from .edges import Cut, extract
from .fx.nodes import is_constant
from .host import Lowering, Ref, batches, kind_of

__all__ = ["Edges", "TorchEdges", "edges", "entering", "torch_edges"]


@dataclass
class Edges:
    """The host steps of a cut graph, and the shapes in which its array has inputs and outputs."""

    host: Host
    outputs: list[str]
    """Names of the array's outputs, each once."""
    input_shapes: list[tuple[int, ...]]
    output_shapes: list[tuple[int, ...]]


def edges(cut: Cut, inputs: Sequence[str], outputs: Sequence[str]) -> Edges:
    """The host steps of a cut. `inputs` and `outputs` name the values of `cut.entries` and `cut.exits` on the array.

    Raises `CompileError` for a structure of results that a program cannot have.
    """
    batch = batches(cut.module)
    names = {n: str(n.target) for n in cut.inputs} | dict(zip(cut.entries, inputs, strict=True))
    names |= dict(zip(cut.exits, outputs, strict=True))
    given = {n: Ref(names[n], *kind_of(n.meta["val"], batch)) for n in cut.inputs}
    low = Lowering(cut.module, batch, given, names)  # type: ignore[arg-type]
    for node in cut.before:
        low.lower(node)
    for node in cut.entries:
        low.define(node, names[node])
    before, low.steps = low.steps, []
    first: dict[str, Ref] = {}
    for node in cut.exits:
        kind, joined, _ = kind_of(node.meta["val"], batch)
        known = first.setdefault(names[node], Ref(names[node], kind, joined))
        low.values[node] = low.again(node, known, kind.shape)
    for node in cut.after:
        low.lower(node)
    returns = structure(cut, lambda x: _leaf(low, x))
    arguments = tuple(Argument(names[n], given[n].kind.shape) for n in cut.inputs)
    host = Host(arguments, tuple(before), tuple(low.steps), returns, low.constants)
    entering = [_ref(low, n).kind.shape for n in cut.entries]
    return Edges(host, list(first), entering, [r.kind.shape for r in first.values()])


def _ref(low: Lowering, node: Node) -> Ref:
    found = low.values[node]
    assert isinstance(found, Ref)
    return found


def _leaf(low: Lowering, x: Any) -> Tree:
    if not isinstance(x, Node):
        return Literal(x)
    if is_constant(x):
        return Leaf(low.constant(low.array(x)).name)
    ref = _ref(low, x)
    return Leaf(ref.name, ref.joined)


def structure(cut: Cut, leaf: Any) -> Tree:
    """What is returned, `leaf` called for each node or constant. Raises `CompileError` for a structure that a program cannot have."""
    remaining = iter(cut.returned)

    def build(spec: pytree.TreeSpec) -> Tree:
        if spec.is_leaf():
            return leaf(next(remaining))
        items = tuple(build(c) for c in spec.children())
        if spec.type in (list, torch.fx.immutable_collections.immutable_list):
            return Group("list", items)
        if spec.type is tuple:
            return Group("tuple", items)
        if isinstance(spec.type, type) and issubclass(spec.type, tuple) and hasattr(spec.type, "n_fields"):
            return Group("namedtuple", items, tuple(spec.type.__match_args__), spec.type.__name__)  # type: ignore[attr-defined]
        if isinstance(spec.context, type) and issubclass(spec.context, tuple):
            return Group("namedtuple", items, tuple(spec.context._fields), spec.context.__name__)  # type: ignore[attr-defined]
        keys = spec.context
        if isinstance(keys, list | tuple) and len(keys) == 2 and isinstance(keys[1], list | tuple):  # a defaultdict
            keys = keys[1]
        if isinstance(keys, list | tuple) and len(keys) == len(items) and all(type(k) in (str, int) for k in keys):
            return Group("dict", items, tuple(keys))
        raise CompileError(
            f"the model returns a {getattr(spec.type, '__name__', spec.type)}, which a program cannot hold. Return tensors in tuples, lists, "
            "namedtuples, or dicts whose keys are texts or whole numbers."
        )

    return build(cut.module.graph._codegen.pytree_info.out_spec)  # type: ignore[attr-defined]


# -- in PyTorch --------------------------------------------------------------------------------------------------------


class TorchEdges(nn.Module):
    """The edges around a module that takes the place of the cut's core: trainable, in the structure that the model returns."""

    def __init__(self, cut: Cut):
        super().__init__()
        later = {x for n in cut.after for x in n.all_input_nodes} | {x for x in cut.returned if isinstance(x, Node)}
        kept = [n for n in (*cut.inputs, *cut.before) if n in later and not isinstance(n.meta.get("val"), list | tuple)]
        leaves = list(dict.fromkeys(x for x in cut.returned if isinstance(x, Node)))
        self.before = _module(cut, cut.inputs, cut.before, [*cut.entries, *kept])
        self.after = _module(cut, [*cut.exits, *kept], cut.after, leaves)
        self.entries = len(cut.entries)
        self.positions = [leaves.index(x) if isinstance(x, Node) else None for x in cut.returned]
        self.literals = [None if isinstance(x, Node) else x for x in cut.returned]
        self.spec = cut.module.graph._codegen.pytree_info.out_spec  # type: ignore[attr-defined]

    def forward(self, core: nn.Module, *inputs: Tensor) -> Any:
        values = _tuple(self.before(*inputs))
        results = _tuple(self.after(*_tuple(core(*values[: self.entries])), *values[self.entries :]))
        leaves = zip(self.positions, self.literals, strict=True)
        return pytree.tree_unflatten([results[p] if p is not None else x for p, x in leaves], self.spec)


def _tuple(x: Any) -> tuple:
    return tuple(x) if isinstance(x, list | tuple) else (x,)


def _module(cut: Cut, inputs: list[Node], inside: list[Node], outputs: list[Node]) -> GraphModule:
    return extract(cut.module, inputs, inside, outputs)[0]


def torch_edges(cut: Cut) -> TorchEdges | None:
    """The edges in PyTorch; None where the array runs the whole graph."""
    return None if cut.whole else TorchEdges(cut)


def entering(cut: Cut) -> Callable[..., tuple[Tensor, ...]]:
    """From the model's inputs to those of the array, in PyTorch."""
    if cut.whole:
        return lambda *inputs: inputs
    module = _module(cut, cut.inputs, cut.before, cut.entries)
    return lambda *inputs: _tuple(module(*inputs))
