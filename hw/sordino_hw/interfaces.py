"""The two interfaces between the host's port and the array: memory windows and run control."""

from amaranth.lib.wiring import In, Out, Signature

from . import isa
from .arch import ArchConfig

__all__ = ["ControlSignature", "WindowSignature"]


class WindowSignature(Signature):
    """Whole-row access of the host to the memories, only while the machine does not run.

    Members (seen from the host port)
    ---------------------------------
    region : Out(isa.Region)
    row : Out(22)
        Must be within the region's depth: the host port checks it.
    we : Out(1)
        Writes `wdata` (low `region_bits` bits) to the row, in this cycle.
    wdata : Out(widest writable row)
        Held for a cycle after `we`; zero while the machine runs, unless `ArchConfig.pipelining` is 1.
    re : Out(1)
        Reads the row; `rdata` shows it `Latencies.window` cycles later, and as long as `region` and `row` are held, nothing is
        written and the machine does not run.
    rdata : In(widest readable row)

    Writable: IMEM, WEIGHT, MASK, PARAM, ACT (its occupancy bit follows from the data), STATE, TABLE.
    Readable: ACT, STATE, PERF; the others read as zero.
    """

    def __init__(self, arch: ArchConfig):
        bits = {r: isa.region_bits(arch, r) for r in isa.Region if r is not isa.Region.CSR}
        self.write_bits = max(b for r, b in bits.items() if r is not isa.Region.PERF)
        self.read_bits = max(bits[r] for r in (isa.Region.ACT, isa.Region.STATE, isa.Region.PERF))
        super().__init__(
            {
                "region": Out(isa.Region),
                "row": Out(isa.ADDR_BITS),
                "we": Out(1),
                "wdata": Out(self.write_bits),
                "re": Out(1),
                "rdata": In(self.read_bits),
            }
        )


class ControlSignature(Signature):
    """Start and status (seen from the host port).

    Members
    -------
    start : Out(1)
        One cycle; ignored while `running`.
    limit : Out(32)
        Cycle limit of the run.
    running, halted : In(1)
        `halted` is set by HALT or a trap and cleared by `start`.
    trap : In(isa.Trap)
    pc, cycles, ops : In(32)
    """

    def __init__(self):
        super().__init__(
            {
                "start": Out(1),
                "limit": Out(32),
                "running": In(1),
                "halted": In(1),
                "trap": In(isa.Trap),
                "pc": In(32),
                "cycles": In(32),
                "ops": In(32),
            }
        )
