"""`Layer`: the nodes of an exported graph that become one node of the integer graph, before anything is quantised.

Every operator family has layers of its own, which say what the quantiser and the planner ask: whether the output is
quantised anew, what may be fused into it, and how it is lowered.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from torch.fx import Node

from sordino_hw.spec.arch import ArchConfig

from ..fx.nodes import STANDS_FOR
from ..fx.source import module_path
from ..graph import Input, Value
from ..graph import Node as GraphNode
from .fused import Activation

if TYPE_CHECKING:
    from .lowering import Lowering

__all__ = ["InputLayer", "Layer", "Unsupported", "Weighted"]


@dataclass
class Layer:
    """One layer: `core` computes, the nodes up to `out` are fused into it."""

    core: Node
    out: Node
    inputs: list[Node]
    """Nodes whose values are read: each the `out` of a layer before. A residual comes last."""
    shape: tuple[int, int, int]
    """(channels, height, width) of the output."""
    activation: Activation = field(default_factory=Activation, kw_only=True)
    pre: Node | None = field(default=None, kw_only=True)
    """The node whose value enters the table or the threshold."""
    norm: list[Node] = field(default_factory=list, kw_only=True)
    """Batch norms and multiplications or additions of constants, applied in this order after the core."""

    quantised_anew: ClassVar[bool] = False
    """Whether the layer computes new values, which want a scale of their own; otherwise it hands its inputs' scale on."""
    takes_activations: ClassVar[bool] = False
    """Whether activations behind it may be fused."""
    takes_norms: ClassVar[bool] = False
    """Whether batch norms behind it may be fused."""
    takes_constants: ClassVar[bool] = False
    """Whether multiplications and additions of constants behind it may be fused."""
    reads_in_place: ClassVar[bool] = False
    """Whether the output is nothing but another reading of the input's memory."""
    snaps_scale: ClassVar[bool] = False
    """Whether its scale must be one that `snapped_scale` gives, so that it can be no other tensor's."""
    named_by_module: ClassVar[bool] = False
    """Whether it is called by the path of the module that it comes from."""
    asymmetric: ClassVar[bool] = False
    """Whether its outputs usually reach further on one side of 0 than on the other; so do those of a table."""

    @property
    def own_scale(self) -> bool:
        """Whether the output is quantised anew; otherwise it has the scale of `scale_sources`."""
        return self.quantised_anew or bool(self.activation.table)

    @property
    def scale_sources(self) -> list[Node]:
        """The inputs that share the output's scale, where it is not its own."""
        return self.inputs[:1]

    @property
    def table_is_fused(self) -> bool:
        """Whether there is a table behind what the layer computes, so that the values in front of it are quantised, too."""
        return bool(self.activation.table)

    @property
    def keeps_sign(self) -> bool:
        """Whether the output is not negative where no input is, whatever the weights."""
        return False

    def snapped_scale(self, sources: Sequence[float], target: float, arch: ArchConfig) -> float | None:
        """The scale of what the requantiser produces, near `target`, that suits the array better for inputs with the scales `sources`;
        None if any does."""
        return None

    def lacks(self, arch: ArchConfig) -> str:
        """What an architecture lacks that the layer needs, and what to do; empty if nothing."""
        return ""

    @property
    def name(self) -> str:
        """What the layer's value is called: by the module's path where there is one, else by the node."""
        return (module_path(self.core) if self.named_by_module else "") or self.core.meta.get(STANDS_FOR, self.core.name)

    def lower(self, low: "Lowering", value: Value, inputs: tuple[str, ...], source: str) -> GraphNode:
        """The layer on integers: the node of the integer graph that defines `value`."""
        raise NotImplementedError

    def problems(self) -> Iterator[str]:
        """What is wrong with the layer by itself: the spec that `plan.check` adds to."""
        if (self.activation.table or self.activation.threshold is not None) and self.pre is None:
            yield "a table or a threshold without the node whose value enters it"


@dataclass
class Weighted(Layer):
    """Base of the layers with trained weights, quantised per output channel, which may take in the addition of a residual."""

    weight: Node
    """The weights, output channels first."""
    bias: Node | None = None
    residual: bool = field(default=False, kw_only=True)
    residual_gain: float = field(default=1.0, kw_only=True)
    """By which the residual is multiplied."""

    quantised_anew: ClassVar[bool] = True
    takes_activations: ClassVar[bool] = True
    named_by_module: ClassVar[bool] = True

    @property
    def fan_in(self) -> int:
        """Products that one output sums."""
        raise NotImplementedError

    def add_residual(self, source: Node, gain: float) -> None:
        """Takes in the addition of `gain` times another value."""
        self.inputs.append(source)
        self.residual_gain, self.residual = gain, True


@dataclass
class InputLayer(Layer):
    """An input of the model."""

    quantised_anew: ClassVar[bool] = True

    @property
    def keeps_sign(self) -> bool:
        return True

    @property
    def name(self) -> str:
        return str(self.core.target)

    def lower(self, low, value, inputs, source):
        return Input(value, inputs, source=source)


@dataclass
class Unsupported(Layer):
    """Stands in for a node that cannot be planned, so that the walk goes on and finds further problems."""
