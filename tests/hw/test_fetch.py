"""The fetch side of the cluster in Amaranth's simulator: which outputs, rows and words move, and in which cycle.

Dispatcher and fetchers run random operations while cores close outputs and have credit at random. The reference takes
those two as they were in every cycle and says when everything must have happened.
"""

from dataclasses import dataclass, field

import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, connect, flipped
from amaranth.sim import Simulator

from sordino_hw.gateware.dispatcher import Dispatcher
from sordino_hw.gateware.fetch.fetcher import Fetcher
from sordino_hw.gateware.layouts import DISPATCH_REGISTERS, TAP_REGISTERS, DispatchDescriptor, TapDescriptor
from sordino_hw.gateware.lib.combinators import count_ones
from sordino_hw.gateware.lib.fifo import Credit, fifo_for
from sordino_hw.gateware.primitives import BlockMemory
from sordino_hw.spec import isa
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.latencies import DISPATCH_LATENCY, FREE_LATENCY, SPLIT_LATENCY, Latencies
from sordino_hw.spec.structure import Kind, job_depth, output_depth, reads_late

BASE = {"lanes": 8, "ppu": 4, "act_depth": 256, "weight_depth": 64, "mask_depth": 64, "param_depth": 16, "state_depth": 16}
ACT, WEIGHT, MASK, STATE = 512, 128, 128, 32
"""Addresses of each memory: twice its rows."""


# -- operations ----------------------------------------------------------------------------------------------------


@dataclass
class Op:
    regs: dict[str, int]
    kind: Kind
    dense: bool = False
    residual: bool = False
    window: bool = False
    stateful: bool = False


def random_op(rng, arch: ArchConfig, window=False) -> Op:
    """An operation whose words lie in activation memory, whatever it does at the edges of its image."""

    def pick(low, high):
        return int(rng.integers(low, high + 1))

    r = dict.fromkeys(isa.REGISTERS, 0)
    kind = Kind(pick(1, 3) if window else pick(0, 3))
    groups = 1 << pick(0, arch.cores.bit_length() - 1)
    slices = pick(1, arch.cores // groups)
    channels = pick(1, 3)
    width = pick(1, 6 if rng.random() < 0.5 else 24)
    height = pick(1, min(6, 200 // (width * channels)))
    r.update(
        H=height, W=width, OH=pick(1, 4), OW=pick(1, 9), KH=pick(1, 3), SY=pick(1, 2), SX=pick(1, 2), DY=pick(1, 2), DX=pick(1, 2)
    )
    r.update(REPY=pick(1, 2), REPX=pick(1, 2), IY0=-pick(0, 2), IX0=-pick(0, 4))
    if window:
        r.update(KH=pick(1, 4), KX=pick(1, 4), SX=pick(0, 5), SPAN=1, WORDS=1, DX=1, REPX=1)
    elif rng.random() < 0.5:
        r.update(KX=1, SPAN=pick(1, 8), WORDS=channels)
    else:
        r.update(KX=pick(1, 3), SPAN=1, WORDS=pick(1, channels))
    base = pick(0, arch.act_depth - width * height * channels)
    r.update(A_BASE=base + (r["IY0"] * width + r["IX0"]) * channels, A_OY=r["SY"] * width * channels, A_OX=r["SX"] * channels)
    r.update(A_KY=r["DY"] * width * channels, A_KX=r["DX"] * channels)
    r.update(W_BASE=pick(0, 4000), W_SPAN=pick(0, 300), W_WORD=pick(0, 255), M_BASE=pick(0, 4000), M_SPAN=pick(0, 300))
    r.update(R_BASE=pick(0, 60), R_OX=pick(0, 3), R_OY=pick(0, 50), R_W=pick(0, 4000))
    r.update(O_BASE=pick(0, 4000), O_OY=pick(0, 99), O_OX=pick(0, 9), S_BASE=pick(0, 99), DRAIN=pick(1, 2))
    stateful = not window and rng.random() < 0.3
    r.update(SPLIT=groups, SLICES=slices, RUN=1 if stateful else pick(1, isa.RUN_MAX))
    r = {name: value % (1 << isa.register_bits(arch, name)) if isa.REGISTERS[name].region else value for name, value in r.items()}
    residual = kind is not Kind.MAX and rng.random() < 0.4
    return Op(r, kind, dense=rng.random() < 0.15, residual=residual, window=window, stateful=stateful)


# -- the reference -------------------------------------------------------------------------------------------------


@dataclass
class Trace:
    """What happened: events as tuples that begin with their cycle; cycles in which each core closed an output; and the credit of
    every cycle."""

    closes: list[list[int]] = field(default_factory=list)
    credit: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    events: dict[str, list] = field(default_factory=lambda: {name: [] for name in EVENTS})


EVENTS = ("dispatch", "output", "dispatched", "take", "read", "mask", "word", "counts", "drained")


class FetcherModel:
    """Times of one fetcher, job by job."""

    def __init__(self, arch: ArchConfig, index: int, act, trace: Trace, expected: dict):
        self.arch, self.index, self.act, self.trace, self.expected = arch, index, act, trace, expected
        self.latency = Latencies(arch)
        self.jobs_taken = [-FREE_LATENCY] * job_depth(arch)
        self.walked = self.clipped = self.taken = self.split = self.scanned = -1
        self.row_pops = [-1] * arch.row_fifo
        self.zero = False

    def run(self, op: Op, dispatch: int, fresh: bool, iy0: int, ix0: int, a0: int, r0: int, to: list[int]) -> int:
        """An output that is dispatched in cycle `dispatch`, to the cores `to`. Returns the cycle of its last request."""
        r = op.regs
        self.walked = max(dispatch + self.latency.fifo, self.walked)
        self.jobs_taken.append(self.walked)
        w, m = r["W_BASE"], r["M_BASE"]
        for ky in range(r["KH"]):
            for kx in range(r["KX"]):
                iy, ix = iy0 + ky * r["DY"], ix0 + kx * r["DX"]
                pixels = [p for p in range(r["SPAN"]) if 0 <= iy < r["H"] and 0 <= ix + p < r["W"]]
                a = a0 + ky * r["A_KY"] + kx * r["A_KX"]
                words = [(a + q, q) for p in pixels for q in range(p * r["WORDS"], (p + 1) * r["WORDS"])]
                end = (ky, kx) == (r["KH"] - 1, r["KX"] - 1) and not op.residual
                reuse = op.window and not fresh and 0 < r["SX"] < r["KX"] - kx
                self._span(op, words, w, m, op.kind, end, end, to, to, reuse)
                w, m = w + r["W_SPAN"], m + r["M_SPAN"]
        if op.residual:
            for s, c in enumerate(to):
                self._span(op, [(r0 + s, 0)], r["R_W"], 0, Kind.MAC2, True, c == to[-1], [c], to, False)
        return self.scanned

    def _span(self, op, words, w, m, kind, end, last, to, group, reuse):
        walked = max(self.walked + 1, self.clipped)
        clipped = max(walked + self.latency.clip, self.taken)
        taken = max(clipped + self.latency.split, self.split)
        if self.latency.split == 0:
            clipped = taken
        self.walked, self.clipped, self.taken, self.split = walked, clipped, taken, taken + 1
        words = [(a % ACT, q) for a, q in words]
        width = self.arch.occ_width
        rows = [[(a, q) for a, q in words if a // width == row] for row in sorted({a // width for a, _ in words})]
        if end and not rows:
            rows = [[]]
        request = taken
        for i, row in enumerate(rows):
            request = max(request, self.row_pops[-self.arch.row_fifo]) + 1
            self.split = request
            arrived = max(self.scanned + 1, request + self.latency.row)
            final = i == len(rows) - 1
            self._row(op, row, w, m, kind, end and final, last and final, to, group, reuse, arrived)
            self.row_pops.append(self.scanned)

    def _row(self, op, row, w, m, kind, end, last, to, group, reuse, time):
        wanted = [(a, q) for a, q in row if op.dense or any(self.act[a])]
        skipped = len(row) - len(wanted)
        self.zero |= skipped > 0
        n = max(1, op.regs["SPLIT"] // self.arch.ports)
        items = wanted or ([None] if end else [])
        for i, item in enumerate(items):
            while not (
                all(self.trace.credit[time] >> c & 1 for c in group)
                and (item is None or reuse or time % n == self.index // self.arch.ports % n)
            ):
                time += 1
            ends = end and i == len(items) - 1
            self._request(op, item, w, m, kind, ends, ends and last, to, reuse, time)
            self.expected["counts"].append((time, self.index, int(item is not None), skipped if i == len(items) - 1 else 0))
            time += i < len(items) - 1
        if not items:
            self.expected["counts"].append((time, self.index, 0, skipped))
        if end:
            self.zero = False
        self.scanned = time

    def _request(self, op, item, w, m, kind, end, last, to, reuse, time):
        mask = sum(1 << c for c in to)
        add = self.expected
        add["take"].append((time, self.index, mask))
        if last:
            add["drained"].append((time, self.index))
        lanes = self.arch.lanes
        if item is None:
            act, live, row = [0] * lanes, 0, None
        else:
            a, q = item
            act = [int(v) for v in self.act[a]]
            live = (1 << lanes) - 1 if op.dense else sum(1 << i for i, v in enumerate(act) if v)
            row = (w + q * op.regs["W_WORD"]) % WEIGHT
            if not reuse or self.arch.ports == self.arch.cores:
                add["read"].append(
                    (time + self.latency.read - self.latency.memory - (self.latency.read > self.latency.memory) * 2, self.index, a)
                )
            if kind is Kind.EVENT:
                add["mask"].append((time + self.latency.read - self.latency.memory, self.index, mask, (m + q) % MASK))
        # What says that a word was skipped is read with the end of an output.
        zero = self.zero if end else None
        add["word"].append((time + self.latency.read, self.index, mask, act, live, row, kind, int(item is None), int(end), zero))


def reference(arch: ArchConfig, ops: list[Op], act, trace: Trace) -> dict[str, list]:
    """The events that must have happened, from the operations' starts and the cores' closes and credit."""
    expected: dict[str, list] = {name: [] for name in EVENTS}
    fetchers = [FetcherModel(arch, g, act, trace, expected) for g in range(arch.cores)]
    dispatched, ended, groups_before = -1, -(10**6), 0
    outputs = [0] * arch.cores

    def room(core: int, time: int) -> bool:
        """Whether a core can be dispatched another output."""
        before = outputs[core] - output_depth(arch)
        return before < 0 or (before < len(trace.closes[core]) and trace.closes[core][before] + FREE_LATENCY <= time)

    def ahead(fetcher: FetcherModel, time: int) -> bool:
        """Whether no job, or at most one, waits in front of a fetcher's walker."""
        return fetcher.jobs_taken[-min(2, job_depth(arch))] + FREE_LATENCY <= time

    for k, (op, started) in enumerate(zip(ops, trace.starts, strict=True)):
        r = op.regs
        groups, slices = r["SPLIT"], r["SLICES"]
        cores = [[g + s * groups for s in range(slices)] for g in range(groups)]
        assert started >= dispatched
        time = started + DISPATCH_LATENCY
        if groups_before not in (0, groups):
            time = max(time, ended + SPLIT_LATENCY)
        groups_before = groups
        n, g = 0, 0
        for oy in range(r["OH"]):
            for ox in range(r["OW"]):
                fresh = ox % r["RUN"] == 0
                allowed = [n % groups] if op.stateful else range(groups)
                while True:
                    open_ = [i for i in range(groups) if all(room(c, time) for c in cores[i])]
                    free = (
                        [i for i in open_ if i in allowed and ahead(fetchers[i], time)]
                        if fresh
                        else [i for i in open_ if i == g and (arch.ports < arch.cores or ahead(fetchers[i], time))]
                    )
                    if free:
                        g = free[0]
                        break
                    time += 1
                qy, qx = oy // r["REPY"], ox // r["REPX"]
                iy0, ix0 = r["IY0"] + qy * r["SY"], r["IX0"] + qx * r["SX"]
                a = (r["A_BASE"] + qy * r["A_OY"] + qx * r["A_OX"]) % ACT
                rest = (r["R_BASE"] + oy * r["R_OY"] + ox * r["R_OX"]) % ACT
                expected["dispatch"].append(
                    (time, g, iy0, ix0, a, rest, sum(1 << c for c in cores[g]), int(fresh), k % arch.in_flight)
                )
                state = (r["S_BASE"] + n // groups * r["DRAIN"]) % STATE if op.stateful else None
                for s, c in enumerate(cores[g]):
                    outputs[c] += 1
                    address = (r["O_BASE"] + oy * r["O_OY"] + ox * r["O_OX"] + s) % ACT
                    expected["output"].append((time, c, address, state, k % arch.in_flight))
                ended = max(ended, fetchers[g].run(op, time, fresh, iy0, ix0, a, rest, cores[g]))
                dispatched, n, time = time, n + 1, time + 1
        expected["dispatched"].append((dispatched, k % arch.in_flight))
    expected["counts"] = [event for event in expected["counts"] if event[2] or event[3]]
    return {name: sorted(events, key=lambda event: event[:2]) for name, events in expected.items()}


# -- the simulation ------------------------------------------------------------------------------------------------


class Bench(wiring.Component):
    """Dispatcher, fetchers, and their memories, as the cluster connects them."""

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__({"op": In(stream.Signature(DispatchDescriptor(arch))), "d": In(TapDescriptor(arch))})
        self.dispatcher = Dispatcher(arch)
        self.fetchers = [Fetcher(arch, g) for g in range(arch.cores)]
        self.act = [
            BlockMemory(arch.act_depth, arch.lanes * (1 if reads_late(arch) else arch.event_bits), Latencies(arch).memory)
            for _ in range(arch.ports)
        ]
        self.occupancy = [
            BlockMemory(arch.act_depth // arch.occ_width, arch.occ_width, Latencies(arch).memory) for _ in range(arch.cores)
        ]

    def elaborate(self, platform):
        m = Module()
        m.submodules.dispatcher = dispatcher = self.dispatcher
        connect(m, flipped(self.op), dispatcher.op)
        for p, memory in enumerate(self.act):
            m.submodules[f"act_{p}"] = memory
            users = self.fetchers[p :: self.arch.ports]
            conflict = Signal(name=f"conflict_{p}")
            m.d.comb += conflict.eq(count_ones(Cat(f.act_en for f in users), len(users)) > 1)
            for fetcher in users:
                m.d.comb += fetcher.act_data.eq(memory.r_data)
                with m.If(fetcher.act_en):
                    m.d.comb += memory.r_addr.eq(fetcher.act_addr)
        for g, (fetcher, memory) in enumerate(zip(self.fetchers, self.occupancy, strict=True)):
            m.submodules[f"fetcher_{g}"] = fetcher
            m.submodules[f"occupancy_{g}"] = memory
            m.d.comb += [
                fetcher.job.eq(dispatcher.jobs),
                fetcher.job_valid.eq(dispatcher.dispatch[g]),
                dispatcher.taken[g].eq(fetcher.job_taken),
                dispatcher.drained[g].eq(fetcher.drained),
                fetcher.d_we.eq(self.op.valid & self.op.ready),
                fetcher.d_tag.eq(self.op.payload.tag),
                fetcher.d.eq(self.d),
                memory.r_addr.eq(fetcher.occ_addr),
                fetcher.occ_data.eq(memory.r_data),
            ]
        return m


def pack(values, bits: int) -> int:
    return sum((int(v) & ((1 << bits) - 1)) << i * bits for i, v in enumerate(values))


def descriptors(op: Op, arch: ArchConfig, tag: int) -> tuple[dict, dict]:
    dispatch = {**{name: op.regs[name] for name in DISPATCH_REGISTERS}, "stateful": op.stateful, "tag": tag}
    flags = {"kind": op.kind, "dense": op.dense, "residual": op.residual}
    if arch.ports < arch.cores:
        flags["shared"] = op.regs["SPLIT"] // (2 * arch.ports)
        flags["reused"] = max(0, op.regs["KX"] - op.regs["SX"]) if op.window and op.regs["SX"] else 0
    return dispatch, {**{name: op.regs[name] for name in TAP_REGISTERS}, **flags}


def run(dut, testbench, clock=True):
    simulator = Simulator(dut)
    if clock:
        simulator.add_clock(1e-8)
    simulator.add_testbench(testbench)
    simulator.run()


STILL = 1000
"""So many cycles without an event are a machine that hangs: one core that closes an output in two cycles of five needs some ten."""


def simulate(arch: ArchConfig, ops: list[Op], act, rng, pace: float) -> Trace:
    """Runs the operations; in a cycle, a core closes an output and has credit with probability `pace`, an operation arrives likewise."""
    dut, trace = Bench(arch), Trace(closes=[[] for _ in range(arch.cores)])
    dut.stored = act
    cores = range(arch.cores)

    async def testbench(ctx):
        for a, row in enumerate(act):
            for memory in dut.act:
                ctx.set(memory.w_en, 1)
                ctx.set(memory.w_addr, a)
                ctx.set(memory.w_data, pack(row != 0, 1) if reads_late(arch) else pack(row, arch.event_bits))
            if a % arch.occ_width == 0:
                for memory in dut.occupancy:
                    ctx.set(memory.w_en, 1)
                    ctx.set(memory.w_addr, a // arch.occ_width)
                    ctx.set(memory.w_data, pack([word.any() for word in act[a : a + arch.occ_width]], 1))
            await ctx.tick()
        for memory in dut.act + dut.occupancy:
            ctx.set(memory.w_en, 0)

        waiting = [[] for _ in cores]  # tags of the jobs that each fetcher has not finished
        open_outputs = [0 for _ in cores]  # dispatched and not closed
        next_op, offered, quiet, time = 0, False, 0, 0
        seen, last = 0, 0
        while quiet < 40 + Latencies(arch).read:
            closing, credit = (sum(int(rng.random() < pace) << c for c in cores) for _ in range(2))
            for c in cores:
                if open_outputs[c] == 0:
                    closing &= ~(1 << c)
                elif closing >> c & 1:
                    trace.closes[c].append(time)
                    open_outputs[c] -= 1
            tag = next_op % arch.in_flight
            offered |= next_op < len(ops) and rng.random() < pace and not any(tag in tags for tags in waiting)
            if offered:
                dispatch, tap = descriptors(ops[next_op], arch, tag)
                ctx.set(dut.op.payload, dispatch)
                ctx.set(dut.d, tap)
            ctx.set(dut.op.valid, int(offered))
            ctx.set(dut.dispatcher.closed, closing)
            for fetcher in dut.fetchers:
                ctx.set(fetcher.cycle, time % 8)
                ctx.set(fetcher.credit, credit)
            trace.credit.append(credit)
            if offered and ctx.get(dut.op.ready):
                trace.starts.append(time)
                next_op, offered = next_op + 1, False
            record(ctx, dut, trace, waiting, time)
            valid = ctx.get(dut.dispatcher.output_valid)
            for c in cores:
                open_outputs[c] += valid >> c & 1
            busy = len(trace.events["dispatched"]) < len(ops) or any(waiting)
            quiet = 0 if busy else quiet + 1
            time += 1
            await ctx.tick()
            if (count := sum(map(len, trace.events.values()))) > seen:
                seen, last = count, time
            assert time - last < STILL, "the fetch side hangs"

    run(dut, testbench)
    # The machine stands still now; the reference may look a little beyond.
    trace.credit += [(1 << arch.cores) - 1] * 64
    return trace


def record(ctx, dut: Bench, trace: Trace, waiting: list, time: int):
    arch, dispatcher, events = dut.arch, dut.dispatcher, trace.events
    if dispatch := ctx.get(dispatcher.dispatch):
        assert dispatch.bit_count() == 1 and len(events["dispatched"]) < len(trace.starts)
        g, job = dispatch.bit_length() - 1, ctx.get(dispatcher.jobs)
        events["dispatch"].append((time, g, job.iy0, -job.left, job.a, job.r, job.to if arch.cores > 1 else 1, job.fresh, job.tag))
        waiting[g].append(job.tag)
    if valid := ctx.get(dispatcher.output_valid):
        for c in range(arch.cores):
            if valid >> c & 1:
                output = ctx.get(dispatcher.outputs[c])
                events["output"].append((time, c, output.address, output.state, output.tag))
    if ctx.get(dispatcher.dispatched):
        events["dispatched"].append((time, ctx.get(dispatcher.dispatched_tag)))
    used = []
    for g, f in enumerate(dut.fetchers):
        assert not ctx.get(f.trap_act)
        if take := ctx.get(f.take):
            events["take"].append((time, g, take))
        if ctx.get(f.drained):
            events["drained"].append((time, g))
            waiting[g].pop(0)
        words, skipped = ctx.get(f.words), ctx.get(f.skipped)
        if words or skipped:
            events["counts"].append((time, g, words, skipped))
        if ctx.get(f.act_en):
            events["read"].append((time, g, ctx.get(f.act_addr)))
            used.append(g % arch.ports)
        if mask := ctx.get(f.mask_valid):
            events["mask"].append((time, g, mask, ctx.get(f.m_addr)))
        if valid := ctx.get(f.word_valid):
            w = ctx.get(f.word)
            act = [0 if w.null else dut.stored[w.address][i] if reads_late(arch) else w.act[i] for i in range(arch.lanes)]
            row = None if w.null else w.w
            zero = bool(w.zero) if w.end else None
            events["word"].append((time, g, valid, act, w.live, row, w.kind, w.null, w.end, zero))
    assert len(used) == len(set(used)), "two fetchers read one port"


def check(arch: ArchConfig, ops: list[Op], act, trace: Trace):
    expected = reference(arch, ops, act, trace)
    # The first state row means something in stateful operations alone.
    states = iter(event[3] for event in expected["output"])
    trace.events["output"] = [
        (t, c, a, s if next(states, None) is not None else None, tag) for t, c, a, s, tag in trace.events["output"]
    ]
    for name in EVENTS:
        assert trace.events[name] == expected[name], name


ARCHS = {
    "1 core": ArchConfig(**BASE),
    "1 core, short rows": ArchConfig(**BASE, occ_width=8, row_fifo=2),
    "1 core, 16 lanes": ArchConfig(**{**BASE, "lanes": 16}, occ_width=16),
    "2 cores, 1 port, small FIFOs": ArchConfig(**BASE, cores=2, row_fifo=2),
    "2 cores, 2 ports": ArchConfig(**BASE, cores=2, ports=2),
    "4 cores, 1 port": ArchConfig(**BASE, cores=4),
    "4 cores, 2 ports": ArchConfig(**BASE, cores=4, ports=2, row_fifo=3),
}


def random_act(rng, arch: ArchConfig):
    """Stretches of sixteen words: some nearly empty, some full."""
    act = rng.integers(-256, 256, (arch.act_depth, arch.lanes))
    act[rng.random(act.shape) < 0.5] = 0
    density = rng.choice([0.1, 0.6, 1.0], arch.act_depth // 16).repeat(16)
    act[rng.random(arch.act_depth) > density] = 0
    return act


@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
@pytest.mark.parametrize("pace", [1.0, 0.4])
def test_random_operations(arch, pace, rng):
    act = random_act(rng, arch)
    ops = [random_op(rng, arch, window=bool(rng.random() < 0.3)) for _ in range(8)]
    check(arch, ops, act, simulate(arch, ops, act, rng, pace))


@pytest.mark.slow
@pytest.mark.parametrize("ports", [2, 8])
def test_eight_cores(ports, rng):
    arch = ArchConfig(**BASE, cores=8, ports=ports)
    act = random_act(rng, arch)
    ops = [random_op(rng, arch, window=bool(rng.random() < 0.3)) for _ in range(20)]
    check(arch, ops, act, simulate(arch, ops, act, rng, 0.8))


def image_op(kind: Kind, **changes) -> Op:
    """3 x 3 taps over an image of 4 x 12 words without padding; two rows of ten outputs."""
    r = dict.fromkeys(isa.REGISTERS, 0)
    r.update(dict.fromkeys(isa.NONZERO, 1), H=4, W=12, OH=2, OW=10, KH=3, KX=3, SY=1, SX=1, DY=1, DX=1)
    r.update(A_OY=12, A_OX=1, A_KY=12, A_KX=1, W_SPAN=1, W_WORD=1)
    flags = {name: changes.pop(name) for name in ("window", "stateful", "residual") if name in changes}
    return Op({**r, **changes}, kind, **flags)


@pytest.mark.parametrize("residual", [False, True])
def test_window_needs_no_slot(residual, rng):
    """With 2 groups on one port a fetcher reads every second cycle; of a run of 5, 12 + 4 x 4 words of 60 are read."""
    arch = ArchConfig(**BASE, cores=4)
    act = rng.integers(1, 256, (arch.act_depth, arch.lanes))
    shape = {"H": 5, "KH": 4, "SPLIT": 2, "SLICES": 2, "RUN": 5, "R_OX": 2}
    reads, cycles = [], []
    for window in (False, True):
        op = image_op(Kind.MAC, window=window, residual=residual, **shape)
        trace = simulate(arch, [op], act, rng, 1.0)
        check(arch, [op], act, trace)
        reads.append(len(trace.events["read"]))
        cycles.append(trace.events["drained"][-1][0] - trace.starts[0])
    adds = 20 * 2 if residual else 0
    assert reads == [20 * 12 + adds, 4 * (12 + 4 * 4) + adds]
    assert cycles[1] < cycles[0] * 0.8


def test_groups_at_full_pace(rng):
    """Without window and with a port for each two groups, words leave in every slot once the pipeline is full."""
    arch = ArchConfig(**BASE, cores=4, ports=2)
    act = rng.integers(1, 256, (arch.act_depth, arch.lanes))
    op = image_op(Kind.EVENT, SPLIT=4, RUN=5)
    trace = simulate(arch, [op], act, rng, 1.0)
    check(arch, [op], act, trace)
    for g in range(4):
        times = [event[0] for event in trace.events["take"] if event[1] == g]
        assert times == list(range(times[0], times[0] + 90, 2))
        assert times[0] % 2 == g // 2


def test_residual_reaches_each_slice(rng):
    """Slice s gets residual word r + s alone, as its last item; two slices of four possible ones are at work."""
    arch = ArchConfig(**BASE, cores=4)
    act = rng.integers(1, 256, (arch.act_depth, arch.lanes))
    op = image_op(Kind.EVENT, SLICES=2, residual=True, R_BASE=100, R_OX=2, R_OY=20, R_W=7)
    trace = simulate(arch, [op], act, rng, 0.7)
    check(arch, [op], act, trace)
    ends = [event for event in trace.events["word"] if event[8]]
    assert [event[2] for event in ends] == [0b01, 0b10] * 20
    assert [event[3] for event in ends] == act[100:140].tolist()


@pytest.mark.parametrize(
    ("base", "words", "traps"), [(252, 4, False), (253, 4, True), (-1, 1, True), (0, 255, False), (200, 2 * 255, True)]
)
def test_trap(base, words, traps):
    """A span that ends at the memory's end is read; one word further it traps, and so does one that starts before the
    memory, or reaches beyond the addresses and back into it."""
    arch = ArchConfig(**BASE)
    dut, span = Bench(arch), min(words, 255)
    op = image_op(Kind.EVENT, OH=1, OW=1, KH=1, KX=1, SPAN=span, WORDS=words // span, W=300, A_BASE=base % ACT)
    seen = []

    async def testbench(ctx):
        dispatch, tap = descriptors(op, arch, 0)
        ctx.set(dut.op.payload, dispatch)
        ctx.set(dut.d, tap)
        ctx.set(dut.op.valid, 1)
        for _ in range(40):
            await ctx.tick()
            ctx.set(dut.op.valid, 0)
            seen.append(ctx.get(dut.fetchers[0].trap_act))

    run(dut, testbench)
    assert any(seen) == traps


# -- small pieces --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize(("depth", "latency"), [(1, 2), (2, 2), (3, 2), (8, 2), (32, 2), (1, 1), (2, 1)])
def test_fifo(depth, latency, guarded, rng):
    """Order and times are those of a queue whose items leave `latency` cycles after their push; `next` is one ahead.

    A guarded one counts nothing, and nothing is pushed into it when it is full.
    """
    dut = fifo_for(16, depth, latency, guarded=guarded)

    async def testbench(ctx):
        queue: list[tuple[int, int]] = []
        for time in range(800):
            pushes, pops = rng.random() < [0.3, 1.0, 0.9][time // 100 % 3], rng.random() < [0.9, 1.0, 0.3][time // 100 % 3]
            value = int(rng.integers(1 << 16))
            if guarded:
                pushes = pushes and len(queue) < depth
            ctx.set(dut.i.valid, pushes)
            ctx.set(dut.i.payload, value)
            ctx.set(dut.o.ready, pops)
            assert ctx.get(dut.i.ready) == (guarded or len(queue) < depth)
            available = bool(queue) and queue[0][0] + latency <= time
            assert ctx.get(dut.o.valid) == available
            if available:
                assert ctx.get(dut.o.payload) == queue[0][1]
            if not available or pops:
                arriving = [(time, value)] if pushes and len(queue) < depth else []
                following = [item for pushed, item in queue[available:] + arriving if pushed + latency <= time + 1]
                assert ctx.get(dut.more) == bool(following)
                if following:
                    assert ctx.get(dut.next) == following[0]
            room = len(queue) < depth
            if pops and available:
                queue.pop(0)
            if pushes and room:
                queue.append((time, value))
            await ctx.tick()

    run(dut, testbench)


@pytest.mark.parametrize("depth", [1, 3, 8, 9])
def test_credit(depth, rng):
    dut = Credit(depth)

    async def testbench(ctx):
        used = 0
        for _ in range(300):
            assert ctx.get(dut.grant) == (used < depth)
            take, give = int(used < depth and rng.random() < 0.6), int(used > 0 and rng.random() < 0.5)
            ctx.set(dut.take, take)
            ctx.set(dut.give, give)
            used += take - give
            await ctx.tick()

    run(dut, testbench)


@pytest.mark.parametrize("width", [1, 3, 4, 8, 32])
def test_count_ones(width, rng):
    m, bits, count = Module(), Signal(width), Signal(8)
    m.d.comb += count.eq(count_ones(bits, width))

    async def testbench(ctx):
        for value in [0, (1 << width) - 1, *rng.integers(1 << width, size=50).tolist()]:
            ctx.set(bits, value)
            await ctx.delay(1e-9)
            assert ctx.get(count) == value.bit_count()

    run(m, testbench, clock=False)
