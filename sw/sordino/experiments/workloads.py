"""Workloads: networks as lists of layers with the density of each input, and the graph of one layer of them."""

import dataclasses
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from sordino_compiler.graph import Graph, Input, Node, Requant, Value, Window
from sordino_compiler.ops import Conv, Depthwise, Lanewise, MaxPool
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import InputError
from sordino_hw.spec.numbers import nearest_multiplier
from sordino_hw.spec.text import printable

__all__ = ["Workload", "WorkloadDocument", "WorkloadLayer", "load_workload"]


class LayerDocument(BaseModel):
    """One layer of a workload file (see benchmarks/workloads/README.md). Other keys are not read."""

    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    op: Literal["conv", "dwconv", "maxpool", "avgpool", "add"]
    name: str | None = None
    """By default the operator and the layer's number."""
    h: PositiveInt
    """Rows of the input."""
    w: PositiveInt
    """Columns of the input."""
    cin: PositiveInt
    cout: PositiveInt
    density: Annotated[float, Field(ge=0, le=1)]
    """Non-zero part of the input; of an `add`, of its other operand."""
    k: PositiveInt = 1
    """Rows and columns of the kernel."""
    stride: PositiveInt = 1
    pad: NonNegativeInt = 0
    dilation: PositiveInt = 1
    groups: PositiveInt = 1


class WorkloadDocument(BaseModel):
    """A workload file."""

    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    name: str | None = None
    """By default the file's name."""
    note: str = ""
    layers: Annotated[list[LayerDocument], Field(min_length=1)]
    """In order of execution. An `add` that follows a convolution with an output of its shape is fused into it."""


@dataclass(frozen=True)
class WorkloadLayer:
    """One layer, with the keys of `LayerDocument`. `added`: the name of the addition fused into it."""

    op: str
    name: str
    h: int
    w: int
    cin: int
    cout: int
    density: float
    k: int = 1
    stride: int = 1
    pad: int = 0
    dilation: int = 1
    groups: int = 1
    added: str | None = None
    added_density: float = 1.0

    def __post_init__(self):
        def rule(ok: bool, text: str):
            if not ok:
                raise InputError(f"workload layer {self.name!r}: {text}.")

        rule(self.op == "conv" or self.cin == self.cout, f"an {self.op} must have as many outputs as inputs")
        rule(self.op != "conv" or self.cin % self.groups == self.cout % self.groups == 0, "groups must divide cin and cout")
        rule(min(self.out_size) >= 1, "it has no output")

    @property
    def window(self) -> Window:
        return Window((self.k, self.k), (self.stride, self.stride), (self.pad,) * 4, (self.dilation, self.dilation))

    @property
    def on_image(self) -> bool:
        """Whether it reads the network's input, an image of three channels; only such an input is folded."""
        return self.cin == 3

    @property
    def out_size(self) -> tuple[int, int]:
        return self.window.out_size(self.h, self.w)

    @property
    def macs(self) -> int:
        """Multiply-accumulates, zeros and padding included; 0 of pooling and additions."""
        oh, ow = self.out_size
        per_output = {"conv": self.cin // self.groups, "dwconv": 1}.get(self.op, 0) * self.k**2
        return oh * ow * self.cout * per_output

    def nonzero_macs(self, nonzero: np.ndarray) -> int:
        """Multiply-accumulates with an input in bounds that is not zero; `nonzero`: bool [cin, h, w]."""
        if self.op not in ("conv", "dwconv"):
            return 0
        oh, ow = self.out_size
        rows, cols = (self._reads(n, size) for n, size in ((oh, self.h), (ow, self.w)))
        products = self.cout // self.groups if self.op == "conv" else 1
        return int(rows @ nonzero.sum(0, dtype=np.int64) @ cols) * products

    def _reads(self, outputs: int, size: int) -> np.ndarray:
        """Along one axis: how many outputs and taps read each input, int64 [size]."""
        at = np.arange(outputs)[:, None] * self.stride - self.pad + np.arange(self.k) * self.dilation
        return np.bincount(at[(at >= 0) & (at < size)], minlength=size)

    def draw(self, seed: list[int]) -> dict[str, np.ndarray]:
        """Which inputs are not zero, at random: bool [c, h, w] by tensor: `x`, and `r` of an addition."""
        rng = np.random.default_rng(seed)
        found = {"x": rng.random((self.cin, self.h, self.w), np.float32) < self.density}
        if self.added is not None or self.op == "add":
            density = self.density if self.op == "add" else self.added_density
            found["r"] = rng.random((self.cout, *self.out_size), np.float32) < density
        return found

    def graph(self, arch: ArchConfig, seed: int | None = 0) -> Graph:
        """The layer as a graph from `x` (and `r`, the operand of an addition) to `y`.

        No weight is zero. Weights are random; for `seed` None those of a `conv` are all 1, which takes little memory. The requantiser of a
        convolution uses the whole output range.
        """
        high = arch.act_range(False)[1]
        x = Value("x", (self.cin, self.h, self.w), 1.0, False)
        y = Value("y", (self.cout, *self.out_size), 1.0, False)
        add = self.added is not None or self.op == "add"
        inputs = ("x", "r") if add else ("x",)
        ones = np.ones(self.cout, np.int64) if add else None
        requant = Requant.identity(self.cout, arch, False)
        node: Node
        if self.op == "conv":
            weight = _weights((self.cout, self.cin // self.groups, self.k, self.k), seed)
            if seed is not None:
                spread = 32 * high * (weight[0].size) ** 0.5
                mantissa, shift = nearest_multiplier(high / spread, arch)
                full = np.ones(self.cout, np.int64)
                requant = dataclasses.replace(requant, mantissa=mantissa * full, shift=shift * full)
            node = Conv(
                out=y,
                inputs=inputs,
                weight=weight,
                window=self.window,
                requant=requant,
                groups=self.groups,
                residual_weight=ones,
            )
        elif self.op == "maxpool":
            node = MaxPool(out=y, inputs=inputs, window=self.window, requant=requant)
        else:
            shape = (self.cout, self.k, self.k)
            weight = _weights(shape, (seed or 0) if self.op == "dwconv" else None).astype(np.int64)
            kind = Depthwise if self.op == "dwconv" else partial(Lanewise, label=self.op)
            node = kind(out=y, inputs=inputs, weight=weight, window=self.window, requant=requant, residual_weight=ones)
        sources: list[Node] = [Input(x, ())]
        if add:
            sources.append(Input(dataclasses.replace(y, name="r"), ()))
        graph = Graph(arch, [*sources, node], ["y"])
        graph.check()
        return graph


def _weights(shape: tuple[int, ...], seed: int | None) -> np.ndarray:
    if seed is None:
        return np.broadcast_to(np.int8(1), shape)
    rng = np.random.default_rng(seed)
    return rng.integers(1, 128, shape).astype(np.int8) * rng.choice(np.array([-1, 1], np.int8), shape)


@dataclass(frozen=True)
class Workload:
    """A network: its layers in order, additions fused into the convolutions before them."""

    name: str
    note: str
    layers: list[WorkloadLayer]


def load_workload(path: str | os.PathLike) -> Workload:
    """Reads a workload file. Raises `InputError`, naming file and layer, for what is not one."""
    path = Path(path)
    try:
        document = WorkloadDocument.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}. Workloads are in benchmarks/workloads of the repository.") from None
    except ValidationError as error:
        raise InputError(f"{path}: {_fault(error)}. The keys are in benchmarks/workloads/README.md.") from None
    layers: list[WorkloadLayer] = []
    for i, fields in enumerate(document.layers):
        try:
            layer = WorkloadLayer(**{**fields.model_dump(), "name": fields.name or f"{fields.op}{i}"})
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        before = layers[-1] if layers else None
        if layer.op == "add" and before is not None and _takes(before, layer):
            layers[-1] = dataclasses.replace(before, added=layer.name, added_density=layer.density)
        else:
            layers.append(layer)
    return Workload(document.name or path.stem, document.note, layers)


def _fault(error: ValidationError) -> str:
    """The first fault of a file in words: the layer, the key, the rule and the value."""
    first = error.errors()[0]
    where = first["loc"]
    if not where:
        return f"not a workload: {first['msg']}"
    layer = f"layer {where[1]}: " if len(where) > 1 else ""
    value = "" if first["type"] == "missing" else f", not {printable(repr(first['input']), limit=60)}"
    return f"not a workload: {layer}{where[-1]}: {first['msg']}{value}"


def _takes(before: WorkloadLayer, add: WorkloadLayer) -> bool:
    """Whether an addition can be fused into the layer before it."""
    same = (before.cout, *before.out_size) == (add.cin, add.h, add.w)
    return same and before.added is None and before.op in ("conv", "dwconv") and before.groups in (1, before.cin)
