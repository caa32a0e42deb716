"""The performance logs: what every cycle was spent on, one record per operation and core."""

from functools import reduce
from operator import or_

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .. import isa
from ..arch import ArchConfig
from ..primitives import BlockMemory
from .combinators import delay
from .issue import IssueStatus

__all__ = ["LogControl", "PerformanceLog", "RecordControl"]


class LogControl(data.StructLayout):
    """What all logs are told, and when they write.

    `counting`, `active`: whether the machine ran and an operation was under way in the cycle before; `first`: that cycle
    was the first of a record, or a run begins; `write`: a field of the record before goes to row `row`; `idle`: that field,
    if it is the idle cycles, which all cores have in common (else zero).
    """

    def __init__(self, arch: ArchConfig):
        rows = isa.region_depth(arch, isa.Region.PERF)
        super().__init__({"counting": 1, "active": 1, "first": 1, "write": 1, "row": range(rows), "idle": 32})


def _tally(m: Module, name: str, step, first):
    """Counts `step` and returns the sum of a record in the cycle in which its field is written, zero in the others.

    Fields are written one a cycle, and each is counted as many cycles late: so none must be kept until its turn.
    """
    turn = isa.PERF_FIELDS.index(name)
    step, first = delay(m, step, turn, f"{name}_step"), delay(m, first, turn, f"{name}_first")
    count, written = Signal(32, name=f"{name}_count"), Signal(32, name=f"{name}_written")
    with m.If(first):
        m.d.sync += [count.eq(step), written.eq(count)]
    with m.Else():
        m.d.sync += [count.eq(count + step), written.eq(0)]
    return written


class RecordControl(wiring.Component):
    """Numbers the records of a run and times the writing of their fields, one a cycle.

    Members
    -------
    running, active : In(1)
    start : In(1)
        A run begins with the next cycle.
    record : In(1)
        A record ends with this cycle; at least `isa.RECORD_CYCLES` after the one before.
    log : Out(LogControl)
        The last field is written `FLUSH_CYCLES` after `record`.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__({"running": In(1), "active": In(1), "start": In(1), "record": In(1), "log": Out(LogControl(arch))})

    def elaborate(self, platform):
        m = Module()
        fields, depth = len(isa.PERF_FIELDS), self.arch.perf_depth
        writing, field, index = Signal(), Signal(range(fields)), Signal(range(depth + 1))
        log, recorded = self.log, delay(m, self.record, 1, "recorded")
        m.d.sync += [log.counting.eq(self.running), log.active.eq(self.active), log.first.eq(recorded | self.start)]
        m.d.comb += [
            log.write.eq(writing & (index != depth)),
            log.row.eq(index * fields + field),
            log.idle.eq(_tally(m, "idle", log.counting & ~log.active, log.first)),
        ]
        with m.If(delay(m, recorded, 1, "ended")):
            m.d.sync += [writing.eq(1), field.eq(0)]
        with m.Elif(writing):
            m.d.sync += [field.eq(field + 1), writing.eq(field != fields - 1)]
        with m.If(self.start):
            m.d.sync += index.eq(0)
        with m.Elif(log.write & (field == fields - 1)):
            m.d.sync += index.eq(index + 1)
        return m


FLUSH_CYCLES = isa.RECORD_CYCLES + 2
"""From the cycle in which a record ends to the one in which its last field is written."""


class PerformanceLog(wiring.Component):
    """A core's counters and the memory of its records (`isa.PERF_FIELDS`), a row a field.

    Members
    -------
    status : In(IssueStatus)
    words, skipped
        Words that the fetcher of the core's number asks for, and empty ones that it passes, in this cycle.
    log : In(LogControl)
    r_addr, r_data
        The host's reads.
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
        m.submodules.memory = memory = BlockMemory(self.depth, 32)
        log, status, waiting = self.log, self.status, Signal()
        m.d.comb += waiting.eq(log.counting & log.active & (status.as_value() == 0))
        steps = {
            "busy": status.busy,
            "fetch": waiting,
            "ppu": status.ppu,
            "marker": status.marker,
            "words": delay(m, self.words, 1, "words"),
            "skipped": delay(m, self.skipped, 1, "skipped"),
        }
        fields = [_tally(m, name, step, log.first) for name, step in steps.items()]
        m.d.comb += [
            memory.w_en.eq(log.write),
            memory.w_addr.eq(log.row),
            memory.w_data.eq(reduce(or_, fields, log.idle)),
            memory.r_addr.eq(self.r_addr),
            self.r_data.eq(memory.r_data),
        ]
        return m
