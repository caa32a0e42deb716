"""`compile`: a quantised model to a `Program`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from sordino_compiler.driver import compile_graph
from sordino_compiler.graph import Graph
from sordino_compiler.schedule.density import DEFAULT
from sordino_hw.spec.arch import ArchConfig, preset
from sordino_hw.spec.errors import ArchError, InputError
from sordino_hw.spec.program import Program

if TYPE_CHECKING:
    from ..quantization import QuantizedModel

__all__ = ["compile"]

IMAGES = 16
"""Images of an example on which densities are measured."""


def compile(
    model: "QuantizedModel | Graph",
    example: torch.Tensor | Sequence[torch.Tensor] | None = None,
    arch: str | ArchConfig | None = None,
    *,
    dense: bool = False,
    reuse: bool = True,
    name: str = "",
    density: float | Mapping[str, float] | None = None,
) -> Program:
    """Compiles a quantised model (or its integer graph) to a `Program`; `program.save("x.sdn")` writes it.

    Parameters
    ----------
    example : an input, or several (a batch): checked against the inputs that the model was quantised for; densities are
        measured on it
    arch : the architecture to compile for; by default the one that the model was quantised for. Another one must have the
        same numbers: `event_bits` and `mantissa_bits`
    dense : the baseline that takes no advantage of zeros: the same values, more cycles
    reuse : False keeps every tensor in memory of its own, so that a board can read all of them back afterwards
    name : stored in the file, for people
    density : the share of activations that are not zero, one for all tensors or by tensor. The mapping of each layer on the cores is
        chosen for it, so it changes cycles, never values. By default it is measured on the first images of `example`,
        or on the calibration image that a quantised model keeps (0.5 for a graph)

    Raises `InputError` for a model that is not quantised and an example that does not fit, `ArchError` for an architecture with other numbers, `CompileError` for a
    model that does not fit or a density beyond 0..1.
    """
    if not isinstance(model, Graph) and not hasattr(model, "graph"):
        raise InputError(
            f"compile: a {type(model).__name__} is not quantised. Quantise it first, on typical inputs: "
            "sordino.compile(sordino.quantize(model, calibration))."
        )
    graph, inputs = (model, ()) if isinstance(model, Graph) else (model.graph, model.example)
    if example is not None and not isinstance(model, Graph):
        inputs = model.check_inputs((example,) if isinstance(example, torch.Tensor | np.ndarray) else tuple(example))
    target = graph.arch if arch is None else preset(arch)
    if target.hash != graph.arch.hash:
        for field in ("event_bits", "mantissa_bits"):
            if getattr(target, field) != getattr(graph.arch, field):
                raise ArchError(
                    f"compile: the model was quantised for {field}={getattr(graph.arch, field)} ({graph.arch.name}), but {target.name} has "
                    f"{field}={getattr(target, field)}. Quantise it for this architecture: sordino.quantize(..., arch={target.name!r})."
                )
        graph = dataclasses.replace(graph, arch=target)
    if density is None:
        density = DEFAULT if isinstance(model, Graph) else _measured(model, inputs)
    program = compile_graph(graph, dense=dense, reuse=reuse, name=name or getattr(model, "name", ""), density=density)
    if not isinstance(model, Graph):
        if model.edges is not None:
            program.host, program.input_shapes = model.edges.host, list(model.edges.input_shapes)
            program.output_shapes = list(model.edges.output_shapes)
            return program
        outputs = model(
            *(torch.cat([e[:1], e[:1]]) for e in model.example)
        )  # two: a squeeze() in forward would take a batch of one away
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        program.input_shapes = [tuple(e.shape[1:]) for e in model.example]
        program.output_shapes = [tuple(y.shape[1:]) for y in outputs]
    return program


def _measured(model: "QuantizedModel", inputs: Sequence[torch.Tensor]) -> dict[str, float]:
    """The fraction of activations that are not zero, of every tensor, on the first images of `inputs`."""
    some = tuple(x[:IMAGES] for x in inputs)
    values = model.quantise_inputs(*some) | model.torch_values(*some)
    return {name: float(np.count_nonzero(v) / v.size) for name, v in values.items()}
