"""`compare`: where two executions of a network differ first, or how far they are from the float module."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from torch import nn
from torch.export import ExportedProgram

from sordino_compiler.capture import as_module, call_of
from sordino_compiler.graph import Graph
from sordino_hw.spec.errors import InputError, ToolError
from sordino_hw.spec.isa import PERF_FIELDS
from sordino_hw.spec.program import Program
from sordino_sim.backend import Result

from .accelerator import Accelerator
from .arrays import quantised_input

if TYPE_CHECKING:
    from ..quantization import Fidelity, QuantizedModel

    Execution = Accelerator | Graph | QuantizedModel

__all__ = ["Comparison", "Difference", "compare", "require_equal"]

HOST = "host"
"""In place of a layer's name, for what the host's steps make."""


@dataclass(frozen=True)
class Difference:
    """The first tensor that differs, and its first differing value."""

    tensor: str
    layer: str
    """Name of the layer that writes the tensor; empty for a network input, `host` for what the host's steps return."""
    source: str
    """Where the layer comes from in the user's model."""
    image: int
    coordinate: tuple[int, ...]
    """(channel, row, column); of what the host returns, the place in the image"""
    a: int | float
    b: int | float
    count: int
    """How many values of the tensor differ, in the whole batch."""
    largest: int | float
    """The largest absolute difference in the tensor."""

    def __str__(self) -> str:
        layer = f", layer {self.layer!r}" + (f" ({self.source})" if self.source else "") if self.layer else ""
        place = f"position {self.coordinate}"
        if self.layer != HOST:
            place = ", ".join(f"{name} {i}" for name, i in zip(("channel", "row", "column"), self.coordinate, strict=True))
        return (
            f"tensor {self.tensor!r}{layer}: image {self.image}, {place}: {self.a} / {self.b}; "
            f"{self.count} values differ, by {self.largest} at most"
        )


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. True where nothing differs by more than the tolerance."""

    tensors: tuple[str, ...]
    """The tensors that both executions have, in order of execution."""
    values: int
    """How many values were compared."""
    difference: Difference | None
    largest: dict[str, int | float]
    """Largest absolute difference by tensor."""

    def __bool__(self) -> bool:
        return self.difference is None

    def __str__(self) -> str:
        if self.difference is None:
            return f"equal: {self.values} values of {len(self.tensors)} tensors"
        return str(self.difference)


@overload
def compare(a: nn.Module, b: "Execution", *inputs: Any) -> "Fidelity": ...
@overload
def compare(a: "Execution", b: "Execution", *inputs: Any, tolerance: int = 0) -> Comparison: ...
def compare(a: "nn.Module | Execution", b: "Execution", *inputs: Any, tolerance: int = 0) -> "Comparison | Fidelity":
    """Runs `a` and `b` on the same inputs and compares every tensor that both have, in order of execution.

    Parameters
    ----------
    a, b : accelerators (any back end), integer graphs, or the quantised model: PyTorch's own execution of it. `a` may be the
        float module that `b` was made of: then the result is a `Fidelity`, the signal to noise of every layer in dB, through
        every stage: the exported graph, PyTorch's quantised model, the integer graph (for an accelerator, its integers)
    inputs : floats [batch, c, h, w], NumPy or torch
    tolerance : largest absolute difference, in integers, that counts as equal. Without one, what the host's steps return is compared
        too, and is equal only bit by bit

    Raises `InputError` for inputs that do not fit, and if the two have no tensor in common.
    """
    if isinstance(b, nn.Module) or isinstance(a, nn.Module | ExportedProgram) or inspect.isfunction(a):
        return _against_float(a, b, inputs)
    left, where = _trace(a, inputs, b)
    right, other = _trace(b, inputs, a)
    if tolerance == 0:
        left, right = left | _returned(a, inputs, left), right | _returned(b, inputs, right)
    return _compared(left, right, {**other, **where}, tolerance)


def require_equal(program: Program, a: Result, b: Result, names: tuple[str, str] = ("the RTL", "the timing model")) -> int:
    """Compares two results of one program on the same inputs: all tensors that both have, and all counters of their records.

    Returns how many values of tensors were compared. Raises `ToolError` that says where the back ends `names` differ first.
    """
    left, right = ({**r.tensors, **r.outputs} for r in (a, b))
    order = sorted((n for n in left if n in right), key=lambda n: program.tensors[n].layer)
    found = _compared({n: left[n] for n in order}, right, _layers(program), 0)
    if not found:
        raise ToolError(
            f"{names[0]} differs from {names[1]}: {found}. This is a fault of this version of Sordino, please report it."
        )
    if a.records is not None and b.records is not None:
        wrong = np.argwhere(a.records != b.records)
        if len(wrong):
            image, record, core, counter = wrong[0].tolist()
            here = tuple(wrong[0])
            raise ToolError(
                f"{names[0]} differs from {names[1]} in performance record {record} of image {image}, core {core}, counter "
                f"{PERF_FIELDS[counter]!r}: {a.records[here]} / {b.records[here]}. This is a fault of this version of Sordino, please "
                "report it."
            )
    return found.values


def _compared(
    left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray], where: Mapping[str, tuple[str, str]], tolerance: int
) -> Comparison:
    """Compares the tensors that both have, in the order of `left`; `where` has the (layer, source) that writes each."""
    names = [n for n in left if n in right]
    if not names:
        raise InputError("compare: the two have no tensor in common; compile both from the same quantised model")
    largest: dict[str, int | float] = {}
    first = None
    for name in names:
        kind = np.float64 if left[name].dtype.kind == "f" else np.int64
        x, y = left[name].astype(kind), right[name].astype(kind)
        if x.shape != y.shape:
            raise InputError(
                f"compare: tensor {name!r} has shape {x.shape} in one and {y.shape} in the other; are these the same model?"
            )
        largest[name] = _gap(x, y).max(initial=0).item()
        if first is None and not largest[name] <= tolerance:
            first = _difference(name, x, y, where.get(name, ("", "")), tolerance)
    return Comparison(tuple(names), sum(left[n].size for n in names), first, largest)


def _gap(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Absolute differences; none where both are the same infinity, or both are no number."""
    with np.errstate(invalid="ignore"):
        gap = np.abs(x - y)
    return np.where((x == y) | ((x != x) & (y != y)), gap.dtype.type(0), gap)


def _difference(name: str, x: np.ndarray, y: np.ndarray, where: tuple[str, str], tolerance: int) -> Difference:
    """The first value of a tensor [batch, c, h, w] that differs by more than the tolerance."""
    gap = _gap(x, y)
    wrong = ~(gap <= tolerance)
    place = tuple(np.argwhere(wrong)[0].tolist())
    return Difference(
        *(name, *where, place[0], place[1:], x[place].item(), y[place].item()), count=int(wrong.sum()), largest=gap.max().item()
    )


def _against_float(model: Any, other: Any, inputs: Sequence[Any]) -> "Fidelity":
    from ..quantization import QuantizedModel
    from ..quantization.fidelity import Fidelity, FloatReference

    if isinstance(other, nn.Module):
        raise InputError(
            "compare: two float modules; give the module first, and then what was made of it: a QuantizedModel, its graph or an Accelerator"
        )
    stages: dict[str, Any] = {"integers": other}
    if isinstance(other, QuantizedModel):
        stages = {"quantised": other, "integers": other.graph}
    elif isinstance(other, Accelerator):
        stages = {other.backend: other}
    module = as_module(model)
    call, tensors = call_of(module, inputs[0] if len(inputs) == 1 else inputs, "the input of compare")
    traces = {stage: _trace(what, tensors, other)[0] for stage, what in stages.items()}  # this checks the inputs
    arch = other.program.arch if isinstance(other, Accelerator) else other.arch
    reference = FloatReference(module, call, tensors, arch)
    rows = [reference.exported(tensors)]
    for stage, integers in traces.items():
        tensor = other.program.tensors if isinstance(other, Accelerator) else stages["integers"].values
        if isinstance(other, Accelerator):  # compiling adds tensors of its own
            integers = {n: x for n, x in integers.items() if n in reference.layers or n in other.program.outputs}
        rows += reference.against(stage, tensors, integers, {n: tensor[n].scale for n in integers})
    return Fidelity(tuple(rows), len(tensors[0]))


def _trace(what: Any, inputs: Sequence[Any], beside: Any = None) -> tuple[dict[str, np.ndarray], Mapping[str, tuple[str, str]]]:
    """Every tensor by name, in order of execution, and the (layer, source) that writes each.

    A graph does not know the host's steps: where what it is compared with has some, they make its inputs, too.
    """
    from ..quantization import QuantizedModel

    if isinstance(what, Accelerator):
        program = what.program
        values = what.quantised(*inputs)
        order = sorted((n for n in program.tensors if n not in values), key=lambda n: program.tensors[n].layer)
        tensors = what.run(values, order).tensors
        return values | {n: tensors[n] for n in order}, _layers(program)
    if isinstance(what, QuantizedModel):
        graph = what.graph
        integers = what.quantise_inputs(*inputs)
        traced = what.torch_values(*inputs)
        return integers | {n.out.name: traced[n.out.name] for n in graph.nodes if n.out.name in traced}, _sources(graph)
    if isinstance(what, Graph):
        if isinstance(beside, QuantizedModel) and beside.edges is not None:
            return what.run(beside.quantise_inputs(*inputs)), _sources(what)
        if isinstance(beside, Accelerator) and beside.program.host is not None:
            return what.run(beside.quantised(*inputs)), _sources(what)
        if len(inputs) != len(what.inputs):
            raise InputError(f"compare: {len(inputs)} inputs given; the graph has {len(what.inputs)}")
        integers = {}
        for v, x in zip(what.inputs, inputs, strict=True):
            given = tuple(np.shape(x)[1:])  # a graph does not know in which shape the model takes the values
            shape = given if math.prod(given) == math.prod(v.shape) else v.shape
            integers[v.name] = quantised_input(v.name, x, shape, v.shape, v.scale, what.arch.act_range(v.signed)).astype(np.int64)
        return what.run(integers), _sources(what)
    raise InputError(f"compare: a {type(what).__name__} cannot be run; give an Accelerator, a QuantizedModel or its graph")


def _returned(what: Any, inputs: Sequence[Any], known: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the host's steps make of an execution, by name, as far as it is not among the tensors."""
    from ..quantization import QuantizedModel

    returns = isinstance(what, QuantizedModel) or (isinstance(what, Accelerator) and what.program.host is not None)
    return {n: x for n, x in what.returned(*inputs).items() if n not in known} if returns else {}


def _layers(program: Program) -> dict[str, tuple[str, str]]:
    """The (layer, source) that writes each tensor."""
    steps = program.host.after if program.host else ()
    made = {name: (HOST, step.source) for step in steps for name in step.outputs}
    return made | {layer.output: (layer.name, layer.source) for layer in program.layers}


def _sources(graph: Graph) -> dict[str, tuple[str, str]]:
    return {n.out.name: (n.out.name, n.source) for n in graph.nodes if n.inputs}
