"""From nodes of an exported graph to host steps: values, constants, dimensions."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from sordino_hw.spec.host import Kind, Operation, Step, infer
from sordino_hw.spec.host.operations import Cast, Reshape

from ..fx.nodes import arguments, constant, is_constant, operator_name
from ..fx.source import where

__all__ = ["FORMS", "Lowering", "NotOnHost", "Ref", "batches", "form", "kind_of", "trial"]

_DTYPES = {
    torch.float32: "float32",
    torch.float64: "float32",
    torch.float16: "float32",
    torch.bfloat16: "float32",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.uint8: "uint8",
    torch.bool: "bool",
}
_ORDER = ("bool", "uint8", "int32", "int64", "float32")


class NotOnHost(ValueError):
    """An operator, or a form of it, that is not among the host's steps; its text says why."""


@dataclass(frozen=True)
class Ref:
    """A value. With `joined`, its first dimension is joined with the batch in the exported graph: [N, k, ...] is [N * k, ...] there."""

    name: str
    kind: Kind
    joined: bool = False
    place: int = 0
    """Dimension of the batch in the exported graph; on the host it is the first."""

    @property
    def rank(self) -> int:
        """Dimensions in the exported graph."""
        return len(self.kind.shape) + (not self.joined)

    def axis(self, dim: int) -> int:
        """A dimension of the exported graph, negative from the end, as one of the host's. Raises `NotOnHost` for the batch."""
        dim = dim % max(self.rank, 1)
        if dim == self.place:
            raise NotOnHost("it works across the images of a batch")
        return dim if self.joined or dim < self.place else dim - 1


Result = Ref | tuple[Ref, ...]
Form = Callable[["Lowering", Node, dict[str, Any]], Result]
FORMS: dict[str, Form] = {}
"""By operator of the exported graph, without overload: emits steps, returns the result. Raises `NotOnHost`."""


def form(*names: str) -> Callable[[Form], Form]:
    """Enters a function for the operators of these names."""

    def register(f: Form) -> Form:
        FORMS.update(dict.fromkeys(names, f))
        return f

    return register


def batches(module: GraphModule) -> set[Any]:
    """What the first dimension of a value with a batch is: the symbols of the inputs, or 1."""
    return {_size(n.meta["val"].shape[0]) for n in module.graph.nodes if n.op == "placeholder" and len(n.meta["val"].shape)}


def _size(dim: Any) -> Any:
    return dim if isinstance(dim, int) else dim.node.expr


def kind_of(value: Any, batch: set[Any]) -> tuple[Kind, bool, int]:
    """Kind of an exported value, whether its first dimension is joined with the batch, and which one the batch is. Raises `NotOnHost`."""
    if not isinstance(value, Tensor) or value.dtype not in _DTYPES:
        raise NotOnHost(f"its value is {f'of {value.dtype}' if isinstance(value, Tensor) else 'no tensor'}")
    if not value.dim():
        raise NotOnHost("its value has no batch: it is one number for all images")
    sizes = [_size(s) for s in value.shape]
    place = next((i for i, s in enumerate(sizes) if s in batch and not isinstance(s, int)), 0)
    first, rest = sizes[place], (*value.shape[:place], *value.shape[place + 1 :])
    if not all(isinstance(s, int) for s in rest):
        raise NotOnHost("its sizes depend on the batch, or on the data")
    joined, shape = False, rest
    if first not in batch:
        factors = [k for k in (first / b for b in batch if not isinstance(b, int)) if getattr(k, "is_Integer", False)]
        if not factors:
            raise NotOnHost(f"its first dimension, {value.shape[0]}, is not the batch")
        joined, shape = True, (int(factors[0]), *rest)
    try:
        return Kind(_DTYPES[value.dtype], shape), joined, place
    except ValueError as error:
        raise NotOnHost(str(error)) from None


class Lowering:
    """Steps so far, and the values that they define. `values` are those of nodes that are given."""

    def __init__(self, module: GraphModule, batch: set[Any], values: dict[Node, Result], names: dict[Node, str] | None = None):
        self.module, self.batch = module, batch
        self.names = names or {}
        """What some nodes are called, and others not; a node is called by its own name otherwise."""
        self.values = dict(values)
        self.steps: list[Step] = []
        self.constants: dict[str, np.ndarray] = {}
        self._node: Node | None = None

    def lower(self, node: Node) -> None:
        """Emits the steps of a node whose inputs are there. Raises `NotOnHost`."""
        entry = FORMS.get(operator_name(node)) if node.op == "call_function" else None
        if entry is None:
            raise NotOnHost("it is not among the host's steps")
        self._node, first = node, len(self.steps)
        result = entry(self, node, arguments(node))
        self.values[node] = self._named(node, result, first)

    def _named(self, node: Node, result: Result, first: int) -> Result:
        """The result, called like the node; it must be what the exported graph says."""
        parts, values = (result, node.meta["val"]) if isinstance(result, tuple) else ((result,), (node.meta["val"],))
        named = []
        for i, (ref, value) in enumerate(zip(parts, values, strict=True)):
            kind, joined, place = kind_of(value, self.batch)
            if (ref.kind.shape, ref.joined) != (kind.shape, joined):
                raise NotOnHost(f"its form is not known: {ref.kind.shape} instead of {kind.shape}")
            ref = self.cast(ref, kind.dtype)
            name = self.name(node) if len(parts) == 1 else f"{self.name(node)}.{i}"
            made = [j for j, s in enumerate(self.steps[first:], first) if ref.name in s.outputs]
            if made:
                self._rename(made[0], first, ref.name, name)
                ref = dataclasses.replace(ref, name=name)
            named.append(dataclasses.replace(ref, place=place))
        return tuple(named) if isinstance(result, tuple) else named[0]

    def _rename(self, defined: int, first: int, old: str, new: str) -> None:
        for j in range(first, len(self.steps)):
            s = self.steps[j]
            outputs = tuple(new if n == old else n for n in s.outputs) if j == defined else s.outputs
            self.steps[j] = dataclasses.replace(s, inputs=tuple(new if n == old else n for n in s.inputs), outputs=outputs)

    def define(self, node: Node, name: str) -> None:
        """Makes sure that a value has a name: one that is another node's value unchanged (a cast that does nothing) is copied to it."""
        self._node, x = node, self.ref(node)
        if x.name != name:
            copied = self.emit(Reshape(x.kind.shape), x)
            self.steps[-1] = dataclasses.replace(self.steps[-1], outputs=(name,))
            self.values[node] = dataclasses.replace(copied, name=name)

    def again(self, node: Node, x: Ref, shape: Sequence[int]) -> Ref:
        """A value that another node has already, in the shape in which this one has it."""
        self._node = node
        return self.shaped(x, shape, x.joined)

    def name(self, node: Node) -> str:
        """What a node's value is called."""
        name = self.names.get(node, node.name)
        while node not in self.names and name in self.names.values():
            name += "_host"
        return name

    # -- operands ------------------------------------------------------------------------------------------------------

    def known(self, x: Any) -> bool:
        """Whether `x` is a value, not a constant."""
        return isinstance(x, Node) and x in self.values

    def ref(self, x: Any) -> Ref:
        """The value of a node. Raises `NotOnHost` for a constant."""
        found = self.values.get(x) if isinstance(x, Node) else None
        if not isinstance(found, Ref):
            raise NotOnHost("an operand that must depend on the input does not")
        return found

    def number(self, x: Any) -> float:
        """A constant number. Raises `NotOnHost` for others."""
        if isinstance(x, int | float):
            return x
        if not isinstance(x, Node) or not is_constant(x) or (value := constant(self.module, x)).numel() != 1:
            raise NotOnHost("an argument that must be a number is computed from the input")
        return float(value)

    def array(self, x: Any) -> np.ndarray:
        """A constant as the array that the host has: float32 for floats. Raises `NotOnHost` for others."""
        if isinstance(x, Node) and not is_constant(x):
            raise NotOnHost("an argument that must be a constant is computed from the input")
        value = constant(self.module, x)
        if value.dtype not in _DTYPES and value.dtype not in (torch.int8, torch.int16):
            raise NotOnHost(f"a constant of {value.dtype}")
        return value.to(getattr(torch, _DTYPES.get(value.dtype, "int64"))).cpu().numpy().copy()

    def constant(self, value: np.ndarray) -> Ref:
        """A constant of the host: without a batch."""
        for name, other in self.constants.items():
            if other.dtype == value.dtype and other.shape == value.shape and other.tobytes() == value.tobytes():
                return Ref(name, Kind(str(value.dtype), value.shape))
        name = f"constant.{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(value).reshape(value.shape)
        return Ref(name, Kind(str(value.dtype), value.shape))

    def beside(self, value: np.ndarray, like: Ref) -> Ref:
        """A constant of the exported graph that is combined with `like`: of as many dimensions. Raises `NotOnHost`."""
        shape = (1,) * (like.rank - value.ndim) + value.shape
        if len(shape) > like.rank or (shape and shape[like.place] != 1):
            raise NotOnHost(f"a constant of shape {value.shape} beside {like.kind}")
        rest = (*shape[: like.place], *shape[like.place + 1 :])
        ref = self.constant(value.reshape(shape if like.joined else rest))
        return dataclasses.replace(ref, joined=like.joined, place=like.place)

    def operands(self, *xs: Any) -> tuple[Ref, ...]:
        """Values, constants and numbers as operands of one dtype and number of dimensions. Raises `NotOnHost`."""
        refs = [self.ref(x) for x in xs if self.known(x)]
        if not refs:
            raise NotOnHost("no operand depends on the input")
        if len({(r.rank, r.joined, r.place) for r in refs}) > 1:
            raise NotOnHost("its operands have different numbers of dimensions, or the batch in another one")
        arrays = [None if self.known(x) or isinstance(x, int | float) else self.array(x) for x in xs]
        dtypes = [r.kind.dtype for r in refs] + [str(a.dtype) for a in arrays if a is not None and a.ndim]
        dtype = max(dtypes, key=_ORDER.index)
        if any(isinstance(x, float) or (a is not None and a.dtype.kind == "f") for x, a in zip(xs, arrays, strict=True)):
            dtype = "float32"
        if dtype == "bool" and any(type(x) is int for x in xs):
            dtype = "int64"
        result = []
        for x, a in zip(xs, arrays, strict=True):
            if self.known(x):
                result.append(self.cast(self.ref(x), dtype))
            else:
                value = np.asarray(x if a is None else a)
                result.append(self.beside(value.astype(dtype), refs[0]))
        return tuple(result)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def emit(self, operation: Operation, *operands: Ref, joined: bool | None = None) -> Ref:
        """A step with one result."""
        return self.several(operation, *operands, joined=joined)[0]

    def several(self, operation: Operation, *operands: Ref, joined: bool | None = None) -> tuple[Ref, ...]:
        """A step's results. Raises `NotOnHost` where the operation's rules are broken."""
        node = self._node
        assert node is not None
        joined, place = operands[0].joined if joined is None else joined, operands[0].place
        names = tuple(r.name for r in operands)
        known = {r.name: r.kind for r in operands}
        count = 2 if operation.name == "top" else 1
        outputs = tuple(f"{self.name(node)}.{len(self.steps)}.{i}" for i in range(count))
        step = Step(operation, names, outputs, f"{operator_name(node).removeprefix('aten.')} ({where(node)})")
        try:
            kinds = infer(step, known)
        except ValueError as error:
            raise NotOnHost(str(error)) from None
        self.steps.append(step)
        return tuple(Ref(n, k, joined, place) for n, k in zip(outputs, kinds, strict=True))

    def cast(self, x: Ref, dtype: str) -> Ref:
        """A value of another dtype."""
        if x.kind.dtype == dtype:
            return x
        if x.name in self.constants:
            return dataclasses.replace(self.constant(self.constants[x.name].astype(dtype)), joined=x.joined, place=x.place)
        return self.emit(Cast(dtype), x)

    def real(self, x: Any) -> Ref:
        """The value of a node as floats."""
        return self.cast(self.ref(x), "float32")

    def shaped(self, x: Ref, shape: Sequence[int], joined: bool = False) -> Ref:
        """A value in another shape."""
        if tuple(shape) == x.kind.shape and joined == x.joined:
            return x
        return self.emit(Reshape(tuple(shape)), x, joined=joined)


def trial(module: GraphModule, node: Node, batch: set[Any], activations: set[Node]) -> str | None:
    """Why a node cannot be a host step; None if it can. `activations` are the nodes that depend on an input."""
    try:
        given: dict[Node, Result] = {}
        for n in node.all_input_nodes:
            if n not in activations:
                continue
            value = n.meta.get("val")
            if isinstance(value, list | tuple):
                given[n] = tuple(Ref(f"{n.name}.{i}", *kind_of(v, batch)) for i, v in enumerate(value))
            else:
                given[n] = Ref(n.name, *kind_of(value, batch))
        Lowering(module, batch, given).lower(node)
    except NotOnHost as reason:
        return str(reason)
    return None
