"""ECP5: DP16KD with its output register, MULT18X18D with its registers, distributed RAM.

Yosys does not infer these registers. Without its output register a block RAM takes 5.8 ns from clock to output, with it less than
1 ns; and the registers of a product outside the multiplier can be placed far from it.
"""

from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Mux, Signal, unsigned
from amaranth.lib import memory

from .arithmetic import DigitProduct, FusedAdder, MultiplierArray
from .copies import copies
from .generic import Generic
from .logic import Buffer, Gate, Serialiser
from .memories import BitMemory, BlockMemory, DualReadMemory, SinglePortMemory, SmallMemory

__all__ = ["Ecp5", "tiling"]

TILES = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
"""Shapes of a DP16KD: rows and bits."""

SHORT = 64
"""Rows up to which distributed RAM is the better use of the device."""

DISTRIBUTED_ROWS, DISTRIBUTED_BITS = 16, 4
"""Rows and bits of a TRELLIS_DPR16X4."""

BYTE = 9
"""Bits that a DP16KD of 18 or 36 bits can write alone."""


class Ecp5(Generic):
    """Lattice ECP5."""

    name = "ecp5"
    distributed_rows, distributed_attributes = DISTRIBUTED_ROWS, {"ram_style": "distributed"}

    def block_memory(self, c: BlockMemory | SinglePortMemory) -> Module:
        if c.latency == 1:
            return super().block_memory(c)
        if c.depth <= SHORT:
            return _short_memory(c)
        m = Module()
        whole = c.granularity == c.width
        grouped = c.width // c.granularity * -(-c.granularity // BYTE) * BYTE  # each group takes whole bytes
        banks = tiling(c.depth, c.width) if whole else tiling(c.depth, grouped, BYTE)
        first, shown, chosen = 0, [], []
        for bank, (rows, bits) in enumerate(banks):
            inner, row, here = (rows - 1).bit_length(), [None] * c.width, Signal(name=f"enable_{bank}")
            m.d.comb += here.eq(c.w_addr[inner:] == first // rows if len(banks) > 1 else 1)
            for k, (enables, places) in enumerate(_columns(c, bits)):
                part = Cat(Const(0, 1) if place is None else c.w_data[place] for place in places)
                w_en = enables & here.replicate(len(enables))
                data, _ = _tile(m, f"tile_{bank}_{k}", bits, w_en, c.w_addr[:inner], part, c.r_addr[:inner])
                for place, bit in zip(places, data, strict=False):
                    if place is not None:
                        row[place] = bit
            shown.append(Cat(row))
            chosen.append(c.r_addr[inner:] == first // rows)
            first += rows
        if len(banks) == 1:
            m.d.comb += c.r_data.eq(shown[0])
            return m
        once, bank = (Signal(len(banks), name=f"bank_{k}", reset_less=True) for k in (1, 2))
        m.d.sync += [once.eq(Cat(chosen)), bank.eq(once)]
        m.d.comb += c.r_data.eq(shown[-1])
        for k, value in enumerate(shown[:-1]):
            with m.If(bank[k]):
                m.d.comb += c.r_data.eq(value)
        return m

    def bit_memory(self, c: BitMemory) -> Module:
        if c.latency == 1:
            return super().bit_memory(c)
        # A distributed RAM writes its four bits together. So one copy more is read to find a bit's three neighbours: that is
        # smaller than a distributed RAM for each bit.
        m = Module()
        place, row = (DISTRIBUTED_BITS - 1).bit_length(), (c.width - 1).bit_length()
        m.submodules.quads = quads = SmallMemory(c.depth * c.width // DISTRIBUTED_BITS, DISTRIBUTED_BITS, latency=1)

        def register(name, like):
            return Signal.like(like, name=name, reset_less=True)

        # In the first cycle the four bits (quad) are read, in the second written back; forwarded if the same quad was written
        # meanwhile.
        asked_en, asked, asked_bit = (register(f"asked_{n}", s) for n, s in (("en", c.w_en), ("at", c.w_addr), ("bit", c.w_data)))
        w_en, w_addr, bit = (register(f"quad_{n}", s) for n, s in (("en", c.w_en), ("at", c.w_addr), ("bit", c.w_data)))
        again, written = register("again", c.w_en), register("written", quads.r_data)
        old, chosen, quad = (Signal(DISTRIBUTED_BITS, name=name) for name in ("old", "chosen", "quad"))
        m.d.comb += [
            old.eq(Mux(again, written, quads.r_data)),
            chosen.eq(1 << w_addr[:place]),
            quad.eq(Mux(bit, old | chosen, old & ~chosen)),
            quads.r_addr.eq(asked[place:]),
            quads.w_en.eq(w_en),
            quads.w_addr.eq(w_addr[place:]),
            quads.w_data.eq(quad),
        ]
        m.d.sync += [
            *(asked_en.eq(c.w_en), asked.eq(c.w_addr), asked_bit.eq(c.w_data)),
            *(w_en.eq(asked_en), w_addr.eq(asked), bit.eq(asked_bit)),
            *(again.eq(w_en & (asked[place:] == w_addr[place:])), written.eq(quad)),
        ]
        enables, value = w_en << w_addr[place:row], quad.replicate(c.width // DISTRIBUTED_BITS)
        for i in range(c.readers):
            r_addr = register(f"held_{i}", c.r_addr[i])
            m.d.sync += r_addr.eq(c.r_addr[i])
            shown = _distributed(m, f"copy_{i}", c.depth, c.width, DISTRIBUTED_BITS, enables, w_addr[row:], value, r_addr)
            m.d.comb += c.r_data[i].eq(shown)
        return m

    def single_port_memory(self, c: SinglePortMemory) -> Module:
        if c.latency == 1:
            return super().single_port_memory(c)
        m = Module()
        m.submodules.block = block = BlockMemory(c.depth, c.width, granularity=c.granularity)
        m.d.comb += [
            block.w_en.eq(c.w_en),
            block.w_addr.eq(c.w_addr),
            block.w_data.eq(c.w_data),
            block.r_addr.eq(c.r_addr),
            c.r_data.eq(block.r_data),
        ]
        return m

    def dual_read_memory(self, c: DualReadMemory) -> Module:
        if c.latency == 1:
            return super().dual_read_memory(c)
        m = Module()
        bits = max((b for rows, b in TILES if rows >= c.depth and b <= 18), default=0)
        if not bits:
            raise ValueError(f"a memory with two readers has at most {TILES[-1][0]} rows, not {c.depth!r}")
        for k in range(0, c.width, bits):
            part = c.w_data[k : k + bits]
            second, first = _tile(m, f"tile_{k // bits}", bits, c.w_en, c.addr[0], part, c.addr[1])
            m.d.comb += [c.r_data[0][k : k + len(part)].eq(first), c.r_data[1][k : k + len(part)].eq(second)]
        return m

    def buffer(self, c: Buffer) -> Module:
        m = Module()
        m.submodules.lut = Instance("LUT4", p_INIT=Const(0xAAAA, 16), i_A=c.i, i_B=Const(0), i_C=Const(0), i_D=Const(0), o_Z=c.o)
        return m

    def gate(self, c: Gate) -> Module:
        m = Module()
        inputs = {f"i_{name}": bit for name, bit in zip("ABCD", Cat(c.i, Const(0, 4 - len(c.i))), strict=True)}
        table = c.table * (0xFFFF // ((1 << (1 << len(c.i))) - 1))  # the same for any value of inputs that it does not have
        m.submodules.lut = Instance("LUT4", p_INIT=Const(table, 16), **inputs, o_Z=c.o)
        return m

    def serialiser(self, c: Serialiser) -> Module:
        # Values that are not shown are zero, and an OR joins them: a register's reset costs no LUT, a multiplexer does.
        m = Module()
        turn = Signal(c.parts, reset_less=True)
        m.d.sync += turn.eq(Mux(c.load, 1, turn << 1))
        shown = []
        for k in range(c.parts):
            held, part = (Signal(c.width, name=f"{name}_{k}", reset_less=True) for name in ("held", "shown"))
            with m.If(c.load):
                m.d.sync += held.eq(c.i[k])
            m.d.sync += part.eq(held)
            with m.If(~turn[k]):
                m.d.sync += part.eq(0)
            shown.append(part)
        m.d.comb += c.o.eq(reduce(or_, shown))
        return m

    def multiplier_array(self, c: MultiplierArray) -> Module:
        m = Module()
        for i in range(c.count):
            a, b, p = (Signal(n, name=f"{name}_{i}") for name, n in (("a", 18), ("b", 18), ("p", 36)))
            m.d.comb += [a.eq(c.a[i]), b.eq(c.b[i]), c.p[i].eq(p[: c.a_width + c.b_width].as_signed())]
            m.submodules[f"multiplier_{i}"] = Instance(
                "MULT18X18D",
                p_REG_INPUTA_CLK="CLK0",
                p_REG_INPUTA_CE="CE0",
                p_REG_INPUTA_RST="RST0",
                p_REG_INPUTB_CLK="CLK0",
                p_REG_INPUTB_CE="CE0",
                p_REG_INPUTB_RST="RST0",
                p_REG_OUTPUT_CLK="CLK0",
                p_REG_OUTPUT_CE="CE0",
                p_REG_OUTPUT_RST="RST0",
                p_RESETMODE="SYNC",
                p_GSR="DISABLED",
                i_CLK0=ClockSignal(),
                i_CE0=Const(1),
                i_RST0=Const(0),
                i_SIGNEDA=Const(1),
                i_SIGNEDB=Const(1),
                i_SOURCEA=Const(0),
                i_SOURCEB=Const(0),
                **{f"i_A{k}": a[k] for k in range(18)},
                **{f"i_B{k}": b[k] for k in range(18)},
                **{f"i_C{k}": Const(0) for k in range(18)},
                **{f"o_P{k}": p[k] for k in range(36)},
            )
        return m

    def fused_adder(self, c: FusedAdder) -> Module:
        m = Module()
        used = any((c.operand(b, 0, d) ^ c.operand(b, 1, d)) & 1 for b in (0, 1) for d in (0, 1))
        table = _table(lambda a, b, other, d: a ^ (c.operand(b, other if used else 0, d) & 1), lambda a, b: a)
        _chain(
            m,
            zip(c.a, c.b, c.c if used else [Const(1, 1)] * c.width, [c.d] * c.width, strict=True),
            table,
            c.s,
            c.carry_in if c.carry else None,
        )
        return m

    def digit_product(self, c: DigitProduct) -> Module:
        # A sum of two operands with a mask each. If both are masked the table is wrong, so the register is cleared.
        m = Module()
        table = _table(lambda a, b, low, high: (a & low) ^ (b & high), lambda a, b: a & b)
        total, p, sign = Signal(c.width + 1), Signal.like(c.p, reset_less=True), c.a[-1]
        inputs = ((x, y, *c.digit) for x, y in zip(Cat(c.a, sign), Cat(Const(0, 1), c.a), strict=True))
        _chain(m, inputs, table, total)
        m.d.sync += p.eq(Cat(total, sign))
        with m.If(c.digit == 0):
            m.d.sync += p.eq(0)
        m.d.comb += c.p.eq(p)
        return m


def tiling(depth: int, width: int, least: int = 1) -> list[tuple[int, int]]:
    """The cheapest way to build a memory of DP16KD: rows and bits of the tiles of each bank, from row 0 on.

    Tiles have at least `least` bits. Of equally cheap ways it takes the one with the fewest banks, because banks need a multiplexer
    behind them. No bank is deeper than the one below, so each begins at a multiple of its rows.
    """
    ways = []
    for k, (rows, bits) in enumerate((rows, bits) for rows, bits in TILES if bits >= least):
        full = depth // rows
        ways.append([(rows, bits)] * -(-depth // rows))
        if full and depth % rows and k:
            ways.append([(rows, bits)] * full + tiling(depth % rows, width, least))
    return min(ways, key=lambda banks: (sum(-(-width // bits) for _, bits in banks), len(banks)))


def _bits(address, bits: int, enables=()):
    """The 14 address pins of a port: wide words have byte enables where narrow ones have address bits."""
    low = {36: 5, 18: 4, 9: 3, 4: 2, 2: 1, 1: 0}[bits]
    enables = Cat(enables) if bits > BYTE else Const(0, 0)
    return Cat(enables, Const(0, low - len(enables)), address)


def _tile(m: Module, name: str, bits: int, w_en, w_addr, w_data, r_addr):
    """One DP16KD: port A reads and writes, port B reads; 36 bits take both ports' data pins, and then port A only writes.

    `w_en` has a bit, or one for each byte. Returns the data of port B and of port A.
    """
    data_in = Signal(36, name=f"{name}_i")
    out_a, out_b = (Signal(18, name=f"{name}_{port}") for port in ("a", "b"))
    m.d.comb += data_in.eq(w_data)

    def pins(prefix, value, count):
        return {f"{prefix}{k}": value[k] if k < len(value) else Const(0) for k in range(count)}

    wide, enables = bits == 36, w_en if len(w_en) > 1 else w_en.replicate(max(1, bits // BYTE))
    m.submodules[name] = Instance(
        "DP16KD",
        p_DATA_WIDTH_A=bits,
        p_DATA_WIDTH_B=bits,
        p_REGMODE_A="OUTREG",
        p_REGMODE_B="OUTREG",
        p_RESETMODE="SYNC",
        p_ASYNC_RESET_RELEASE="SYNC",
        p_CSDECODE_A="0b000",
        p_CSDECODE_B="0b000",
        p_WRITEMODE_A="NORMAL",
        p_WRITEMODE_B="NORMAL",
        p_GSR="DISABLED",
        i_CLKA=ClockSignal(),
        i_CLKB=ClockSignal(),
        i_CEA=Const(1),
        i_CEB=Const(1),
        i_OCEA=Const(1),
        i_OCEB=Const(1),
        i_WEA=Const(1) if wide or len(w_en) > 1 else w_en,
        i_WEB=Const(0),
        i_RSTA=Const(0),
        i_RSTB=Const(0),
        **pins("i_CSA", Const(0, 3), 3),
        **pins("i_CSB", Const(0, 3), 3),
        **pins("i_ADA", _bits(w_addr, bits, enables), 14),
        **pins("i_ADB", _bits(r_addr, bits), 14),
        **pins("i_DIA", data_in[:18], 18),
        **pins("i_DIB", data_in[18:] if wide else Const(0, 18), 18),
        **{f"o_DOA{k}": out_a[k] for k in range(18)},
        **{f"o_DOB{k}": out_b[k] for k in range(18)},
    )
    return (Cat(out_a, out_b), None) if wide else (out_b[:bits], out_a[:bits])


def _columns(c, bits: int):
    """What the tiles of a row hold, of `bits` bits each: their write enables, one or one for each byte, and for each bit which bit
    of the row it is, or none.

    What is written together takes whole bytes, unless it is the whole row.
    """
    if c.granularity == c.width:
        for k in range(0, c.width, bits):
            yield c.w_en, list(range(k, min(k + bits, c.width)))
        return
    written = []
    for group in range(c.width // c.granularity):
        for k in range(0, c.granularity, BYTE):
            places = [group * c.granularity + n if n < c.granularity else None for n in range(k, k + BYTE)]
            written.append((c.w_en[group], places))
    for k in range(0, len(written), bits // BYTE):
        tile = written[k : k + bits // BYTE]
        unused = Const(0, bits // BYTE - len(tile))
        yield Cat(*(enable for enable, _ in tile), unused), [place for _, places in tile for place in places]


def _short_memory(c) -> Module:
    m = Module()
    groups, shown = c.width // c.granularity, []
    # Groups can be placed far apart: each has address registers of its own.
    r_addr, w_addr = (copies(m, a, groups, n, reset_less=True) for a, n in ((c.r_addr, "held_r_addr"), (c.w_addr, "held_w_addr")))
    w_en, w_data = (Signal.like(s, name=f"held_{s.name}", reset_less=True) for s in (c.w_en, c.w_data))
    m.d.sync += [w_en.eq(c.w_en), w_data.eq(c.w_data)]
    for g in range(groups):
        part = w_data.word_select(g, c.granularity)
        shown.append(_distributed(m, f"group_{g}", c.depth, c.granularity, c.granularity, w_en[g], w_addr[g], part, r_addr[g]))
    m.d.comb += c.r_data.eq(Cat(shown))
    return m


def _distributed(m: Module, name: str, depth: int, width: int, granularity: int, w_en, w_addr, w_data, r_addr):
    """Distributed RAM, `granularity` bits for each bit of `w_en`; the inputs are registers. Returns what is read, a cycle later.

    If it has fewer rows than a distributed RAM, the highest address bit is repeated: a constant would be a net to all of them.
    """
    inner = min(len(r_addr), (DISTRIBUTED_ROWS - 1).bit_length())
    shown = []
    for bank in range(-(-depth // DISTRIBUTED_ROWS)):
        m.submodules[f"{name}_{bank}"] = array = memory.Memory(
            shape=unsigned(width), depth=DISTRIBUTED_ROWS, init=[], attrs={"ram_style": "distributed"}
        )
        write, read = array.write_port(granularity=granularity), array.read_port(domain="comb")
        m.d.comb += [
            write.en.eq(Mux(w_addr[inner:] == bank, w_en, 0)),
            write.addr.eq(w_addr[:inner].as_signed()),
            write.data.eq(w_data),
            read.addr.eq(r_addr[:inner].as_signed()),
        ]
        # A bank that is not read shows zeros: a register's reset costs no LUT, a multiplexer does.
        part = Signal(width, name=f"{name}_{bank}_shown", reset_less=True)
        m.d.sync += part.eq(read.data)
        with m.If(r_addr[inner:] != bank):
            m.d.sync += part.eq(0)
        shown.append(part)
    return reduce(or_, shown)


def _table(propagate, generate) -> int:
    """INIT of half a CCU2C: `propagate` is of its four inputs, `generate` (of the first two) counts where that is false.

    The cell takes `generate` from the rows of the table where C and D are zero, so the two must agree there.
    """
    rows = [[i >> k & 1 for k in range(4)] for i in range(16)]
    bits = [(generate(a, b) if not (c or d) else propagate(a, b, c, d)) & 1 for a, b, c, d in rows]
    return sum(bit << i for i, bit in enumerate(bits))


def _chain(m: Module, inputs, table: int, sums, carry=None):
    """A chain of CCU2C, all with INIT `table`; `inputs` are the signals A, B, C, D of each bit.

    An input without a signal is high: nextpnr routes a net to C or D where it is low.
    """
    zero, one = Const(0, 1), Const(1, 1)  # nextpnr makes a cell for the carry into a chain, also for a constant
    bits = [(table, *nets, s) for nets, s in zip(inputs, sums, strict=True)]
    if len(bits) % 2:
        bits.append((0, one, one, one, one, Signal(name="above")))
    chained = zero if carry is None else carry
    for k in range(0, len(bits), 2):
        following = Signal(name=f"carry_{k}")
        pins: dict[str, Any] = {}
        for j, (init, a, b, c, d, s) in enumerate(bits[k : k + 2]):
            pins |= {f"p_INIT{j}": Const(init, 16), f"p_INJECT1_{j}": "NO", f"o_S{j}": s}
            pins |= {f"i_A{j}": a, f"i_B{j}": b, f"i_C{j}": c, f"i_D{j}": d}
        m.submodules[f"bits_{k}"] = Instance("CCU2C", i_CIN=chained, o_COUT=following, **pins)
        chained = following
