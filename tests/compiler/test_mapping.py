"""How layers are spread over the cores: what a mapping makes of a layer, and which one is chosen."""

import re
from dataclasses import replace

import numpy as np
import pytest
from graphs import Net

from sordino_compiler.driver import compile_graph
from sordino_compiler.emit.mapping import Mapping
from sordino_compiler.graph import Window
from sordino_compiler.passes import prepare
from sordino_compiler.schedule.density import densities
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.asm import Step, decode_segment
from sordino_hw.spec.errors import CompileError
from sordino_hw.spec.isa import Cause, Flag, Opcode
from sordino_hw.spec.program import Program
from sordino_sim.golden.model import Golden
from sordino_sim.timing.model import Timing

CLUSTER = ArchConfig(name="cluster", cores=4, ports=2, lanes=8, ppu=2, act_depth=2048, weight_depth=1024, mask_depth=256)


def steps(program: Program) -> list[Step]:
    operations = (Opcode.CONV, Opcode.VEC)
    return [s for segment in program.segments for s in decode_segment(segment.imem, program.arch) if s.opcode in operations]


def uses(program: Program) -> list[tuple[int, int]]:
    """(groups, slices) of every operation."""
    return [(s.regs["SPLIT"], s.regs["SLICES"]) for s in steps(program)]


def compiled(net: Net, *outputs: str, **options) -> Program:
    """The program, its values checked against the graph."""
    graph, x = net.graph(*outputs), net.inputs(batch=2)
    program = compile_graph(graph, **options)
    program.check()
    want, got = graph.run(x), Golden(program).run(x).outputs
    assert all(np.array_equal(got[name], want[name]) for name in outputs)
    return program


def cycles(program: Program, inputs) -> int:
    records = Timing(program).run(inputs).records
    assert records is not None
    return int(records[:, :, 0, : len(Cause)].sum())


# -- what a mapping makes of a layer ---------------------------------------------------------------------------------


def test_every_core_holds_its_slice():
    net = Net(CLUSTER)
    net.conv("y", net.input("x", 8, 4, 4), 12, residual=net.input("r", 12, 4, 4))
    program = compiled(net, "y", mapping=Mapping(2, 2))
    (op,), (segment,) = steps(program), program.segments
    assert (op.regs["SPLIT"], op.regs["SLICES"], op.regs["DRAIN"]) == (2, 2, 4)
    weight = net.nodes[-1].weight
    for core in range(4):
        channels = weight[8 * (core // 2) : 8 * (core // 2) + 8]
        rows = segment.weight[core, op.regs["W_BASE"] :][: 9 * 8, : len(channels)]
        assert np.array_equal(rows, channels.transpose(2, 3, 1, 0).reshape(72, -1))
    assert program.ops[0].macs_per_event == (8, 4, 0, 0)
    for image in (segment.weight, segment.mask, segment.bias, segment.mantissa, segment.threshold):
        assert np.array_equal(image[0], image[1]) and np.array_equal(image[2], image[3])
    assert (segment.threshold[0] == 0).all() and (segment.threshold[2].reshape(-1) == [0] * 4 + [255] * 4).all()


def test_cores_that_idle_hold_zeros_and_rows_are_the_same_in_all():
    net = Net(CLUSTER)
    net.conv("y", net.input("x", 8, 4, 4), 24, (1, 1))
    program = compiled(net, "y", mapping=Mapping(1, 3))
    (segment,) = program.segments
    assert uses(program) == [(1, 3)] and segment.weight.shape == (4, 8, 8)
    assert all(segment.weight[c].any() for c in range(3)) and not segment.weight[3].any()
    net.conv("z", "y", 8, (1, 1))
    both = compiled(net, "z", mapping=lambda layer: Mapping(1, 3) if layer == "y" else Mapping(4))
    assert [s.regs["W_BASE"] for s in steps(both)] == [0, 8] and both.segments[0].weight.shape == (4, 8 + 24, 8)
    assert [x.mapping for x in both.layers] == ["1 group x 3 slices", "4 groups x 1 slice"]


def test_what_remains_of_the_columns_has_fewer_slices():
    net = Net(CLUSTER)
    net.conv("y", net.input("x", 8, 4, 4), 5 * 8, (1, 1))
    program = compiled(net, "y", mapping=Mapping(1, 4))
    assert uses(program) == [(1, 4), (1, 1)]
    assert program.layers[0].mapping == "1 group x 4 slices then 1 group x 1 slice"
    assert [s.regs["O_BASE"] - steps(program)[0].regs["O_BASE"] for s in steps(program)] == [0, 4]


def test_groups_share_an_operation_where_they_read_the_same_words():
    net = Net(CLUSTER)
    net.conv("wide", net.input("x", 8, 3, 3), 32, groups=2)  # both groups of four inputs lie in one word
    net.conv("apart", net.input("u", 16, 3, 3), 32, groups=2)  # a word for each group
    program = compiled(net, "wide", "apart", mapping=Mapping(1, 4))
    assert uses(program) == [(1, 4), (1, 2), (1, 2)]
    result = Golden(program).run(net.inputs(density=1.0))
    assert result.nonzero_macs.sum() <= sum(layer.macs for layer in program.layers)


def test_residual_words_that_are_apart_are_not_shared():
    """A part of the channels, flattened, has its word columns a pixel of the whole apart."""
    for channels, expected in ((16, [(1, 4)]), (8, [(1, 1), (1, 1)])):
        net = Net(CLUSTER)
        a = net.conv("a", net.input("x", 16, 1, 2), 16, (1, 1))
        r = net.flatten("r", net.slice("s", a, 0, channels))
        net.conv("y", net.input("v", 8, 1, 1), 2 * channels, (1, 1), residual=r)
        assert uses(compiled(net, "y", mapping=Mapping(1, 4)))[1:] == expected


def test_vector_operations_take_one_column_each():
    net = Net(CLUSTER)
    net.depthwise("y", net.input("x", 24, 6, 6))
    program = compiled(net, "y", mapping=Mapping(2, 2, run=4, window=True))
    assert uses(program) == [(2, 1)] * 3
    assert all(s.has(Flag.WINDOW) and (s.regs["RUN"], s.regs["KX"], s.regs["SPAN"]) == (4, 3, 1) for s in steps(program))


@pytest.mark.parametrize(
    ("kernel", "fields"),
    [((5, 5), {}), ((2, 2), {"stride": (2, 2)}), ((3, 3), {"dilation": (1, 2)}), ((1, 1), {})],
    ids=["large", "apart", "dilated", "point"],
)
def test_window_only_where_kernels_overlap_and_fit(kernel, fields):
    net = Net(CLUSTER)
    net.depthwise("y", net.input("x", 8, 9, 9), kernel)
    window = Window(kernel, **fields)
    node = net.nodes[-1]
    net.nodes[-1] = replace(node, window=window, out=replace(node.out, shape=(8, *window.out_size(9, 9))))
    program = compiled(net, "y", mapping=Mapping(4, 1, run=8, window=True))
    assert not any(s.has(Flag.WINDOW) for s in steps(program)) and {s.regs["RUN"] for s in steps(program)} == {8}


def test_partial_sums_fill_the_state_of_every_group():
    arch = CLUSTER.replace(weight_depth=40, state_depth=20)
    bands = {}
    for split in (1, 2, 4):
        net = Net(arch)
        net.conv("y", net.input("x", 8, 4, 12), 8)
        ops = steps(compiled(net, "y", mapping=Mapping(split, run=8)))
        bands[split] = ops[0].regs["OH"] * ops[0].regs["OW"]
        for s in ops:
            assert s.regs["RUN"] == 1
            assert -(-s.regs["OH"] * s.regs["OW"] // split) * s.regs["DRAIN"] <= arch.state_depth
    assert bands == {1: 5, 2: 10, 4: 12}


def test_one_core_runs_as_before():
    net = Net(CLUSTER.replace(cores=1, ports=1))
    net.conv("y", net.input("x", 8, 4, 4), 24)
    program = compiled(net, "y")
    assert uses(program) == [(1, 1)] * 3 and program.layers[0].mapping == "1 group x 1 slice"


def test_values_do_not_depend_on_the_mapping(rng):
    net = Net(CLUSTER)
    a = net.conv("a", net.input("x", 8, 8, 8), 20, residual=net.input("r", 20, 8, 8))
    net.conv("b", net.depthwise("d", a), 33, (1, 1))
    graph, x = net.graph("b"), net.inputs(batch=3)
    want = graph.run(x)["b"]
    for mapping in (None, *(Mapping(s, 4 // s, run, w) for s in (1, 2, 4) for run in (1, 3) for w in (False, True))):
        for dense in (False, True):
            got = Golden(compile_graph(graph, mapping=mapping, dense=dense)).run(x).outputs["b"]
            assert np.array_equal(got, want)


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mapping", "text"),
    [
        (
            Mapping(3),
            r"mapping 3 groups x 1 slice: there must be 1, 2, 4 or 8 groups, and groups x slices at most the cores .*: 4\.",
        ),
        (Mapping(4, 2), r"mapping 4 groups x 2 slices: there must be .*"),
        (Mapping(1, 0), r"mapping 1 group x 0 slice: there must be .*"),
        (Mapping(1, 1, 9), r"mapping 1 group x 1 slice, runs of 9: a run takes 1 to 8 outputs\."),
    ],
)
def test_impossible_mappings(mapping, text):
    net = Net(CLUSTER)
    net.conv("y", net.input("x", 8, 4, 4), 8)
    with pytest.raises(CompileError) as error:
        compile_graph(net.graph("y"), mapping=mapping)
    assert re.fullmatch(text, str(error.value))


@pytest.mark.parametrize("density", [1.5, {"x": -0.1}, {"x": float("nan")}])
def test_impossible_densities(density):
    net = Net(CLUSTER)
    net.conv("y", net.input("x", 8, 4, 4), 8)
    with pytest.raises(CompileError, match=r"^density of 'x': it must be from 0 to 1, not .*\.$"):
        compile_graph(net.graph("y"), density=density)


def test_what_fits_no_way_is_refused_by_name():
    net = Net(CLUSTER.replace(weight_depth=4, state_depth=2))
    net.conv("y", net.input("x", 8, 4, 4), 8)
    with pytest.raises(CompileError, match=r"^conv 'y' \(net\.py:2\): not even one tap fits"):
        compile_graph(net.graph("y"))


# -- the choice ------------------------------------------------------------------------------------------------------

LAYERS = {
    "few columns": lambda net, x: net.conv("y", x, 16),
    "many columns": lambda net, x: net.conv("y", x, 64, (1, 1)),
    "five columns": lambda net, x: net.conv("y", x, 40, (1, 1)),
    "strided": lambda net, x: net.conv("y", x, 24, stride=(2, 2)),
    "linear": lambda net, x: net.conv("y", x, 64, (12, 12), padding=(0, 0, 0, 0)),
    "residual": lambda net, x: net.conv("y", x, 16, residual=net.input("r", 16, 12, 12)),
    "depthwise": lambda net, x: net.depthwise("y", x),
    "pooling": lambda net, x: net.maxpool("y", x),
}


@pytest.mark.parametrize("density", [1.0, 0.3, 0.05])
@pytest.mark.parametrize("name", LAYERS)
def test_the_choice_is_as_fast_as_any(name, density):
    """Within what the sample, and ties broken for fewer weight rows, cost."""
    net = Net(CLUSTER.replace(weight_depth=4096))
    LAYERS[name](net, net.input("x", 16, 12, 12))
    graph, x = net.graph("y"), net.inputs(density=density)
    forced = [Mapping(s, 4 // s, run, run > 1) for s in (1, 2, 4) for run in (1, 8)]
    best = min(cycles(compile_graph(graph, mapping=m), x) for m in forced)
    assert cycles(compile_graph(graph, density=density), x) <= 1.03 * best + 40


def test_the_choice_of_a_dense_program_is_its_own():
    """Densely every word is full; sparsely, 1x1 layers wait for their requantisers."""
    net = Net(CLUSTER)
    net.depthwise("y", net.input("x", 16, 12, 12))
    graph, x = net.graph("y"), net.inputs(density=1.0)
    forced = [Mapping(4, 1, run, run > 1) for run in (1, 8)]
    best = min(cycles(compile_graph(graph, mapping=m, dense=True), x) for m in forced)
    assert cycles(compile_graph(graph, density=0.0, dense=True), x) <= 1.03 * best + 40


def test_tiles_and_bands_compete_too():
    """A layer whose weights do not fit: larger bands need fewer passes over the weights."""
    net = Net(CLUSTER.replace(weight_depth=80, state_depth=64))
    net.conv("y", net.input("x", 16, 12, 12), 16)
    graph, x = net.graph("y"), net.inputs()
    best = min(cycles(compile_graph(graph, mapping=Mapping(s, 4 // s)), x) for s in (1, 2, 4))
    assert cycles(compile_graph(graph), x) <= 1.03 * best + 40


def test_ties_go_to_fewer_weight_rows():
    net = Net(CLUSTER)
    net.conv("y", net.input("x", 16, 12, 12), 32)
    program = compile_graph(net.graph("y"), density=0.5)
    assert uses(program) == [(1, 4)] and program.segments[0].weight.shape[1] == 9 * 16


def test_densities_follow_copies_and_parts():
    net = Net(CLUSTER)
    x = net.input("x", 8, 4, 4)
    net.concat("c", net.conv("a", x, 12), x)
    net.conv("y", net.slice("s", "c", 0, 4), 8)
    graph = prepare(net.graph("y", "c"))
    found = densities(graph, {"x": 0.2, "a": 0.7})
    (copy,) = set(found) - {"x", "a", "c", "s", "y"}
    assert found[copy] == 0.2 and found["c"] == pytest.approx((12 * 0.7 + 8 * 0.2) / 20) == found["s"] and found["y"] == 0.5
