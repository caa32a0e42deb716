"""The two interfaces between the host port and the array: host window and run control."""

from amaranth.lib.wiring import In, Out, Signature

from ...spec import isa
from ...spec.arch import ArchConfig

__all__ = ["ControlSignature", "WindowSignature"]


class WindowSignature(Signature):
    """The host's access to the memories, only while the machine does not run.

    Cores are placed far apart, so the bus to them is narrow: it carries a row in pieces (`isa.window_bits`).

    Members (seen from the host port)
    ---------------------------------
    region : Out(isa.Region)
    row : Out(22)
        Must be within the region's depth: the host port checks it.
    piece : Out
        Of the row; must be within it.
    we : Out(1)
        Writes a piece. A row is written whole: its pieces follow each other, from piece 0.
    wdata : Out(window_bits)
        The piece, in the cycle after `we`; zero while the machine runs, unless `Stages.masks_host_data`.
    whole : Out(row of ACT)
        The whole row, in the cycle after its piece 0: an activation word's occupancy bit follows from all of it.
    re : Out(1)
        Reads a piece; `rdata` shows it `Latencies.window` cycles later, and as long as `region`, `row` and `piece` are held,
        nothing is written and the machine does not run.
    rdata : In(window_bits)

    Writable: IMEM, WEIGHT, MASK, PARAM, ACT (its occupancy bit follows from the data), STATE, TABLE.
    Readable: IMEM, ACT, STATE, TABLE, PERF; the others read as zero.
    """

    def __init__(self, arch: ArchConfig):
        super().__init__(
            {
                "region": Out(isa.Region),
                "row": Out(isa.ADDR_BITS),
                "piece": Out(range(max(2, isa.window_pieces(arch)))),
                "we": Out(1),
                "wdata": Out(isa.window_bits(arch)),
                "whole": Out(isa.region_bits(arch, isa.Region.ACT)),
                "re": Out(1),
                "rdata": In(isa.window_bits(arch)),
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
