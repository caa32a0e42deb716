"""`Planner`: the state of one walk over an exported graph, to which the operators add their layers."""

from collections.abc import Callable

from torch.fx import GraphModule, Node

from ..fx.index_map import BATCH, IndexMap, followed, positions, whole
from ..fx.nodes import is_size, operator_name
from ..fx.problems import Problem
from ..fx.source import where
from .functions import find_functions
from .layer import Layer

__all__ = ["Padding", "Planner"]

Padding = tuple[int, int, int, int]
"""(top, left, bottom, right)"""


class Planner:
    """State of one walk over a graph.

    `padding_layer` makes the layer of a zero padding (node, its input, padding) that nothing has taken in; `realise` gives a layer
    or an alias to a node that views have made, if `unreadable` has nothing to say about it; `is_view` says whether a node is a view.
    """

    def __init__(
        self,
        module: GraphModule,
        padding_layer: Callable[[Node, Node, Padding], Layer],
        realise: "Callable[[Planner, Node, IndexMap], None]",
        unreadable: Callable[[Node, IndexMap], tuple[str, str] | None],
        is_view: Callable[[Node], bool],
    ):
        self.module, self.padding_layer, self.realise, self.is_view = module, padding_layer, realise, is_view
        self._unreadable = unreadable
        self.layers: dict[Node, Layer] = {}
        self.alias: dict[Node, Node] = {}
        self.pads: dict[Node, tuple[Node, Padding]] = {}
        """Zero paddings that no layer has taken in yet: node -> (its input, padding)."""
        self.views: dict[Node, IndexMap] = {}
        """What chains of views have made of a value."""
        self.realised: dict[tuple, Node] = {}
        """The nodes that already have a layer, by (source, shape, index)."""
        self.problems: list[Problem] = []
        self.shapeless: set[Node] = set()
        """Nodes that are not supported and whose value is no (channels, height, width) of fixed sizes."""
        self.functions, self.absorbed = find_functions(module)
        """Functions of one value by their last nodes, and the nodes that are part of them alone."""

    def known(self, node: object) -> bool:
        """Whether `node` is an activation: a tensor that depends on an input."""
        return isinstance(node, Node) and (node in self.alias or node in self.pads or node in self.views)

    def value(self, node: Node) -> Node:
        """The `out` node that holds the value of `node`; a padding becomes a layer of its own here."""
        if node in self.pads:
            source, padding = self.pads.pop(node)
            self.add(self.padding_layer(node, self.value(source), padding))
        if node not in self.alias:
            self.realise(self, node, self.views[node])
        return self.alias[node]

    def seen(self, node: Node) -> IndexMap:
        """The map of a node: through the views before it, or that of a value of its own."""
        if node in self.views and (node not in self.alias or self.layers[self.alias[node]].reads_in_place):
            return self.views[node]
        source = self.value(node)
        sizes = [n.meta["val"].shape[0] for n in self.module.graph.nodes if n.op == "placeholder"]
        batch = next((s for s in sizes if isinstance(s, int)), BATCH)
        return IndexMap(source, positions(node, batch), batch)

    def follow(self, node: Node, x: Node) -> None:
        """Notes that `node` is a view of `x`. It gets a layer, or an alias, as soon as something else than a view reads it."""
        found = self.views[node] = followed(self.module, node, x, self.seen(x))
        if self.unreadable(node):
            return
        if whole(found.index, found.source) or not all(self.is_view(u) for u in self.readers(node)):
            self.value(node)

    def unreadable(self, node: Node) -> tuple[str, str] | None:
        """What keeps the array from reading an activation: the rule, and what was found; None if nothing does."""
        return None if node not in self.views or node in self.alias else self._unreadable(node, self.views[node])

    def pad(self, node: Node, x: Node, added: Padding) -> None:
        """Notes that `node` is `x` with zeros around it: the layer that reads it may take them as its own padding."""
        source, before = self.pads.get(x, (x, (0, 0, 0, 0)))
        self.pads[node] = (source, tuple(p + q for p, q in zip(before, added, strict=True)))  # type: ignore[assignment]

    def same(self, node: Node, x: Node) -> None:
        """Notes that `node` is `x`."""
        if x in self.pads:
            self.pads[node] = self.pads[x]
        elif x in self.views and x not in self.alias:
            self.views[node] = self.views[x]
        else:
            self.alias[node] = self.value(x)

    def unpadded(self, node: Node) -> tuple[Node, Padding]:
        """The value under a zero padding, and that padding."""
        source, padding = self.pads.get(node, (node, (0, 0, 0, 0)))
        return self.value(source), padding

    def add(self, layer: Layer) -> None:
        self.layers[layer.out] = layer
        self.alias[layer.out] = layer.out

    def readers(self, node: Node) -> list[Node]:
        """The nodes that read `node`, sizes left out; of a function of one value the last one, and only if `node` is its source."""
        direct = [u for u in node.users if u not in self.functions and u not in self.absorbed and not is_size(u)]
        return direct + [end for end, f in self.functions.items() if f.source is node]

    def producer(self, node: Node, reader: Node) -> Layer | None:
        """The layer that makes `node`, if `reader` is the only one that reads it, so that it may be fused."""
        if node in self.pads or node not in self.alias:
            return None
        out = self.alias[node]
        chain = [n for n, o in self.alias.items() if o is out]
        alone = all(u is reader or self.alias.get(u) is out for n in chain for u in self.readers(n))
        return self.layers[out] if alone else None

    def extend(self, layer: Layer, node: Node) -> None:
        """Makes `node` the output of `layer`, which moves behind all layers so far."""
        old = layer.out
        del self.layers[old]
        layer.out = node
        self.add(layer)
        for n, o in self.alias.items():
            if o is old:
                self.alias[n] = node

    def unshaped(self, node: Node) -> bool:
        """Whether `node` has no (channels, height, width), so that rules about what reads it say nothing new."""
        return self.alias.get(node) in self.shapeless

    def problem(self, node: Node, text: str, found: str = "", cut: str = "") -> None:
        """Notes what is wrong with a node: the limit and what to do, what was found, and where to cut the model instead."""
        self.problems.append(Problem(node.name, operator_name(node), where(node), text, found, cut))
