"""The cluster's pipeline as a max-plus recurrence: when every job, span, row, word, segment and event moves, to the cycle.

The dealer gives each output to the first fetcher that can take it, by what became of the outputs dealt before. Behind
it no stage chooses by arrival order, so the time of an item follows from the items before it alone: it moves when it
has arrived, the item before it has moved on, and a place is free, which the item `depth` places before it left. One
pass over the outputs in the order of their deals, each followed from its deal to its close, is exact. Every number is
one of `sordino_hw.core.latencies`, or an `ArchConfig`'s.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from sordino_hw import isa
from sordino_hw.arch import OCC_WIDTH, ArchConfig
from sordino_hw.core.latencies import (
    CLIP_LATENCY,
    DRAINED,
    FIFO_LATENCY,
    OUTPUTS,
    ROW_LATENCY,
    SHADOW_LATENCY,
    SPLIT_LATENCY,
    STORE_LATENCY,
    WORD_LATENCY,
)

__all__ = ["Clock", "Operation", "new_clock", "run_operation"]

OCC_BITS = OCC_WIDTH.bit_length() - 1
ADDR_MASK = (1 << isa.ADDR_BITS) - 1
NEVER = -(1 << 40)
"""A time before every run."""

EVENT, MAC, MAC2, MAX = range(4)
"""As `sordino_hw.core.layouts.Kind`."""

BUSY, PPU, MARKER = (isa.Cause[name].value for name in ("BUSY", "PPU", "MARKER"))
WORDS, SKIPPED = (isa.PERF_FIELDS.index(name) for name in ("words", "skipped"))

DEALT, GROUPS, ENDED, CLOSED_LAST, STORED_LAST = range(5)
"""Of the cluster: the last deal, the groups that it was for (0: none yet), the last request that ended a job; the last
close and the last store of the operation that ran last."""

TAKEN_JOB, WALKED, CLIPPED, TAKEN, SPLIT, SCANNED, ROWS = range(7)
"""Of a fetcher: times of the last item at each stage; place of the next row in the row FIFO."""

STEPPED, PUSHED, ISSUED, HELD, HELD_CYCLES, HELD_NULL, WORDS_SENT, SEGMENTS, OUTPUTS_SENT = range(9)
"""Of a core: times of the last item at the segmenter and the issuer; what the segmenter holds back (HELD: 1 an item, 0
none), its cycles and whether it is only an end; places of the next word, segment and output in their FIFOs."""
CLOSED, CLOSED_DRAIN, CLOSED_OP = range(9, 12)
"""Of a core: time, DRAIN and operation of the last output that it closed."""


class Clock(NamedTuple):
    """The pipeline's state between the operations of one run (see `new_clock`)."""

    cluster: np.ndarray
    """int64 [5]"""
    fetchers: np.ndarray
    """int64 [cores, 7]"""
    cores: np.ndarray
    """int64 [cores, 12]"""
    row_pops: np.ndarray
    """int64 [cores, row_fifo]: when the row in each place of the FIFO left it."""
    word_pops: np.ndarray
    """int64 [cores, word_fifo]"""
    segment_pops: np.ndarray
    """int64 [cores, segment_fifo]"""
    output_pops: np.ndarray
    """int64 [cores, OUTPUTS]"""
    ends: np.ndarray
    """int64 [operations]: the last cycle of each operation's record."""
    records: np.ndarray
    """int64 [operations, cores, fields]: what the records hold so far."""


class Operation(NamedTuple):
    """What the pipeline is told of an operation."""

    number: int
    kind: int
    dense: bool
    residual: bool
    window: bool
    stateful: bool
    """SOURCE or SINK: its outputs are dealt to the groups in turn."""
    started: int
    """Cycle of its start."""
    before: int
    """The last cycle of the record of the operation before."""
    ports: int
    """Copies of the activation memory."""
    registers: np.ndarray
    """int64 [registers]"""
    nonzero: np.ndarray
    """uint8 [words, lanes / 8]: a bit per activation that is not zero."""
    occupied: np.ndarray
    """bool [words]: whether any is."""
    masks: np.ndarray
    """uint8 [cores, rows, lanes / 8]: a bit per weight word that is not zero."""


def new_clock(arch: ArchConfig, operations: int) -> Clock:
    """The state at the start of a run of up to `operations` operations."""

    def never(*shape: int) -> np.ndarray:
        return np.full(shape, NEVER, np.int64)

    n = arch.cores
    clock = Clock(
        cluster=never(5),
        fetchers=never(n, 7),
        cores=never(n, 12),
        row_pops=never(n, arch.row_fifo),
        word_pops=never(n, arch.word_fifo),
        segment_pops=never(n, arch.segment_fifo),
        output_pops=never(n, OUTPUTS),
        ends=np.zeros(operations, np.int64),
        records=np.zeros((operations, n, len(isa.PERF_FIELDS)), np.int64),
    )
    clock.cluster[GROUPS] = 0
    clock.fetchers[:, ROWS] = 0
    clock.cores[:, [HELD, WORDS_SENT, SEGMENTS, OUTPUTS_SENT]] = 0
    return clock


POPCOUNT = np.array([bin(i).count("1") for i in range(256)], np.int64)

_INDEX = {name: register.index for name, register in isa.REGISTERS.items()}
R_OH, R_OW, R_KH, R_KX = (_INDEX[name] for name in ("OH", "OW", "KH", "KX"))
R_SPAN, R_WORDS, R_H, R_W = (_INDEX[name] for name in ("SPAN", "WORDS", "H", "W"))
R_IY0, R_IX0, R_SY, R_SX = (_INDEX[name] for name in ("IY0", "IX0", "SY", "SX"))
R_DY, R_DX, R_REPY, R_REPX = (_INDEX[name] for name in ("DY", "DX", "REPY", "REPX"))
R_A_BASE, R_A_OY, R_A_OX, R_A_KY, R_A_KX = (_INDEX[name] for name in ("A_BASE", "A_OY", "A_OX", "A_KY", "A_KX"))
R_M_BASE, R_M_SPAN, R_R_BASE, R_R_OY, R_R_OX = (_INDEX[name] for name in ("M_BASE", "M_SPAN", "R_BASE", "R_OY", "R_OX"))
R_DRAIN, R_SPLIT, R_SLICES, R_RUN = (_INDEX[name] for name in ("DRAIN", "SPLIT", "SLICES", "RUN"))


# -- records -------------------------------------------------------------------------------------------------------


@njit(cache=True)
def _at(k, o, c, field, time, n):
    """Counts `n` in cycle `time`, in the record whose cycle it is."""
    op = o.number
    if time <= o.before:
        while op > 0 and time <= k.ends[op - 1]:
            op -= 1
    k.records[op, c, field] += n


@njit(cache=True)
def _count(k, o, c, field, first, last):
    """Core `c` spends the cycles `first` to `last` on `field`."""
    op = o.number
    if first <= o.before:
        while op > 0 and first <= k.ends[op - 1]:
            op -= 1
            early = min(last, k.ends[op]) - max(first, k.ends[op - 1] + 1 if op else 0) + 1
            k.records[op, c, field] += max(0, early)
        op = o.number
        first = o.before + 1
    k.records[op, c, field] += max(0, last - first + 1)


# -- a core --------------------------------------------------------------------------------------------------------


@njit(cache=True)
def _push(k, o, c, end, time):
    """The held item enters the segment FIFO in cycle `time`; `end`: it closes an output. The issuer's times follow."""
    core = k.cores
    place = core[c, SEGMENTS]
    start = max(time + FIFO_LATENCY, core[c, ISSUED] + 1)
    finish = start + core[c, HELD_CYCLES] - 1
    field = MARKER if core[c, HELD_NULL] else BUSY
    if end:
        gap = core[c, CLOSED_DRAIN]
        cores = len(core)
        gap = max(gap, cores) if core[c, CLOSED_OP] == o.number else gap + cores
        closed = max(finish, core[c, CLOSED] + gap)
        if closed > finish:
            if finish > start:
                _count(k, o, c, field, start, finish - 1)
            _count(k, o, c, PPU, finish, closed - 1)
            start = finish = closed
        drain = o.registers[R_DRAIN]
        core[c, CLOSED], core[c, CLOSED_DRAIN], core[c, CLOSED_OP] = closed, drain, o.number
        k.cluster[CLOSED_LAST] = max(k.cluster[CLOSED_LAST], closed)
        stored = closed + SHADOW_LATENCY + drain - 1 + STORE_LATENCY
        stored += (c - stored) % cores
        k.cluster[STORED_LAST] = max(k.cluster[STORED_LAST], stored)
        output = core[c, OUTPUTS_SENT]
        k.output_pops[c, output] = closed
        core[c, OUTPUTS_SENT] = output + 1 if output + 1 < OUTPUTS else 0
    _count(k, o, c, field, start, finish)
    core[c, ISSUED] = finish
    k.segment_pops[c, place] = finish
    core[c, SEGMENTS] = place + 1 if place + 1 < k.segment_pops.shape[1] else 0
    core[c, PUSHED] = time
    core[c, HELD] = 0


@njit(cache=True)
def _close(k, o, c, time):
    """The held item became the last of its output in cycle `time`: it needs nothing more to be pushed."""
    _push(k, o, c, True, max(time, k.segment_pops[c, k.cores[c, SEGMENTS]]) + 1)


@njit(cache=True)
def _hold(k, o, c, available, cycles, null, end):
    """One step of the segmenter that holds a new item. Returns its cycle."""
    core = k.cores
    time = max(core[c, STEPPED] + 1, available, core[c, PUSHED])
    if core[c, HELD]:
        time = max(time, k.segment_pops[c, core[c, SEGMENTS]] + 1)
        _push(k, o, c, False, time)
    core[c, STEPPED] = time
    core[c, HELD], core[c, HELD_CYCLES], core[c, HELD_NULL] = 1, cycles, null
    if end:
        _close(k, o, c, time)
    return time


@njit(cache=True)
def _word(k, o, c, available, kind, null, end, a, m):
    """Word `a`, which meets mask row `m`, at the segmenter. Returns the cycle in which it leaves."""
    if kind != EVENT and not null:
        return _hold(k, o, c, available, 2 if kind == MAC2 else 1, False, end)
    last = 0
    if not null:
        for s in range(o.nonzero.shape[1]):
            bits = o.masks[c, m, s] if o.dense else o.masks[c, m, s] & o.nonzero[a, s]
            if bits:
                if last:
                    _hold(k, o, c, available, last, False, False)
                last = POPCOUNT[bits]
    if last:
        return _hold(k, o, c, available, last, False, end)
    if end and not k.cores[c, HELD]:
        return _hold(k, o, c, available, 1, True, True)
    time = max(k.cores[c, STEPPED] + 1, available)
    k.cores[c, STEPPED] = time
    if end:
        _close(k, o, c, time)
    return time


# -- a fetcher -----------------------------------------------------------------------------------------------------


@njit(cache=True)
def _credit(k, g, groups, slices):
    """The cycle in which the last of the group's cores freed a place for the next word."""
    time = NEVER
    for c in range(g, g + slices * groups, groups):
        time = max(time, k.word_pops[c, k.cores[c, WORDS_SENT]])
    return time


@njit(cache=True)
def _send(k, o, g, groups, low, high, time, kind, null, end, a, m):
    """A word asked for in cycle `time` goes to the cores of slices `low` to `high`."""
    for c in range(g + low * groups, g + high * groups, groups):
        place = k.cores[c, WORDS_SENT]
        k.word_pops[c, place] = _word(k, o, c, time + WORD_LATENCY, kind, null, end, a, m)
        k.cores[c, WORDS_SENT] = place + 1 if place + 1 < k.word_pops.shape[1] else 0


@njit(cache=True)
def _span(k, o, g, low, high, start, stop, m, kind, end, reuse):
    """One clipped span, from the walker to the issuers: words `start` to `stop`, whose first has mask row `m`.

    It is for slices `low` to `high` of group `g`. `reuse`: its word is in the window.
    """
    f = k.fetchers
    walked = max(f[g, WALKED] + 1, f[g, CLIPPED])
    clipped = max(walked + CLIP_LATENCY, f[g, TAKEN])
    taken = max(clipped + SPLIT_LATENCY, f[g, SPLIT])
    f[g, WALKED], f[g, CLIPPED], f[g, TAKEN], f[g, SPLIT] = walked, clipped, taken, taken + 1
    if start == stop and not end:
        return
    groups, slices = o.registers[R_SPLIT], o.registers[R_SLICES]
    turns = max(1, groups // o.ports)
    turn = g // o.ports % turns
    request = taken
    row = start >> OCC_BITS
    last_row = row if start == stop else (stop - 1) >> OCC_BITS
    while row <= last_row:
        place = f[g, ROWS]
        request = max(request, k.row_pops[g, place]) + 1
        ends = end and row == last_row
        first, beyond = max(start, row << OCC_BITS), min(stop, (row + 1) << OCC_BITS)
        words = 0
        if o.dense:
            words = max(0, beyond - first)
        else:
            for a in range(first, beyond):
                words += o.occupied[a]
        time = max(f[g, SCANNED] + 1, request + ROW_LATENCY)
        if words == 0:
            if ends:
                time = max(time, _credit(k, g, groups, slices) + 1)
                _send(k, o, g, groups, low, high, time, kind, True, True, 0, 0)
        else:
            left = words
            time -= 1
            for a in range(first, beyond):
                if o.dense or o.occupied[a]:
                    left -= 1
                    time = max(time, _credit(k, g, groups, slices)) + 1
                    if not reuse:
                        time += (turn - time) & (turns - 1)
                    _at(k, o, g, WORDS, time, 1)
                    row_m = (m + a - start) & ADDR_MASK
                    _send(k, o, g, groups, low, high, time, kind, False, ends and left == 0, a, row_m)
        if beyond - first > words:
            _at(k, o, g, SKIPPED, time, beyond - first - words)
        f[g, SCANNED] = time
        k.row_pops[g, place] = time
        f[g, ROWS] = place + 1 if place + 1 < k.row_pops.shape[1] else 0
        row += 1
        if ends:
            k.cluster[ENDED] = max(k.cluster[ENDED], time)
    f[g, SPLIT] = request


@njit(cache=True)
def _output(k, o, g, deal, fresh, oy, ox):
    """The output at (oy, ox) from its deal to fetcher `g` in cycle `deal` to its close. `fresh`: first of its run."""
    r, f = o.registers, k.fetchers
    taken = max(deal + FIFO_LATENCY, f[g, WALKED])
    f[g, TAKEN_JOB] = f[g, WALKED] = taken
    slices = r[R_SLICES]
    qy, qx = oy // r[R_REPY], ox // r[R_REPX]
    iy0, ix0 = r[R_IY0] + qy * r[R_SY], r[R_IX0] + qx * r[R_SX]
    a0 = r[R_A_BASE] + qy * r[R_A_OY] + qx * r[R_A_OX]
    m = r[R_M_BASE]
    for ky in range(r[R_KH]):
        iy = iy0 + ky * r[R_DY]
        for kx in range(r[R_KX]):
            ix = ix0 + kx * r[R_DX]
            low = min(max(0, -ix), r[R_SPAN])
            high = max(0, min(r[R_SPAN], r[R_W] - ix))
            if iy < 0 or iy >= r[R_H] or high < low:
                high = low
            start = (a0 + ky * r[R_A_KY] + kx * r[R_A_KX] + low * r[R_WORDS]) & ADDR_MASK
            stop = start + (high - low) * r[R_WORDS]
            last = ky == r[R_KH] - 1 and kx == r[R_KX] - 1
            reuse = o.window and not fresh and kx < r[R_KX] - r[R_SX]
            _span(k, o, g, 0, slices, start, stop, m + low * r[R_WORDS], o.kind, last and not o.residual, reuse)
            m += r[R_M_SPAN]
    if o.residual:
        for s in range(slices):
            start = (r[R_R_BASE] + oy * r[R_R_OY] + ox * r[R_R_OX] + s) & ADDR_MASK
            _span(k, o, g, s, s + 1, start, start + 1, 0, MAC2, True, False)


# -- the dealer ----------------------------------------------------------------------------------------------------


@njit(cache=True)
def _room(k, g, groups, slices):
    """The first cycle in which the output FIFOs of the cores of group `g` have room. The job FIFO has, for a whole run."""
    time = NEVER
    for c in range(g, g + slices * groups, groups):
        time = max(time, k.output_pops[c, k.cores[c, OUTPUTS_SENT]])
    return time + 1


@njit(cache=True)
def run_operation(k, o):
    """Advances the clock `k` by the operation `o`.

    On return k.cluster[DEALT] is the cycle of its last deal, [CLOSED_LAST] of its last close, [STORED_LAST] of its last store.
    The caller then writes k.ends[o.number].
    """
    r = o.registers
    groups, slices = r[R_SPLIT], r[R_SLICES]
    k.cluster[CLOSED_LAST] = k.cluster[STORED_LAST] = NEVER
    deal = o.started
    if k.cluster[GROUPS] != groups and k.cluster[GROUPS]:
        deal = max(deal, k.cluster[ENDED] + DRAINED - 1)
    k.cluster[GROUPS] = groups
    g = 0
    n = 0
    for oy in range(r[R_OH]):
        for ox in range(r[R_OW]):
            deal += 1
            fresh = ox % r[R_RUN] == 0
            if not fresh:
                deal = max(deal, _room(k, g, groups, slices))
            elif o.stateful:
                g = n % groups
                deal = max(deal, k.fetchers[g, TAKEN_JOB] + 1, _room(k, g, groups, slices))
            else:
                soonest = -NEVER
                for i in range(groups):
                    time = max(deal, k.fetchers[i, TAKEN_JOB] + 1, _room(k, i, groups, slices))
                    if time < soonest:
                        soonest, g = time, i
                deal = soonest
            n += 1
            _output(k, o, g, deal, fresh, oy, ox)
    k.cluster[DEALT] = deal
