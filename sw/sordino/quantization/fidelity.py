"""The float module against what was made of it: signal to noise, layer by layer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from sordino_compiler.capture import Call, evaluation, export
from sordino_compiler.edge_steps import entering
from sordino_compiler.edges import cut_edges
from sordino_compiler.fx.problems import refuse
from sordino_compiler.fx.source import module_path, where
from sordino_compiler.ops.layer import Layer
from sordino_compiler.plan import layer_names
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import InputError

from ..table import Table

__all__ = ["EXPORTED", "Fidelity", "FloatReference", "LayerFidelity"]

EXPORTED = "exported"
"""Stage of the exported graph: still in float32, so that only the order of sums, and a value at a threshold, may differ."""

EXPORTED_DB, OWN_DB, ROUNDING = 30.0, 10.0, 0.5
"""A layer with less dB, and an error of more steps than rounding makes, is a fault (figures: docs/decisions/0019)."""


@dataclass(frozen=True)
class LayerFidelity:
    """How near one layer's output is to the float module's, as a ratio of signal to noise in dB."""

    stage: str
    """What computed it."""
    name: str
    source: str
    """Where the layer comes from in the user's model."""
    total: float
    """Against the float module on the same images: what all layers up to this one lose together."""
    own: float
    """Against the float layer on the same, quantised inputs: what this layer loses by itself."""
    error: float
    """Root mean square of what it loses by itself, in steps of its scale; rounding alone makes 0.29 at most."""
    limit: float
    """Less than this by itself is a fault, if the error is more than rounding."""

    def __str__(self) -> str:
        place = f" ({self.source})" if self.source else ""
        return f"{self.name!r}{place}: {self.own:.1f} dB by itself, {self.total:.1f} dB with what comes before it"


@dataclass(frozen=True)
class Fidelity:
    """What `compare` with a float module found. True where no layer falls away."""

    layers: tuple[LayerFidelity, ...]
    """By stage, in order of execution; the first row stands for all outputs of the exported graph."""
    images: int

    @property
    def fault(self) -> LayerFidelity | None:
        """The first layer that is wrong by itself, whatever came before it."""
        return next((x for x in self.layers if x.own < x.limit and x.error > ROUNDING), None)

    def __bool__(self) -> bool:
        return self.fault is None

    def __rich__(self) -> Table:
        title = f"Signal to noise against the float module, in dB ({self.images} image{'s' * (self.images > 1)})"
        table = Table("stage", "layer", "where", "by itself", "in all", title=title)
        for x in self.layers:
            table.add_row(x.stage, x.name, x.source, f"{x.own:.1f}", f"{x.total:.1f}", style="red" if x is self.fault else None)
        return table

    def __str__(self) -> str:
        console = Console(width=120, no_color=True)
        with console.capture() as text:
            console.print(self)
        return text.get()


class FloatReference:
    """A float module, its exported graph, and the layers that the array will make of it.

    Raises `InputError` and `CompileError` as `export` and `plan` do.
    """

    def __init__(self, model: nn.Module, call: Call, example: tuple[Tensor, ...], arch: ArchConfig):
        self.model, self.call = model, call
        self.module = export(model, call, example)
        self.cut = cut_edges(self.module, arch)
        refuse(self.cut.problems)
        names = layer_names(self.cut.plan)
        self.layers: dict[str, Layer] = {}
        for name, layer in zip(names, self.cut.plan.layers, strict=True):
            self.layers[name] = layer
            # A batch norm of constants may become part of the function behind it, and the layer then has the function's name.
            last = module_path(layer.out) or layer.out.name
            if last not in names:
                self.layers.setdefault(last, layer)
        self.entering = entering(self.cut)
        """From the model's inputs to the array's, in floats."""

    @torch.no_grad()
    def exported(self, inputs: Sequence[Tensor]) -> LayerFidelity:
        """The exported graph's outputs against the module's own. Layers that export another form by design lift the limit."""
        worst = math.inf
        with evaluation(self.model):
            for part in self._parts(inputs):
                args, kwargs = self.call.arguments([t.clone() for t in part])
                results = self.model(*args, **kwargs), self.module(*part)
                real, found = ([t for t in pytree.tree_leaves(r) if isinstance(t, Tensor)] for r in results)
                worst = min([worst, *(_Noise().add(a, b).decibel() for a, b in zip(real, found, strict=False))])
        other = any(getattr(m, "exports_another_form", False) for m in self.model.modules())
        return LayerFidelity(
            EXPORTED, "all outputs", type(self.model).__name__, worst, worst, math.inf, -math.inf if other else EXPORTED_DB
        )

    @torch.no_grad()
    def against(
        self, stage: str, inputs: Sequence[Tensor], values: Mapping[str, np.ndarray], scales: Mapping[str, float]
    ) -> list[LayerFidelity]:
        """One row per layer of `values`: integers [batch, c, h, w] by layer name.

        Raises `InputError` for a layer that the float module does not have.
        """
        for name, x in values.items():
            layer = self.layers.get(name)
            if layer is None or x.shape[1:] != layer.shape:
                has = "no such layer" if layer is None else f"shape {layer.shape} there"
                raise InputError(
                    f"compare: layer {name!r} of shape {x.shape[1:]} has no counterpart in {type(self.model).__name__} ({has}). "
                    "Give the float module that was quantised."
                )
        given = {self.layers[name].out: torch.as_tensor(v, dtype=torch.float32) * scales[name] for name, v in values.items()}
        total = {n: _Noise() for n in given}
        own = {n: _Noise() for n in given}
        for i, part in enumerate(self._parts(inputs)):
            here = given if self.module.meta["batch"] is None else {n: v[i : i + 1] for n, v in given.items()}
            _Measured(self.cut.core, here, total, substitute=False).run(*self.entering(*part))
            _Measured(self.cut.core, here, own, substitute=True).run(*self.entering(*part))
        rows = []
        for name, layer in self.layers.items():
            if name in values:
                all_, one = total[layer.out], own[layer.out]
                error = math.sqrt(one.noise / values[name].size) / scales[name]
                rows.append(LayerFidelity(stage, name, where(layer.core), all_.decibel(), one.decibel(), error, OWN_DB))
        return rows

    def _parts(self, inputs: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        if self.module.meta["batch"] is None:
            return [tuple(inputs)]
        return [tuple(t[i : i + 1] for t in inputs) for i in range(len(inputs[0]))]


class _Noise:
    """Sums of squares of a signal and of its error."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0

    def add(self, real: Tensor, found: Tensor) -> "_Noise":
        real = real.double()
        self.signal += float(real.square().sum())
        self.noise += float((real - found.reshape(real.shape)).square().sum())
        return self

    def decibel(self) -> float:
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf


class _Measured(Interpreter):
    """Runs a float graph and adds up, at some nodes, the error of what was given for them.

    With `substitute`, what comes behind such a node reads the given values.
    """

    def __init__(self, module: GraphModule, given: Mapping[Node, Tensor], noise: Mapping[Node, _Noise], substitute: bool):
        super().__init__(module)
        self.given, self.noise, self.substitute = given, noise, substitute

    def run_node(self, n: Node):
        value = super().run_node(n)
        if n not in self.given:
            return value
        self.noise[n].add(value, self.given[n])
        return self.given[n].reshape(value.shape) if self.substitute else value
