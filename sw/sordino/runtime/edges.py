"""The host's side of a run: from what is passed to the array's integers, and from its outputs to what is returned."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sordino_hw.spec.errors import InputError
from sordino_hw.spec.host import Host, Leaf, leaves, paths, restore, step_work
from sordino_hw.spec.program import Program

from .arrays import like, quantised, real_input, to_numpy

__all__ = ["Edges", "StepCost", "costs", "named", "restored", "returned"]

REPEATS = 3
"""Of a measurement; the shortest counts."""


def returned(host: Host, values: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every value that is returned and has a batch, by name, in the shape in which it is returned. See `Host.leave`."""
    found = host.leave(values, outputs)
    joined = {leaf.name for leaf in leaves(host.returns) if leaf.joined}
    return {name: np.array(y.reshape(-1, *y.shape[2:]) if name in joined else y) for name, y in found.items()}


def restored(host: Host, found: Mapping[str, np.ndarray], given: Any) -> Any:
    """What is returned, in the model's structure: its arrays of the kind that `given` has."""
    return restore(
        host.returns, lambda leaf: like(given, found[leaf.name] if leaf.name in found else host.constants[leaf.name].copy())
    )


def named(program: Program, found: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What is returned as a flat dict: by place in the structure (`boxes.0`), by name where that is a tensor or a tuple of tensors."""
    returns, host = program.edges.returns, program.edges
    plain = program.host is None or isinstance(returns, Leaf)
    made: dict[str, Any] = {}
    for path, leaf in paths(returns):
        if isinstance(leaf, Leaf):
            made[leaf.name if plain else path] = found[leaf.name] if leaf.name in found else host.constants[leaf.name]
        else:
            made[path] = leaf.value
    return made


@dataclass(frozen=True)
class StepCost:
    """What a step of the host costs for one image."""

    side: str
    """`before` or `after` the array."""
    step: str
    """The operation with its operands and attributes."""
    source: str
    """Operator of the exported graph, and where it comes from in the user's model."""
    shape: tuple[int, ...]
    """Of the result, without the batch."""
    operations: int
    """Element operations."""
    milliseconds: float
    """Measured here, on zeros."""


def costs(host: Host, arrays: Mapping[str, tuple[int, ...]], outputs: Mapping[str, tuple[int, ...]]) -> list[StepCost]:
    """Every step, measured; the shapes of the array's inputs and outputs, without the batch, by name."""
    kinds = host.kinds(arrays, outputs)
    values = {a.name: np.zeros((1, *a.shape), np.float32) for a in host.inputs}
    found = []
    for side, steps in (("before", host.before), ("after", host.after)):
        if side == "after":
            values |= {name: np.zeros((1, *shape), np.float32) for name, shape in outputs.items()}
        for step in steps:
            times = []
            for _ in range(REPEATS):
                start = time.perf_counter()
                made = host.run(step, values)
                times.append(1e3 * (time.perf_counter() - start))
            values |= made
            shape = kinds[step.outputs[0]].shape
            found.append(StepCost(side, str(step), step.source, shape, step_work(step, kinds), min(times)))
    return found


class Edges:
    """The host steps of a program, around a back end."""

    def __init__(self, program: Program):
        self.program, self.host = program, program.edges
        self.chunk = self.host.chunk(program.host_kinds())

    def check(self, inputs: Sequence[Any]) -> dict[str, np.ndarray]:
        """The caller's inputs by name: float32 [batch, *shape]. Raises `InputError` for wrong numbers, shapes, dtypes and values."""
        arguments, p = self.host.inputs, self.program
        if len(inputs) != len(arguments):
            raise InputError(
                f"{len(inputs)} inputs given; the network has {len(arguments)}: {', '.join(a.name for a in arguments)}"
            )
        found = {}
        for a, x in zip(arguments, inputs, strict=True):
            others = [p.tensors[a.name].shape] if a.name in p.inputs else []
            x = to_numpy(a.name, x)
            if a.name not in p.inputs and x.dtype.kind in "iu":  # such as images of uint8: they are no integers of the array
                x = x.astype(np.float32)
            found[a.name] = real_input(a.name, x, a.shape, *others).reshape(-1, *a.shape).astype(np.float32)
        first, batch = arguments[0].name, len(found[arguments[0].name])
        for name, x in found.items():
            if len(x) != batch:
                raise InputError(f"input {name!r} has {len(x)} images, {first!r} has {batch}; the batches must be equal.")
        return found

    def enter(self, given: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """All values before the array, and its inputs: int16 [batch, c, h, w]. Raises `InputError` where a step makes NaN or infinity."""
        p, values = self.program, self.host.enter(given)
        integers = {}
        for name in p.inputs:
            t, x = p.tensors[name], np.asarray(values[name], np.float32)
            if not np.isfinite(x).all():
                raise InputError(
                    f"the host's steps before the array make values of {name!r} that are NaN or infinite. Check the range of the inputs."
                )
            integers[name] = quantised(x, t.shape, t.scale, p.arch.act_range(t.signed))
        return values, integers

    def leave(self, values: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every value that is returned, by name: from the array's outputs, integers [batch, c, h, w] by name."""
        p, real = self.program, {}
        for name, shape in zip(p.outputs, p.output_shapes, strict=True):
            y = outputs[name].astype(np.float32) * np.float32(p.tensors[name].scale)
            real[name] = y.reshape(len(y), *shape)
        return returned(self.host, values, real)
