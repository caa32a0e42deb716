"""The cluster in Amaranth's simulator: against the golden machine (values) and the timing model (cycles)."""

from functools import cache
from itertools import count

import numpy as np
import pytest
from amaranth.sim import Simulator

from raw_ops import random_images, random_machine, random_op
from sordino_hw.gateware.cluster import Cluster
from sordino_hw.gateware.post.requantiser import CLAMP_DELAY, Requantiser
from sordino_hw.spec import isa, numbers
from sordino_hw.spec.arch import REQUANT_FRACTION, ArchConfig
from sordino_hw.spec.asm import assemble
from sordino_hw.spec.isa import PER_CORE, PERF_FIELDS, Region, Trap, region_bits, region_stride
from sordino_hw.spec.latencies import REQUANT_LATENCY, Latencies
from sordino_hw.spec.program import Segment
from sordino_sim.golden.machine import Machine
from sordino_sim.timing.model import SegmentTiming

SMALL = {
    "act_depth": 512,
    "weight_depth": 352,
    "mask_depth": 40,
    "param_depth": 16,
    "state_depth": 168,
    "tables": 2,
    "imem_depth": 256,
}
ARCHS = [
    ArchConfig(name="one core", lanes=8, ppu=4, perf_depth=8, **SMALL),
    ArchConfig(name="two", cores=2, lanes=8, ppu=8, event_bits=8, perf_depth=2, **SMALL),
    ArchConfig(name="four", cores=4, ports=2, lanes=8, ppu=4, perf_depth=5, **SMALL),
    ArchConfig(
        name="wide", cores=2, ports=2, lanes=16, ppu=8, segment_fifo=2, word_fifo=2, row_fifo=2, **SMALL | {"weight_depth": 500}
    ),
]


def pack(values, bits: int) -> int:
    return sum((int(v) & ((1 << bits) - 1)) << i * bits for i, v in enumerate(values))


def unpack(word: int, bits: int, count: int) -> list[int]:
    fields = [word >> i * bits & ((1 << bits) - 1) for i in range(count)]
    return [f - (1 << bits) if f >> (bits - 1) else f for f in fields]


@cache
def compiled(arch: ArchConfig) -> tuple[Simulator, list, count]:
    """The cluster, compiled for Amaranth's simulator once; a list off which a run takes its testbench; and how many ran before."""
    dut, job = Cluster(arch), []

    async def testbench(ctx):
        await job.pop()(ctx, dut)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    return simulator, job, count()


def simulate(arch: ArchConfig, rows: dict[Region, np.ndarray], limit: int, reads: list[tuple[Region, int]]):
    """Writes `rows` through the window, runs to the halt, reads rows back. Returns (trap, pc, cycles, ops, read rows).

    Images of regions in `PER_CORE` have a leading core axis.
    """
    bits = {
        Region.IMEM: 32,
        Region.WEIGHT: 8,
        Region.MASK: 1,
        Region.PARAM: 32,
        Region.TABLE: arch.event_bits,
        Region.ACT: arch.event_bits,
        Region.STATE: 32,
    }
    results = []

    async def testbench(ctx, dut):
        window, control = dut.window, dut.control
        for region, image in rows.items():
            ctx.set(window.region, region)
            for core, part in enumerate(image if region in PER_CORE else [image]):
                for i, row in enumerate(part):
                    ctx.set(window.row, core * region_stride(arch, region) + i)
                    value = pack(np.atleast_1d(row), bits[region])
                    width = len(window.wdata)
                    ctx.set(window.we, 1)
                    for piece in range(-(-region_bits(arch, region) // width)):
                        ctx.set(window.piece, piece)
                        await ctx.tick()
                        ctx.set(window.wdata, value >> width * piece & ((1 << width) - 1))
                        ctx.set(window.whole, value if region == Region.ACT and piece == 0 else 0)
            ctx.set(window.we, 0)
            await ctx.tick()
            ctx.set(window.wdata, 0)
        ctx.set(control.limit, limit)
        ctx.set(control.start, 1)
        await ctx.tick()
        ctx.set(control.start, 0)
        for _ in range(limit + 40):
            if ctx.get(control.halted):
                break
            assert ctx.get(control.running)
            await ctx.tick()
        results.extend(ctx.get(s) for s in (control.trap, control.pc, control.cycles, control.ops))
        assert not ctx.get(control.running)
        data = []
        for region, row in reads:
            ctx.set(window.region, region)
            ctx.set(window.row, row)
            value, width = 0, len(window.rdata)
            for piece in range(-(-region_bits(arch, region) // width)):
                ctx.set(window.piece, piece)
                await ctx.tick().repeat(Latencies(arch).window)
                value |= ctx.get(window.rdata) << width * piece
            data.append(value)
        results.append(data)

    simulator, job, runs = compiled(arch)
    job.append(testbench)
    if next(runs):
        simulator.reset()
    simulator.run()
    return results


def check(arch: ArchConfig, ops, rng: np.random.Generator):
    """Runs `ops` on random images: memories and records must be those of the models."""
    segment = random_images(rng, arch, ops)
    machine = random_machine(rng, arch)
    rows = {
        Region.IMEM: segment.imem,
        Region.WEIGHT: segment.weight,
        Region.MASK: segment.mask,
        Region.PARAM: segment.param_words(),
        Region.TABLE: segment.table,
        Region.ACT: machine.act[0].copy(),
        Region.STATE: machine.state[0].copy(),
    }
    timing = SegmentTiming(arch, segment, 1)
    machine.run(segment, timing.observe)
    expected = timing.records()[0]
    logged = min(len(expected), arch.perf_depth)
    reads = [(Region.ACT, i) for i in range(arch.act_depth)]
    for region, depth in ((Region.STATE, arch.state_depth), (Region.PERF, logged * len(PERF_FIELDS))):
        reads += [(region, c * region_stride(arch, region) + i) for c in range(arch.cores) for i in range(depth)]

    trap, pc, cycles, started, data = simulate(arch, rows, segment.cycle_limit, reads)
    assert trap == Trap.NONE and started == len(ops) and pc == len(segment.imem) - 1
    act = np.array([unpack(w, arch.event_bits, arch.lanes) for w in data[: arch.act_depth]])
    state = np.array([unpack(w, 32, arch.ppu) for w in data[arch.act_depth :][: machine.state[0, ..., 0].size]])
    records = np.array(data[arch.act_depth + len(state) :]).reshape(arch.cores, logged, len(PERF_FIELDS))
    np.testing.assert_array_equal(act, machine.act[0])
    np.testing.assert_array_equal(state.reshape(machine.state[0].shape), machine.state[0])
    np.testing.assert_array_equal(records.swapaxes(0, 1), expected[:logged])
    assert cycles == expected[:, 0, : len(isa.Cause)].sum()


@pytest.mark.parametrize("case", [pytest.param(n, marks=[pytest.mark.slow] * (n > 1)) for n in range(6)])
def test_random_operations(case, seed):
    """One core and two; the slow ones have the other architectures. `test_raw_operations` runs hundreds of cases natively."""
    rng = np.random.default_rng([*seed, case])
    arch = ARCHS[case % len(ARCHS)]
    check(arch, [random_op(rng, arch) for _ in range(rng.integers(1, 6))], rng)


OPERATION = "\n".join(
    f"SET {r}, 1" for r in ("OH", "OW", "KH", "KX", "SPAN", "WORDS", "H", "W", "REPY", "REPX", "DRAIN", "SPLIT", "SLICES", "RUN")
)
"""A 1x1 operation on word 0, weight row 0, mask row 0, into word 0."""


@pytest.mark.parametrize(
    ("text", "cause", "pc"),
    [
        (".word 0x00000000", Trap.OPCODE, 0),
        (".word 0xffffffff", Trap.OPCODE, 0),
        (OPERATION + "\n.word 0x30000300", Trap.OPCODE, 14),  # VEC with mode 3
        (OPERATION + "\n.word 0x30000208", Trap.OPCODE, 14),  # VEC MAX, RESIDUAL
        (OPERATION + "\n.word 0x20000100", Trap.OPCODE, 14),  # CONV with a mode
        (OPERATION + "\n.word 0x20000040", Trap.OPCODE, 14),  # CONV with a flag that is not there
        (".word 0x1fc00000", Trap.REGISTER, 0),
        ("CONV", Trap.CONFIG, 0),
        (OPERATION + "\nSET DRAIN, 3\nCONV", Trap.CONFIG, 15),
        (OPERATION + "\nSET TABLE, 2\nCONV TABLE", Trap.CONFIG, 15),
        (OPERATION + "\nSET SPLIT, 3\nCONV", Trap.CONFIG, 15),
        (OPERATION + "\nSET SPLIT, 2\nCONV", Trap.CONFIG, 15),
        (OPERATION + "\nSET SLICES, 2\nCONV", Trap.CONFIG, 15),
        (OPERATION + "\nSET RUN, 9\nCONV", Trap.CONFIG, 15),
        (OPERATION + "\nSET RUN, 2\nCONV SINK", Trap.CONFIG, 15),
        (OPERATION + "\nCONV WINDOW", Trap.CONFIG, 14),
        (OPERATION + "\nSET WORDS, 2\nVEC MAC, WINDOW", Trap.CONFIG, 15),
        (OPERATION + "\nSET KX, 5\nVEC MAC, WINDOW", Trap.CONFIG, 15),
        ("WAIT", Trap.WAIT, 0),
        (OPERATION + "\nCONV\nWAIT\nWAIT", Trap.WAIT, 16),
        (OPERATION + "\nSET A_BASE, 512\nCONV\nHALT", Trap.ACT_READ, None),
        (OPERATION + "\nSET O_BASE, 512\nCONV\nHALT", Trap.ACT_WRITE, None),
        (OPERATION + "\nSET W_BASE, 352\nCONV\nHALT", Trap.WEIGHT, None),
        (OPERATION + "\nSET M_BASE, 40\nCONV\nHALT", Trap.MASK, None),
        (OPERATION + "\nSET P_BASE, 16\nCONV\nHALT", Trap.PARAM, None),
        (OPERATION + "\nSET S_BASE, 168\nCONV SINK\nHALT", Trap.STATE, None),
        (OPERATION + "\nSET R_BASE, 512\nCONV RESIDUAL\nHALT", Trap.ACT_READ, None),
        (OPERATION + "\nSET OH, 4095\nSET OW, 4095\nCONV\nHALT", Trap.CYCLES, None),
        ("SET OH, 1\n" * 256, Trap.END, 256),
    ],
)
def test_traps(text, cause, pc):
    """The cause of each trap; for the sequencer's own also the instruction, and the golden machine traps alike."""
    arch = ARCHS[0]
    imem = assemble(text)
    ones = np.ones((2, arch.lanes), np.int16)
    rows = {Region.IMEM: imem, Region.ACT: ones, Region.MASK: ones[None], Region.WEIGHT: ones[None]}
    trap, at, cycles, _, _ = simulate(arch, rows, 2000, [])
    assert trap == cause and cycles <= 2001
    assert pc is None or at == pc

    machine = Machine(arch)
    machine.store(np.arange(2), ones[None])
    machine.mask[:, :2] = True
    empty = np.zeros((arch.cores, 0, arch.ppu), np.int32)
    segment = Segment(imem, machine.weight, machine.mask, empty, empty, empty, empty, machine.table, [], 2000)
    with pytest.raises(Exception) as caught:
        machine.run(segment)
    assert caught.value.cause is cause and (pc is None or caught.value.pc == pc)


def test_a_run_without_a_limit_traps_at_once():
    trap, _, cycles, _, _ = simulate(ARCHS[0], {Region.IMEM: assemble("HALT")}, 0, [])
    assert trap == Trap.CYCLES and cycles == 1


@pytest.mark.parametrize("arch", [ARCHS[0], ARCHS[1], ArchConfig(mantissa_bits=8), ArchConfig(event_bits=8, mantissa_bits=2)])
def test_requantiser(arch, rng):
    """The gateware's requantiser is `numbers.requantise` and a clamp, one result per cycle; bounds follow their value."""
    n = 900
    span = 10.0 ** rng.integers(0, 10, n)
    least, most = -(1 << 31), (1 << 31) - 1
    acc = (rng.uniform(-1, 1, n) * span * 2).clip(least, most).astype(np.int64)
    acc[:4] = [least, most, -1, 0]
    bias = (rng.uniform(-1, 1, n) * span).clip(least, most).astype(np.int64)
    mantissa, shift = rng.integers(0, 1 << arch.mantissa_bits, n), rng.integers(0, 32, n)
    # A third of them is at the edge of saturation.
    limit = np.ldexp(rng.choice([-1.0, 1.0], n), arch.requant_bits - 1 - REQUANT_FRACTION + shift)
    edge = (rng.random(n) < 1 / 3) & (np.abs(limit) < most / 2)
    acc[edge] = (limit + rng.integers(-2, 3, n) * 2.0 ** (shift - rng.integers(0, 12, n)))[edge].clip(least, most)
    bias[edge] = 0
    bound = 1 << (isa.REGISTERS["LO"].bits - 1)
    low, high = np.sort(rng.integers(-bound, bound, (2, n)), axis=0)
    wide = rng.random(n) < 0.5
    low[wide], high[wide] = -bound, bound - 1
    expected = numbers.requantise(acc, bias, mantissa, shift, arch).clip(low, high)
    dut = Requantiser(arch)
    clamp = {"minus_lo": -low, "span": low - high, "hi": high}

    async def testbench(ctx):
        for i in range(n + REQUANT_LATENCY):
            if i < n:
                for name, values in (("acc", acc), ("bias", bias), ("mantissa", mantissa), ("shift", shift)):
                    ctx.set(getattr(dut, name), int(values[i]))
            for late, (name, values) in enumerate(clamp.items(), CLAMP_DELAY):
                if late <= i < n + late:
                    ctx.set(dut.clamp[name], int(values[i - late]))
            if i >= REQUANT_LATENCY:
                assert ctx.get(dut.y) == expected[i - REQUANT_LATENCY], i - REQUANT_LATENCY
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()
