"""The performance logs: cycles by cause, one record per operation and core."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..spec import isa
from ..spec.arch import ArchConfig
from ..spec.latencies import Latencies
from .layouts import IssueStatus
from .lib.combinators import delay
from .primitives import BlockMemory

__all__ = ["LogControl", "PerformanceLog", "RecordControl"]

FIELDS = len(isa.PERF_FIELDS)
COUNTED = 2
"""Cycles from the one after a record's last to that in which its first field is taken; `LogControl.counting` is delayed by as
much.
"""

assert isa.RECORD_CYCLES == FIELDS, "every field has its turn between two records"


class LogControl(data.StructLayout):
    """What all logs are told.

    `counting`, `active`: the machine ran, and an operation was in flight, two cycles before; `turn`: the field whose count is
    taken in this cycle, if one is (`take`); `write`: the count of the cycle before is added to the row `row`; `fresh`: it is the
    row's first.
    """

    def __init__(self, arch: ArchConfig):
        rows = isa.region_depth(arch, isa.Region.PERF)
        super().__init__({"counting": 1, "active": 1, "take": 1, "turn": range(FIELDS), "write": 1, "fresh": 1, "row": range(rows)})


class RecordControl(wiring.Component):
    """Numbers the records of a run, and lets the fields be taken in turn, one a cycle; the first one again at the end of each
    record.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    running, active : In(1)
    logging : In(1)
        Counts are written: from the start of a run to `FLUSH_CYCLES` after its end.
    start : In(1)
        A run begins with the next cycle.
    record : In(1)
        A record ends with this cycle; at least `isa.RECORD_CYCLES` after the one before.
    log : Out(LogControl)
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "running": In(1),
                "logging": In(1),
                "active": In(1),
                "start": In(1),
                "record": In(1),
                "log": Out(LogControl(arch)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        depth, log = self.arch.perf_depth, self.log
        index, begun = Signal(range(depth + 1)), Signal(FIELDS)
        following, ending, last = Signal.like(log.turn), Signal(), Signal()
        ending_in = [delay(m, self.record, 1, "record")]
        for k in range(COUNTED):
            ending_in.append(delay(m, ending_in[-1], 1, f"ending_in_{k}"))
        ended = ending_in.pop()
        closing = ended | ending
        m.d.comb += [
            log.turn.eq(Mux(ended, 0, following)),
            # No field is taken shortly before a record ends: the next count of the same row would read it before the write.
            log.take.eq(closing | ~Cat(ending_in).any()),
            last.eq(log.turn == FIELDS - 1),
        ]
        m.d.sync += [
            log.counting.eq(delay(m, self.running, 1, "ran")),
            log.active.eq(delay(m, self.active, 1, "active")),
            following.eq(log.turn + 1),
            ending.eq(closing & ~last),
            log.row.eq(Cat(log.turn, index)),
            log.write.eq(self.logging & log.take & (index != depth)),
            log.fresh.eq(~begun.bit_select(log.turn, 1)),
        ]
        with m.If(log.take):
            m.d.sync += begun.bit_select(log.turn, 1).eq(~closing)
        with m.If(closing & last & (index != depth)):
            m.d.sync += index.eq(index + 1)
        with m.If(self.start):
            m.d.sync += [index.eq(0), begun.eq(0)]
        return m


FLUSH_CYCLES = 2 * FIELDS + 8
"""From the end of a run to the cycle in which all its counts are written."""


class PerformanceLog(wiring.Component):
    """A core's counters and the memory of its records (`isa.PERF_FIELDS`), a row a field.

    Each field has a counter of a few bits, which is added to its row in the field's turn. A field is counted with a delay: as many
    cycles as its turn is after that of the first field. So every field ends with the record.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    status : In(IssueStatus)
    words, skipped
        Words that the fetcher of the core's number asks for, and empty ones that it passes, in this cycle.
    log : In(LogControl)
    r_addr, r_data
        The host's reads, while nothing is written.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        self.depth = isa.region_depth(arch, isa.Region.PERF)
        super().__init__(
            {
                "status": In(IssueStatus()),
                "words": In(1),
                "skipped": In(range(arch.occ_width + 1)),
                "log": In(LogControl(arch)),
                "r_addr": In((self.depth - 1).bit_length()),
                "r_data": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = BlockMemory(self.depth, 32, latency := Latencies(self.arch).memory)
        log, status, waiting = self.log, delay(m, self.status, 1, "status"), Signal()
        m.d.comb += waiting.eq(log.counting & (status.as_value() == 0))
        steps = {
            "busy": status.busy,
            "fetch": waiting & log.active,
            "ppu": status.ppu,
            "marker": status.marker,
            "idle": waiting & ~log.active,
            "words": delay(m, self.words, 2, "words"),
            "skipped": delay(m, self.skipped, 2, "skipped"),
        }
        # Between two turns of a field lie less than three rounds of all fields: the counters are wide enough for that.
        taken = [
            self._count(m, name, delay(m, step, isa.PERF_FIELDS.index(name), name), 3 * FIELDS * ((1 << len(step)) - 1))
            for name, step in steps.items()
        ]
        count = Signal(max(len(part) for part in taken))
        m.d.sync += count.eq(reduce(or_, taken))
        write, fresh, row = (delay(m, log[name], latency, name) for name in ("write", "fresh", "row"))
        m.d.comb += [
            memory.r_addr.eq(Mux(log.write, log.row, self.r_addr)),
            memory.w_en.eq(write),
            memory.w_addr.eq(row),
            memory.w_data.eq(Mux(fresh, 0, memory.r_data) + delay(m, count, latency, "count")),
            self.r_data.eq(memory.r_data),
        ]
        return m

    def _count(self, m, name, step, most):
        """Counts `step` up to `most`; returns the count in the cycle of its turn, zero in the others."""
        count, turn = Signal(range(most + 1), name=f"{name}_count"), Signal(name=f"{name}_turn")
        m.d.comb += turn.eq(self.log.take & (self.log.turn == isa.PERF_FIELDS.index(name)))
        m.d.sync += count.eq(Mux(turn, 0, count) + step)
        return Mux(turn, count, 0)
