"""graph == golden == RTL for every tensor, and timing model == the RTL's performance log: what every program must keep."""

import numpy as np

from sordino_compiler.graph import Graph
from sordino_hw.spec.program import Program
from sordino_sim.rtl.backend import Verilator
from sordino_sim.timing.model import Timing


def assert_agreement(program: Program, graph: Graph, inputs: dict[str, np.ndarray], what: str) -> None:
    """Runs the program of a graph on all models and compares every tensor that is kept, every output and every counter."""
    kept = [name for name, t in program.tensors.items() if t.kept]
    expected = graph.run(inputs)
    predicted = Timing(program).run(inputs, kept)
    with Verilator(program, quiet=True) as rtl:
        measured = rtl.run(inputs, kept)
    for name, values in predicted.tensors.items():
        if name in expected:
            np.testing.assert_array_equal(values, expected[name], f"golden against graph, {name}, {what}")
        np.testing.assert_array_equal(measured.tensors[name], values, f"RTL against golden, {name}, {what}")
    for name, values in measured.outputs.items():
        np.testing.assert_array_equal(values, expected[name], f"RTL against graph, {name}, {what}")
    np.testing.assert_array_equal(measured.records, predicted.records, f"timing model against RTL, {what}")
