"""The forms that every simulator and every FPGA takes: plain Amaranth."""

from amaranth.hdl import Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, memory

from .arithmetic import Accumulators, DigitProduct, FusedAdder, MaskedAdder, MultiplierArray
from .logic import Buffer, Gate, Serialiser
from .memories import BitMemory, BlockMemory, DualReadMemory, SinglePortMemory, SmallMemory

__all__ = ["Generic", "shown"]


class Generic:
    """Plain Amaranth: a `Family` that the others derive from. Each method builds the inside of the component `c`."""

    name = "generic"
    distributed_rows: int = 1
    distributed_attributes: dict = {}
    """Rows that a memory of registers or distributed RAM has at least, and the attributes that tell synthesis what to make of
    it.
    """

    def block_memory(self, c: BlockMemory | SinglePortMemory) -> Module:
        m = Module()
        m.submodules.array = array = memory.Memory(shape=unsigned(c.width), depth=c.depth, init=[])
        write, read = array.write_port(granularity=c.granularity), array.read_port()
        m.d.comb += [
            write.en.eq(c.w_en),
            write.addr.eq(c.w_addr),
            write.data.eq(c.w_data),
            read.addr.eq(c.r_addr),
            c.r_data.eq(shown(m, read.data, c.latency, "held")),
        ]
        return m

    def bit_memory(self, c: BitMemory) -> Module:
        m = Module()
        place = (c.width - 1).bit_length()
        for i in range(c.readers):
            m.submodules[f"array_{i}"] = array = memory.Memory(shape=unsigned(c.width), depth=c.depth, init=[])
            write, read = array.write_port(granularity=1), array.read_port()
            m.d.comb += [
                write.en.eq(c.w_en << c.w_addr[:place]),
                write.addr.eq(c.w_addr[place:]),
                write.data.eq(c.w_data.replicate(c.width)),
                read.addr.eq(c.r_addr[i]),
                c.r_data[i].eq(shown(m, read.data, c.latency, f"held_{i}")),
            ]
        return m

    def single_port_memory(self, c: SinglePortMemory) -> Module:
        return self.block_memory(c)

    def dual_read_memory(self, c: DualReadMemory) -> Module:
        m = Module()
        m.submodules.array = array = memory.Memory(shape=unsigned(c.width), depth=c.depth, init=[])
        write = array.write_port()
        m.d.comb += [write.en.eq(c.w_en), write.addr.eq(c.addr[0]), write.data.eq(c.w_data)]
        for i in range(2):
            read = array.read_port()
            m.d.comb += [read.addr.eq(c.addr[i]), c.r_data[i].eq(shown(m, read.data, c.latency, f"held_{i}"))]
        return m

    def small_memory(self, c: SmallMemory) -> Module:
        m = Module()
        depth, attributes = max(self.distributed_rows, c.depth), self.distributed_attributes
        m.submodules.array = array = memory.Memory(shape=unsigned(c.width), depth=depth, init=[], attrs=attributes)
        write, read = array.write_port(), array.read_port(domain="comb")
        # Where the memory has more rows than are asked for, the highest address bit is repeated.
        m.d.comb += [
            write.en.eq(c.w_en),
            write.addr.eq(c.w_addr.as_signed()),
            write.data.eq(c.w_data),
            read.addr.eq(c.r_addr.as_signed()),
        ]
        if c.latency:
            held = Signal(c.width, reset_less=True)
            m.d.sync += held.eq(read.data)
            m.d.comb += c.r_data.eq(held)
        else:
            m.d.comb += c.r_data.eq(read.data)
        return m

    def buffer(self, c: Buffer) -> Module:
        m = Module()
        m.d.comb += c.o.eq(c.i)
        return m

    def gate(self, c: Gate) -> Module:
        m = Module()
        m.d.comb += c.o.eq(Const(c.table, 1 << len(c.i)).bit_select(c.i, 1))
        return m

    def serialiser(self, c: Serialiser) -> Module:
        m = Module()
        shown = Signal(c.width, reset_less=True)
        held = Signal(data.ArrayLayout(unsigned(c.width), c.parts), reset_less=True)
        m.d.sync += [shown.eq(held[0]), held.eq(Mux(c.load, c.i.as_value(), held.as_value() >> c.width))]
        m.d.comb += c.o.eq(shown)
        return m

    def multiplier_array(self, c: MultiplierArray) -> Module:
        m = Module()
        a = Signal(data.ArrayLayout(signed(c.a_width), c.count), reset_less=True)
        b = Signal(data.ArrayLayout(signed(c.b_width), c.count), reset_less=True)
        p = Signal(data.ArrayLayout(signed(c.a_width + c.b_width), c.count), reset_less=True)
        m.d.sync += [a.eq(c.a), b.eq(c.b), *(p[i].eq(a[i] * b[i]) for i in range(c.count))]
        m.d.comb += c.p.eq(p)
        return m

    def fused_adder(self, c: FusedAdder) -> Module:
        m = Module()
        m.d.comb += c.s.eq(c.a + c.operand(c.b, c.c, c.d.replicate(c.width)) + (c.carry_in if c.carry else 0))
        return m

    def masked_adder(self, c: MaskedAdder) -> Module:
        m = Module()
        m.submodules.adder = adder = FusedAdder(c.width, lambda a, _, keep: a & keep)
        m.d.comb += [adder.a.eq(c.b), adder.b.eq(c.a), adder.d.eq(~c.mask), c.s.eq(adder.s)]
        return m

    def digit_product(self, c: DigitProduct) -> Module:
        m = Module()
        p = Signal.like(c.p, reset_less=True)
        low, high = (c.a & bit.replicate(c.width).as_signed() for bit in c.digit)
        m.d.sync += p.eq(low + (high << 1))
        m.d.comb += c.p.eq(p)
        return m

    def accumulators(self, c: Accumulators) -> Module:
        m = Module()
        sums = Signal(data.ArrayLayout(signed(32), c.count), reset_less=True)
        m.d.comb += c.o.eq(sums.as_value()[: 32 * c.shown])
        for i in range(c.count):
            with m.If(c.shift):
                m.d.sync += sums[i].eq(sums[i + c.shown] if i + c.shown < c.count else 0)
            with m.Elif(c.step):
                m.d.sync += sums[i].eq(sums[i] + c.a[i] * c.b[i])
        return m


def shown(m: Module, row, latency: int, name: str):
    """What a memory shows of a row that it reads `latency` cycles before."""
    if latency == 1:
        return row
    held = Signal(len(row), name=name, reset_less=True)
    m.d.sync += held.eq(row)
    return held
