"""The timing model by itself: conservation of cycles, words and events, and cases computed by hand.

That its cycles are the gateware's is in test_equivalence.py.
"""

import dataclasses

import numpy as np
import pytest

from raw_ops import ARCHS, RawOp, random_activations, random_images, random_op
from sordino_hw.spec import latencies as c
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.asm import NO_FLAGS, Assembler
from sordino_hw.spec.errors import BinaryError, TrapError
from sordino_hw.spec.geometry import geometry, residual_addresses
from sordino_hw.spec.isa import PERF_FIELDS, RECORD_CYCLES, REGISTERS, RUN_MAX, Cause, Flag, Mode, Opcode, Trap
from sordino_hw.spec.program import Op, Segment
from sordino_hw.spec.structure import job_depth
from sordino_sim.golden.machine import Machine
from sordino_sim.timing import pipeline
from sordino_sim.timing.clock import Clock
from sordino_sim.timing.model import SegmentTiming

CLUSTER = ARCHS[1].replace(cores=8, ports=2, ppu=4)
FIELD = {name: i for i, name in enumerate(PERF_FIELDS)}
ONE = dict(OH=1, OW=1, KH=1, KX=1, SPAN=1, WORDS=1, H=1, W=1, REPY=1, REPX=1, SY=1, SX=1, DY=1, DX=1, W_WORD=8, M_SPAN=1,
           DRAIN=1, HI=255, SPLIT=1, SLICES=1, RUN=1)  # fmt: skip


def segment_of(arch: ArchConfig, ops: list[RawOp], wait: bool = False, **images) -> Segment:
    """Runs `ops`; all weights are 1 unless `images` says otherwise."""
    a = Assembler()
    for op in ops:
        if op.opcode is Opcode.CONV:
            a.conv(op.flags, **op.regs)
        else:
            a.vec(op.mode, op.flags, **op.regs)
        if wait:
            a.wait()
    a.halt()
    params = {name: np.zeros((arch.cores, arch.param_depth, arch.ppu), np.int32) for name in ("bias", "shift", "threshold")}
    default = dict(
        weight=np.ones((arch.cores, arch.weight_depth, arch.lanes), np.int8),
        mask=np.ones((arch.cores, arch.mask_depth, arch.lanes), bool),
        mantissa=np.ones((arch.cores, arch.param_depth, arch.ppu), np.int32),
        table=np.zeros(0, np.int16),
        **params,
    )
    return Segment(imem=a.imem, ops=[Op(0, (1,))] * len(ops), cycle_limit=1 << 20, **{**default, **images})


def run(arch: ArchConfig, segment: Segment, act: np.ndarray) -> tuple[np.ndarray, Machine]:
    """Records int64 [batch, records, cores, fields], and the machine afterwards."""
    machine = Machine(arch, len(act))
    machine.store(np.arange(act.shape[1]), act)
    timing = SegmentTiming(arch, segment, len(act))
    machine.run(segment, timing.observe)
    return timing.records(), machine


def cycles(records: np.ndarray) -> np.ndarray:
    return records[..., : len(Cause)].sum(-1)


# -- conservation --------------------------------------------------------------------------------------------------


def words_of(op: RawOp, arch: ArchConfig, occupied: np.ndarray) -> tuple[int, int, int]:
    """(words read, of them residual, empty words skipped) of an operation, by the definition."""
    addresses = geometry(op.regs, arch).addresses()
    addresses = addresses[addresses >= 0]
    residual = residual_addresses(op.regs, arch).reshape(-1) if Flag.RESIDUAL in op.flags else np.zeros(0, int)
    if Flag.DENSE in op.flags:
        return len(addresses) + len(residual), len(residual), 0
    read, rest = int(occupied[addresses].sum()), int(occupied[residual].sum())
    return read + rest, rest, len(addresses) + len(residual) - read - rest


@pytest.mark.parametrize("arch", [*ARCHS, CLUSTER], ids=lambda a: f"{a.cores}-cores")
def test_every_cycle_word_and_event_is_counted_once(arch, seed):
    """Whatever the order in which operations overlap, and whichever record's cycles an item falls into."""
    arch = arch.replace(wide_cycles=2)  # so that the cycles of a word follow from the word alone
    for case in range(25):
        rng = np.random.default_rng([*seed, case])
        ops = [random_op(rng, arch) for _ in range(rng.integers(1, 9))]
        segment = random_images(rng, arch, ops)
        machine = Machine(arch)
        machine.store(np.arange(arch.act_depth), random_activations(rng, arch, 1))
        timing = SegmentTiming(arch, segment, 1)
        want = dict.fromkeys(("words", "skipped", "busy"), 0)

        def observe(number, step, machine, ops=ops, timing=timing, want=want):
            op, slices = ops[number], step.regs["SLICES"]
            words, residual, skipped = words_of(op, arch, machine.occupancy[0])
            want["words"] += words
            want["skipped"] += skipped
            want["busy"] += residual * (1 if op.mode is Mode.PRODUCT else 2)
            if op.opcode is Opcode.VEC:
                want["busy"] += (words - residual) * slices * (2 if op.mode is Mode.MAC2 else 1)
            timing.observe(number, step, machine)

        counts = machine.run(segment, observe)
        want["busy"] += sum(int(counts.events[0, i].sum()) for i, op in enumerate(ops) if op.opcode is Opcode.CONV)
        records = timing.records()[0]
        assert records.shape == (len(ops) + 1, arch.cores, len(PERF_FIELDS)) and (records >= 0).all()
        assert (cycles(records) == cycles(records)[:, :1]).all(), "a record has the same cycles on every core"
        assert (cycles(records)[1:-1] >= RECORD_CYCLES).all()
        assert not records[..., FIELD["memory"]].any()
        for name, count in want.items():
            assert records[..., FIELD[name]].sum() == count, (name, seed, case)


def test_cores_that_an_operation_lacks_idle_with_it():
    act = np.ones((1, 64, 8), np.int16)
    op = RawOp(
        Opcode.CONV, NO_FLAGS, Mode.MAC, {**ONE, "OW": 6, "W": 6, "A_OX": 1, "O_BASE": 100, "O_OX": 2, "SPLIT": 2, "SLICES": 2}
    )
    records, _ = run(CLUSTER, segment_of(CLUSTER, [op]), act)
    work = records[0, :, :, [FIELD[name] for name in ("busy", "ppu", "marker")]].sum((0, 1))
    assert (work[:4] > 0).all() and not work[4:].any()
    assert (records[0, :, 2:, FIELD["words"]] == 0).all() and records[0, :, :2, FIELD["words"]].sum() == 6
    assert (records[0, :, :, FIELD["idle"]] == records[0, :, :1, FIELD["idle"]]).all()


def test_lanes_keep_the_last_wide_weight():
    """Two cycles where its rows are new, one where they are those of the word before, on each core; other items do not count."""
    act = np.ones((1, 64, 8), np.int16)
    regs = {**ONE, "OW": 6, "W": 6, "A_OX": 1, "R_OX": 1, "R_W": 40, "O_BASE": 100, "O_OX": 2, "SPLIT": 2, "SLICES": 2}
    ops = [RawOp(Opcode.CONV, Flag.RESIDUAL, Mode.MAC, {**regs, "R_W": row}) for row in (40, 40, 42)]
    for wide_cycles, want in ((1, (6 + 2, 6, 6 + 2)), (2, (12, 12, 12))):  # of each slice: a core for each of the two groups
        arch = CLUSTER.replace(wide_cycles=wide_cycles)
        records, _ = run(arch, segment_of(arch, ops), act)
        busy = records[0, :, :, FIELD["busy"]].sum()
        assert busy == 2 * sum(6 * 8 + cycles for cycles in want)


# -- values do not depend on how the cores are used --------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [Opcode.CONV, Opcode.VEC])
def test_groups_runs_and_the_window_change_no_value(opcode, rng):
    regs = {**ONE, "OH": 5, "OW": 7, "KH": 3, "KX": 3, "H": 5, "W": 7, "IY0": -1, "IX0": -1, "A_BASE": -8, "A_OY": 7, "A_OX": 1,
            "A_KY": 7, "A_KX": 1, "W_SPAN": 8, "O_BASE": 200, "O_OY": 7, "O_OX": 1, "DRAIN": 2}  # fmt: skip
    weight = rng.integers(-9, 10, (CLUSTER.weight_depth, 8)).astype(np.int8)
    shift = np.full((8, CLUSTER.param_depth, 4), 2, np.int32)
    act = rng.integers(0, 9, (1, 64, 8)) * (rng.random((1, 64, 1)) < 0.6)
    outputs, lengths = [], []
    for split in (1, 2, 4, 8):
        for runs in (1, 3, 8):
            for flag in (NO_FLAGS, Flag.WINDOW) if opcode is Opcode.VEC else (NO_FLAGS,):
                op = RawOp(opcode, flag, Mode.MAC, {**regs, "SPLIT": split, "RUN": runs})
                segment = segment_of(CLUSTER, [op], weight=np.stack([weight] * 8), shift=shift)
                records, machine = run(CLUSTER, segment, act.astype(np.int16))
                outputs.append(machine.act[0, 200:235])
                lengths.append(int(cycles(records)[0, :, 0].sum()))
                assert records[..., FIELD["words"]].sum() == words_of(op, CLUSTER, act.any(-1)[0])[0], (
                    "a word from the window counts too"
                )
    assert outputs[0].any() and all(np.array_equal(out, outputs[0]) for out in outputs)
    assert len(set(lengths)) > 4, "time does depend on it"


def test_the_window_saves_slots():
    """8 groups on 2 ports read every fourth cycle; words from the window need no read."""
    regs = {**ONE, "OH": 8, "OW": 24, "KX": 4, "H": 8, "W": 27, "A_OY": 27, "A_OX": 1, "A_KX": 1, "O_BASE": 250, "O_OY": 24, "O_OX": 1,
            "SPLIT": 8, "RUN": 8}  # fmt: skip
    act = np.ones((1, 216, 8), np.int16)
    taken = [
        int(cycles(run(CLUSTER, segment_of(CLUSTER, [RawOp(Opcode.VEC, flag, Mode.MAC, regs)]), act)[0])[0, 0, 0])
        for flag in (NO_FLAGS, Flag.WINDOW)
    ]
    assert taken[1] < taken[0] * 0.7


# -- by hand -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("events", [0, 1, 5, 8])
def test_one_output(events):
    """The way of a single output through every stage of one core."""
    arch = CLUSTER.replace(cores=1, ports=1)
    latency = c.Latencies(arch)
    act = np.zeros((1, 64, 8), np.int16)
    act[0, 3, :events] = 7
    op = RawOp(Opcode.CONV, NO_FLAGS, Mode.MAC, {**ONE, "A_BASE": 3, "O_BASE": 40, "DRAIN": 2})
    segment = segment_of(arch, [op])
    started = latency.start + len(segment.imem) - 2 + c.START_LATENCY
    deal = started + c.DISPATCH_LATENCY
    job = deal + latency.fifo
    walked = job + 1
    clipped = walked + latency.clip
    split = clipped + latency.split
    request = split + 1
    scanned = request + latency.row
    word = scanned + latency.word
    segmented = word + 1
    issue = segmented + latency.fifo
    closed = issue + max(events, 1) - 1
    recorded = closed + c.CLOSE_LATENCY
    stored = closed + latency.shadow + 1 + latency.store
    halted = max(stored + c.DONE_LATENCY, recorded + RECORD_CYCLES)
    (records,), _ = run(arch, segment, act)
    busy, marker = (events, 0) if events else (0, 1)
    fetch = recorded - started - busy - marker
    assert records[0, 0].tolist() == [busy, fetch, 0, marker, 0, started + 1, int(events > 0), int(events == 0)]
    assert records[1, 0].tolist() == [0, 0, 0, 0, 0, halted - recorded, 0, 0]


def deals(spans: int, split: int, runs: int, outputs: int, stateful: bool) -> tuple[int, list[int]]:
    """Of an operation started in cycle 0, each output of which walks `spans` spans and reads a word: the last deal, and the
    words that each fetcher read."""
    arch, clock = CLUSTER, Clock(CLUSTER)
    regs = {**dict.fromkeys(REGISTERS, 0), **ONE, "OW": outputs, "KH": spans, "W": outputs, "A_OX": 1, "SPLIT": split, "RUN": runs}
    clock.run(
        0,
        registers=regs,
        kind=pipeline.EVENT,
        dense=False,
        residual=False,
        product=False,
        window=False,
        stateful=stateful,
        started=0,
        nonzero=np.full((64, 1), 1, np.uint8),
        occupied=np.ones(64, bool),
        masks=np.full((arch.cores, 64, 1), 255, np.uint8),
    )
    return clock.dispatched, clock.record(0)[:, FIELD["words"]].tolist()


def test_dealing():
    """Deals of single outputs to two groups, from cycle 2 on. The job dealt in t leaves its FIFO in t + 2, if the walker is done with
    the one before; a group can have two, and a third three cycles after the first has left: group 0 in cycles 2, 3, 7 and 8, group
    1 in 4 and 5."""
    assert (c.DISPATCH_LATENCY, c.Latencies(CLUSTER).fifo, c.FREE_LATENCY) == (2, 2, 3)
    assert deals(1, 2, 1, 6, False) == (8, [4, 2, 0, 0, 0, 0, 0, 0])
    # Of four groups the lowest that is free gets the next output: group 0 again in 7, and group 3 none.
    assert deals(1, 4, 1, 6, False) == (7, [3, 2, 1, 0, 0, 0, 0, 0])
    # In turn instead, group 3 has its share.
    assert deals(1, 4, 1, 6, True) == (7, [2, 2, 1, 1, 0, 0, 0, 0])


def test_runs_are_dealt_together():
    """Runs of two: outputs 0, 1 to group 0 in cycles 2, 3, and 2, 3 to group 1. The first job of group 0 leaves in 4, so the third
    run goes there in 7."""
    assert deals(1, 2, 2, 6, False) == (8, [4, 2, 0, 0, 0, 0, 0, 0])
    # The last run of a row is what is left of it.
    assert deals(1, 2, 4, 5, False) == (6, [4, 1, 0, 0, 0, 0, 0, 0])


def test_slow_walks_hold_the_dealer_back():
    """Walking an output takes 10 cycles: group 0 takes the job of cycle 2 in 4, and the next with the last span of the first; the
    fourth can be dealt only after that."""
    spans = 10
    assert deals(spans, 1, 1, 3, False)[0] == c.DISPATCH_LATENCY + c.Latencies(CLUSTER).fifo + c.FREE_LATENCY
    assert deals(spans, 1, 1, 4, False)[0] == c.DISPATCH_LATENCY + c.Latencies(CLUSTER).fifo + spans + c.FREE_LATENCY


def test_a_run_fits_the_job_fifo():
    """The pipeline model relies on it: a run is dealt behind one job at most."""
    assert job_depth(CLUSTER) > RUN_MAX


# -- refusals ------------------------------------------------------------------------------------------------------


def test_groups_must_hold_the_same_rows():
    op = RawOp(Opcode.CONV, NO_FLAGS, Mode.MAC, {**ONE, "SPLIT": 2, "SLICES": 2, "W_BASE": 16, "P_BASE": 3, "O_BASE": 40})
    act = np.ones((1, 64, 8), np.int16)
    for name, row in (("weight", 16), ("mask", 0), ("bias", 3), ("threshold", 3)):
        for core in range(4):
            segment = segment_of(CLUSTER, [op, dataclasses.replace(op)])
            image = getattr(segment, name)
            image[core, 5 if row != 5 else 6] ^= image.dtype.type(1)  # a row that the operation does not use
            run(CLUSTER, segment, act)
            image[core, row] ^= image.dtype.type(1)
            with pytest.raises(BinaryError) as caught:
                run(CLUSTER, segment, act)
            assert str(caught.value) == (
                f"operation 0, instruction {len(segment.imem) - 3}: its 2 groups of cores would compute different values, because "
                f"their {name} memories differ in rows that it uses. Give core c of a segment's images the rows of core c - c % 2, "
                "or compile the model again."
            )
    segment = segment_of(CLUSTER, [op])
    segment.weight[:] = np.arange(8)[:, None, None] // 2  # slices differ, groups do not
    run(CLUSTER, segment, act)


def test_cycle_limit():
    op = RawOp(Opcode.CONV, NO_FLAGS, Mode.MAC, {**ONE, "O_BASE": 40})
    segment, act = segment_of(CLUSTER, [op]), np.ones((1, 64, 8), np.int16)
    total = int(cycles(run(CLUSTER, segment, act)[0])[0, :, 0].sum())
    segment.cycle_limit = total
    run(CLUSTER, segment, act)
    segment.cycle_limit = total - 1
    with pytest.raises(TrapError, match=rf"^trap CYCLES: .*: the run takes {total} cycles, its limit is {total - 1}$") as caught:
        run(CLUSTER, segment, act)
    assert caught.value.cause is Trap.CYCLES
