"""The run time: `compile`, `Accelerator`, its statistics, `compare` and `check`."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from torch import nn

import sordino as sd
from sordino.runtime.compare import _trace
from sordino_hw.spec.asm import decode_segment
from sordino_hw.spec.isa import PERF_FIELDS, Opcode
from sordino_sim.golden.model import Golden


@pytest.fixture(scope="module")
def golden(digits_program):
    return sd.Accelerator(digits_program)


def test_floats_in_and_out_are_the_graph_s_integers(golden, digits, digits_quantised):
    x = digits.test[0][:70]
    graph, program = digits_quantised.graph, golden.program
    values = graph.run(digits_quantised.quantise_inputs(x))
    expected = values[graph.outputs[0]].reshape(70, 10)
    y = golden(x)
    assert torch.is_tensor(y) and y.dtype == torch.float32 and y.shape == (70, 10)
    assert np.array_equal(y.numpy(), (expected * np.float32(program.tensors[graph.outputs[0]].scale)).astype(np.float32))
    z = golden(x.numpy())
    assert isinstance(z, np.ndarray) and np.array_equal(z, y.numpy())


def test_integers_in_and_out(golden, digits, digits_quantised):
    x = digits_quantised.quantise_inputs(digits.test[0][:3])["x"].astype(np.int16)
    y = golden.integers(x)
    assert y.dtype == np.int16 and y.shape == (3, 10, 1, 1)
    assert torch.equal(golden.integers(torch.from_numpy(x)), torch.from_numpy(y))


def test_quantise_rounds_as_pytorch_does_and_clips(golden, digits_quantised):
    scale = golden.program.tensors["x"].scale
    values = np.array([0.5, 1.5, 2.5, 3.49, -1.0, 1e6], np.float32) * np.float32(scale)
    x = np.zeros((1, 1, 8, 8), np.float32)
    x.flat[: len(values)] = values
    ours = golden.quantise("x", x)
    assert ours.dtype == np.int16 and np.array_equal(ours, digits_quantised.quantise_inputs(x)["x"])
    assert ours.flat[3:6].tolist() == [3, 0, 255]


def test_a_file_runs_as_the_program_does(golden, digits, tmp_path):
    path = tmp_path / "digits.sdn"
    golden.program.save(path)
    x = digits.test[0][:3]
    assert torch.equal(sd.Accelerator(path)(x), golden(x)) and torch.equal(sd.Accelerator(sd.load(path))(x), golden(x))


def test_statistics_without_cycles(golden, digits):
    x = digits.test[0][:70]
    golden(x)
    stats = golden.stats
    assert (stats.backend, stats.images, stats.cycles, stats.total.cycles, stats.total.eta) == ("golden", 70, None, None, None)
    assert stats.densities["x"] == float((x != 0).double().mean()) == stats.layers[0].density
    result = Golden(golden.program).run({"x": golden.quantise("x", x)}, list(golden.program.tensors))
    assert stats.nonzero["conv2"] == np.count_nonzero(result.tensors["conv2"]) / 70
    assert stats.nonzero_activations == sum(stats.nonzero[n] for n in ("conv1", "conv2", "conv3"))
    assert stats.total.density == pytest.approx(stats.nonzero_activations / ((32 + 64) * 64 + 64 * 16))
    assert stats.total.nonzero_macs == pytest.approx(sum(x.nonzero_macs for x in stats.layers))
    assert [x.macs for x in stats.layers] == [9 * 32 * 64, 9 * 32 * 64 * 64, 9 * 64 * 64 * 16, 10240]


def test_statistics_with_cycles(digits, digits_program):
    timing = sd.Accelerator(digits_program, "timing")
    x = digits.test[0][:5]
    timing(x)
    stats = timing.stats
    records = timing.run({"x": timing.quantise("x", x)}).records
    cores, lanes = digits_program.arch.cores, digits_program.arch.lanes
    assert cores == 4 and (records[..., :6].sum(-1) == records[:, :, :1, :6].sum(-1)).all()
    assert np.array_equal(stats.cycles, records[:, :, 0, :6].sum((1, 2)))
    ends = np.cumsum([len(s.ops) + 1 for s in digits_program.segments]) - 1
    tail = records[:, ends, 0, :6].sum((1, 2)).mean()
    assert stats.total.cycles == pytest.approx(sum(x.cycles for x in stats.layers) + tail) == pytest.approx(stats.cycles.mean())
    for layer in (*stats.layers, stats.total):
        assert layer.cycles == pytest.approx(sum(layer.causes.values()))
        assert layer.eta == pytest.approx(layer.nonzero_macs / (cores * lanes * layer.cycles)) and 0 < layer.eta <= 1
    assert stats.total.words == records[..., PERF_FIELDS.index("words")].sum((1, 2)).mean()
    assert stats.total.causes["busy"] == pytest.approx(records[..., PERF_FIELDS.index("busy")].sum((1, 2)).mean() / cores)
    assert set(stats.to_dict()) == {"backend", "images", "layers", "total", "densities", "nonzero", "nonzero_activations", "cycles"}


def test_dense_mode_gives_the_same_values_in_more_cycles(digits, digits_quantised, digits_program):
    x = digits.test[0][:2]
    dense, sparse = (sd.Accelerator(p, "timing") for p in (sd.compile(digits_quantised, dense=True), digits_program))
    assert torch.equal(dense(x), sparse(x)) and dense.stats.total.cycles > 1.5 * sparse.stats.total.cycles
    assert dense.stats.cycles[0] == dense.stats.cycles[1]


def test_progress_counts_the_whole_batch(digits_program, digits):
    seen = []
    sd.Accelerator(digits_program, progress=lambda done, total: seen.append((done, total)))(digits.test[0][:100])
    assert seen[-1] == (100, 100) and seen == sorted(seen)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda a: a(torch.zeros(2, 1, 8, 9)),
            r"input 'x' has shape \(2, 1, 8, 9\); it must be \[batch, 1, 8, 8\] with at least one image",
        ),
        (lambda a: a(torch.zeros(0, 1, 8, 8)), r"input 'x' has shape \(0, 1, 8, 8\); it must be .*"),
        (lambda a: a(torch.tensor(1.0)), r"input 'x' has shape \(\); it must be .*"),
        (
            lambda a: a(torch.zeros(1, 1, 8, 8, dtype=torch.int64)),
            r"input 'x' has dtype int64; give floats, or integers to Accelerator\.integers",
        ),
        (lambda a: a([[0.0]]), r"input 'x' is a list; give a NumPy array or a torch tensor \[batch, c, h, w\]"),
        (lambda a: a(torch.zeros(1, 1, 8, 8), torch.zeros(1)), r"2 inputs given; the network has 1: x"),
        (lambda a: a.integers(np.zeros((1, 1, 8, 8))), r"input 'x' must be an array of integers, not float64\. .*"),
        (lambda a: a.integers(np.full((1, 1, 8, 8), 256)), r"input 'x' holds values from 256 to 256; this architecture takes .*"),
        (lambda a: sd.Accelerator(a.program, "fpga"), r"unknown back end 'fpga': there are golden, timing, verilator"),
        (lambda a: sd.Accelerator(a.program, waves="x.fst"), r"waves come from the back end 'verilator', not 'golden'"),
        (lambda a: sd.Accelerator(a.program).stats, r"Accelerator\.stats: nothing was run yet; .*"),
    ],
)
def test_bad_input_is_named(golden, call, text):
    with pytest.raises(sd.InputError, match=f"^{text}$"):
        call(golden)


def test_nan_is_named_with_its_place(golden):
    x = torch.zeros(2, 1, 8, 8)
    x[1, 0, 3, 4] = float("nan")
    x[1, 0, 3, 5] = float("inf")
    with pytest.raises(sd.InputError, match=r"^input 'x' has 2 values that are NaN or infinite, the first at \(1, 0, 3, 4\)\. .*$"):
        golden(x)


def test_another_architecture_is_refused(golden, digits_quantised):
    with pytest.raises(
        sd.ArchError, match=r"^the program is compiled for another architecture: ulx3s-85f .* / icebreaker .*lanes: 32 / 8.*$"
    ):
        sd.Accelerator(golden.program, arch="icebreaker")
    assert sd.Accelerator(golden.program, arch="ulx3s-85f").program is golden.program
    with pytest.raises(
        sd.ArchError,
        match=r"^compile: the model was quantised for event_bits=9 \(ulx3s-85f\), but icebreaker has event_bits=8\. .*$",
    ):
        sd.compile(digits_quantised, arch="icebreaker")
    with pytest.raises(sd.InputError, match=r"^input: shape \(1, 1, 9, 9\) does not match .*$"):
        sd.compile(digits_quantised, torch.zeros(1, 1, 9, 9))


def test_another_architecture_with_the_same_numbers_will_do(golden, digits, digits_quantised):
    other = sd.PRESETS["ulx3s-85f"].replace(lanes=16, ppu=4, weight_depth=8192)
    x = digits.test[0][:4]
    assert torch.equal(sd.Accelerator(sd.compile(digits_quantised, arch=other), arch=other)(x), golden(x))


def test_a_network_larger_than_the_memories_runs_in_segments(golden, digits, digits_quantised):
    x = digits.test[0][:4]
    small = sd.compile(digits_quantised, arch=sd.PRESETS["ulx3s-85f"].replace(weight_depth=320))
    assert len(small.segments) > len(golden.program.segments)
    timing = sd.Accelerator(small, "timing")
    assert torch.equal(timing(x), golden(x))
    assert sum(x.cycles for x in timing.stats.layers) < timing.stats.total.cycles == timing.stats.cycles.mean()


# -- compare ---------------------------------------------------------------------------------------------------------


def test_equal_executions_compare_equal(golden, digits, digits_quantised):
    x = digits.test[0][:4]
    found = sd.compare(golden, digits_quantised.graph, x)
    assert found and found.tensors[0] == "x" and set(found.largest.values()) == {0}
    assert str(found) == f"equal: {found.values} values of {len(found.tensors)} tensors"


def test_compare_names_the_first_difference(golden, digits):
    x = digits.test[0][:3]
    program = golden.program
    left = _trace(golden, (x,))[0]
    layer = next(i for i, n in enumerate(program.layers) if n.name == "conv2")
    number, segment = next((i, s) for i, s in enumerate(program.segments) if any(op.layer == layer for op in s.ops))
    steps = [s for s in decode_segment(segment.imem, program.arch) if s.opcode in (Opcode.CONV, Opcode.VEC)]
    first = steps[next(i for i, op in enumerate(segment.ops) if op.layer == layer)].regs
    channel = next(c for c in range(3, 8) if (left["conv2"][:, c] > 0).any())
    bias = segment.bias.copy()
    bias[: first["SPLIT"], first["P_BASE"], channel] += 1 << 24  # of the first slice, in every group
    segments = [dataclasses.replace(s, bias=bias) if i == number else s for i, s in enumerate(program.segments)]
    broken = dataclasses.replace(program, segments=segments)
    found = sd.compare(golden, sd.Accelerator(broken), x)
    d = found.difference
    assert not found and (d.tensor, d.layer, d.coordinate[0]) == ("conv2", "conv2", channel)
    right = _trace(sd.Accelerator(broken), (x,))[0]
    gap = np.abs(left["conv2"].astype(int) - right["conv2"])
    place = (d.image, *d.coordinate)
    assert place == tuple(np.argwhere(gap)[0]) and (d.a, d.b) == (left["conv2"][place], right["conv2"][place])
    assert (d.count, d.largest) == (np.count_nonzero(gap), gap.max()) and found.largest["conv1"] == 0
    c, y, column = d.coordinate
    assert str(found).startswith("tensor 'conv2', layer 'conv2' (conv2, ")
    assert f": image {d.image}, channel {c}, row {y}, column {column}: {d.a} / {d.b}; {d.count} values differ, by" in str(found)


def test_pytorch_and_the_integers_differ_by_one_at_most(golden, digits, digits_quantised):
    found = sd.compare(digits_quantised, golden, digits.test[0][:20], tolerance=1)
    assert found and {"conv1", "conv2", "conv3", "fc"} <= set(found.tensors)


def test_compare_refuses_what_has_nothing_in_common(golden, digits):
    other = sd.quantize(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), digits.train[0][:20])
    graph = dataclasses.replace(other.graph)
    renamed = [
        dataclasses.replace(n, out=dataclasses.replace(n.out, name=f"_{n.out.name}"), inputs=tuple(f"_{i}" for i in n.inputs))
        for n in graph.nodes
    ]
    graph = dataclasses.replace(graph, nodes=renamed, outputs=[f"_{o}" for o in graph.outputs])
    with pytest.raises(sd.InputError, match=r"^compare: the two have no tensor in common; .*$"):
        sd.compare(golden, graph, digits.test[0][:2])
    with pytest.raises(sd.InputError, match=r"^compare: a str cannot be run; .*$"):
        sd.compare(golden, "graph", digits.test[0][:2])


# -- check -----------------------------------------------------------------------------------------------------------


def test_check_reports_what_compiling_gives(digits, digits_model, digits_program):
    report = sd.check(digits_model, digits.train[0][:1])
    assert report.ok and report.segments == len(digits_program.segments) == 2
    assert report.memory["weights"] == (max(s.weight.shape[1] for s in digits_program.segments), 1024)
    assert [e.name for e in report.estimates[0.5]] == [x.name for x in digits_program.layers]
    measured = sd.Accelerator(sd.compile(sd.quantize(digits_model, digits.train[0][:20]), dense=True), "timing")
    measured(digits.test[0][:1])
    assert report.cycles(1.0) == pytest.approx(measured.stats.total.cycles, rel=0.05)
    text = str(report)
    assert "aten.conv2d" in text and "Predicted cycles" in text and "\x1b" not in text
    assert set(report.to_dict()) == {
        *("arch", "ok", "problem", "operators", "memory", "segments", "predicted"),
        *("activation_memory", "advice", "fits", "host"),
    }


def test_check_names_what_is_not_supported():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)

        def forward(self, x):
            return self.b(torch.cumsum(self.a(x), 1))

    report = sd.check(Odd(), torch.zeros(1, 3, 8, 8))
    assert (
        not report.ok and "cumsum" in report.problem and "test_accelerator.py" in report.problem and "not supported" in str(report)
    )


def test_check_says_what_does_not_fit():
    report = sd.check(nn.Conv2d(3, 64, 3), torch.zeros(1, 3, 200, 200), arch="icebreaker")
    assert not report.ok and "act_depth" in report.problem and all(n.supported for n in report.nodes)


# -- RTL -------------------------------------------------------------------------------------------------------------


def test_the_rtl_gives_the_golden_values_and_the_timing_model_s_cycles(golden, digits, digits_program):
    x = digits.test[0][:2]
    timing = sd.Accelerator(digits_program, "timing")
    with sd.Accelerator(digits_program, "verilator") as rtl:
        assert sd.compare(rtl, golden, x)
        assert torch.equal(rtl(x), timing(x))
        a, b = rtl.stats.to_dict(), timing.stats.to_dict()
    assert a.pop("backend") == "verilator" and b.pop("backend") == "timing" and a == b


# -- tensors that NumPy lacks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float64])
def test_floats_of_other_widths(golden, digits, dtype):
    """Every float of up to 32 bits is a float32 exactly: the result is that of the same values."""
    x = digits.test[0][:2].to(dtype)
    assert torch.equal(golden(x), golden(x.to(torch.float64)))
    assert torch.equal(golden(x.clone().requires_grad_()), golden(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.to("meta"), r"is on the device 'meta' and has no values; give one with values, .*"),
        (lambda x: x.to_sparse(), r"has the layout torch\.sparse_coo; give x\.to_dense\(\)\."),
        (lambda x: x.flatten(1).to_sparse_csr(), r"has the layout torch\.sparse_csr; give x\.to_dense\(\)\."),
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), r"is quantised; give x\.dequantize\(\)\."),
        (lambda x: x.to(torch.complex64), r"is complex; give real numbers, such as x\.real\."),
        (lambda x: x.to(torch.complex64).conj(), r"is complex; give real numbers, such as x\.real\."),
        (lambda x: torch.nested.nested_tensor([x[0], x[1]]), r".*"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensors_without_plain_values(golden, digits, change, message):
    x = change(digits.test[0][:2])
    for run in (golden, golden.integers):
        with pytest.raises(sd.InputError, match=r"^input 'x'") as caught:
            run(x)
        assert re.fullmatch(rf"input 'x':? {message}", str(caught.value)), caught.value


def test_negated_views(golden, digits):
    """A view whose values PyTorch negates when they are read."""
    x = torch.complex(torch.zeros_like(digits.test[0][:2]), -digits.test[0][:2]).conj().imag
    assert x.is_neg() and torch.equal(golden(x), golden(digits.test[0][:2]))
