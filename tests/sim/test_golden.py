"""The golden model on whole programs, against the integer graph; its inputs, outputs and hooks."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from sordino_compiler.graph import Requant, Window
from sordino_compiler.graph import Value as V
from sordino_compiler.ops import Conv, MaxPool
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.asm import Assembler
from sordino_hw.spec.errors import BinaryError, InputError
from sordino_hw.spec.isa import Flag, Mode
from sordino_hw.spec.program import Layer, Op, Program, Segment, Tensor
from sordino_sim.golden import model as golden_module
from sordino_sim.golden.model import Golden

ARCH = ArchConfig(lanes=8, ppu=4, act_depth=256, weight_depth=256, mask_depth=32, param_depth=8, state_depth=64)
RNG = np.random.default_rng(3)
WEIGHT = RNG.integers(-99, 99, (12, 2, 3, 3)).astype(np.int8)
REQUANT = Requant(
    bias=RNG.integers(-999, 999, 12),
    mantissa=RNG.integers(8, 16, 12),
    shift=np.full(12, 11),
    lo=0,
    hi=255,
    threshold=RNG.integers(0, 3, 12),
)


def tensor(name, shape, base, layer, **fields) -> Tensor:
    pitch = ARCH.words(shape[0])
    return Tensor(name, shape, 0.5, False, base, shape[2] * pitch, pitch, tuple(range(shape[0])), layer, **fields)


def segment(a: Assembler, ops: list[Op], group: int, **images) -> Segment:
    """A segment whose parameters are those of channel group `group` of the convolution."""
    params = {}
    for name in ("bias", "mantissa", "shift", "threshold"):
        values = np.zeros(8, np.int32)
        part = getattr(REQUANT, name)[8 * group : 8 * group + 8]
        values[: len(part)] = part
        params[name] = values.reshape(1, 2, 4)
    empty = dict(weight=np.zeros((1, 0, 8), np.int8), mask=np.zeros((1, 0, 8), bool), table=np.zeros(0, np.int16))
    return Segment(imem=a.imem, ops=ops, cycle_limit=10_000, **params, **{**empty, **images})


def program() -> Program:
    """conv 3x3, 2 -> 12 channels (two groups, a segment each), then max pooling 2x2 into the input's memory."""
    x = tensor("x", (2, 6, 6), 0, -1, kept=False)
    y = tensor("y", (12, 6, 6), 36, 0)
    z = tensor("z", (12, 3, 3), 0, 1)
    segments = []
    for group, channels in ((0, 8), (1, 4)):
        weight = np.zeros((9, 8, 8), np.int8)
        part = WEIGHT[8 * group : 8 * group + 8]
        weight[:, :2, : len(part)] = part.reshape(len(part), 2, 9).transpose(2, 1, 0)
        a = Assembler()
        a.conv(
            **dict(OH=6, OW=6, KH=3, KX=1, SPAN=3, WORDS=1, H=6, W=6, IY0=-1, IX0=-1, SY=1, SX=1, DY=1, DX=1),
            **dict(REPY=1, REPX=1, A_BASE=-7, A_OY=6, A_OX=1, A_KY=6, W_SPAN=24, W_WORD=8, M_SPAN=3),
            **dict(O_BASE=y.base + group, O_OY=12, O_OX=2, DRAIN=channels // 4, LO=0, HI=255, SPLIT=1, SLICES=1, RUN=1),
        )
        if group == 0:
            a.wait()
        a.halt()
        mask = np.tile(np.arange(8) < 2, (1, 9, 1))
        segments.append(segment(a, [Op(0, (channels,))], group, weight=weight.reshape(1, -1, 8), mask=mask))
    a = Assembler()
    for group in range(2):
        a.vec(
            Mode.MAX,
            **dict(OH=3, OW=3, KH=2, KX=2, SPAN=1, WORDS=1, H=6, W=6, SY=2, SX=2, DY=1, DX=1, REPY=1, REPX=1),
            **dict(A_BASE=y.base + group, A_OY=24, A_OX=4, A_KY=12, A_KX=2),
            **dict(O_BASE=z.base + group, O_OY=6, O_OX=2, DRAIN=2 - group, LO=0, HI=255, SPLIT=1, SLICES=1, RUN=1),
        )
    a.halt()
    pool = segment(a, [Op(1, (0,)), Op(1, (0,))], 0)
    pool.bias[:], pool.mantissa[:], pool.shift[:], pool.threshold[:] = 0, 8, 3, 0
    layers = [Layer("conv", "conv", "", ("x",), "y", 12 * 2 * 9 * 36), Layer("pool", "maxpool", "", ("y",), "z", 0)]
    p = Program(ARCH, [*segments, pool], {t.name: t for t in (x, y, z)}, layers, ["x"], ["z"])
    p.check()
    return p


def images(batch: int) -> np.ndarray:
    rng = np.random.default_rng(batch)
    return (rng.integers(0, 256, (batch, 2, 6, 6)) * (rng.random((batch, 2, 6, 6)) < 0.5)).astype(np.int16)


def expected(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    conv = Conv(
        out=V("y", (12, 6, 6), 0.5, False),
        inputs=("x",),
        weight=WEIGHT,
        window=Window((3, 3), padding=(1, 1, 1, 1)),
        requant=REQUANT,
    )
    pool = MaxPool(
        out=V("z", (12, 3, 3), 0.5, False), inputs=("y",), window=Window((2, 2), (2, 2)), requant=Requant.identity(12, ARCH, False)
    )
    y = conv.evaluate([x.astype(np.int64)], ARCH)
    return y, pool.evaluate([y], ARCH)


@pytest.mark.parametrize("per_batch", [1, 3, 100])
def test_equals_the_integer_graph(monkeypatch, per_batch):
    """Also when the batch is split, and for tensors whose memory is reused."""
    image_bytes = ARCH.act_depth * (2 * ARCH.lanes + 1) + ARCH.state_depth * ARCH.ppu * 4
    monkeypatch.setattr(golden_module, "MEMORY", per_batch * image_bytes)
    x = images(7)
    seen = []
    r = Golden(program()).run({"x": x}, keep=["x", "y", "z"], progress=lambda done, total: seen.append((done, total)))
    y, z = expected(x)
    assert list(r.outputs) == ["z"] and set(r.tensors) == {"x", "y", "z"} and r.records is None
    assert r.outputs["z"].dtype == np.int16
    np.testing.assert_array_equal(r.tensors["x"], x)
    np.testing.assert_array_equal(r.tensors["y"], y)
    np.testing.assert_array_equal(r.outputs["z"], z)
    assert len(set(z.ravel())) > 50, "the test must see many values"
    assert seen == [(min(n, 7), 7) for n in range(per_batch, 7 + per_batch, per_batch)]


def test_counts_are_those_of_the_layer():
    """Events and non-zero MACs, from the definition: in-bounds, non-zero activations per output, times channels."""
    x = images(4)
    r = Golden(program()).run({"x": x})
    reads = Window((3, 3), padding=(1, 1, 1, 1)).patches((x != 0).astype(np.int64)).sum((1, 2, 3, 4, 5))
    y = expected(x)[0]
    np.testing.assert_array_equal(r.events[:, :2], np.stack([reads, reads], 1))
    np.testing.assert_array_equal(r.nonzero_macs[:, :2], np.stack([8 * reads, 4 * reads], 1))
    np.testing.assert_array_equal(r.events[:, 2:], np.stack([(y[:, :8] != 0).sum((1, 2, 3)), (y[:, 8:] != 0).sum((1, 2, 3))], 1))
    assert not r.nonzero_macs[:, 2:].any()


def test_observer_sees_memory_before_each_operation(monkeypatch):
    monkeypatch.setattr(golden_module, "MEMORY", 1)
    x = images(2)
    y, _ = expected(x)
    p = program()
    calls = []

    def observer(segment, op, step, machine):
        calls.append((machine.first, segment, op))
        got = p.unpack("y", machine.act)[0]
        done = [0, 8, 12, 12][segment + op]
        np.testing.assert_array_equal(got[:done], y[machine.first, :done])
        assert not got[done:].any() and step.regs["KH"] == (3 if segment < 2 else 2)

    Golden(p).run({"x": x}, observer=observer)
    assert calls == [(i, *place) for i in range(2) for place in ((0, 0), (1, 0), (2, 0), (2, 1))]


def test_dense_flag_changes_events_only():
    x = images(3)
    p = program()
    sparse = Golden(p).run({"x": x})
    for s in p.segments:
        s.imem = np.array([w | Flag.DENSE if w >> 28 in (2, 3) else w for w in s.imem.tolist()], np.uint32)
    dense = Golden(p).run({"x": x})
    np.testing.assert_array_equal(dense.outputs["z"], sparse.outputs["z"])
    np.testing.assert_array_equal(dense.nonzero_macs, sparse.nonzero_macs)
    in_bounds = 2 * (6 * 3 - 2) ** 2
    np.testing.assert_array_equal(dense.events, [[in_bounds, in_bounds, 36 * 8, 36 * 8]] * 3)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"input 'x' is missing; the inputs are \['x'\]\."),
        ({"x": images(1), "u": images(1)}, r"input 'u' is not known; the inputs are \['x'\]\."),
        (
            {"x": images(1).tolist()},
            r"input 'x' must be an array of integers, not list\. Quantise it: integer = round\(value / 0\.5\)\.",
        ),
        ({"x": images(1) / 2.0}, r"input 'x' must be an array of integers, not float64\. Quantise it: .*"),
        ({"x": images(1)[0]}, r"input 'x' has shape \(2, 6, 6\); it must be \(batch >= 1, 2, 6, 6\)\."),
        ({"x": images(1)[:0]}, r"input 'x' has shape \(0, 2, 6, 6\); it must be \(batch >= 1, 2, 6, 6\)\."),
        ({"x": images(1) - 1}, r"input 'x' holds values from -1 to \d+; this architecture takes 0\.\.255\. Clamp it\."),
        ({"x": images(1) + 256}, r"input 'x' holds values from 256 to \d+; this architecture takes 0\.\.255\. Clamp it\."),
    ],
)
def test_input_errors(inputs, message):
    with pytest.raises(InputError) as caught:
        Golden(program()).run(inputs)
    assert re.fullmatch(message, str(caught.value)), caught.value


def test_batches_of_two_inputs_must_agree():
    p = program()
    p.tensors["u"] = tensor("u", (2, 6, 6), 200, -1)
    p.inputs.append("u")
    p.input_shapes.append((2, 6, 6))
    with pytest.raises(InputError, match=r"^input 'u' has 2 images, 'x' has 3; the batches must be equal\.$"):
        Golden(p).run({"x": images(3), "u": images(2)})


def test_unknown_tensor_to_keep():
    with pytest.raises(InputError, match=r"^keep: the program has no tensor 'q'; it has x, y, z\.$"):
        Golden(program()).run({"x": images(1)}, keep=["q"])


def test_operation_table_must_match_the_stream():
    p = program()
    p.segments[2].ops.pop()
    with pytest.raises(
        BinaryError, match=r"^program: segment 2, operation 1, instruction \d+: the table of operations has 1 only\. "
    ):
        Golden(p)


def test_threads_leave_blas_as_it_was():
    """Runs that overlap each end one limit of BLAS's threads; the last one restores what was before the first."""
    machine = Golden(program())
    inputs = {"x": np.zeros((1, 2, 6, 6), np.int64)}

    def threads():
        return [x["num_threads"] for x in ThreadpoolController().select(user_api="blas").info()]

    with threadpool_limits(limits=2, user_api="blas"):
        before = threads()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: machine.run(inputs), range(16)))
        assert threads() == before
