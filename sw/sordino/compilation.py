"""`compile`: a quantised model to a `Program`."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from sordino_compiler.backend import compile_graph
from sordino_compiler.graph import Graph
from sordino_hw.arch import ArchConfig, preset
from sordino_hw.errors import ArchError
from sordino_hw.program import Program

if TYPE_CHECKING:
    from .quantization import QuantizedModel

__all__ = ["compile"]


def compile(
    model: "QuantizedModel | Graph",
    example: torch.Tensor | Sequence[torch.Tensor] | None = None,
    arch: str | ArchConfig | None = None,
    *,
    dense: bool = False,
    reuse: bool = True,
    name: str = "",
) -> Program:
    """Compiles a quantised model (or its integer graph) to a `Program`; `program.save("x.sdn")` writes it.

    Parameters
    ----------
    example : an input, or several: checked against the inputs that the model was quantised for, nothing more
    arch : the architecture to compile for; by default the one that the model was quantised for. Another one must have the
        same numbers: `event_bits` and `mantissa_bits`
    dense : the baseline that takes no advantage of zeros: the same values, more cycles
    reuse : False keeps every tensor in memory of its own, so that a board can read all of them back afterwards
    name : goes into the file, for people

    Raises `InputError` for an example that does not fit, `ArchError` for an architecture with other numbers, `CompileError` for a model that does not fit.
    """
    graph = model if isinstance(model, Graph) else model.graph
    if example is not None and not isinstance(model, Graph):
        model.check_inputs((example,) if isinstance(example, torch.Tensor) else tuple(example))
    target = graph.arch if arch is None else preset(arch)
    if target.hash != graph.arch.hash:
        for field in ("event_bits", "mantissa_bits"):
            if getattr(target, field) != getattr(graph.arch, field):
                raise ArchError(
                    f"compile: the model was quantised for {field}={getattr(graph.arch, field)} ({graph.arch.name}), but {target.name} has "
                    f"{field}={getattr(target, field)}. Quantise it for this architecture: sordino.quantize(..., arch={target.name!r})."
                )
        graph = dataclasses.replace(graph, arch=target)
    program = compile_graph(graph, dense=dense, reuse=reuse, name=name or getattr(model, "name", ""))
    if not isinstance(model, Graph):
        outputs = model(*(e[:1] for e in model.example))
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        program.meta["input_shapes"] = [list(e.shape[1:]) for e in model.example]
        program.meta["output_shapes"] = [list(y.shape[1:]) for y in outputs]
    return program
