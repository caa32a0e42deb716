"""The activation memory: its copies, and the occupancy bits."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ...spec import isa
from ...spec.arch import ArchConfig
from ...spec.latencies import Latencies
from ...spec.structure import reads_late
from ..layouts import act_address
from ..lib.combinators import delay, joined
from ..primitives import BitMemory, BlockMemory

__all__ = ["ActivationMemory"]


class ActivationMemory(wiring.Component):
    """Copies of the activation memory, one a port, and of the occupancy memory, one a fetcher.

    Throughput: a store a cycle; a read a cycle and port, and of occupancy a cycle and fetcher. Latency: `Latencies.memory` for reads. A
    store is written a cycle after it, its occupancy bit two cycles.

    If activations are read late, fetchers read which channels of a word are not zero, and the core reads the word.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    running : In(1)
        The ports belong to fetchers and cores; otherwise to the host.
    we : In(cores), address, data : In(array of cores)
        Stores, at most one in a cycle; a core's address and data are zero in cycles in which it does not store.
    host_we : In(1), row, whole
        The host's write of a row; `row` is also what it reads.
    act_en : In(cores), act_addr : In(array of cores), act_data : Out(array of cores)
        Reads of the fetchers: their ports are shared, so at most one fetcher of a port reads in a cycle.
    late_addr, late_data
        Reads of the core, if activations are read late.
    occ_addr : In(array of cores), occ_data : Out(array of cores)
        Occupancy rows of the fetchers.
    shown : Out
        The row that the host reads.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        bits, cores = isa.region_bits(arch, isa.Region.ACT), arch.cores
        word = max(1, (arch.act_depth - 1).bit_length())
        occupancy = max(1, (arch.act_depth // arch.occ_width - 1).bit_length())

        def each(width):
            return data.ArrayLayout(unsigned(width), cores)

        super().__init__(
            {
                "running": In(1),
                "we": In(cores),
                "address": In(each(act_address(arch))),
                "data": In(each(bits)),
                "host_we": In(1),
                "row": In(isa.ADDR_BITS),
                "whole": In(bits),
                "act_en": In(cores),
                "act_addr": In(each(word)),
                "act_data": Out(each(arch.lanes if reads_late(arch) else bits)),
                "late_addr": In(word),
                "late_data": Out(bits),
                "occ_addr": In(each(occupancy)),
                "occ_data": Out(each(arch.occ_width)),
                "shown": Out(bits),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bits = isa.region_bits(self.arch, isa.Region.ACT)
        word, place, we = Signal(bits, reset_less=True), Signal(act_address(self.arch), reset_less=True), Signal()
        m.d.sync += [
            we.eq(self.host_we | self.we.any()),
            place.eq(reduce(or_, self.address, Mux(self.host_we, self.row, 0))),
            word.eq(reduce(or_, self.data, Mux(self.host_we, self.whole, 0))),
        ]
        self._words(m, we, place, word)
        # Occupancy bits are written a cycle after the word, because they are found out meanwhile.
        self._occupancy(m, delay(m, we, 1, "we"), delay(m, place, 1, "place", reset_less=True), word)
        return m

    def _words(self, m, we, place, word):
        """The copies: the host reads the first one."""
        arch = self.arch
        for p in range(arch.ports):
            m.submodules[f"act_{p}"] = act = BlockMemory(arch.act_depth, len(word), Latencies(arch).memory)
            served = range(p, arch.cores, arch.ports)
            reads = [(self.act_en[g], self.act_addr[g]) for g in served]
            if p == 0:
                reads.append((~self.running, self.row))
                m.d.comb += self.shown.eq(act.r_data)
            m.d.comb += [act.w_en.eq(we), act.w_addr.eq(place), act.w_data.eq(word)]
            if reads_late(arch):
                m.d.comb += [act.r_addr.eq(Mux(self.running, self.late_addr, self.row)), self.late_data.eq(act.r_data)]
            else:
                m.d.comb += [act.r_addr.eq(joined(reads)), *(self.act_data[g].eq(act.r_data) for g in served)]

    def _occupancy(self, m, we, place, word):
        """The occupancy bits, and, if activations are read late, the bits of the channels that are not zero."""
        arch, latency, occupied = self.arch, Latencies(self.arch).memory, Signal()
        if reads_late(arch):
            nonzero = Signal(arch.lanes)
            m.submodules.nonzero = live = BlockMemory(arch.act_depth, arch.lanes, latency)
            m.d.sync += nonzero.eq(Cat(word.word_select(i, arch.event_bits).any() for i in range(arch.lanes)))
            m.d.comb += [
                occupied.eq(nonzero.any()),
                live.w_en.eq(we),
                live.w_addr.eq(place),
                live.w_data.eq(nonzero),
                live.r_addr.eq(self.act_addr[0]),
                self.act_data[0].eq(live.r_data),
            ]
        else:
            m.d.sync += occupied.eq(word != 0)
        m.submodules.occupancy = bits = BitMemory(arch.act_depth // arch.occ_width, arch.occ_width, arch.cores, latency)
        m.d.comb += [bits.w_en.eq(we), bits.w_addr.eq(place), bits.w_data.eq(occupied)]
        for g in range(arch.cores):
            m.d.comb += [bits.r_addr[g].eq(self.occ_addr[g]), self.occ_data[g].eq(bits.r_data[g])]
