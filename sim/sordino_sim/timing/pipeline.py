"""The cluster's pipeline as a max-plus recurrence: when every job, span, row, word, segment and event moves, to the cycle.

The dealer gives each output to the first fetcher that can take it, by what became of the outputs dealt before. Behind
it no stage chooses by arrival order, so the time of an item follows from the items before it alone: it moves when it
has arrived, the item before it has moved on, and a place is free, which the item `depth` places before it left. One
pass over the outputs in the order of their deals, each followed from its deal to its close, is exact. Every number is
one of `sordino_hw.spec.latencies`, or an `ArchConfig`'s.
"""

from collections.abc import Mapping

import numpy as np
from numba import njit

from sordino_hw.spec import isa, latencies, structure
from sordino_hw.spec.arch import MOST_IN_FLIGHT, ArchConfig

__all__ = ["CLOSED_LAST", "DEALT", "EVENT", "MAC", "MAC2", "MAX", "STORED_LAST", "Clock"]

# Numba keeps compiled functions until this file changes, so what other files say comes as data, or is checked at import.
IN_FLIGHT = 4
EVENT, MAC, MAC2, MAX = range(4)
"""As `structure.Kind`."""
BUSY, FETCH, PPU, MARKER, MEMORY, IDLE, WORDS, SKIPPED = range(8)
"""As `isa.PERF_FIELDS`."""
FIELDS = 8
POPCOUNT = np.array([bin(i).count("1") for i in range(256)], np.int64)
NEVER = -(1 << 40)
"""A time before every run."""
MAX_FIFO = 64
"""Deepest FIFO."""

assert MOST_IN_FLIGHT == IN_FLIGHT
assert [kind.value for kind in structure.Kind] == [EVENT, MAC, MAC2, MAX]
assert isa.PERF_FIELDS == ("busy", "fetch", "ppu", "marker", "memory", "idle", "words", "skipped")

# The state is one vector: numba passes it from function to function at no cost, as it does not a structure of arrays.
# First the cluster; then a block for every core, which holds the core's and the fetcher's of the same number.
CORES, PORTS, ROW_FIFO, WORD_FIFO, SEGMENT_FIFO, WIDE_CYCLES, OCC_BITS, A_MASK, W_MASK, M_MASK = range(10)
"""The architecture; the greatest address of activations, weights and masks."""
OUTPUTS, CLIP, DEAL, FIFO, FREED, DRAINED, SPLITTING, ROW, WORD, SHADOW, STORE, PAUSE, ALONE = range(10, 23)
"""A depth and the latencies of `sordino_hw.spec.latencies`; whether a fetcher holds but one job."""
OPERATION, KIND, DENSE, RESIDUAL, WINDOW, STATEFUL, STARTED = range(23, 30)
"""The operation: its number, what it does, when it was started."""
DEALT, GROUPS, ENDED, CLOSED_LAST, STORED_LAST = range(30, 35)
"""The last deal, the groups that it was for (0: none yet), the last request that ended a job; the operation's last close and
last store."""
ENDS = 35
"""The last cycles of the newest records, by operation modulo `IN_FLIGHT`; far in the past before the first."""
_R = ENDS + IN_FLIGHT
R_OH, R_OW, R_KH, R_KX, R_SPAN, R_WORDS, R_H, R_W = range(_R, _R + 8)
R_IY0, R_IX0, R_SY, R_SX, R_DY, R_DX, R_REPY, R_REPX = range(_R + 8, _R + 16)
R_A_BASE, R_A_OY, R_A_OX, R_A_KY, R_A_KX, R_M_BASE, R_M_SPAN = range(_R + 16, _R + 23)
R_R_BASE, R_R_OY, R_R_OX, R_DRAIN, R_SPLIT, R_SLICES, R_RUN = range(_R + 23, _R + 30)
R_W_BASE, R_W_SPAN, R_W_WORD, R_R_W = range(_R + 30, _R + 34)
_REGISTERS = {name.removeprefix("R_"): index for name, index in globals().items() if name.startswith("R_")}
"""Registers that a dealer and a walker need, and their places."""
BLOCKS = R_R_W + 1

NUMBER = 0
TAKEN_BEFORE, TAKEN_JOB, WALKED, CLIPPED, TAKEN, SPLIT, SCANNED, ROWS = range(1, 9)
"""Of a fetcher: when the last item moved at each stage, and the job before the last; the place of the next row in its FIFO."""
STEPPED, PUSHED, ISSUED, HELD, HELD_CYCLES, HELD_NULL = range(9, 15)
"""Of a core: when the last item moved at the segmenter and the issuer; whether the segmenter holds an item back, its cycles,
and whether it is nothing but an end."""
WORDS_SENT, SEGMENTS, OUTPUTS_SENT = range(15, 18)
"""The places of the next word, segment and output in the core's FIFOs."""
CLOSED, CLOSED_DRAIN, CLOSED_OP = range(18, 21)
"""Time, DRAIN and operation of the last output that the core closed."""
WIDE = 21
"""First row of the wide weight that the core's lanes keep."""
ROW_POPS, WORD_POPS, SEGMENT_POPS, OUTPUT_POPS = (22 + i * MAX_FIFO for i in range(4))
"""When the item in each place of a FIFO left it."""
RECORDS = OUTPUT_POPS + MAX_FIFO
"""The newest records, by operation modulo `IN_FLIGHT`."""
BLOCK = RECORDS + IN_FLIGHT * FIELDS


class Clock:
    """The pipeline's state between the operations of one run."""

    def __init__(self, arch: ArchConfig):
        self.t = np.full(BLOCKS + arch.cores * BLOCK, NEVER, np.int64)
        self.t[:OCC_BITS] = arch.cores, arch.ports, arch.row_fifo, arch.word_fifo, arch.segment_fifo, arch.wide_cycles
        self.t[OCC_BITS] = arch.occ_bits
        memories = (isa.Region.ACT, isa.Region.WEIGHT, isa.Region.MASK)
        self.t[A_MASK:OUTPUTS] = [(1 << isa.address_bits(arch, memory)) - 1 for memory in memories]
        by_arch = latencies.Latencies(arch)
        assert structure.output_depth(arch) <= MAX_FIFO
        self.t[OUTPUTS:FREED] = structure.output_depth(arch), by_arch.clip, latencies.DEAL_LATENCY, by_arch.fifo
        self.t[FREED:SPLITTING] = latencies.FREED, latencies.DRAINED
        self.t[SPLITTING:ALONE] = by_arch.split, by_arch.row, by_arch.word, by_arch.shadow, by_arch.store, by_arch.pause
        self.t[ALONE] = structure.job_depth(arch) == 1
        self.t[GROUPS] = 0
        self.blocks = self.t[BLOCKS:].reshape(arch.cores, BLOCK)
        """A view of the cores' blocks: int64 [cores, BLOCK]."""
        self.blocks[:, NUMBER] = np.arange(arch.cores)
        self.blocks[:, [ROWS, HELD, WORDS_SENT, SEGMENTS, OUTPUTS_SENT]] = 0

    def record(self, operation: int) -> np.ndarray:
        """A view of what the record of one of the last operations holds so far: int64 [cores, FIELDS]."""
        first = RECORDS + operation % IN_FLIGHT * FIELDS
        return self.blocks[:, first : first + FIELDS]

    def finish(self, operation: int, end: int) -> None:
        """Says which cycle is the last of an operation's record: what happens up to it is counted there from now on."""
        self.t[ENDS + operation % IN_FLIGHT] = end

    def run(
        self,
        operation: int,
        registers: Mapping[str, int],
        kind: int,
        dense: bool,
        residual: bool,
        window: bool,
        stateful: bool,
        started: int,
        nonzero: np.ndarray,
        occupied: np.ndarray,
        masks: np.ndarray,
    ) -> None:
        """Advances by the operation of number `operation`, started in cycle `started`.

        Parameters
        ----------
        registers
            By name (`isa.REGISTERS`).
        stateful : bool
            SOURCE or SINK: the outputs are dealt to the groups in turn.
        nonzero : uint8 [words, lanes / 8]
            A bit per activation that is not zero.
        occupied : bool [words]
        masks : uint8 [cores, rows, lanes / 8]
            A bit per weight word that is not zero.
        """
        self.t[OPERATION : STARTED + 1] = operation, kind, dense, residual, window, stateful, started
        self.t[_R:BLOCKS] = [registers[name] for name in _REGISTERS]
        self.record(operation)[:] = 0
        _run(self.t, nonzero, occupied, masks)


# -- records -------------------------------------------------------------------------------------------------------


@njit(cache=True)
def _at(t, b, field, time, n):
    """Counts `n` in cycle `time`, in the record whose cycle it is."""
    op = t[OPERATION]
    while time <= t[ENDS + (op - 1) % IN_FLIGHT]:
        op -= 1
    t[b + RECORDS + op % IN_FLIGHT * FIELDS + field] += n


@njit(cache=True)
def _count(t, b, field, first, last):
    """A core spends the cycles `first` to `last` on `field`."""
    op = t[OPERATION]
    while last >= first:
        begin = max(first, t[ENDS + (op - 1) % IN_FLIGHT] + 1)
        if begin <= last:
            t[b + RECORDS + op % IN_FLIGHT * FIELDS + field] += last - begin + 1
            last = begin - 1
        op -= 1


# -- a core --------------------------------------------------------------------------------------------------------


@njit(cache=True)
def _push(t, b, end, time):
    """The held item enters the segment FIFO in cycle `time`; `end`: it closes an output. The issuer's times follow."""
    place = t[b + SEGMENTS]
    start = max(time + (t[FIFO] if t[SPLITTING] else 0), t[b + ISSUED] + 1)
    if t[PAUSE] and start <= t[b + CLOSED] + t[PAUSE]:
        _count(t, b, PPU, start, t[b + CLOSED] + t[PAUSE])
        start = t[b + CLOSED] + t[PAUSE] + 1
    finish = start + t[b + HELD_CYCLES] - 1
    field = MARKER if t[b + HELD_NULL] else BUSY
    if end:
        gap = t[b + CLOSED_DRAIN]
        gap = max(gap, t[CORES]) if t[b + CLOSED_OP] == t[OPERATION] else gap + t[CORES]
        closed = max(finish, t[b + CLOSED] + gap)
        if closed > finish:
            _count(t, b, field, start, finish - 1)
            _count(t, b, PPU, finish, closed - 1)
            start = finish = closed
        t[b + CLOSED], t[b + CLOSED_DRAIN], t[b + CLOSED_OP] = closed, t[R_DRAIN], t[OPERATION]
        t[CLOSED_LAST] = max(t[CLOSED_LAST], closed)
        stored = closed + t[SHADOW] + t[R_DRAIN] - 1 + t[STORE]
        stored += (t[b + NUMBER] - stored) & (t[CORES] - 1)  # the core's turn to write activation memory
        t[STORED_LAST] = max(t[STORED_LAST], stored)
        output = t[b + OUTPUTS_SENT]
        t[b + OUTPUT_POPS + output] = closed
        t[b + OUTPUTS_SENT] = output + 1 if output + 1 < t[OUTPUTS] else 0
    _count(t, b, field, start, finish)
    t[b + ISSUED] = finish
    t[b + SEGMENT_POPS + place] = finish
    t[b + SEGMENTS] = place + 1 if place + 1 < t[SEGMENT_FIFO] else 0
    t[b + PUSHED] = time if t[SPLITTING] else finish
    t[b + HELD] = 0


@njit(cache=True)
def _close(t, b, time):
    """The held item became the last of its output in cycle `time`: it needs nothing more to be pushed."""
    _push(t, b, True, (max(time, t[b + SEGMENT_POPS + t[b + SEGMENTS]]) if t[SPLITTING] else time) + 1)


@njit(cache=True)
def _hold(t, b, available, cycles, null, end):
    """One step of the segmenter that holds a new item. Returns its cycle."""
    time = max(t[b + STEPPED] + 1, available, t[b + PUSHED])
    if t[b + HELD]:
        if t[SPLITTING]:
            time = max(time, t[b + SEGMENT_POPS + t[b + SEGMENTS]] + 1)
        _push(t, b, False, time)
        if not t[SPLITTING]:
            time = t[b + PUSHED]
    t[b + STEPPED] = time
    t[b + HELD], t[b + HELD_CYCLES], t[b + HELD_NULL] = 1, cycles, null
    if end:
        _close(t, b, time)
    return time


@njit(cache=True)
def _word(t, b, available, kind, null, end, a, m, w, nonzero, masks):
    """Word `a`, which meets mask row `m` and weight row `w`, at the segmenter. Returns the cycle in which it leaves."""
    if kind != EVENT and not null:
        cycles = 1
        if kind == MAC2:
            cycles = t[WIDE_CYCLES] if t[b + WIDE] == w else 2
            t[b + WIDE] = w
        return _hold(t, b, available, cycles, 0, end)
    last = 0
    if not null:
        c = t[b + NUMBER]
        for s in range(nonzero.shape[1]):
            bits = masks[c, m, s] if t[DENSE] else masks[c, m, s] & nonzero[a, s]
            if bits:
                if last:
                    _hold(t, b, available, last, 0, False)
                last = POPCOUNT[bits]
    if last:
        return _hold(t, b, available, last, 0, end)
    if end and not t[b + HELD]:
        return _hold(t, b, available, 1, 1, True)
    time = max(t[b + STEPPED] + 1, available)
    t[b + STEPPED] = time
    if end:
        _close(t, b, time)
    return time


# -- a fetcher -----------------------------------------------------------------------------------------------------


@njit(cache=True)
def _credit(t, b):
    """The cycle in which the last core of the group of fetcher `b` freed a place for the next word."""
    step = t[R_SPLIT] * BLOCK
    time = NEVER
    for core in range(b, b + t[R_SLICES] * step, step):
        time = max(time, t[core + WORD_POPS + t[core + WORDS_SENT]])
    return time


@njit(cache=True)
def _send(t, b, low, high, time, kind, null, end, a, m, w, nonzero, masks):
    """A word that fetcher `b` asks for in cycle `time` goes to the cores of slices `low` to `high`."""
    step = t[R_SPLIT] * BLOCK
    for core in range(b + low * step, b + high * step, step):
        place = t[core + WORDS_SENT]
        t[core + WORD_POPS + place] = _word(t, core, time + t[WORD], kind, null, end, a, m, w, nonzero, masks)
        t[core + WORDS_SENT] = place + 1 if place + 1 < t[WORD_FIFO] else 0


@njit(cache=True)
def _span(t, b, low, high, start, stop, m, w, kind, end, reuse, nonzero, occupied, masks):
    """One clipped span, from the walker to the issuers: words `start` to `stop`, whose first has mask row `m` and weight row `w`.

    It is for slices `low` to `high` of the group of fetcher `b`. `reuse`: its word is in the window.
    """
    walked = max(t[b + WALKED] + 1, t[b + CLIPPED])
    clipped = max(walked + t[CLIP], t[b + TAKEN])
    taken = max(clipped + t[SPLITTING], t[b + SPLIT])
    if t[SPLITTING] == 0:
        clipped = taken
    t[b + WALKED], t[b + CLIPPED], t[b + TAKEN], t[b + SPLIT] = walked, clipped, taken, taken + 1
    if start == stop and not end:
        return
    turns = max(1, t[R_SPLIT] // t[PORTS])
    turn = t[b + NUMBER] // t[PORTS]
    request = taken
    row = start >> t[OCC_BITS]
    last_row = row if start == stop else (stop - 1) >> t[OCC_BITS]
    while row <= last_row:
        place = t[b + ROWS]
        request = max(request, t[b + ROW_POPS + place]) + 1
        ends = end and row == last_row
        first, beyond = max(start, row << t[OCC_BITS]), min(stop, (row + 1) << t[OCC_BITS])
        left = beyond - first
        if not t[DENSE]:
            left = 0
            for a in range(first, beyond):
                left += occupied[a]
        skipped = beyond - first - left
        time = max(t[b + SCANNED] + 1, request + t[ROW])
        if left:
            time -= 1
            for a in range(first, beyond):
                if t[DENSE] or occupied[a]:
                    left -= 1
                    time = max(time, _credit(t, b)) + 1
                    if not reuse:
                        time += (turn - time) & (turns - 1)
                    _at(t, b, WORDS, time, 1)
                    at_end = ends and left == 0
                    n = a - start
                    w_row = (w + n * t[R_W_WORD]) & t[W_MASK]
                    _send(t, b, low, high, time, kind, False, at_end, a, (m + n) & t[M_MASK], w_row, nonzero, masks)
        elif ends:
            time = max(time, _credit(t, b) + 1)
            _send(t, b, low, high, time, kind, True, True, 0, 0, 0, nonzero, masks)
        if skipped:
            _at(t, b, SKIPPED, time, skipped)
        if ends:
            t[ENDED] = max(t[ENDED], time)
        t[b + SCANNED] = time
        t[b + ROW_POPS + place] = time
        t[b + ROWS] = place + 1 if place + 1 < t[ROW_FIFO] else 0
        row += 1
    # A row that waits in no FIFO keeps the splitter, which takes the next span a cycle later.
    t[b + SPLIT] = request if t[SPLITTING] else t[b + SCANNED] + 1


@njit(cache=True)
def _output(t, b, deal, fresh, oy, ox, nonzero, occupied, masks):
    """The output at (oy, ox), from its deal to fetcher `b` in cycle `deal` to its close. `fresh`: first of its run."""
    taken = max(deal + t[FIFO], t[b + WALKED])
    t[b + TAKEN_BEFORE] = t[b + TAKEN_JOB]
    t[b + TAKEN_JOB] = t[b + WALKED] = taken
    slices = t[R_SLICES]
    qy, qx = oy // t[R_REPY], ox // t[R_REPX]
    iy0, ix0 = t[R_IY0] + qy * t[R_SY], t[R_IX0] + qx * t[R_SX]
    a0 = t[R_A_BASE] + qy * t[R_A_OY] + qx * t[R_A_OX]
    m, w = t[R_M_BASE], t[R_W_BASE]
    for ky in range(t[R_KH]):
        iy = iy0 + ky * t[R_DY]
        for kx in range(t[R_KX]):
            ix = ix0 + kx * t[R_DX]
            low = min(max(0, -ix), t[R_SPAN])
            high = max(0, min(t[R_SPAN], t[R_W] - ix))
            if iy < 0 or iy >= t[R_H] or high < low:
                high = low
            start = (a0 + ky * t[R_A_KY] + kx * t[R_A_KX] + low * t[R_WORDS]) & t[A_MASK]
            stop = start + (high - low) * t[R_WORDS]
            end = ky == t[R_KH] - 1 and kx == t[R_KX] - 1 and not t[RESIDUAL]
            reuse = t[WINDOW] and not fresh and 0 < t[R_SX] < t[R_KX] - kx
            q = low * t[R_WORDS]
            _span(t, b, 0, slices, start, stop, m + q, w + q * t[R_W_WORD], t[KIND], end, reuse, nonzero, occupied, masks)
            m += t[R_M_SPAN]
            w += t[R_W_SPAN]
    if t[RESIDUAL]:
        for s in range(slices):
            start = (t[R_R_BASE] + oy * t[R_R_OY] + ox * t[R_R_OX] + s) & t[A_MASK]
            _span(t, b, s, s + 1, start, start + 1, 0, t[R_R_W], MAC2, True, False, nonzero, occupied, masks)


# -- the dealer ----------------------------------------------------------------------------------------------------


@njit(cache=True)
def _ahead(t, b):
    """The first cycle in which an output can be dealt to fetcher `b`: behind one job at most, or none (`structure.job_depth`)."""
    return t[b + (TAKEN_JOB if t[ALONE] else TAKEN_BEFORE)] + t[FREED]


@njit(cache=True)
def _room(t, b):
    """The first cycle in which an output can be dealt to every core of the group of fetcher `b`.

    The fetcher has room for the jobs of a whole run, unless every group has a port.
    """
    step = t[R_SPLIT] * BLOCK
    time = NEVER
    for core in range(b, b + t[R_SLICES] * step, step):
        time = max(time, t[core + OUTPUT_POPS + t[core + OUTPUTS_SENT]])
    return time + t[FREED]


@njit(cache=True)
def _run(t, nonzero, occupied, masks):
    groups = t[R_SPLIT]
    t[CLOSED_LAST] = t[STORED_LAST] = NEVER
    deal = t[STARTED] + t[DEAL] - 1
    if t[GROUPS] and t[GROUPS] != groups:
        deal = max(deal, t[ENDED] + t[DRAINED] - 1)
    t[GROUPS] = groups
    b, n = BLOCKS, 0
    for oy in range(t[R_OH]):
        for ox in range(t[R_OW]):
            deal += 1
            fresh = ox % t[R_RUN] == 0
            if not fresh:
                deal = max(deal, _room(t, b))
                if t[CORES] == t[PORTS]:
                    deal = max(deal, _ahead(t, b))
            elif t[STATEFUL]:
                b = BLOCKS + n % groups * BLOCK
                deal = max(deal, _ahead(t, b), _room(t, b))
            else:
                soonest = -NEVER
                for fetcher in range(BLOCKS, BLOCKS + groups * BLOCK, BLOCK):
                    time = max(deal, _ahead(t, fetcher), _room(t, fetcher))
                    if time < soonest:
                        soonest, b = time, fetcher
                deal = soonest
            n += 1
            _output(t, b, deal, fresh, oy, ox, nonzero, occupied, masks)
    t[DEALT] = deal
