"""The page `docs/reference/isa.md`, from the tables of `isa`."""

import ast
import inspect
from collections.abc import Iterable
from itertools import pairwise
from types import ModuleType

from . import isa
from .arch import PRESETS, ArchConfig

__all__ = ["isa_page"]

_HEAD = """\
# The instruction set

*Generated from `hw/sordino_hw/spec/isa.py` by `make docs`.*

Every instruction is one 32-bit word:

| 31:28 | 27:22 | 21:0 |
|---|---|---|
| opcode | register | immediate |

`sordino disasm FILE.sdn` prints a program in this notation. A run starts at instruction 0 with all registers zero. Instructions take
one cycle each, operations a few more, while their registers are checked; then they wait until every output of the one before is
dispatched, and `WAIT` and `HALT` for the last store.
"""

_SEMANTICS = """\
## What an operation computes

Address arithmetic is modulo the least power of two that is twice the rows of the memory addressed, or more (2²² at most): higher bits of
an address register are ignored, and what lies before a memory's first row or beyond its last traps. Activations are addressed in words of `lanes` channels, weights in rows of `lanes` weights, masks in
rows of `lanes` bits, parameters and state in rows of `ppu` entries. Every core has weights, masks, parameters and state of its own;
activations and tables are the cluster's.

Core c is in group c % `SPLIT`, and computes slice s = c // `SPLIT` of the group's outputs if that is below `SLICES`.

```text
for oy in 0 .. OH-1, ox in 0 .. OW-1:                         # ox innermost
    iy0 = IY0 + (oy // REPY) * SY      a0 = A_BASE + (oy // REPY) * A_OY + (ox // REPX) * A_OX
    ix0 = IX0 + (ox // REPX) * SX      acc[all lanes] = 0     # MAX: the least integer

    for ky in 0 .. KH-1, kx in 0 .. KX-1:                     # span k = ky * KX + kx
        iy = iy0 + ky * DY    ix = ix0 + kx * DX    a = a0 + ky * A_KY + kx * A_KX
        for pixel p of the span with 0 <= iy < H and 0 <= ix + p < W, for word j in 0 .. WORDS-1:
            q = p * WORDS + j
            x = activation word a + q                         # not read if its occupancy bit is clear
            row = W_BASE + k * W_SPAN + q * W_WORD
            CONV      for lane l with mask[M_BASE + k * M_SPAN + q][l] and x[l] != 0:
                          acc[i] += x[l] * weight[row + l][i]                for all lanes i
            VEC MAC   acc[i] += x[i] * weight[row][i]
            VEC MAC2  acc[i] += x[i] * (weight[row][i] & 127) + ((x[i] * weight[row + 1][i]) << 7)
            VEC MAX   acc[i] = max(acc[i], x[i])              # an empty word counts as zeros

    RESIDUAL: r = activation word R_BASE + oy * R_OY + ox * R_OX + s
              acc[i] += r[i] * (weight[R_W][i] & 127) + ((r[i] * weight[R_W + 1][i]) << 7)

    n = oy * OW + ox
    for chunk c in 0 .. DRAIN-1, channels i = c * ppu .. c * ppu + ppu - 1:
        t = S_BASE + (n // SPLIT) * DRAIN + c
        SOURCE: acc[i] += state[t][i % ppu]
        SINK:   state[t][i % ppu] = acc[i]
        else:   y = clip(requantise(acc[i], parameters[P_BASE + c][i % ppu]), LO, HI)
                TABLE: y = table[256 * TABLE + y + 128]
                y = 0 where |y| < threshold
    not SINK: activation word O_BASE + oy * O_OY + ox * O_OX + s = y  # channels from DRAIN * ppu up are zero
```

Sums wrap to 32 bits. With `DENSE`, occupancy and zeros of activations are ignored: the same values in more cycles. An output of `MAX` without any
word in bounds is 0. `requantise` is in [numbers.md](../explanation/numbers.md).

With `SOURCE` or `SINK`, output n is dispatched to group n % `SPLIT`, whose cores keep its state; `RUN` must be 1. All other outputs are dispatched
to whichever group is free, in runs of `RUN` neighbours of a row (fewer at the row's end): so the cores that have the same slice must
hold the same rows wherever the operation uses them. `WINDOW` (of `VEC`, with `KH` and `KX` up to 4 and `SPAN` = `WORDS` = `DX` = `REPX` = 1)
saves reads within a run, and changes no value.
"""


def _docs(definition: type | ModuleType) -> dict[str, str]:
    """The string literals below the names that a class or module defines, which Python itself drops."""
    body = ast.parse(inspect.getsource(definition)).body
    if isinstance(definition, type) and isinstance(body[0], ast.ClassDef):
        body = body[0].body
    docs = {}
    for member, doc in pairwise(body):
        if isinstance(member, ast.Assign) and isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant):
            (target,) = member.targets
            docs[ast.unparse(target)] = " ".join(str(doc.value.value).split())
    return docs


def _table(head: str, rows: Iterable[Iterable[object]]) -> str:
    columns = head.split("|")
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def _memory_map(arch: ArchConfig) -> str:
    def row(region):
        if region is isa.Region.CSR:
            return (f"`{region.value:#x}`", region.name, 32, len(isa.CSR), "", 4)
        bits, depth = isa.region_bits(arch, region), isa.region_depth(arch, region)
        stride = isa.region_stride(arch, region) if region in isa.PER_CORE else ""
        return (f"`{region.value:#x}`", region.name, bits, depth, stride, isa.row_bytes(bits))

    return _table("bits 27:24|region|bits in a row|rows|rows from core to core|bytes between rows", (row(r) for r in isa.Region))


def isa_page(arch: ArchConfig = PRESETS["ulx3s-85f"]) -> str:
    """Markdown of the instruction set; sizes in the memory map are those of `arch`."""
    flags, modes, causes = (_docs(e) for e in (isa.Flag, isa.Mode, isa.Cause))
    registers = (
        (r.index, f"`{name}`", f"{r.bits}{' signed' if r.signed else ''}", f"{r.doc}{' (not 0)' if name in isa.NONZERO else ''}")
        for name, r in isa.REGISTERS.items()
    )
    sections = (
        _HEAD,
        "## Opcodes\n",
        _table("code|name|meaning", ((op.value, f"`{op.name}`", isa.OPCODE_DOC[op]) for op in isa.Opcode)),
        "## Flags of `CONV` and `VEC` (immediate, bits 7:0)\n",
        _table("value|name|meaning", ((f.value, f"`{f.name}`", flags[f.name or ""]) for f in isa.Flag)),
        f"## Modes of `VEC` (immediate, bits {isa.MODE_SHIFT + 1}:{isa.MODE_SHIFT})\n",
        _table("code|name|meaning", ((m.value, f"`{m.name}`", modes[m.name]) for m in isa.Mode)),
        "## Registers\n\nA span is a run of `SPAN` neighbouring input pixels whose words are contiguous in memory.\n",
        _table("index|name|bits|meaning", registers),
        _SEMANTICS,
        "## Traps\n\nThe machine stops; `STATUS` holds the cause, `PC` the instruction that the sequencer was at.\n",
        _table("code|name|cause", ((t.value, f"`{t.name}`", isa.TRAP_DOC[t]) for t in isa.Trap)),
        "## Performance records\n\nA record has "
        f"{len(isa.PERF_FIELDS)} fields of 32 bits, in this order: {', '.join(f'`{name}`' for name in isa.PERF_FIELDS)}. "
        f"{_docs(isa)['PERF_FIELDS'].partition('. ')[2]} Every cycle counts in exactly one cause:\n",
        _table("cause|meaning", ((f"`{c.name.lower()}`", causes[c.name]) for c in isa.Cause)),
        "`words` and `skipped` count activation words asked for by the core's fetcher, and empty ones that were not.\n",
        "## The host's memory map\n\nByte addresses of "
        f"{isa.HOST_ADDR_BITS} bits on one AXI4-Lite port of 32 data bits. A row of a memory takes a power of two of bytes, least significant "
        "32-bit piece first; writing its last piece commits it. Row r of core c, where every core has rows of its own, is row "
        "c * (rows from core to core) + r. A row of PERF is one field of a record. Memories are refused (`SLVERR`) while the machine runs; the control registers answer always, and no access waits for the end of a run.\n\n"
        "The pieces of a row are written in ascending order, from piece 0, with every byte strobe set and no piece of another row between "
        "them, so a row is written whole or not at all. `SLVERR` answers an access that what is there cannot take: a misaligned address, a "
        "clear byte strobe, a piece beyond its row or out of order, a write to PERF or to a register that is only read, a read of "
        "WEIGHT, MASK or PARAM, a memory while the machine runs. `DECERR` answers where nothing is. Neither changes anything. Writing "
        "`LIMIT` stops a run that has taken so many cycles, 0 at once. TABLE shows the tables of the first requantiser. "
        "`sordino_sim.readback` reads WEIGHT and MASK by a program.\n"
        f"\nSizes of the preset `{arch.name}`:\n",
        _memory_map(arch),
        _docs(isa)["PARAM_BITS"] + "\n",
        "### Control registers (region CSR)\n",
        _table("offset|name|meaning", ((f"`{a:#04x}`", f"`{name}`", isa.CSR_DOC[name]) for name, a in isa.CSR.items())),
    )
    return "\n".join(sections)
