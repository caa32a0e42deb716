"""Assembler, disassembler and the sequencer's view of an instruction stream, all from the tables of `isa`.

Assembly text has one instruction per line; `;` starts a comment::

    SET  OH, 14
    SET  IY0, -1
    CONV SOURCE|SINK
    VEC  MAX, DENSE
    WAIT
    HALT
    .word 0x00000000        ; a word that is no instruction
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .arch import ArchConfig
from .errors import ArchError, TrapError
from .isa import (
    IMM_BITS,
    MODE_SHIFT,
    NONZERO,
    REG_BITS,
    REGISTERS,
    RUN_MAX,
    TRAP_DOC,
    WINDOW_MAX,
    Flag,
    Mode,
    Opcode,
    Register,
    Trap,
)

__all__ = [
    "ALL_FLAGS",
    "NO_FLAGS",
    "Assembler",
    "Step",
    "assemble",
    "config_fault",
    "decode",
    "decode_segment",
    "disassemble",
    "encode",
    "encode_op",
    "encode_set",
    "register_value",
]

ALL_FLAGS = sum(f.value for f in Flag)
"""The bits of an operation's immediate that hold `Flag`s."""

NO_FLAGS = Flag(0)

_BY_INDEX = {r.index: name for name, r in REGISTERS.items()}
_OPCODES = {op.value: op for op in Opcode}
_MODES = {m.value: m for m in Mode}


def encode(opcode: Opcode, reg: int = 0, imm: int = 0) -> int:
    """The 32-bit word of the three fields. Raises `ArchError` for a field that does not fit."""
    if not 0 <= reg < 1 << REG_BITS or not 0 <= imm < 1 << IMM_BITS:
        raise ArchError(f"{opcode.name}: register index {reg} or immediate {imm} does not fit {REG_BITS} and {IMM_BITS} bits")
    return opcode.value << (REG_BITS + IMM_BITS) | reg << IMM_BITS | imm


def decode(word: int) -> tuple[Opcode | None, int, int]:
    """The fields `(opcode, reg, imm)` of a 32-bit word; the opcode is None where its code has no name."""
    word = int(word)
    return _OPCODES.get(word >> (REG_BITS + IMM_BITS)), word >> IMM_BITS & (1 << REG_BITS) - 1, word & (1 << IMM_BITS) - 1


def register_value(register: Register, imm: int) -> int:
    """The value that `SET` gives a register: the low bits of the immediate, sign-extended in a signed register."""
    value = imm & (1 << register.bits) - 1
    return value - (1 << register.bits) if register.signed and value >> (register.bits - 1) else value


def encode_set(name: str, value: int) -> int:
    """`SET name, value`. Address registers are modular and take negative values too.

    Raises `ArchError`, naming register, value and limits.
    """
    if name not in REGISTERS:
        raise ArchError(f"SET {name}: no such register; the registers are {', '.join(REGISTERS)}")
    r, value = REGISTERS[name], int(value)
    low = -(1 << (r.bits - 1)) if r.signed or r.region else 0
    high = (1 << (r.bits - r.signed)) - 1
    if not low <= value <= high:
        raise ArchError(f"register {name} ({r.doc}) cannot hold {value}: it takes {low}..{high}. Use smaller layers or tiles.")
    return encode(Opcode.SET, r.index, value & (1 << r.bits) - 1)


def encode_op(opcode: Opcode, flags: Flag = NO_FLAGS, mode: Mode = Mode.MAC) -> int:
    """`CONV` or `VEC` with its flags; `mode` is for `VEC`.

    Raises `ArchError` for what the sequencer would trap at.
    """
    imm = int(flags) | mode.value << MODE_SHIFT
    if _op_fields(opcode, imm) is None:
        with_flags = f" with {_flag_text(int(flags))}" if flags else ""
        raise ArchError(f"{opcode.name} cannot take mode {mode.name}{with_flags}")
    return encode(opcode, 0, imm)


def _op_fields(opcode: Opcode, imm: int) -> tuple[Flag, Mode] | None:
    """Flags and mode of an operation's immediate; None where the sequencer of any architecture traps with `Trap.OPCODE`."""
    flags, mode = imm & ALL_FLAGS, imm >> MODE_SHIFT
    if imm & ~ALL_FLAGS & (1 << MODE_SHIFT) - 1 or mode not in _MODES or (opcode is Opcode.CONV and mode):
        return None
    if (_MODES[mode] is Mode.MAX and flags & Flag.RESIDUAL) or (_MODES[mode] is Mode.PRODUCT and not flags & Flag.RESIDUAL):
        return None
    return Flag(flags), _MODES[mode]


# -- streams -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One `CONV`, `VEC`, `WAIT` or `HALT` as the sequencer executes it."""

    pc: int
    """Index of the instruction."""
    opcode: Opcode
    regs: dict[str, int]
    """Snapshot of every register, sign-extended where signed. Not to be changed."""
    flags: Flag = NO_FLAGS
    mode: Mode = Mode.MAC

    def has(self, flag: Flag) -> bool:
        return bool(self.flags & flag)


def config_fault(opcode: Opcode, flags: Flag, mode: Mode, regs: Mapping[str, int], arch: ArchConfig) -> bool:
    """Whether an operation with these registers traps with `Trap.CONFIG`."""
    r = regs
    if any(r[name] == 0 for name in NONZERO) or r["DRAIN"] > arch.chunks or (flags & Flag.TABLE and r["TABLE"] >= arch.tables):
        return True
    if r["SPLIT"] & (r["SPLIT"] - 1) or r["SPLIT"] * r["SLICES"] > arch.cores:
        return True
    if r["RUN"] > RUN_MAX or (r["RUN"] > 1 and flags & (Flag.SOURCE | Flag.SINK)):
        return True
    if mode is Mode.PRODUCT and not r["KH"] == r["KX"] == r["SPAN"] == r["WORDS"] == 1:
        return True
    window = opcode is Opcode.VEC and r["KH"] <= WINDOW_MAX and r["KX"] <= WINDOW_MAX
    return bool(flags & Flag.WINDOW) and not (window and r["SPAN"] == r["WORDS"] == r["DX"] == r["REPX"] == 1)


def decode_segment(imem: Sequence[int] | np.ndarray, arch: ArchConfig) -> Iterator[Step]:
    """Yields the steps of a stream, up to and with `HALT`, exactly as the sequencer takes them.

    `imem`: uint32 [n], the instruction memory from row 0; further rows count as 0. Raises `TrapError` with cause and pc at the
    instruction that traps. Traps of the memory ports and of the cycle limit are not found here.
    """
    regs = dict.fromkeys(REGISTERS, 0)
    in_flight = False

    def trap(cause: Trap, pc: int) -> TrapError:
        return TrapError(f"trap {cause.name} at instruction {pc}: {TRAP_DOC[cause]}", cause, pc)

    for pc in range(arch.imem_depth):
        opcode, reg, imm = decode(imem[pc]) if pc < len(imem) else (None, 0, 0)
        if opcode is None:
            raise trap(Trap.OPCODE, pc)
        if opcode is Opcode.SET:
            if reg not in _BY_INDEX:
                raise trap(Trap.REGISTER, pc)
            name = _BY_INDEX[reg]
            regs[name] = register_value(REGISTERS[name], imm)
        elif opcode is Opcode.HALT:
            yield Step(pc, opcode, dict(regs))
            return
        elif opcode is Opcode.WAIT:
            if not in_flight:
                raise trap(Trap.WAIT, pc)
            in_flight = False
            yield Step(pc, opcode, dict(regs))
        else:
            fields = _op_fields(opcode, imm)
            if fields is None or (fields[1] is Mode.PRODUCT and not arch.products):
                raise trap(Trap.OPCODE, pc)
            flags, mode = fields
            if config_fault(opcode, flags, mode, regs, arch):
                raise trap(Trap.CONFIG, pc)
            in_flight = True
            yield Step(pc, opcode, dict(regs), flags, mode)
    raise trap(Trap.END, arch.imem_depth)


class Assembler:
    """Builds a stream; emits only the `SET`s whose values differ from what the registers hold.

    >>> a = Assembler()
    >>> a.conv(Flag.SINK, OH=14, OW=14)
    >>> a.halt()
    >>> a.imem.dtype, len(a.imem)
    (dtype('uint32'), 4)
    """

    def __init__(self) -> None:
        self.words: list[int] = []
        self._regs = dict.fromkeys(REGISTERS, 0)

    @property
    def imem(self) -> np.ndarray:
        """The stream so far: uint32 [n]."""
        return np.array(self.words, np.uint32)

    def set(self, **registers: int) -> None:
        """Sets registers, in the order of their indices. Raises `ArchError` for a name or value that is out of range."""
        encoded = {name: encode_set(name, value) for name, value in registers.items()}
        for name in sorted(encoded, key=lambda name: REGISTERS[name].index):
            value = register_value(REGISTERS[name], encoded[name])
            if self._regs[name] != value:
                self._regs[name] = value
                self.words.append(encoded[name])

    def conv(self, flags: Flag = NO_FLAGS, **registers: int) -> None:
        """Sets registers, then `CONV`. Registers that are not named keep their values."""
        self._op(Opcode.CONV, flags, Mode.MAC, registers)

    def vec(self, mode: Mode, flags: Flag = NO_FLAGS, **registers: int) -> None:
        """Sets registers, then `VEC`."""
        self._op(Opcode.VEC, flags, mode, registers)

    def _op(self, opcode: Opcode, flags: Flag, mode: Mode, registers: dict[str, int]) -> None:
        word = encode_op(opcode, flags, mode)
        self.set(**registers)
        self.words.append(word)

    def wait(self) -> None:
        self.words.append(encode(Opcode.WAIT))

    def halt(self) -> None:
        self.words.append(encode(Opcode.HALT))


# -- text ----------------------------------------------------------------------------------------------------------


def _flag_text(flags: int) -> str:
    return "|".join(str(f.name) for f in Flag if flags & f.value)


def _line(word: int) -> str:
    opcode, reg, imm = decode(word)
    raw = f".word 0x{word:08x}"
    if opcode is None:
        return raw
    text = opcode.name
    if opcode is Opcode.SET:
        if reg not in _BY_INDEX:
            return f"{raw}  ; SET of register {reg}, which does not exist"
        name = _BY_INDEX[reg]
        text = f"SET  {name}, {register_value(REGISTERS[name], imm)}"
    elif opcode in (Opcode.CONV, Opcode.VEC):
        fields = _op_fields(opcode, imm)
        if fields is None:
            return f"{raw}  ; {opcode.name} with a mode or flag that is not defined"
        parts = ([fields[1].name] if opcode is Opcode.VEC else []) + ([_flag_text(int(fields[0]))] if fields[0] else [])
        text = f"{opcode.name:<4} {', '.join(parts)}".rstrip()
    return text if _parse(text) == word else f"{raw}  ; {text}, with unused bits set"


def disassemble(words: Iterable[int]) -> list[str]:
    """One line per word. A word that no instruction encodes to becomes `.word`, so `assemble` restores every word."""
    return [_line(int(word)) for word in words]


def _parse(line: str) -> int:
    mnemonic, *rest = line.split(None, 1)
    operands = [part.strip() for part in rest[0].split(",")] if rest else []

    def bad(text: str) -> ArchError:
        return ArchError(f"assembly line {line!r}: {text}")

    if mnemonic == ".word":
        if len(operands) != 1 or not re.fullmatch(r"0x[0-9a-fA-F]{1,8}", operands[0]):
            raise bad(".word takes one hexadecimal number of at most 32 bits")
        return int(operands[0], 16)
    if mnemonic not in Opcode.__members__:
        raise bad(f"unknown instruction {mnemonic!r}; the instructions are {', '.join(Opcode.__members__)}")
    opcode = Opcode[mnemonic]
    if opcode is Opcode.SET:
        if len(operands) != 2 or not re.fullmatch(r"-?\d+", operands[1]):
            raise bad("SET takes a register and a decimal number")
        return encode_set(operands[0], int(operands[1]))
    if opcode in (Opcode.WAIT, Opcode.HALT):
        if operands:
            raise bad(f"{opcode.name} takes no operand")
        return encode(opcode)
    mode = Mode.MAC
    if opcode is Opcode.VEC:
        if not operands or operands[0] not in Mode.__members__:
            raise bad(f"VEC takes a mode first: {', '.join(Mode.__members__)}")
        mode = Mode[operands.pop(0)]
    flags = NO_FLAGS
    for name in operands[0].split("|") if operands else []:
        if name.strip() not in Flag.__members__:
            raise bad(f"unknown flag {name.strip()!r}; the flags are {', '.join(Flag.__members__)}")
        flags |= Flag[name.strip()]
    if len(operands) > 1:
        raise bad("too many operands")
    return encode_op(opcode, flags, mode)


def assemble(text: str) -> np.ndarray:
    """The words of an assembly text: uint32 [n]. Raises `ArchError` naming the line at fault."""
    lines = (line.split(";", 1)[0].strip() for line in text.splitlines())
    return np.array([_parse(line) for line in lines if line], np.uint32)
