"""Host steps around a compiled program: one of every operation, for files that are mutated."""

import dataclasses
import math

import numpy as np

from sordino_hw.spec.host import Argument, Group, Host, Leaf, Literal, Step
from sordino_hw.spec.host.operations import (
    Cast,
    Choose,
    Combine,
    Concat,
    Cumulate,
    Expand,
    Flip,
    Gather,
    Map,
    Matmul,
    Operation,
    Pad,
    Permute,
    Position,
    Reduce,
    Reshape,
    Slice,
    Softmax,
    Take,
    Top,
)
from sordino_hw.spec.program import Program

__all__ = ["hosted"]


def hosted(program: Program) -> Program:
    """The program with x * 0.5 before each input, and every operation behind its first output."""
    steps: list[Step] = []

    def then(operation: Operation, *inputs: str) -> str:
        name = f"step{len(steps)}"
        names = (name, f"{name}.places") if operation.name == "top" else (name,)
        steps.append(Step(operation, inputs, names, "made up"))
        return name

    before = tuple(Step(Combine("mul"), (f"image of {n}", f"factor of {n}"), (n,)) for n in program.inputs)
    n = math.prod(program.output_shapes[0])
    flat = then(Reshape((1, n)), program.outputs[0])
    best = then(Top(1, 1, True), then(Softmax(1, False), flat))
    turned = then(Permute((1, 0)), flat)
    product = then(Matmul(), flat, then(Map("tanh"), turned))
    padded = then(Pad((0, 1), (1, 0), "constant", 2.0), then(Slice(1, 0, n, 1), flat))
    wide = then(Concat(0), then(Flip((0,)), padded), then(Expand((2, n + 1)), then(Take(0, (0,)), padded)))
    chosen = then(Choose(), then(Combine("ge"), wide, "one"), wide, "one")
    sums = then(Cumulate(1), chosen)
    gathered = then(Gather(1), then(Cast("int64"), flat), f"{best}.places")
    last = [then(Reduce("mean", (0, 1), True), sums), then(Position("max", 0, False), sums)]
    arguments = tuple(Argument(f"image of {x}", s) for x, s in zip(program.inputs, program.input_shapes, strict=True))
    constants = {
        f"factor of {x}": np.full((1,) * len(s), 0.5, np.float32) for x, s in zip(program.inputs, program.input_shapes, strict=True)
    }
    returns = Group("dict", (Leaf(best), Group("list", (Leaf(product, True), Leaf(gathered), Literal(None))),
                             Group("namedtuple", tuple(map(Leaf, last)), ("mean", "place"), "Found")), ("best", 1, "found"))  # fmt: skip
    host = Host(arguments, before, tuple(steps), returns, {**constants, "one": np.ones((1, 1), np.float32)})
    return dataclasses.replace(program, host=host)
