"""Predicted cycles against the timing model."""

import numpy as np
import pytest
from graphs import ULX3S, Net

from sordino_compiler.backend import compile_graph
from sordino_compiler.estimate import estimate
from sordino_hw.isa import Cause
from sordino_sim.timing import Timing


def network() -> Net:
    net = Net(ULX3S)
    net.conv("y", net.input("x", 64, 14, 14), 64)
    net.conv("z", "x", 128, (1, 1))
    net.conv("s", "x", 32, stride=(2, 2), residual=net.input("r", 32, 7, 7))
    net.depthwise("w", "x", label="depthwise")
    net.maxpool("m", "x")
    return net


def measured(program, inputs) -> np.ndarray:
    """Cycles per layer, from the timing model."""
    records = Timing(program).run(inputs).records[0]
    cycles = np.zeros(len(program.layers), np.int64)
    row = 0
    for segment in program.segments:
        for op in segment.ops:
            cycles[op.layer] += records[row, : len(Cause)].sum()
            row += 1
        cycles[segment.ops[-1].layer] += records[row, : len(Cause)].sum()
        row += 1
    return cycles


@pytest.mark.parametrize("density", [1.0, 0.5, 0.2, 0.05, 0.0])
def test_estimate_is_near_the_timing_model(density):
    net = network()
    program = compile_graph(net.graph("y", "z", "s", "w", "m"))
    cycles = measured(program, net.inputs(density=density))
    predicted = np.array([e.cycles for e in estimate(program, density)])
    assert np.all(np.abs(predicted - cycles) < 0.08 * cycles + 60), (predicted, cycles)


def test_dense_programs_cost_the_same_at_any_density():
    program = compile_graph(network().graph("y", "s"), dense=True)
    assert [e.cycles for e in estimate(program, 0.1)] == [e.cycles for e in estimate(program, 1.0)]


def test_densities_by_tensor_and_stage_that_limits():
    graph = network().graph("y", "z", "w")
    y, z, w = estimate(graph, {"x": 0.02})
    assert (y.density, y.macs, y.kind) == (0.02, 64 * 64 * 9 * 196, "conv")
    assert (y.bound, z.bound, w.bound) == ("events", "drain", "spans")
    assert estimate(graph, {})[0].density == 0.5
    assert y.cycles < estimate(graph, 0.5)[0].cycles < estimate(graph, 1.0)[0].cycles
