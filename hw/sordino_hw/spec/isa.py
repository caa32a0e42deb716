"""The instruction set, once: opcodes, registers, flags, traps and the host's memory map.

The assembler, the disassembler, the golden model, the gateware's sequencer and the generated page `docs/reference/isa.md`
all read the tables in this file. Overlapping encodings are an error at import.

An instruction is one 32-bit word::

    31   28 27    22 21                    0
    opcode | reg    | imm

`SET` writes a register. `CONV` and `VEC` snapshot every register and start an operation; the `SET`s of the next
operation run while the array works. There are no jumps.
"""

import enum
from dataclasses import dataclass

__all__ = ["IMM_BITS", "INSTRUCTION", "REGISTERS", "Cause", "Flag", "Mode", "Opcode", "Region", "Trap"]

IMM_BITS = 22
REG_BITS = 6
OPCODE_BITS = 4
ADDR_BITS = 22
"""Address registers are modular: bases may lie before a memory's start as long as every word touched lies inside.

The modulus is `1 << address_bits(arch, region)`: the hardware ignores higher bits.
"""


class Opcode(enum.IntEnum):
    """Operations. Codes that are not named here trap with `Trap.OPCODE` (an erased memory of zeros or ones does)."""

    SET = 1
    CONV = 2
    VEC = 3
    WAIT = 6
    HALT = 7


OPCODE_DOC = {
    Opcode.SET: "`reg := imm`. Bits of `imm` above the register's width are ignored. An unknown register traps.",
    Opcode.CONV: "Event mode: every non-zero activation with a non-zero weight word is broadcast to all lanes. `imm` holds `Flag`s.",
    Opcode.VEC: "Vector mode: each lane takes its own channel of every non-empty word. `imm` holds `Flag`s and, in bits 9:8, a `Mode`.",
    Opcode.WAIT: "Waits until every operation before it has stored its last output. Traps with `Trap.WAIT` if no operation was started since the last `WAIT`. Operations in flight read and store in any order, so a `WAIT` must stand before an operation that reads what an earlier one stores, and before one that stores where an earlier one reads (a write-after-read hazard) or stores.",
    Opcode.HALT: "Waits as `WAIT` does (without its trap), then stops the machine.",
}


INSTRUCTION = {"imm": IMM_BITS, "reg": REG_BITS, "opcode": OPCODE_BITS}
"""Fields of an instruction word and their bits, least significant first."""


class Flag(enum.IntFlag):
    """Flags of `CONV` and `VEC`, in the immediate."""

    DENSE = 1
    """Dense mode: every word in bounds is read and every channel issued, whether it is zero or not."""
    SOURCE = 2
    """Accumulators start from state memory (added as they drain), not from zero."""
    SINK = 4
    """The accumulators are kept in state memory; nothing is requantised or stored."""
    RESIDUAL = 8
    """After the taps of an output, its residual word is added with a wide diagonal weight; in mode PRODUCT, see there."""
    TABLE = 16
    """The clamped value, as a signed 8-bit index, goes through table TABLE."""
    WINDOW = 32
    """VEC, where core groups share a port of activation memory: a word that the previous output of the run has read too is taken
    from the word window and not read again."""


class Mode(enum.IntEnum):
    """What `VEC` does with each word; bits 9:8 of its immediate."""

    MAC = 0
    """acc[i] += a[i] * w[i]; one weight row per tap."""
    MAC2 = 1
    """acc[i] += a[i] * (w[i] & 127), then acc[i] += (a[i] * w'[i]) << 7; two weight rows per tap, low then high. It takes two cycles,
    or one if the lanes still hold both rows from the last word of this mode (`ArchConfig.wide_cycles`)."""
    MAX = 2
    """acc[i] = max(acc[i], a[i]), starting from the least integer; an empty word counts as zeros."""
    PRODUCT = 3
    """acc[i] = a[i] * r[i], for the output's only tap word a and its residual word r, one cycle each; no weights. It takes the flag
    RESIDUAL, KH = KX = SPAN = WORDS = 1, and an architecture with `ArchConfig.products`."""


MODE_SHIFT = 8
MODE_BITS = 2


class Region(enum.IntEnum):
    """Regions of the host's address space: bits 27:24 of a byte address.

    A row of a region takes `row_bytes(bits)` bytes (a power of two), least significant 32-bit piece first. Writing the
    last piece commits the row. In a region of `PER_CORE` every core has a memory of its own: row r of core c has the number
    `c * region_stride(arch, region) + r`. A row of PERF is one field: field f of record k is row
    `k * len(PERF_FIELDS) + f`.
    """

    CSR = 0
    IMEM = 1
    WEIGHT = 2
    MASK = 3
    PARAM = 4
    ACT = 5
    STATE = 6
    TABLE = 7
    PERF = 8


@dataclass(frozen=True)
class Register:
    """One register: its index, width in bits, signedness and meaning; `region` is the memory that an address register points into."""

    index: int
    bits: int
    signed: bool
    doc: str
    region: Region | None = None


_SIZE, _STEP = 12, 8


def _reg(index, bits, doc, signed=False):
    return Register(index, bits, signed, doc)


def _address(index, region, doc):
    return Register(index, ADDR_BITS, False, doc, region)


# Activation addresses count words of `lanes` channels, weight addresses rows of `lanes` weights, mask addresses rows of
# `lanes` bits, parameter and state addresses rows of `ppu` entries. A *span* is a run of `SPAN` neighbouring input pixels
# whose words are contiguous in memory; occupancy is tested span by span. A span is a whole kernel row if the dilation is 1
# and no other words lie between those of neighbouring pixels, else a single tap.
REGISTERS: dict[str, Register] = {
    "OH": _reg(0, _SIZE, "output rows"),
    "OW": _reg(1, _SIZE, "output columns"),
    "KH": _reg(2, _STEP, "kernel rows"),
    "KX": _reg(3, _STEP, "spans in a kernel row"),
    "SPAN": _reg(4, _STEP, "input pixels in a span"),
    "WORDS": _reg(5, _STEP, "words read of each input pixel"),
    "H": _reg(6, _SIZE, "input rows (bounds for padding)"),
    "W": _reg(7, _SIZE, "input columns (bounds for padding)"),
    "IY0": _reg(8, 13, "input row of the first output's first tap: minus the top padding", signed=True),
    "IX0": _reg(9, 13, "input column of the first output's first tap: minus the left padding", signed=True),
    "SY": _reg(10, _STEP, "input rows between output rows (stride)"),
    "SX": _reg(11, _STEP, "input columns between output columns (stride)"),
    "DY": _reg(12, _STEP, "input rows between kernel rows (dilation)"),
    "DX": _reg(13, _STEP, "input columns between spans (dilation)"),
    "REPY": _reg(14, _STEP, "output rows that read the same input rows (nearest upsampling; 1 = none)"),
    "REPX": _reg(15, _STEP, "output columns that read the same input columns"),
    "A_BASE": _address(16, Region.ACT, "activation address of the first output's first tap (at IY0, IX0)"),
    "A_OY": _address(17, Region.ACT, "activation address step of SY input rows"),
    "A_OX": _address(18, Region.ACT, "activation address step of SX input columns"),
    "A_KY": _address(19, Region.ACT, "activation address step of DY input rows"),
    "A_KX": _address(20, Region.ACT, "activation address step of one span"),
    "W_BASE": _address(21, Region.WEIGHT, "first weight row"),
    "W_SPAN": _address(22, Region.WEIGHT, "weight rows of one span"),
    "W_WORD": _reg(23, 8, "weight rows of one word"),
    "M_BASE": _address(24, Region.MASK, "first weight-mask row (CONV)"),
    "M_SPAN": _address(25, Region.MASK, "weight-mask rows of one span: SPAN x WORDS"),
    "R_BASE": _address(26, Region.ACT, "activation address of the first output's residual word"),
    "R_OY": _address(27, Region.ACT, "residual address step of one output row"),
    "R_OX": _address(28, Region.ACT, "residual address step of one output column"),
    "R_W": _address(29, Region.WEIGHT, "weight row of the residual's low half; the high half follows"),
    "O_BASE": _address(30, Region.ACT, "activation address of the first output"),
    "O_OY": _address(31, Region.ACT, "output address step of one output row"),
    "O_OX": _address(32, Region.ACT, "output address step of one output column"),
    "P_BASE": _address(33, Region.PARAM, "first requantiser parameter row"),
    "S_BASE": _address(34, Region.STATE, "first state row; outputs follow each other, DRAIN rows each"),
    "DRAIN": _reg(35, 6, "chunks of `ppu` channels that are drained for each output, 1..lanes/ppu"),
    "LO": _reg(36, 10, "clamp: least value (0 for ReLU)", signed=True),
    "HI": _reg(37, 10, "clamp: greatest value", signed=True),
    "TABLE": _reg(38, 4, "table of the TABLE flag"),
    "SPLIT": _reg(39, 4, "core groups, each of which computes other outputs: 1, 2, 4 or 8; core c is in group c % SPLIT"),
    "SLICES": _reg(40, 4, "cores of each group that compute, each another word column of the outputs"),
    "RUN": _reg(41, 4, "neighbouring outputs of a row that are dispatched together to one core group, 1..8"),
}

NONZERO = ("OH", "OW", "KH", "KX", "SPAN", "WORDS", "REPY", "REPX", "DRAIN", "SPLIT", "SLICES", "RUN")
"""Registers that must not be 0 when an operation starts (`Trap.CONFIG`). `asm.config_fault` has the other rules."""

RUN_MAX = 8
"""Largest RUN."""
WINDOW_MAX = 4
"""Largest KH and KX of an operation with the WINDOW flag: the word window holds 4 x 4 words."""


class Trap(enum.IntEnum):
    """Why the machine stopped."""

    NONE = 0
    OPCODE = 1
    REGISTER = 2
    CONFIG = 3
    WAIT = 4
    END = 5
    CYCLES = 6
    ACT_READ = 7
    ACT_WRITE = 8
    WEIGHT = 9
    MASK = 10
    PARAM = 11
    STATE = 12


TRAP_DOC = {
    Trap.NONE: "no trap",
    Trap.OPCODE: "an opcode, mode or flag that is not defined, or a mode that the architecture lacks",
    Trap.REGISTER: "SET of a register that does not exist",
    Trap.CONFIG: "an operation with a zero size, DRAIN beyond lanes/ppu, a table or cores that the architecture lacks, or a WINDOW, RUN or PRODUCT that its registers do not allow",
    Trap.WAIT: "WAIT without an operation to wait for",
    Trap.END: "the program ran past the end of the instruction memory",
    Trap.CYCLES: "the cycle limit was reached",
    Trap.ACT_READ: "activation read beyond the memory",
    Trap.ACT_WRITE: "activation write beyond the memory",
    Trap.WEIGHT: "weight read beyond the memory",
    Trap.MASK: "weight-mask read beyond the memory",
    Trap.PARAM: "requantiser parameter read beyond the memory",
    Trap.STATE: "accumulator state access beyond the memory",
}


class Cause(enum.IntEnum):
    """What the issue stage did in a cycle; the counters of a performance record, in this order.

    Every cycle from start to halt is counted in exactly one, so they add up to the total.
    """

    BUSY = 0
    """An event or a vector cycle was issued to the lanes."""
    FETCH = 1
    """An operation was in flight, but no segment had arrived at the issuer."""
    PPU = 2
    """An output was complete, but the previous one was still drained to post-processing."""
    MARKER = 3
    """An empty output was closed: a marker takes one cycle."""
    MEMORY = 4
    """Waiting for external memory. There is none yet, so it is always 0."""
    IDLE = 5
    """No operation was in flight: at the start, during a WAIT, while the sequencer executes SETs, and in the tail."""


PERF_FIELDS = (*(c.name.lower() for c in Cause), "words", "skipped")
"""Fields of one performance record, 32 bits each: the causes, activation words read, empty words skipped.

Every core writes records of its own, over the same cycles. Record k begins after record k-1 (or at the start) and ends
`latencies.CLOSE_LATENCY` cycles after the last issue of operation k on any core, but at least `RECORD_CYCLES` after record k-1. One more record,
for the tail, ends with the program segment. A core counts the words that the fetcher of the same number requests. Records beyond the
log's depth are dropped.
"""
RECORD_CYCLES = len(PERF_FIELDS)
"""Least distance of two records in cycles: a record is written one field per cycle."""


PER_CORE = (Region.WEIGHT, Region.MASK, Region.PARAM, Region.STATE, Region.PERF)
"""Regions of which every core has a memory of its own."""

REGION_SHIFT = 24
REGION_BITS = 4
HOST_ADDR_BITS = 28

CSR = {
    "ID": 0x00,
    "HASH": 0x04,
    "CTRL": 0x08,
    "STATUS": 0x0C,
    "LIMIT": 0x10,
    "PC": 0x14,
    "CYCLES": 0x18,
    "OPS": 0x1C,
}
CSR_DOC = {
    "ID": "read: 0x534F5244 (`SORD`)",
    "HASH": "read: `ArchConfig.hash` of the build",
    "CTRL": "write 1: start at instruction 0 (ignored while running)",
    "STATUS": "read: bit 0 running, bit 1 halted, bits 7:4 the `Trap`",
    "LIMIT": "read and write: the run traps with `Trap.CYCLES` when its cycle count reaches this; 0 at reset, so a run without a limit traps at once",
    "PC": "read: index of the instruction that runs, halted or trapped",
    "CYCLES": "read: cycles from start to halt of the run",
    "OPS": "read: operations started in the run",
}
ID_VALUE = 0x534F5244
TRAP_BITS = 4
"""Bits of a `Trap` in STATUS."""


def row_pieces(bits: int) -> int:
    """32-bit pieces of a row of `bits` bits."""
    return -(-bits // 32)


def row_bytes(bits: int) -> int:
    """Bytes that a row of `bits` bits takes in the host's address space: a power of two."""
    return 4 << (row_pieces(bits) - 1).bit_length()


PARAM_BITS = 64
"""Parameter bits per channel: bias [31:0], mantissa [39:32], shift [44:40], 0, threshold [55:48], 0."""


def region_bits(arch, region: Region) -> int:
    """Bits in one row of a memory region."""
    return {
        Region.IMEM: 32,
        Region.WEIGHT: arch.lanes * 8,
        Region.MASK: arch.lanes,
        Region.PARAM: arch.ppu * PARAM_BITS,
        Region.ACT: arch.lanes * arch.event_bits,
        Region.STATE: arch.ppu * 32,
        Region.TABLE: arch.event_bits,
        Region.PERF: 32,
    }[region]


def region_depth(arch, region: Region) -> int:
    """Rows in a memory region; of one core where the region is in `PER_CORE`."""
    return {
        Region.IMEM: arch.imem_depth,
        Region.WEIGHT: arch.weight_depth,
        Region.MASK: arch.mask_depth,
        Region.PARAM: arch.param_depth,
        Region.ACT: arch.act_depth,
        Region.STATE: arch.state_depth,
        Region.TABLE: 256 * arch.tables,
        Region.PERF: arch.perf_depth * len(PERF_FIELDS),
    }[region]


def window_bits(arch) -> int:
    """Bits that the host window transfers per cycle: the widest row, or 32 where there are several cores, which keeps the bus narrow."""
    return 32 if arch.cores > 1 else max(region_bits(arch, region) for region in Region if region is not Region.CSR)


def window_pieces(arch) -> int:
    """Transfers of `window_bits` bits that the widest row takes."""
    return max(-(-region_bits(arch, region) // window_bits(arch)) for region in Region if region is not Region.CSR)


def address_bits(arch, region: Region) -> int:
    """Bits of an address of a memory in the hardware: enough for twice its rows, so that an address just beyond the last row or just
    before the first one is seen as such, and traps. An address never has more than `ADDR_BITS` bits."""
    return min(ADDR_BITS, (region_depth(arch, region) - 1).bit_length() + 1)


def register_bits(arch, name: str) -> int:
    """Bits of a register in the hardware: an address register has those of its memory's addresses."""
    r = REGISTERS[name]
    return address_bits(arch, r.region) if r.region else r.bits


def region_stride(arch, region: Region) -> int:
    """Rows from a row of one core to the same row of the next core in the host's address space: a power of two."""
    return 1 << (region_depth(arch, region) - 1).bit_length()


def _check():
    assert len({r.index for r in REGISTERS.values()}) == len(REGISTERS), "register indices overlap"
    assert all(0 <= r.index < 1 << REG_BITS and 0 < r.bits <= IMM_BITS for r in REGISTERS.values())
    assert len({op.value for op in Opcode}) == len(Opcode) and set(OPCODE_DOC) == set(Opcode)
    widths = ((Opcode, OPCODE_BITS), (Mode, MODE_BITS), (Trap, TRAP_BITS), (Region, REGION_BITS))
    assert all(member.value < 1 << bits for kind, bits in widths for member in kind), "a code does not fit its field"
    assert max(Flag).value.bit_length() <= MODE_SHIFT and set(TRAP_DOC) == set(Trap)
    assert set(NONZERO) <= set(REGISTERS) and set(CSR) == set(CSR_DOC)


_check()
