"""Layout, allocation and segments of compiled programs, on graphs made for each."""

import numpy as np
import pytest
from graphs import SMALL, ULX3S, Net

from random_layers import random_case
from sordino_compiler.driver import compile_graph
from sordino_compiler.emit.mapping import Mapping
from sordino_compiler.passes import prepare
from sordino_compiler.schedule.allocation import allocate
from sordino_compiler.schedule.folding import choose_folds
from sordino_compiler.schedule.layout import layouts
from sordino_compiler.slots import packed
from sordino_hw.spec.asm import decode_segment, disassemble
from sordino_hw.spec.isa import Flag, Mode, Opcode
from sordino_sim.golden.model import Golden
from sordino_sim.timing.model import Timing


def steps(program):
    operations = (Opcode.CONV, Opcode.VEC)
    return [s for segment in program.segments for s in decode_segment(segment.imem, program.arch) if s.opcode in operations]


def kinds(program):
    return [layer.kind for layer in program.layers]


def run(net: Net, *outputs, **options):
    """Compiles, checks the outputs against the graph, and returns the program."""
    graph, x = net.graph(*outputs), net.inputs(batch=2)
    program = compile_graph(graph, **options)
    program.check()
    want, got = graph.run(x), Golden(program).run(x).outputs
    for name in outputs:
        assert np.array_equal(got[name], want[name]), name
    return program


# -- layout ----------------------------------------------------------------------------------------------------------


def test_concat_is_an_allocation():
    net = Net(SMALL)
    x = net.input("x", 3, 4, 4)
    net.concat("c", net.conv("a", x, 12), net.maxpool("p", net.conv("b", net.input("u", 3, 8, 8), 5)))
    net.conv("y", "c", 8)
    program = run(net, "y")
    assert kinds(program) == ["conv", "conv", "maxpool", "conv"]
    a, p, c = (program.tensors[n] for n in "apc")
    assert (a.base, a.pixel_pitch, a.slots) == (c.base, 3, tuple(range(12)))
    assert (p.base, p.pixel_pitch, p.slots) == (c.base + 2, 3, tuple(range(5)))
    assert c.slots == (*range(12), *range(16, 21))


def test_parts_that_cannot_live_in_a_concat_are_copied():
    net = Net(SMALL)
    x = net.input("x", 3, 4, 4)
    a = net.conv("a", x, 12)
    net.concat("c", a, x, net.slice("s", a, 2, 5))
    net.concat("d", "a", "a")
    program = run(net, "c", "d")
    assert kinds(program) == ["conv", "relayout", "relayout", "relayout", "relayout"]
    assert [layer.inputs[0] for layer in program.layers] == ["x", "x", "s", "a", "a"]
    assert all(layer.macs == 0 for layer in program.layers[1:])


def test_dense_blocks_take_no_copies():
    net = Net(SMALL.replace(act_depth=1024))
    parts = [net.conv("f0", net.input("x", 3, 4, 4), 8)]
    for i in range(1, 5):
        net.concat(f"c{i}", *parts) if i > 1 else None
        parts.append(net.conv(f"f{i}", f"c{i}" if i > 1 else "f0", 8))
    net.concat("y", *parts)
    program = run(net, "y", reuse=False)
    assert kinds(program) == ["conv"] * 5
    assert {program.tensors[f"f{i}"].base - program.tensors["y"].base for i in range(5)} == set(range(5))


def test_slices_and_flatten_are_views():
    net = Net(SMALL)
    a = net.conv("a", net.input("x", 3, 4, 4), 20)
    net.maxpool("p", net.slice("s", a, 9, 15))
    net.conv("y", net.flatten("f", "p"), 10, (1, 1))
    program = run(net, "y")
    assert kinds(program) == ["conv", "maxpool", "linear"]
    assert program.tensors["s"].base == program.tensors["a"].base + 1
    assert program.tensors["s"].slots == program.tensors["p"].slots == tuple(range(1, 7))
    last = steps(program)[-1].regs
    assert (last["KH"], last["KX"], last["SPAN"], last["H"], last["W"]) == (1, 1, 4, 1, 4)  # one span holds the input
    assert last["W_WORD"] == 6 and last["W_SPAN"] == 4 * 6  # no row for the lanes that the slice lacks
    assert program.tensors["f"].shape == (24, 1, 1)


def test_residual_layout_is_followed():
    """A convolution writes the slots that its residual has; a vector add copies a residual whose lanes differ."""
    net = Net(SMALL)
    a = net.conv("a", net.input("x", 3, 4, 4), 20)
    s = net.slice("s", a, 3, 13)
    net.conv("y", "x", 10, residual=s)
    net.depthwise("z", net.conv("b", "x", 10), (1, 1), residual=s, label="add")
    program = run(net, "y", "z")
    assert kinds(program) == ["conv", "conv", "conv", "relayout", "add"]
    assert program.tensors["y"].slots == tuple(range(3, 13))
    assert program.tensors["z"].slots == tuple(range(10))


@pytest.mark.parametrize(
    ("channels", "groups", "slots"),
    [
        (16, 4, tuple(range(16))),
        (16, 1, tuple(range(16))),
        (9, 3, (0, 1, 2, 3, 4, 5, 8, 9, 10)),
        (20, 2, (*range(10), *range(16, 26))),
    ],
)
def test_groups_do_not_straddle_words(channels, groups, slots):
    assert packed(channels, groups, 8) == slots


def test_every_event_of_an_operation_stands_for_equally_many_macs():
    """Events x macs_per_event of all operations = the layer's MACs, where nothing is zero or padding."""
    for channels, groups in ((9, 3), (20, 2), (24, 12), (8, 8), (24, 1)):
        net = Net(SMALL)
        x = net.input("x", 2 * groups, 3, 3)
        weight = np.full((channels, 2, 3, 3), 1, np.int8)
        net.conv("y", x, channels, padding=(0, 0, 0, 0), groups=groups, weight=weight, residual=net.input("r", channels, 1, 1))
        program = compile_graph(net.graph("y"))
        result = Golden(program).run(net.inputs(density=1.0))
        assert result.nonzero_macs.sum() == program.layers[-1].macs == channels * 2 * 9


# -- operations ------------------------------------------------------------------------------------------------------


def test_kernel_rows_are_spans_where_pixels_are_whole():
    net = Net(SMALL)
    net.conv("y", net.input("x", 12, 5, 5), 8)
    net.conv("z", "x", 8, dilation=(1, 2))
    y, z = steps(run(net, "y", "z"))
    assert (y.regs["KX"], y.regs["SPAN"], y.regs["WORDS"]) == (1, 3, 2)
    assert (z.regs["KX"], z.regs["SPAN"], z.regs["WORDS"], z.regs["DX"]) == (3, 1, 2, 2)


def test_average_pooling_keeps_one_weight_row():
    net = Net(SMALL)
    net.depthwise("y", net.input("x", 8, 12, 12), (12, 12), weight=np.full((8, 12, 12), 300), wide=True, label="avgpool")
    program = run(net, "y")
    (y,) = steps(program)
    assert y.mode is Mode.MAC2 and program.segments[0].weight.shape == (1, 2, 8)
    assert (y.regs["KH"], y.regs["SPAN"]) == (1, 144)


def test_equal_images_are_kept_once():
    net = Net(SMALL)
    net.conv("a", net.input("x", 4, 4, 4), 8)
    program = run(net, "a")
    net.conv("b", "x", 8, weight=net.nodes[-1].weight, requant=net.nodes[-1].requant)
    both = run(net, "a", "b")
    for field in ("weight", "mask", "bias"):
        assert getattr(both.segments[0], field).shape == getattr(program.segments[0], field).shape


def test_dense_issues_every_real_channel():
    net = Net(SMALL)
    net.conv("y", net.input("x", 5, 4, 4), 8, padding=(0, 0, 0, 0), weight=np.zeros((8, 5, 3, 3), np.int8))
    assert not compile_graph(net.graph("y")).segments[0].mask.any()
    program = run(net, "y", dense=True)
    mask = program.segments[0].mask[0]
    assert mask[:, :5].all() and not mask[:, 5:].any()
    assert all(s.has(Flag.DENSE) for s in steps(program))
    events = Golden(program).run(net.inputs(density=0.0)).events
    assert events.sum() == 4 * 9 * 5


# -- tiles, bands, segments ------------------------------------------------------------------------------------------


def test_tiles_cover_the_kernel_once():
    """A kernel of 25 x 24 channels in a memory of 100 rows: partial sums go through the state memory."""
    net = Net(SMALL.replace(weight_depth=100, act_depth=512))
    net.conv("y", net.input("x", 24, 6, 6), 8, (5, 5), residual=net.input("r", 8, 6, 6))
    program = run(net, "y")
    ops = steps(program)
    assert [s.has(Flag.SOURCE) for s in ops[:3]] == [False, True, True]
    assert [s.has(Flag.SINK) for s in ops[-3:]] == [True, True, False]
    assert [s.has(Flag.RESIDUAL) for s in ops[-3:]] == [False, False, True]
    assert all(s.weight.shape[1] <= 100 for s in program.segments)


def test_bands_bound_the_partial_sums():
    net = Net(SMALL.replace(weight_depth=40, state_depth=64, act_depth=512))
    net.conv("y", net.input("x", 8, 9, 7), 8)
    ops = steps(run(net, "y"))
    assert {s.regs["OH"] for s in ops} == {1, 2}  # 7 columns x 4 rows of state: two output rows fit
    assert all(s.regs["OH"] * s.regs["OW"] * s.regs["DRAIN"] <= 64 for s in ops)
    net = Net(SMALL.replace(weight_depth=40, state_depth=20, act_depth=512))
    net.conv("y", net.input("x", 8, 3, 12), 8)
    assert {s.regs["OW"] for s in steps(run(net, "y"))} == {5, 2}


def test_a_network_larger_than_its_memories_runs_in_segments():
    arch = SMALL.replace(weight_depth=160, mask_depth=20, param_depth=8, imem_depth=128, perf_depth=4, tables=1, act_depth=512)
    net = Net(arch)
    x = net.input("x", 8, 5, 5)
    for i in range(6):
        table = np.random.default_rng(i).integers(0, 256, 256).astype(np.int16) if i % 2 else None
        requant = net.requant(16, lo=-128, hi=127, table=table) if i % 2 else None
        x = net.conv(f"y{i}", x, 16, (1, 1), requant=requant)
    program = run(net, x)
    assert len(program.segments) > 3
    for s in program.segments:
        assert len(s.ops) + 1 <= arch.perf_depth and len(s.table) <= 256
    assert sum(len(s.ops) for s in program.segments) == len(steps(program)) == 12


# -- memory ----------------------------------------------------------------------------------------------------------


def test_live_buffers_never_overlap(seed):
    first = int(np.random.default_rng(seed).integers(1 << 40))
    shared = 0
    for i in range(100):
        graph = prepare(random_case(first + i).graph)
        for reuse in (False, True):
            allocation = allocate(graph, layouts(graph, choose_folds(graph)), reuse)
            buffers = list(allocation.buffers.values())
            for k, a in enumerate(buffers):
                assert a.base >= 0 and a.base + a.words <= graph.arch.act_depth and a.first <= a.last
                for b in buffers[:k]:
                    assert not (a.meets(b) and a.overlaps(b)), (a, b)
                    shared += a.overlaps(b)
                    assert reuse or not a.overlaps(b)
    assert shared > 0


def test_memory_is_reused_and_kept_says_so():
    net = Net(SMALL)
    x = net.input("x", 8, 8, 8)
    for i in range(6):
        x = net.conv(f"y{i}", x, 8)
    graph, inputs = net.graph(x), net.inputs()
    program = run(net, x)
    assert max(t.base for t in program.tensors.values()) == 64  # two buffers in turn
    assert [t.name for t in program.tensors.values() if t.kept] == ["y4", "y5"]
    kept = Timing(program).run(inputs, keep=["y4", "y5"]).tensors
    assert all(np.array_equal(kept[n], graph.run(inputs)[n]) for n in kept)


def test_inputs_and_outputs_may_be_the_same_value():
    net = Net(SMALL)
    net.conv("y", net.input("x", 3, 4, 4), 4)
    net.slice("s", "x", 1, 3)
    program = run(net, "x", "s", "y", "y")
    assert program.tensors["s"].layer == -1


# -- the whole -------------------------------------------------------------------------------------------------------


def test_disassembly_of_a_layer_reads_well():
    net = Net(ULX3S)
    net.conv("y", net.input("x", 3, 8, 8), 40)
    program = compile_graph(net.graph("y"), mapping=Mapping(split=4), fold=False)
    assert disassemble(program.segments[0].imem) == [
        *("SET  OH, 8", "SET  OW, 8", "SET  KH, 3", "SET  KX, 1", "SET  SPAN, 3", "SET  WORDS, 1", "SET  H, 8", "SET  W, 8"),
        *("SET  IY0, -1", "SET  IX0, -1", "SET  SY, 1", "SET  SX, 1", "SET  DY, 1", "SET  DX, 1", "SET  REPY, 1", "SET  REPX, 1"),
        *("SET  A_BASE, 119", "SET  A_OY, 8", "SET  A_OX, 1", "SET  A_KY, 8", "SET  A_KX, 1", "SET  W_SPAN, 9", "SET  W_WORD, 3"),
        *("SET  M_SPAN, 3", "SET  O_OY, 16", "SET  O_OX, 2", "SET  DRAIN, 4", "SET  HI, 255"),
        *("SET  SPLIT, 4", "SET  SLICES, 1", "SET  RUN, 1", "CONV"),
        *("SET  W_BASE, 27", "SET  O_BASE, 1", "SET  P_BASE, 4", "SET  DRAIN, 1", "CONV", "HALT"),
    ]


def test_layer_table():
    net = Net(SMALL)
    a = net.conv("a", net.input("x", 4, 6, 6), 8, padding=(0, 0, 0, 0))
    net.depthwise("d", a, (2, 2))
    net.depthwise("g", "d", (3, 3), label="avgpool")
    net.conv("l", net.flatten("f", "g"), 5, (1, 1))
    program = run(net, "l")
    rows = [(layer.name, layer.kind, layer.inputs, layer.macs, layer.source) for layer in program.layers]
    assert rows == [
        ("a", "conv", ("x",), 8 * 4 * 9 * 16, "net.py:2"),
        ("d", "depthwise", ("a",), 8 * 4 * 9, "net.py:3"),
        ("g", "avgpool", ("d",), 0, "net.py:4"),
        ("l", "linear", ("g",), 5 * 8, "net.py:6"),
    ]
    assert [op.macs_per_event for op in program.ops] == [(8,), (1,), (0,), (5,)]
    assert [t.layer for t in program.tensors.values()] == [-1, 0, 1, 2, 2, 3]


def test_dead_layers_are_left_out():
    net = Net(SMALL)
    net.conv("a", net.input("x", 4, 4, 4), 8)
    net.conv("b", "x", 8)
    program = run(net, "a")
    assert [layer.name for layer in program.layers] == ["a"] and "b" not in program.tensors
