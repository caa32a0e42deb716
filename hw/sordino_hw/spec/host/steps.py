"""Host steps of a program: what is computed in NumPy before and after the array, and in which structure results are returned."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..documents import record, typed
from .kinds import DTYPES, Kind
from .operations import OPERATIONS, Operation
from .returned import Tree, described, leaves, tree_document, tree_from

__all__ = ["AT_ONCE", "Argument", "Host", "Step", "infer"]

MOST_STEPS = 1 << 12
MOST_CONSTANT = 1 << 26
"""Elements of all constants together."""
AT_ONCE = 1 << 28
"""Bytes of values that a chunk of images may take, where one image takes less."""
MOST_IMAGES = 64
"""Of a chunk."""


@dataclass(frozen=True)
class Argument:
    """What the caller passes: an array [batch, *shape] of float32."""

    name: str
    shape: tuple[int, ...]

    @property
    def kind(self) -> Kind:
        return Kind("float32", self.shape)


@dataclass(frozen=True)
class Step:
    """One operation. It reads values by name and defines others."""

    operation: Operation
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    source: str = ""
    """Operator of the exported graph, and where it comes from in the user's model."""

    def document(self) -> dict[str, Any]:
        """The step as JSON values."""
        return {
            "op": self.operation.name,
            "attributes": dataclasses.asdict(self.operation),  # type: ignore[call-overload]
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "source": self.source,
        }

    def __str__(self) -> str:
        attributes = dataclasses.asdict(self.operation)  # type: ignore[call-overload]
        shown = [*self.inputs, *(f"{k}={_short(v)}" for k, v in attributes.items())]
        return f"{', '.join(self.outputs)} = {self.operation.name}({', '.join(shown)})"


def _short(value: Any) -> str:
    if isinstance(value, tuple) and len(value) > 8:
        return f"({', '.join(map(str, value[:4]))}, ... {len(value)} in all)"
    return str(value)


def infer(step: Step, known: Mapping[str, Kind]) -> tuple[Kind, ...]:
    """The kinds of what a step defines. Raises `ValueError`."""
    op = step.operation
    if not op.least <= len(step.inputs) <= op.most:
        raise ValueError(f"{len(step.inputs)} operands of {op.name}")
    missing = [n for n in step.inputs if n not in known]
    if missing:
        raise ValueError(f"{missing[0]!r} is not defined before it")
    kinds = op.infer(*(known[n] for n in step.inputs))
    if len(kinds) != len(step.outputs):
        raise ValueError(f"{op.name} has {len(kinds)} results, not {len(step.outputs)}")
    return kinds


@dataclass(frozen=True)
class Host:
    """Both sides of the array.

    `before` leads from the caller's `inputs` to the array's inputs, `after` from these, and the array's outputs as real numbers, to
    what is returned. A value has one name. Constants have no batch: they are the same for every image.
    """

    inputs: tuple[Argument, ...]
    before: tuple[Step, ...]
    after: tuple[Step, ...]
    returns: Tree
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    # -- meaning -------------------------------------------------------------------------------------------------------

    def enter(self, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All values before the array: from arrays float32 [batch, *shape] of the arguments."""
        return self._run(self.before, given)

    def leave(self, values: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The values that are returned: from those before the array, and its outputs, float32 [batch, *shape]."""
        found = self._run(self.after, {**values, **outputs})
        return {leaf.name: found[leaf.name] for leaf in leaves(self.returns) if leaf.name not in self.constants}

    def _run(self, steps: Iterable[Step], given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        values = {n: np.ascontiguousarray(x) for n, x in given.items()}  # sums depend on their order, and that on the layout
        for step in steps:
            values.update(self.run(step, values))
        return values

    def run(self, step: Step, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What one step defines, of the values before it."""
        images = len(next(iter(values.values())))
        constants = self.constants
        operands = (values[n] if n in values else np.broadcast_to(constants[n], (images, *constants[n].shape)) for n in step.inputs)
        with np.errstate(all="ignore"):
            return dict(zip(step.outputs, step.operation.run(*operands), strict=True))

    # -- the contract --------------------------------------------------------------------------------------------------

    def kinds(self, arrays: Mapping[str, tuple[int, ...]], outputs: Mapping[str, tuple[int, ...]]) -> dict[str, Kind]:
        """The kind of every value; the shapes of the array's inputs and outputs are given.

        Raises `ValueError` for whatever no compiler can have written.
        """
        known = {a.name: a.kind for a in self.inputs}
        _require(len(known) == len(self.inputs) > 0, "there is no input, or one of them twice")
        _require(len(self.before) + len(self.after) <= MOST_STEPS, f"more than {MOST_STEPS} steps")
        _require(sum(c.size for c in self.constants.values()) <= MOST_CONSTANT, f"constants of over {MOST_CONSTANT:,} elements")
        dtypes = {np.dtype(t): name for name, t in DTYPES.items()}
        for name, c in self.constants.items():
            _require(c.dtype in dtypes, f"constant {name!r} has dtype {c.dtype}")
            _define(known, {name: Kind(dtypes[c.dtype], c.shape)})
        self._infer("before", self.before, known)
        for name, shape in arrays.items():
            given = known.get(name)
            _require(given is not None and name not in self.constants, f"nothing defines the array's input {name!r}")
            _require(
                given is not None and given.dtype != "bool" and math.prod(shape) == given.size,
                f"the array's input {name!r} is {given}, and its values are {shape}",
            )
        _define(known, {name: Kind("float32", shape) for name, shape in outputs.items()})
        self._infer("after", self.after, known)
        for leaf in leaves(self.returns):
            _require(leaf.name in known, f"{leaf.name!r} is returned, and nothing defines it")
            _require(
                not leaf.joined or (leaf.name not in self.constants and known[leaf.name].shape),
                f"{leaf.name!r} has no dimension to join with the batch",
            )
        return known

    def _infer(self, side: str, steps: Iterable[Step], known: dict[str, Kind]) -> None:
        for i, step in enumerate(steps):
            try:
                kinds = infer(step, known)
                _define(known, dict(zip(step.outputs, kinds, strict=True)))
            except (ValueError, OverflowError) as error:
                raise ValueError(f"step {i} {side} the array ({step.operation.name}): {error}") from None

    def work(self, kinds: Mapping[str, Kind]) -> int:
        """Element operations an image, an upper bound."""
        return sum(step_work(s, kinds) for s in (*self.before, *self.after))

    def image_bytes(self, kinds: Mapping[str, Kind]) -> int:
        """Bytes of all values of an image, twice over: an operation has arrays of its own."""
        return 2 * sum(k.bytes for k in kinds.values())

    def chunk(self, kinds: Mapping[str, Kind]) -> int:
        """Images that are computed at a time, so that memory does not grow with the batch."""
        return max(1, min(MOST_IMAGES, AT_ONCE // max(1, self.image_bytes(kinds))))

    def returned(self) -> str:
        """The structure of what is returned, in a line."""
        return described(self.returns)

    # -- documents -----------------------------------------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        """As JSON values; of the constants, the names."""
        return {
            "inputs": [dataclasses.asdict(a) for a in self.inputs],
            "before": [s.document() for s in self.before],
            "after": [s.document() for s in self.after],
            "returns": tree_document(self.returns),
            "constants": list(self.constants),
        }

    @classmethod
    def of(cls, d: Any, constants: Mapping[int, np.ndarray]) -> "Host":
        """Inverse of `document`; the constants by number. Raises `KeyError`, `TypeError` and `ValueError`."""
        d = typed(dict, d, "host")
        if set(d) != {"inputs", "before", "after", "returns", "constants"}:
            raise TypeError(f"host has the keys {sorted(d)}")
        names = typed(tuple[str, ...], d["constants"], "host.constants")
        if len(set(names)) != len(names) or set(constants) != set(range(len(names))):
            raise ValueError("the constants of the host are not those that are named")
        return cls(
            tuple(record(Argument, a) for a in typed(list, d["inputs"], "host.inputs")),
            tuple(_step(s) for s in typed(list, d["before"], "host.before")),
            tuple(_step(s) for s in typed(list, d["after"], "host.after")),
            tree_from(d["returns"]),
            {name: constants[i] for i, name in enumerate(names)},
        )


def step_work(step: Step, kinds: Mapping[str, Kind]) -> int:
    """Element operations of one step for one image."""
    return step.operation.work(tuple(kinds[n] for n in step.inputs), tuple(kinds[n] for n in step.outputs))


def _step(d: Any) -> Step:
    d = typed(dict, d, "host step")
    if set(d) != {"op", "attributes", "inputs", "outputs", "source"}:
        raise TypeError(f"a host step has the keys {sorted(d)}")
    kind = OPERATIONS.get(typed(str, d["op"], "op"))
    if kind is None:
        raise ValueError(f"there is no host operation {d['op']!r}")
    return Step(
        record(kind, d["attributes"]),
        typed(tuple[str, ...], d["inputs"], "inputs"),
        typed(tuple[str, ...], d["outputs"], "outputs"),
        typed(str, d["source"], "source"),
    )


def _define(known: dict[str, Kind], new: Mapping[str, Kind]) -> None:
    for name, kind in new.items():
        _require(name not in known, f"{name!r} is defined twice")
        known[name] = kind


def _require(ok: object, text: str) -> None:
    if not ok:
        raise ValueError(text)
