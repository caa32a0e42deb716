"""A core's memories: weights, masks, parameters, tables and state."""

from functools import reduce
from math import gcd
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ...spec import isa
from ...spec.arch import ArchConfig
from ...spec.latencies import Latencies
from ..lib.combinators import delay
from ..post.parameters import param_bits, param_layout
from ..primitives import BlockMemory, DualReadMemory, SinglePortMemory, copies
from ..stages import stages_of

__all__ = ["CoreMemories", "HostAccess"]


class HostAccess(data.StructLayout):
    """The host's access to a core's memories: piece `piece` of row `row`, and to which memory `data` is written.

    Only while the machine is stopped; otherwise `data` is zero, unless `Stages.masks_host_data`.
    """

    def __init__(self, arch: ArchConfig):
        writes = ("weight", "mask", "param", "state", "table")
        rows = max(isa.region_depth(arch, region) for region in (*isa.PER_CORE, isa.Region.TABLE))
        pieces = range(max(2, isa.window_pieces(arch)))
        super().__init__({"row": range(rows), "piece": pieces, "data": isa.window_bits(arch), **dict.fromkeys(writes, 1)})


class CoreMemories(wiring.Component):
    """The memories of a core. While the machine runs, the stages own their ports; otherwise the host does.

    Several cores are far from the host, and a core is wide: then one register delays what the host asks for, and one more stands at
    each part of the core. What the host wrote last is still on its way when the machine starts, which needs these ports much later.

    Throughput: a read a cycle and port. Latency: `Latencies.memory` from each address to its data.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    held : In(1)
        The stages are held in reset.
    w_addr, w_data; mask_addr, mask_data
        Of the `Lanes` and the `MaskReader`.
    p_addr, threshold_addr, params; t_addr, t_data; s_addr, s_data, s_we, s_waddr, s_wdata, s_host
        Of the `Ppu`, whose `host` is `s_host`.
    host : In(HostAccess)
    row : Out
        The row that the host names, where it is used.
    state_data : Out(window_bits)
        The piece of state that `host` names, a memory's latency later; of several cores four cycles after that.
    table_data : Out(event_bits)
        The entry that `host` names of the first requantiser's tables; of several cores two cycles after a memory's latency.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        self.distant = arch.cores > 1
        self.bus = isa.window_bits(arch)
        self.table_bits = max(1, (256 * arch.tables - 1).bit_length())
        depths = {name: getattr(arch, f"{name}_depth") for name in ("weight", "mask", "param", "state")}
        weight, mask, param, state = (max(1, (depth - 1).bit_length()) for depth in depths.values())
        state_row = isa.region_bits(arch, isa.Region.STATE)
        super().__init__(
            {
                "held": In(1),
                "w_addr": In(weight),
                "w_data": Out(isa.region_bits(arch, isa.Region.WEIGHT)),
                "mask_addr": In(mask),
                "mask_data": Out(arch.lanes),
                "p_addr": In(param),
                "threshold_addr": In(param),
                "params": Out(data.ArrayLayout(param_layout(), arch.ppu)),
                "t_addr": In(self.table_bits * arch.ppu),
                "t_data": Out(arch.event_bits * arch.ppu),
                "s_addr": In(state),
                "s_data": Out(state_row),
                "s_we": In(1),
                "s_waddr": In(state),
                "s_wdata": In(state_row),
                "s_host": Out(data.ArrayLayout(unsigned(32), arch.ppu)),
                "host": In(HostAccess(arch)),
                "row": Out(HostAccess(arch)["row"].shape),
                "state_data": Out(self.bus),
                "table_data": Out(arch.event_bits),
            }
        )

    def elaborate(self, platform):
        m = Module()
        host = delay(m, self.host, 1, "host") if self.distant else self.host
        writing = delay(m, self.held, 2, "writing") if self.distant else self.held
        words = copies(m, host.data, self.arch.ppu, "near_data", reset_less=True) if self.distant else [host.data] * self.arch.ppu
        m.d.comb += self.row.eq(self._near(m, host.row, "row"))
        self._weights(m, host, words)
        self._parameters(m, host, words)
        self._tables(m, host, words, writing)
        self._state(m, host, words, writing)
        return m

    def _near(self, m, value, name):
        """A fan-out buffer: a value from the host, where it is used."""
        return delay(m, value, 1, f"near_{name}") if self.distant else value

    def _sizes(self, region):
        """Rows, bits, latency, and how many bits are written together at most."""
        depth, bits = isa.region_depth(self.arch, region), isa.region_bits(self.arch, region)
        return depth, bits, Latencies(self.arch).memory, gcd(bits, self.bus) if bits > self.bus else bits

    def _written(self, m, host, write, places):
        """For each group of bits, whether it is written, by where in the row it begins."""
        return self._near(m, Cat(write & (host.piece == place // self.bus) for place in places), "we")

    def _piece(self, memory, words):
        """What the host writes, for every group."""
        return Cat(words[k // self.bus % self.arch.ppu][k % self.bus : k % self.bus + memory.granularity] for k in _groups(memory))

    def _weights(self, m, host, words):
        m.submodules.weight = weight = SinglePortMemory(*self._sizes(isa.Region.WEIGHT))
        m.submodules.mask = mask = BlockMemory(*self._sizes(isa.Region.MASK))
        for memory, address, write, shown in (
            (weight, self.w_addr, host.weight, self.w_data),
            (mask, self.mask_addr, host.mask, self.mask_data),
        ):
            m.d.comb += [
                memory.r_addr.eq(address),
                memory.w_en.eq(self._written(m, host, write, _groups(memory))),
                memory.w_addr.eq(self.row),
                memory.w_data.eq(self._piece(memory, words)),
                shown.eq(memory.r_data),
            ]

    def _parameters(self, m, host, words):
        """Three memories, since parameters are read in different cycles; only the bits that mean something are stored."""
        arch = self.arch
        depth, _, latency, _ = self._sizes(isa.Region.PARAM)
        channels = range(0, isa.PARAM_BITS * arch.ppu, isa.PARAM_BITS)
        for name, fields, address in (
            ("bias", ("bias",), self.p_addr),
            ("scale", ("mantissa", "shift"), self.p_addr),
            ("threshold", ("threshold",), self.threshold_addr),
        ):
            bits = param_bits(arch, *fields)
            width = len(bits) * arch.ppu
            m.submodules[name] = memory = BlockMemory(depth, width, latency, len(bits) if self.distant else width)
            m.d.comb += [
                memory.r_addr.eq(address),
                memory.w_en.eq(self._written(m, host, host.param, (first + bits[0] for first in channels[: len(memory.w_en)]))),
                memory.w_addr.eq(self._near(m, host.row, f"{name}_row")),
                memory.w_data.eq(Cat(words[i][(first + k) % self.bus] for i, first in enumerate(channels) for k in bits)),
                *(
                    self.params[i].as_value()[k].eq(memory.r_data[i * len(bits) + n])
                    for i in range(arch.ppu)
                    for n, k in enumerate(bits)
                ),
            ]

    def _tables(self, m, host, words, writing):
        """A table memory for two requantisers; the host writes all of them alike."""
        arch = self.arch
        for i in range(0, arch.ppu, 2):
            m.submodules[f"table_{i}"] = table = DualReadMemory(*self._sizes(isa.Region.TABLE)[:3])
            m.d.comb += [table.w_en.eq(self._near(m, host.table, "table")), table.w_data.eq(words[i])]
            for k in range(i, min(i + 2, arch.ppu)):
                address = self.t_addr.word_select(k, self.table_bits)
                m.d.comb += [
                    table.addr[k - i].eq(Mux(writing, self.row, address) if k == i else address),
                    self.t_data.word_select(k, arch.event_bits).eq(table.r_data[k - i]),
                ]
        m.d.comb += self.table_data.eq(self.t_data[: arch.event_bits])

    def _state(self, m, host, words, writing):
        """State, which the host writes through the PPU's adders, and reads."""
        m.submodules.state = state = BlockMemory(*self._sizes(isa.Region.STATE))
        piece = self._piece(state, words)
        host_we = delay(m, self._written(m, host, host.state, _groups(state)), 1, "host_state")
        m.d.comb += [
            self.s_host.eq(Mux(self.held, piece, 0) if stages_of(self.arch).masks_host_data else piece),
            state.w_en.eq(Mux(writing, host_we, self.s_we.replicate(len(state.w_en)))),
            state.w_addr.eq(Mux(writing, delay(m, self.row, 1, "host_row"), self.s_waddr)),
            state.w_data.eq(self.s_wdata),
            state.r_addr.eq(Mux(self.held, self.row, self.s_addr)),
            self.s_data.eq(state.r_data),
        ]
        if not self.distant:
            m.d.comb += self.state_data.eq(state.r_data.word_select(host.piece, self.bus))
            return
        # In two cycles, which the host waits for, because the memory's columns are placed all over the core. A word that is not
        # chosen is zero, and an OR joins them: a register's reset costs no LUT, a multiplexer does.
        pairs = Signal(data.ArrayLayout(self.bus, -(-len(state.r_data) // (2 * self.bus))), reset_less=True)
        for k, pair in enumerate(pairs):
            m.d.sync += pair.eq(state.r_data[2 * self.bus * k :][: 2 * self.bus].word_select(host.piece[0], self.bus))
            with m.If(host.piece[1:] != k):
                m.d.sync += pair.eq(0)
        m.d.sync += self.state_data.eq(reduce(or_, pairs))


def _groups(memory):
    """Where the bits begin that a memory writes together."""
    return range(0, memory.width, memory.granularity)
