"""Predicted cycles against the timing model."""

import pytest
from graphs import ROOMY, Net

from sordino_compiler.driver import compile_graph
from sordino_compiler.emit.mapping import Mapping
from sordino_compiler.estimate import estimate
from sordino_hw.spec.isa import Cause
from sordino_sim.timing.model import Timing

CLUSTER = ROOMY.replace(cores=4, ports=2)


def network(arch=ROOMY) -> Net:
    net = Net(arch)
    net.conv("y", net.input("x", 64, 14, 14), 64)
    net.conv("z", "x", 128, (1, 1))
    net.conv("s", "x", 32, stride=(2, 2), residual=net.input("r", 32, 7, 7))
    net.depthwise("w", "x")
    net.maxpool("m", "x")
    return net


@pytest.mark.parametrize("density", [1.0, 0.5, 0.2, 0.05, 0.0])
@pytest.mark.parametrize(
    ("arch", "mapping"),
    [(ROOMY, Mapping()), (CLUSTER, Mapping(1, 4)), (CLUSTER, Mapping(2, 2)), (CLUSTER, Mapping(4, 1)), (CLUSTER, None)],
    ids=["one core", "4 slices", "2 x 2", "4 groups", "best"],
)
def test_estimate_is_near_the_timing_model(arch, mapping, density):
    net = network(arch)
    for layer in ("y", "z", "s", "w", "m"):
        program = compile_graph(net.graph(layer), density=density, mapping=mapping)
        cycles = Timing(program).run(net.inputs(density=density)).records[0, :, 0, : len(Cause)].sum()
        (predicted,) = estimate(program, density)
        assert abs(predicted.cycles - cycles) < 0.08 * cycles + 60, (layer, predicted, cycles)


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
