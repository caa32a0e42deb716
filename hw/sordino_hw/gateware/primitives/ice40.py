"""iCE40 UltraPlus: SB_RAM40_4K, which Yosys infers; SB_SPRAM256KA and SB_MAC16, which are instantiated."""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Mux, Signal, signed, unsigned
from amaranth.lib import memory

from .arithmetic import Accumulators, MaskedAdder, MultiplierArray
from .generic import Generic, shown
from .memories import BitMemory, BlockMemory, DualReadMemory, SinglePortMemory

__all__ = ["Ice40"]

SPRAM_ROWS, SPRAM_BITS = 16384, 16
"""Rows and bits of an SB_SPRAM256KA."""
NIBBLE = 4
"""Bits that an SB_SPRAM256KA writes together."""


class Ice40(Generic):
    """Lattice iCE40 UltraPlus (UP5K)."""

    name = "ice40"

    def block_memory(self, c: BlockMemory | SinglePortMemory) -> Module:
        m = Module()
        m.d.comb += c.r_data.eq(
            _block(m, "array", c.depth, c.width, c.granularity, c.w_en, c.w_addr, c.w_data, c.r_addr, c.latency)
        )
        return m

    def bit_memory(self, c: BitMemory) -> Module:
        m = Module()
        place = (c.width - 1).bit_length()
        enables, value = c.w_en << c.w_addr[:place], c.w_data.replicate(c.width)
        for i in range(c.readers):
            shown = _block(m, f"array_{i}", c.depth, c.width, 1, enables, c.w_addr[place:], value, c.r_addr[i], c.latency)
            m.d.comb += c.r_data[i].eq(shown)
        return m

    def single_port_memory(self, c: SinglePortMemory) -> Module:
        if c.granularity % NIBBLE and c.granularity < c.width:
            raise ValueError(
                f"single-port RAM writes {NIBBLE} bits together: the granularity must be a multiple, not {c.granularity!r}"
            )
        m = Module()
        inner = (SPRAM_ROWS - 1).bit_length()
        banks = -(-c.depth // SPRAM_ROWS)
        row = Signal.like(c.r_addr)
        m.d.comb += row.eq(Mux(c.w_en.any(), c.w_addr, c.r_addr))
        enables = Cat(
            c.w_en[min(k, c.width - 1) // c.granularity] for k in range(0, -(-c.width // SPRAM_BITS) * SPRAM_BITS, NIBBLE)
        )
        address, bank = row[:inner], row[inner:]
        data_of = []
        for k in range(banks):
            chosen = bank == k if banks > 1 else Const(1)
            data = []
            for j in range(0, c.width, SPRAM_BITS):
                name = f"spram_{k}_{j // SPRAM_BITS}"
                i, o = Signal(SPRAM_BITS, name=f"{name}_i"), Signal(SPRAM_BITS, name=f"{name}_o")
                m.d.comb += i.eq(c.w_data[j : j + SPRAM_BITS])
                m.submodules[name] = Instance(
                    "SB_SPRAM256KA",
                    i_ADDRESS=Cat(address, Const(0, inner - len(address))),
                    i_DATAIN=i,
                    i_MASKWREN=enables.word_select(j // SPRAM_BITS, SPRAM_BITS // NIBBLE),
                    i_WREN=c.w_en.any() & chosen,
                    i_CHIPSELECT=Const(1),
                    i_CLOCK=ClockSignal(),
                    i_STANDBY=Const(0),
                    i_SLEEP=Const(0),
                    i_POWEROFF=Const(1),  # active low
                    o_DATAOUT=o,
                )
                data.append(o)
            data_of.append(Cat(data)[: c.width])
        value = data_of[0]
        if banks > 1:
            read_bank, value = Signal(len(bank), reset_less=True), Signal(c.width)
            m.d.sync += read_bank.eq(bank)
            with m.Switch(read_bank):
                for k, row in enumerate(data_of):
                    with m.Case(k):
                        m.d.comb += value.eq(row)
        m.d.comb += c.r_data.eq(shown(m, value, c.latency, "held"))
        return m

    def dual_read_memory(self, c: DualReadMemory) -> Module:
        m = Module()
        for i in range(2):
            m.submodules[f"copy_{i}"] = copy = BlockMemory(c.depth, c.width, c.latency)
            m.d.comb += [
                copy.w_en.eq(c.w_en),
                copy.w_addr.eq(c.addr[0]),
                copy.w_data.eq(c.w_data),
                copy.r_addr.eq(c.addr[i]),
                c.r_data[i].eq(copy.r_data),
            ]
        return m

    def multiplier_array(self, c: MultiplierArray) -> Module:
        if max(c.a_width, c.b_width) > 16:
            return super().multiplier_array(c)
        m = Module()
        if max(c.a_width, c.b_width) > 8:
            for i in range(c.count):
                m.d.comb += c.p[i].eq(_mac16(m, i, c.a[i], c.b[i]))
            return m
        for i in range(0, c.count, 2):
            a, b = (Cat(*(_extended(x[k], 8) for k in range(i, min(i + 2, c.count)))) for x in (c.a, c.b))
            p = _mac16(m, i // 2, a, b, pair=True)
            for k in range(i, min(i + 2, c.count)):
                m.d.comb += c.p[k].eq(p[16 * (k - i) : 16 * (k - i) + 16].as_signed())
        return m

    def masked_adder(self, c: MaskedAdder) -> Module:
        m = Module()
        # This multiplexer is in the adder's own LUT: whatever the carry is, a masked bit shows B.
        m.d.comb += c.s.eq(Mux(c.mask, c.b, c.a + c.b))
        return m

    def accumulators(self, c: Accumulators) -> Module:
        m = Module()
        sums = [Signal(32, name=f"sum_{i}") for i in range(c.count)]
        m.d.comb += c.o.eq(Cat(sums[: c.shown]))
        hold = Signal()
        m.d.comb += hold.eq(~c.step & ~c.shift)
        for i in range(c.count):
            loaded = sums[i + c.shown] if i + c.shown < c.count else Const(0, 32)
            m.submodules[f"accumulator_{i}"] = Instance(
                "SB_MAC16",
                p_A_SIGNED=Const(1, 1),
                p_B_SIGNED=Const(1, 1),
                p_TOPOUTPUT_SELECT=Const(1, 2),
                p_BOTOUTPUT_SELECT=Const(1, 2),
                p_TOPADDSUB_LOWERINPUT=Const(2, 2),
                p_BOTADDSUB_LOWERINPUT=Const(2, 2),
                p_TOPADDSUB_CARRYSELECT=Const(2, 2),
                i_CLK=ClockSignal(),
                i_CE=Const(1),
                i_A=_extended(c.a[i], 16),
                i_B=_extended(c.b[i], 16),
                i_C=loaded[16:],
                i_D=loaded[:16],
                i_OHOLDTOP=hold,
                i_OHOLDBOT=hold,
                i_OLOADTOP=c.shift,
                i_OLOADBOT=c.shift,
                **{f"i_{pin}": Const(0) for pin in _MAC16_ZEROS if not pin.startswith(("OHOLD", "OLOAD"))},
                o_O=sums[i],
            )
        return m


def _block(m: Module, name: str, depth: int, width: int, granularity: int, w_en, w_addr, w_data, r_addr, latency: int):
    """Block RAM, `granularity` bits for each bit of `w_en`. Returns the row at `r_addr`, `latency` cycles later.

    Yosys infers it from an asynchronous read port with a register. From a synchronous one it would infer a bypass too, which
    shows the old row while it is written.
    """
    attributes = {"no_rw_check": 1, "ram_style": "block"}
    m.submodules[name] = array = memory.Memory(shape=unsigned(width), depth=depth, init=[], attrs=attributes)
    write, read = array.write_port(granularity=granularity), array.read_port(domain="comb")
    # The register of the latency is in front, because an address has fewer bits than a row.
    address = r_addr
    if latency == 2:
        address = Signal(len(r_addr), name=f"{name}_address", reset_less=True)
        m.d.sync += address.eq(r_addr)
    m.d.comb += [write.en.eq(w_en), write.addr.eq(w_addr), write.data.eq(w_data), read.addr.eq(address)]
    return shown(m, read.data, 2, f"{name}_shown")


def _extended(value, width: int):
    return Cat(value, value[-1].replicate(width - len(value)))


def _mac16(m: Module, index: int, a, b, pair: bool = False):
    """One SB_MAC16, operands and product registered: signed 16 x 16, or two signed 8 x 8 side by side."""
    i_a, i_b, p = (Signal(signed(n), name=f"{name}_{index}") for name, n in (("a", 16), ("b", 16), ("p", 32)))
    m.d.comb += [i_a.eq(a), i_b.eq(b)]
    m.submodules[f"multiplier_{index}"] = Instance(
        "SB_MAC16",
        p_A_REG=Const(1, 1),
        p_B_REG=Const(1, 1),
        p_A_SIGNED=Const(1, 1),
        p_B_SIGNED=Const(1, 1),
        p_MODE_8x8=Const(pair, 1),
        p_TOP_8x8_MULT_REG=Const(pair, 1),
        p_BOT_8x8_MULT_REG=Const(pair, 1),
        p_PIPELINE_16x16_MULT_REG2=Const(not pair, 1),
        p_TOPOUTPUT_SELECT=Const(2 if pair else 3, 2),
        p_BOTOUTPUT_SELECT=Const(2 if pair else 3, 2),
        i_CLK=ClockSignal(),
        i_CE=Const(1),
        i_A=i_a,
        i_B=i_b,
        i_C=Const(0, 16),
        i_D=Const(0, 16),
        **{f"i_{pin}": Const(0) for pin in _MAC16_ZEROS},
        o_O=p,
    )
    return p


_MAC16_ZEROS = (
    *("AHOLD", "BHOLD", "CHOLD", "DHOLD", "IRSTTOP", "IRSTBOT", "ORSTTOP", "ORSTBOT", "OLOADTOP", "OLOADBOT"),
    *("ADDSUBTOP", "ADDSUBBOT", "OHOLDTOP", "OHOLDBOT", "CI", "ACCUMCI", "SIGNEXTIN"),
)
