"""The golden machine against a plain-Python interpreter, on random raw operations; its traps."""

import numpy as np
import pytest

from raw_ops import ARCHS, interpret, random_activations, random_images, random_op
from sordino_hw.spec.asm import Assembler
from sordino_hw.spec.errors import TrapError
from sordino_hw.spec.isa import Flag, Mode, Opcode, Trap
from sordino_hw.spec.program import Op, Segment
from sordino_sim.golden import machine as machine_module
from sordino_sim.golden.machine import Machine


def check_case(seed: list[int]) -> None:
    """Runs one random segment on both and compares all memories and counts."""
    rng = np.random.default_rng(seed)
    arch = ARCHS[seed[-1] % len(ARCHS)]
    batch = int(rng.integers(1, 4))
    ops = [random_op(rng, arch) for _ in range(rng.integers(1, 4))]
    segment = random_images(rng, arch, ops)
    machine = Machine(arch, batch)
    machine.store(np.arange(arch.act_depth), random_activations(rng, arch, batch))
    machine.state[:] = rng.integers(-(1 << 31), 1 << 31, machine.state.shape)
    act, state = machine.act.tolist(), machine.state.tolist()
    counts = machine.run(segment)
    for image in range(batch):
        expected = [interpret(op, arch, segment, act[image], state[image]) for op in ops]
        np.testing.assert_array_equal(machine.act[image], act[image], f"activations, seed {seed}")
        np.testing.assert_array_equal(machine.state[image], state[image], f"state, seed {seed}")
        np.testing.assert_array_equal(counts.events[image].sum(1), [e for e, _ in expected], f"events, seed {seed}")
        np.testing.assert_array_equal(counts.nonzero[image].sum(1), [n for _, n in expected], f"non-zero, seed {seed}")
    np.testing.assert_array_equal(machine.occupancy, machine.act.any(-1))


@pytest.mark.parametrize("block", range(8))
def test_against_the_interpreter(seed, block):
    for case in range(12):
        check_case([*seed, case])


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_against_the_interpreter_at_length(seed, block):
    for case in range(60):
        check_case([*seed, case])


def test_in_small_chunks(seed, monkeypatch):
    """Splitting an operation over images and outputs changes nothing."""
    monkeypatch.setattr(machine_module, "CHUNK", 100)
    for case in range(20):
        check_case([*seed, case])


def test_random_operations_cover_every_case():
    ops = [random_op(np.random.default_rng(seed), ARCHS[seed % 3]) for seed in range(300)]
    for mode in Mode:
        for flag in Flag:
            if (mode, flag) != (Mode.MAX, Flag.RESIDUAL):
                assert any(op.mode is mode and flag in op.flags for op in ops), (mode, flag)
    assert {op.opcode for op in ops} == {Opcode.CONV, Opcode.VEC}


def test_sums_beyond_the_mantissa_of_a_float():
    """3x3 x 64 channels of extreme values: 2**24 is passed, and every low bit must be right."""
    arch = ARCHS[2].replace(lanes=64, ppu=64, weight_depth=1024, mask_depth=16)
    rng = np.random.default_rng(5)
    segment = random_images(rng, arch, [])
    segment.weight[:] = rng.integers(-128, -125, segment.weight.shape)
    segment.mask[:] = True
    a = Assembler()
    a.conv(Flag.SINK, OH=1, OW=1, KH=3, KX=1, SPAN=3, WORDS=1, H=3, W=3, REPY=1, REPX=1, A_KY=3, DY=1, DX=1,
           W_SPAN=192, W_WORD=64, M_SPAN=3, DRAIN=1, SPLIT=1, SLICES=1, RUN=1)  # fmt: skip
    a.halt()
    segment.imem, segment.ops = a.imem, [Op(0, (1,))]
    machine = Machine(arch)
    values = rng.integers(-256, -253, (9, 64))
    machine.store(np.arange(9), values[None].astype(np.int16))
    machine.run(segment)
    exact = values.reshape(-1) @ segment.weight[0, :576].astype(np.int64)
    assert exact.min() > 1 << 24
    assert len(set(exact % 2)) == 2, "odd and even sums: a float32 cannot hold them"
    np.testing.assert_array_equal(machine.state[0, 0, 0], exact)


# -- traps ---------------------------------------------------------------------------------------------------------

ONE = dict(OH=1, OW=1, KH=1, KX=1, SPAN=1, WORDS=1, H=1, W=1, REPY=1, REPX=1, W_WORD=8, M_SPAN=1, DRAIN=1, HI=255,
           SPLIT=1, SLICES=1, RUN=1)  # fmt: skip


def trap_of(arch, opcode, mode=Mode.MAC, flags=None, mask=True, limit=100, **registers) -> Trap | None:
    a = Assembler()
    regs = {**ONE, **registers}
    if opcode is Opcode.CONV:
        a.conv(flags or Flag(0), **regs)
    else:
        a.vec(mode, flags or Flag(0), **regs)
    pc = len(a.words) - 1
    a.halt()
    none = np.zeros((arch.cores, 0, arch.ppu), np.int32)
    segment = Segment(
        imem=a.imem,
        weight=np.ones((arch.cores, 8, arch.lanes), np.int8),
        mask=np.full((arch.cores, arch.mask_depth, arch.lanes), mask),
        bias=none,
        mantissa=none,
        shift=none,
        threshold=none,
        table=np.zeros(0, np.int16),
        ops=[Op(0, (1,))],
        cycle_limit=limit,
    )
    try:
        Machine(arch).run(segment)
    except TrapError as error:
        assert str(error).startswith(f"trap {error.cause.name} at instruction {error.pc}: ")
        assert error.pc == pc
        return error.cause
    return None


@pytest.mark.parametrize(
    ("cause", "case"),
    [
        (None, dict(A_BASE=511)),
        (Trap.ACT_READ, dict(A_BASE=512)),
        (Trap.ACT_READ, dict(A_BASE=-1)),
        (None, dict(A_BASE=-1, A_OX=1, IX0=-1, OW=2, SX=1)),
        (None, dict(A_BASE=512, W=0)),
        (Trap.ACT_READ, dict(R_BASE=512, flags=Flag.RESIDUAL)),
        (None, dict(R_BASE=512)),
        (None, dict(W_BASE=2040)),
        (Trap.WEIGHT, dict(W_BASE=2041)),
        (None, dict(W_BASE=2041, mask=False)),
        (Trap.WEIGHT, dict(W_BASE=2048, opcode=Opcode.VEC)),
        (None, dict(W_BASE=2047, opcode=Opcode.VEC)),
        (Trap.WEIGHT, dict(W_BASE=2047, opcode=Opcode.VEC, mode=Mode.MAC2)),
        (None, dict(W_BASE=9999, opcode=Opcode.VEC, mode=Mode.MAX)),
        (Trap.WEIGHT, dict(R_W=2047, flags=Flag.RESIDUAL)),
        (None, dict(M_BASE=127)),
        (Trap.MASK, dict(M_BASE=128)),
        (None, dict(M_BASE=128, opcode=Opcode.VEC)),
        (None, dict(P_BASE=15)),
        (Trap.PARAM, dict(P_BASE=15, DRAIN=2)),
        (None, dict(P_BASE=16, flags=Flag.SINK)),
        (Trap.STATE, dict(S_BASE=512, flags=Flag.SINK)),
        (Trap.STATE, dict(S_BASE=511, flags=Flag.SOURCE, DRAIN=2)),
        (None, dict(S_BASE=512)),
        (Trap.ACT_WRITE, dict(O_BASE=511, O_OX=1, OW=2)),
        (None, dict(O_BASE=512, flags=Flag.SINK)),
        (Trap.CYCLES, dict(OH=101)),
        (None, dict(OH=100)),
    ],
)
def test_ports(cause, case):
    assert trap_of(ARCHS[0], **{"opcode": Opcode.CONV, **case}) == cause


def test_what_ran_before_a_trap_has_happened():
    """A stream that ends in a trap stores what its earlier operations computed."""
    arch = ARCHS[0]
    segment = random_images(np.random.default_rng(0), arch, [])
    a = Assembler()
    a.vec(Mode.MAX, Flag.SINK, **ONE, A_BASE=3, S_BASE=7)
    a.wait()
    a.wait()
    segment.imem = a.imem
    machine = Machine(arch)
    machine.store(np.array([3]), np.arange(1, 9, dtype=np.int16)[None, None])
    with pytest.raises(TrapError) as caught:
        machine.run(segment)
    assert (caught.value.cause, caught.value.pc) == (Trap.WAIT, len(a.words) - 1)
    assert machine.state[0, 0, 7].tolist() == [1, 2]


def test_images_persist_beyond_what_a_segment_loads():
    """Instructions left by a longer segment are still there: a stream without HALT runs into them."""
    arch = ARCHS[0]
    long, short = (random_images(np.random.default_rng(0), arch, []) for _ in range(2))
    a = Assembler()
    a.set(OH=3, OW=4)
    a.halt()
    long.imem, short.imem = a.imem, a.imem[:1]
    machine = Machine(arch)
    with pytest.raises(TrapError):
        machine.run(short)
    machine.run(long)
    machine.run(short)
