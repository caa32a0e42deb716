"""The core's pipeline as a max-plus recurrence: when every span, row, word, segment and event moves, to the cycle.

No stage chooses by arrival order, so the time of an item follows from the items before it alone: it moves when it has
arrived, the item before it has moved on, and a place is free, which the item `depth` places before it left. One pass
over the items in program order is exact. Each rule below restates a stage of `sordino_hw.core`, whose constants it uses.
"""

import numpy as np
from numba import njit

from sordino_hw import isa
from sordino_hw.core.lanes import SHADOW_LATENCY
from sordino_hw.core.memory import LATENCY
from sordino_hw.core.ppu import STORE_LATENCY
from sordino_hw.core.sequencer import IN_FLIGHT

__all__ = ["FIRST_INSTRUCTION", "IN_FLIGHT", "SHADOW_LATENCY", "STORE_LATENCY", "Clock", "run_operation"]

FIRST_INSTRUCTION = LATENCY + 1
"""Cycle in which the first instruction of a run can execute."""

ROW_LATENCY = LATENCY + 1
WORD_LATENCY = LATENCY + 2
OCC_BITS = 5
ADDR_MASK = (1 << isa.ADDR_BITS) - 1
POPCOUNT = np.array([bin(i).count("1") for i in range(256)], np.int64)

EVENT, MAC, MAC2, MAX = range(4)
"""As `sordino_hw.core.layouts.Kind`."""

# Times of the last item at each stage, and what the segmenter holds back.
(
    WALKED,
    CLIPPED,
    TAKEN,
    SPLIT,
    SCANNED,
    STEPPED,
    ISSUED,
    CLOSED,
    ROWS,
    WORDS_SENT,
    SEGMENTS,
    HELD,
    HELD_CYCLES,
    HELD_NULL,
    PUSHED,
    BUSY,
    PPU,
    MARKER,
    READ,
    SKIPPED,
    SHADOW_FREE,
) = range(21)
FIELDS = 21

_INDEX = {name: register.index for name, register in isa.REGISTERS.items()}
R_OH, R_OW, R_KH, R_KX = (_INDEX[name] for name in ("OH", "OW", "KH", "KX"))
R_SPAN, R_WORDS, R_H, R_W = (_INDEX[name] for name in ("SPAN", "WORDS", "H", "W"))
R_IY0, R_IX0, R_SY, R_SX = (_INDEX[name] for name in ("IY0", "IX0", "SY", "SX"))
R_DY, R_DX, R_REPY, R_REPX = (_INDEX[name] for name in ("DY", "DX", "REPY", "REPX"))
R_A_BASE, R_A_OY, R_A_OX, R_A_KY, R_A_KX = (_INDEX[name] for name in ("A_BASE", "A_OY", "A_OX", "A_KY", "A_KX"))
R_M_BASE, R_M_SPAN, R_R_BASE, R_R_OY, R_R_OX = (_INDEX[name] for name in ("M_BASE", "M_SPAN", "R_BASE", "R_OY", "R_OX"))
R_DRAIN = _INDEX["DRAIN"]


class Clock:
    """The pipeline's state between operations of one run.

    Parameters
    ----------
    row_fifo, word_fifo, segment_fifo : int
        Depths, from the `ArchConfig`.
    """

    def __init__(self, row_fifo: int, word_fifo: int, segment_fifo: int):
        self.t = np.full(FIELDS, -1, np.int64)
        self.t[[ROWS, WORDS_SENT, SEGMENTS, HELD, BUSY, PPU, MARKER, READ, SKIPPED, SHADOW_FREE]] = 0
        # When the item `depth` places before left; far in the past at first.
        self.row_pops, self.word_pops, self.segment_pops = (np.full(n, -2, np.int64) for n in (row_fifo, word_fifo, segment_fifo))


@njit(cache=True)
def _push(t, segment_pops, time):
    """The held item enters the segment FIFO in cycle `time`; the issuer's times follow."""
    slot = t[SEGMENTS] % len(segment_pops)
    start = max(time, t[ISSUED]) + 1
    finish = start + t[HELD_CYCLES] - 1
    if t[HELD_NULL]:
        t[MARKER] += 1
    else:
        t[BUSY] += t[HELD_CYCLES]
    if t[HELD] == 2:
        closed = max(finish, t[SHADOW_FREE])
        t[PPU] += closed - finish
        finish = closed
        t[CLOSED] = finish
    t[ISSUED] = finish
    segment_pops[slot] = finish
    t[SEGMENTS] += 1
    t[PUSHED] = time
    t[HELD] = 0


@njit(cache=True)
def _close(t, segment_pops, drain, time):
    """The held item became the last of its output in cycle `time`: it needs nothing more to be pushed."""
    t[HELD] = 2
    _push(t, segment_pops, max(time, segment_pops[t[SEGMENTS] % len(segment_pops)]) + 1)
    t[SHADOW_FREE] = t[CLOSED] + drain


@njit(cache=True)
def _hold(t, segment_pops, drain, available, cycles, null, end):
    """One step of the segmenter that holds a new item. Returns its cycle."""
    time = max(t[STEPPED] + 1, available, t[PUSHED])
    if t[HELD] == 1:
        time = max(time, segment_pops[t[SEGMENTS] % len(segment_pops)] + 1)
        _push(t, segment_pops, time)
    t[STEPPED] = time
    t[HELD], t[HELD_CYCLES], t[HELD_NULL] = 1, cycles, null
    if end:
        _close(t, segment_pops, drain, time)
    return time


@njit(cache=True)
def _word(t, segment_pops, drain, available, kind, null, end, events, mask, popcount):
    """A word at the segmenter: `events` and `mask` are bytes, one per segment. Returns the cycle in which it leaves."""
    if kind != EVENT and not null:
        return _hold(t, segment_pops, drain, available, 2 if kind == MAC2 else 1, False, end)
    left = 0
    if not null:
        for k in range(len(events)):
            if events[k] & mask[k]:
                left += 1
    if left == 0:
        if end and t[HELD] != 1:
            return _hold(t, segment_pops, drain, available, 1, True, True)
        time = max(t[STEPPED] + 1, available)
        t[STEPPED] = time
        if end:
            _close(t, segment_pops, drain, time)
        return time
    time = available
    for k in range(len(events)):
        n = popcount[events[k] & mask[k]]
        if n:
            left -= 1
            time = _hold(t, segment_pops, drain, available, n, False, end and left == 0)
    return time


@njit(cache=True)
def _span(t, row_pops, word_pops, segment_pops, drain, start, stop, m, kind, dense, end, nonzero, occupied, masks, full, popcount):
    """One clipped span, from the walker to the issuer: words `start` to `stop`, whose first has mask row `m`.

    `full` is the mask row, or the activation word, of all ones.
    """
    walked = max(t[WALKED] + 1, t[CLIPPED])
    clipped = max(walked + 1, t[TAKEN])
    taken = max(clipped + 1, t[SPLIT])
    t[WALKED], t[CLIPPED], t[TAKEN], t[SPLIT] = walked, clipped, taken, taken + 1
    if start == stop and not end:
        return
    request = taken
    row = start >> OCC_BITS
    last_row = row if start == stop else (stop - 1) >> OCC_BITS
    while row <= last_row:
        slot = t[ROWS] % len(row_pops)
        request = max(request, row_pops[slot]) + 1
        ends = end and row == last_row
        low, high = max(start, row << OCC_BITS), min(stop, (row + 1) << OCC_BITS)
        words = 0
        for a in range(low, high):
            if dense or occupied[a]:
                words += 1
        t[SKIPPED] += high - low - words
        t[READ] += words
        time = max(t[SCANNED] + 1, request + ROW_LATENCY)
        if words == 0 and ends:
            place = t[WORDS_SENT] % len(word_pops)
            time = max(time, word_pops[place] + 1)
            word_pops[place] = _word(
                t, segment_pops, drain, time + WORD_LATENCY, kind, True, True, nonzero[0], nonzero[0], popcount
            )
            t[WORDS_SENT] += 1
        elif words:
            time -= 1
            for a in range(low, high):
                if dense or occupied[a]:
                    words -= 1
                    place = t[WORDS_SENT] % len(word_pops)
                    time = max(time, word_pops[place]) + 1
                    mask = masks[(m + a - start) & ADDR_MASK] if kind == EVENT else full
                    word_pops[place] = _word(
                        t,
                        segment_pops,
                        drain,
                        time + WORD_LATENCY,
                        kind,
                        False,
                        ends and words == 0,
                        full if dense else nonzero[a],
                        mask,
                        popcount,
                    )
                    t[WORDS_SENT] += 1
        t[SCANNED] = time
        row_pops[slot] = time
        t[ROWS] += 1
        row += 1
    t[SPLIT] = request


@njit(cache=True)
def run_operation(t, row_pops, word_pops, segment_pops, popcount, r, kind, dense, residual, started, nonzero, occupied, masks):
    """Advances the pipeline by one operation that is started in cycle `started`.

    Parameters
    ----------
    t, row_pops, word_pops, segment_pops
        Of a `Clock`; changed.
    r : int64 [registers]
    nonzero : uint8 [act_depth, lanes / 8]
        A bit per activation that is not zero.
    occupied : bool [act_depth]
    masks : uint8 [mask_depth, lanes / 8]

    On return t[ISSUED] is the cycle of the operation's last issue, t[WALKED] that of its last span.
    """
    t[WALKED] = started
    drain = r[R_DRAIN]
    full = np.full(nonzero.shape[1], np.uint8(255))
    for oy in range(r[R_OH]):
        qy = oy // r[R_REPY]
        iy0 = r[R_IY0] + qy * r[R_SY]
        for ox in range(r[R_OW]):
            qx = ox // r[R_REPX]
            ix0 = r[R_IX0] + qx * r[R_SX]
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
                    a = a0 + ky * r[R_A_KY] + kx * r[R_A_KX]
                    start = (a + low * r[R_WORDS]) & ADDR_MASK
                    last = ky == r[R_KH] - 1 and kx == r[R_KX] - 1
                    _span(
                        t,
                        row_pops,
                        word_pops,
                        segment_pops,
                        drain,
                        start,
                        start + (high - low) * r[R_WORDS],
                        m + low * r[R_WORDS],
                        kind,
                        dense,
                        last and not residual,
                        nonzero,
                        occupied,
                        masks,
                        full,
                        popcount,
                    )
                    m += r[R_M_SPAN]
            if residual:
                start = (r[R_R_BASE] + oy * r[R_R_OY] + ox * r[R_R_OX]) & ADDR_MASK
                _span(
                    t,
                    row_pops,
                    word_pops,
                    segment_pops,
                    drain,
                    start,
                    start + 1,
                    0,
                    MAC2,
                    dense,
                    True,
                    nonzero,
                    occupied,
                    masks,
                    full,
                    popcount,
                )
