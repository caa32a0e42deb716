"""The cluster's pipeline as a max-plus recurrence: when every job, span, row, word, segment and event moves, to the cycle.

An output is dispatched to the first fetcher that can take it, which depends on the outputs before it. Behind the dispatcher no
stage chooses by order of arrival, so the time of an item follows from the items before it alone: it moves when it has arrived,
when the item before it has moved on, and when a place is free, which the item `depth` places before it has left. One pass over
the outputs in the order of their dispatch, each followed until it is closed, is therefore exact. All numbers come from
`sordino_hw.spec.latencies`, `sordino_hw.spec.structure` and `ArchConfig`; `clock.Clock` puts them into the records below.
"""

import numpy as np

from sordino_hw.compiled import compiled

__all__ = [
    "ARCHITECTURE",
    "CLUSTER",
    "CORE",
    "EVENT",
    "FIELDS",
    "IN_FLIGHT",
    "MAC",
    "MAC2",
    "MAX",
    "MAX_FIFO",
    "NEVER",
    "OPERATION",
    "REGISTERS",
    "TIME",
    "run",
]

# Numba keeps compiled functions until this file changes, so what other files say comes as data, or is checked in `clock`.
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

TIME = np.int64


def _layout(**fields: int | tuple[int, ...]) -> np.dtype:
    """A record of int64 fields: name = shape, () for a number."""
    return np.dtype([(name, TIME, shape) for name, shape in fields.items()])


REGISTERS = (
    *("OH", "OW", "KH", "KX", "SPAN", "WORDS", "H", "W", "IY0", "IX0", "SY", "SX", "DY", "DX", "REPY", "REPX"),
    *("A_BASE", "A_OY", "A_OX", "A_KY", "A_KX", "M_BASE", "M_SPAN", "W_BASE", "W_SPAN", "W_WORD"),
    *("R_BASE", "R_OY", "R_OX", "R_W", "DRAIN", "SPLIT", "SLICES", "RUN"),
)
"""The registers of an operation (`isa.REGISTERS`) that decide its cycles."""

ARCHITECTURE: dict[str, int | tuple[int, ...]] = {
    # sizes, and the greatest address of each memory
    **dict.fromkeys(("cores", "ports", "row_fifo", "word_fifo", "segment_fifo", "output_fifo", "wide_cycles", "occ_bits"), ()),
    **dict.fromkeys(("act_mask", "weight_mask", "mask_mask"), ()),
    # latencies (`spec.latencies`), and whether a fetcher holds one job only
    **dict.fromkeys(
        ("clip", "dispatch", "fifo", "freed", "drained", "split", "row", "word", "shadow", "store", "pause", "alone"), ()
    ),
}
OPERATION: dict[str, int | tuple[int, ...]] = {
    **dict.fromkeys(("number", "kind", "dense", "residual", "product", "window", "stateful", "started"), ()),
    **dict.fromkeys(REGISTERS, ()),
}
CLUSTER = _layout(
    **ARCHITECTURE,
    **OPERATION,
    **dict.fromkeys(("begun", "next", "tap", "fetcher"), ()),  # where `run` goes on: output, span of it, and who has it
    dispatched=(),  # the last dispatch
    groups=(),  # the groups that it was for, 0 before the first
    ended=(),  # the last request that ended a job
    closed_last=(),  # the operation's last close
    stored_last=(),  # the operation's last store
    ends=IN_FLIGHT,  # the last cycle of the newest records, by operation modulo IN_FLIGHT
)
"""What the cores share: architecture, operation, and the times of the dispatcher."""

CORE = _layout(
    index=(),
    # the fetcher of the same number: when the last item moved at each stage, and the job before the last
    **dict.fromkeys(("taken_before", "taken_job", "walked", "clipped", "taken", "split_free", "scanned"), ()),
    # the core: when the last item moved at the segmenter and at the issuer
    **dict.fromkeys(("stepped", "pushed", "issued"), ()),
    held=(),  # whether the segmenter holds an item back
    held_cycles=(),  # its cycles
    held_empty=(),  # whether it is the marker of an empty output
    closed=(),  # of the last output that was closed: when, its DRAIN and its operation
    closed_drain=(),
    closed_op=(),
    wide=(),  # first row of the wide weight that the lanes keep
    # the place of the next item in each FIFO, and when the item in each place left it
    **dict.fromkeys(("next_row", "next_word", "next_segment", "next_output"), ()),
    **dict.fromkeys(("row_pops", "word_pops", "segment_pops", "output_pops"), MAX_FIFO),
    records=(IN_FLIGHT, FIELDS),  # the newest records, by operation modulo IN_FLIGHT
)
"""A core, and the fetcher of the same number."""


# -- records -------------------------------------------------------------------------------------------------------


@compiled
def _at(t, c, field, time, n):
    """Adds `n` to a field of core `c`, in the record that cycle `time` belongs to."""
    op = t.number
    while time <= t.ends[(op - 1) % IN_FLIGHT]:
        op -= 1
    c.records[op % IN_FLIGHT, field] += n


@compiled
def _count(t, c, field, first, last):
    """Counts the cycles `first` to `last` of core `c` as cause `field`, in the records that they belong to."""
    op = t.number
    while last >= first:
        begin = max(first, t.ends[(op - 1) % IN_FLIGHT] + 1)
        if begin <= last:
            c.records[op % IN_FLIGHT, field] += last - begin + 1
            last = begin - 1
        op -= 1


# -- a core --------------------------------------------------------------------------------------------------------


@compiled
def _push(t, c, end, time):
    """The held item enters the segment FIFO in cycle `time`, and is issued as soon as it can be; `end`: it closes an output."""
    place = c.next_segment
    start = max(time + (t.fifo if t.split else 0), c.issued + 1)
    if t.pause and start <= c.closed + t.pause:
        _count(t, c, PPU, start, c.closed + t.pause)
        start = c.closed + t.pause + 1
    finish = start + c.held_cycles - 1
    field = MARKER if c.held_empty else BUSY
    if end:
        gap = c.closed_drain
        gap = max(gap, t.cores) if c.closed_op == t.number else gap + t.cores
        closed = max(finish, c.closed + gap)
        if closed > finish:
            _count(t, c, field, start, finish - 1)
            _count(t, c, PPU, finish, closed - 1)
            start = finish = closed
        c.closed, c.closed_drain, c.closed_op = closed, t.DRAIN, t.number
        t.closed_last = max(t.closed_last, closed)
        stored = closed + t.shadow + t.DRAIN - 1 + t.store
        stored += (c.index - stored) & (t.cores - 1)  # the core's time slot for writing activation memory
        t.stored_last = max(t.stored_last, stored)
        output = c.next_output
        c.output_pops[output] = closed
        c.next_output = output + 1 if output + 1 < t.output_fifo else 0
    _count(t, c, field, start, finish)
    c.issued = finish
    c.segment_pops[place] = finish
    c.next_segment = place + 1 if place + 1 < t.segment_fifo else 0
    c.pushed = time if t.split else finish
    c.held = 0


@compiled
def _close(t, c, time):
    """In cycle `time` the held item is known to be the last of its output, so it enters the segment FIFO without waiting for the next."""
    _push(t, c, True, (max(time, c.segment_pops[c.next_segment]) if t.split else time) + 1)


@compiled
def _hold(t, c, available, cycles, empty, end):
    """The segmenter takes a new item of `cycles` cycles and holds it back until the next one is known. Returns the cycle.

    `available`: the first cycle in which it can; `empty`: it is the marker of an empty output; `end`: the last of its output.
    """
    time = max(c.stepped + 1, available, c.pushed)
    if c.held:
        if t.split:
            time = max(time, c.segment_pops[c.next_segment] + 1)
        _push(t, c, False, time)
        if not t.split:
            time = c.pushed
    c.stepped = time
    c.held, c.held_cycles, c.held_empty = 1, cycles, empty
    if end:
        _close(t, c, time)
    return time


@compiled
def _word(t, c, available, kind, empty, end, a, m, w, nonzero, masks):
    """The word at address `a`, which meets mask row `m` and weight row `w`, at the segmenter. Returns the cycle in which it leaves.

    `available`: the first cycle in which the segmenter can take it; `empty`: it stands for an output without a word; `end`: the
    last one of its output. `nonzero` and `masks` as in `Clock.run`.
    """
    if kind != EVENT and not empty:
        cycles = 1
        if kind == MAC2:
            cycles = t.wide_cycles if c.wide == w else 2
            c.wide = w
        return _hold(t, c, available, cycles, 0, end)
    last = 0
    if not empty:
        i = c.index
        for s in range(nonzero.shape[1]):
            bits = masks[i, m, s] if t.dense else masks[i, m, s] & nonzero[a, s]
            if bits:
                if last:
                    _hold(t, c, available, last, 0, False)
                last = POPCOUNT[bits]
    if last:
        return _hold(t, c, available, last, 0, end)
    if end and not c.held:
        return _hold(t, c, available, 1, 1, True)
    time = max(c.stepped + 1, available)
    c.stepped = time
    if end:
        _close(t, c, time)
    return time


# -- a fetcher -----------------------------------------------------------------------------------------------------


@compiled
def _credit(t, cores, f):
    """The cycle in which the last core of the group of fetcher `f` freed a place for the next word: the fetcher's credit."""
    time = NEVER
    for i in range(f, f + t.SLICES * t.SPLIT, t.SPLIT):
        c = cores[i]
        time = max(time, c.word_pops[c.next_word])
    return time


@compiled
def _send(t, cores, f, low, high, time, kind, empty, end, a, m, w, nonzero, masks):
    """A word that fetcher `f` asks for in cycle `time` goes to the cores of slices `low` to `high - 1`; the rest as in `_word`."""
    for i in range(f + low * t.SPLIT, f + high * t.SPLIT, t.SPLIT):
        c = cores[i]
        place = c.next_word
        c.word_pops[place] = _word(t, c, time + t.word, kind, empty, end, a, m, w, nonzero, masks)
        c.next_word = place + 1 if place + 1 < t.word_fifo else 0


@compiled
def _span(t, cores, f, low, high, start, stop, m, w, kind, end, reuse, nonzero, occupied, masks):
    """One clipped span, from the walker of fetcher `f` to the issuers.

    It is the words at the addresses `start` to `stop - 1`, the first of which meets mask row `m` and weight row `w`, and is for the
    slices `low` to `high - 1` of the core group. `end`: the last one of its output; `reuse`: its word is in the word window.
    """
    c = cores[f]
    walked = max(c.walked + 1, c.clipped)
    clipped = max(walked + t.clip, c.taken)
    taken = max(clipped + t.split, c.split_free)
    if t.split == 0:
        clipped = taken
    c.walked, c.clipped, c.taken, c.split_free = walked, clipped, taken, taken + 1
    if start == stop and not end:
        return
    if start < stop and (stop > len(occupied) or (kind == EVENT and (m & t.mask_mask) + stop - start > masks.shape[1])):
        raise IndexError("a word or a mask row beyond the memory")
    turns = max(1, t.SPLIT // t.ports)
    turn = c.index // t.ports
    request = taken
    row = start >> t.occ_bits
    last_row = row if start == stop else (stop - 1) >> t.occ_bits
    while row <= last_row:
        place = c.next_row
        request = max(request, c.row_pops[place]) + 1
        ends = end and row == last_row
        first, beyond = max(start, row << t.occ_bits), min(stop, (row + 1) << t.occ_bits)
        left = beyond - first
        if not t.dense:
            left = 0
            for a in range(first, beyond):
                left += occupied[a]
        skipped = beyond - first - left
        time = max(c.scanned + 1, request + t.row)
        if left:
            time -= 1
            for a in range(first, beyond):
                if t.dense or occupied[a]:
                    left -= 1
                    time = max(time, _credit(t, cores, f)) + 1
                    if not reuse:
                        time += (turn - time) & (turns - 1)
                    _at(t, c, WORDS, time, 1)
                    at_end = ends and left == 0
                    n = a - start
                    w_row = (w + n * t.W_WORD) & t.weight_mask
                    _send(t, cores, f, low, high, time, kind, False, at_end, a, (m + n) & t.mask_mask, w_row, nonzero, masks)
        elif ends:
            time = max(time, _credit(t, cores, f) + 1)
            _send(t, cores, f, low, high, time, kind, True, True, 0, 0, 0, nonzero, masks)
        if skipped:
            _at(t, c, SKIPPED, time, skipped)
        if ends:
            t.ended = max(t.ended, time)
        c.scanned = time
        c.row_pops[place] = time
        c.next_row = place + 1 if place + 1 < t.row_fifo else 0
        row += 1
    # Without a FIFO behind the splitter the row stays in it until it is scanned; the next span follows a cycle later.
    c.split_free = request if t.split else c.scanned + 1


@compiled
def _output(t, cores, f, fresh, oy, ox, work, nonzero, occupied, masks):
    """The output at (oy, ox), dispatched to fetcher `f` in cycle `t.dispatched`, to its close. `fresh`: first of its run.

    Begins at span `t.tap`. Returns what is left of `work`, words and spans; where none is left, the output may end at a later
    call, from `t.tap` on, which is 0 when it has ended.
    """
    c = cores[f]
    if t.tap == 0:
        taken = max(t.dispatched + t.fifo, c.walked)
        c.taken_before = c.taken_job
        c.taken_job = c.walked = taken
    slices, spans = t.SLICES, t.KH * t.KX
    qy, qx = oy // t.REPY, ox // t.REPX
    iy0, ix0 = t.IY0 + qy * t.SY, t.IX0 + qx * t.SX
    a0 = t.A_BASE + qy * t.A_OY + qx * t.A_OX
    for tap in range(t.tap, spans):
        ky, kx = tap // t.KX, tap % t.KX
        iy, ix = iy0 + ky * t.DY, ix0 + kx * t.DX
        low = min(max(0, -ix), t.SPAN)
        high = max(0, min(t.SPAN, t.W - ix))
        if iy < 0 or iy >= t.H or high < low:
            high = low
        start = (a0 + ky * t.A_KY + kx * t.A_KX + low * t.WORDS) & t.act_mask
        stop = start + (high - low) * t.WORDS
        end = tap == spans - 1 and not t.residual
        reuse = t.window and not fresh and 0 < t.SX < t.KX - kx
        m, w = t.M_BASE + tap * t.M_SPAN, t.W_BASE + tap * t.W_SPAN
        q = low * t.WORDS
        _span(t, cores, f, 0, slices, start, stop, m + q, w + q * t.W_WORD, t.kind, end, reuse, nonzero, occupied, masks)
        work -= 1 + (stop - start) * slices
        if work <= 0 and tap < spans - 1:
            t.tap = tap + 1
            return work
    t.tap = 0
    if t.residual:
        kind = MAC if t.product else MAC2
        for s in range(slices):
            start = (t.R_BASE + oy * t.R_OY + ox * t.R_OX + s) & t.act_mask
            _span(t, cores, f, s, s + 1, start, start + 1, 0, t.R_W, kind, True, False, nonzero, occupied, masks)
        work -= slices
    return work


# -- the dispatcher ----------------------------------------------------------------------------------------------------


@compiled
def _ahead(t, c):
    """The first cycle in which the fetcher of core `c` can take one more job: it holds two, or one (`structure.job_depth`)."""
    return (c.taken_job if t.alone else c.taken_before) + t.freed


@compiled
def _room(t, cores, f):
    """The first cycle in which an output can be dispatched to every core of the group of fetcher `f`.

    The fetcher has room for the jobs of a whole run, unless every core group has a port.
    """
    time = NEVER
    for i in range(f, f + t.SLICES * t.SPLIT, t.SPLIT):
        c = cores[i]
        time = max(time, c.output_pops[c.next_output])
    return time + t.freed


@compiled
def _dispatch(t, cores, fresh):
    """Chooses the fetcher of output `t.next`, and the cycle in which it is dispatched there."""
    dispatched = t.dispatched + 1
    f = t.fetcher
    if not fresh:
        dispatched = max(dispatched, _room(t, cores, f))
        if t.cores == t.ports:
            dispatched = max(dispatched, _ahead(t, cores[f]))
    elif t.stateful:
        f = t.next % t.SPLIT
        dispatched = max(dispatched, _ahead(t, cores[f]), _room(t, cores, f))
    else:
        soonest = -NEVER
        for fetcher in range(t.SPLIT):
            time = max(dispatched, _ahead(t, cores[fetcher]), _room(t, cores, fetcher))
            if time < soonest:
                soonest, f = time, fetcher
        dispatched = soonest
    t.dispatched, t.fetcher = dispatched, f


@compiled(nogil=True)
def run(cluster, cores, nonzero, occupied, masks, work):
    """Advances by the operation whose registers and flags `cluster` holds; arguments as in `Clock.run`.

    Returns whether the operation has ended. If not, it stopped after about `work` words and spans, so that the caller can hear an
    interrupt, and is to be called again with the same arguments. The interpreter's lock is released meanwhile.

    `cluster` is an array of one `CLUSTER`, `cores` an array [cores] of `CORE`. Functions that this one calls take the record `t` of
    the cluster, and the record `c` of a core or the array and the number `f` of a fetcher; times and numbers are int64. Raises
    `IndexError` for a word or a mask row beyond the arrays.
    """
    t = cluster[0]
    if not t.begun:
        t.begun = 1
        t.next = t.tap = t.fetcher = 0
        t.closed_last = t.stored_last = NEVER
        t.dispatched = t.started + t.dispatch - 1
        if t.groups and t.groups != t.SPLIT:
            t.dispatched = max(t.dispatched, t.ended + t.drained - 1)
        t.groups = t.SPLIT
    outputs = t.OH * t.OW
    while t.next < outputs:
        oy, ox = t.next // t.OW, t.next % t.OW
        fresh = ox % t.RUN == 0
        if t.tap == 0:
            _dispatch(t, cores, fresh)
        work = _output(t, cores, t.fetcher, fresh, oy, ox, work, nonzero, occupied, masks)
        if t.tap == 0:
            t.next += 1
        if work <= 0 and t.next < outputs:
            return False
    return True
