"""Encoding, text and the sequencer's decoding of instructions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sordino_hw.spec.arch import PRESETS, ArchConfig
from sordino_hw.spec.asm import (
    NO_FLAGS,
    Assembler,
    assemble,
    decode,
    decode_segment,
    disassemble,
    encode,
    encode_op,
    encode_set,
    register_value,
)
from sordino_hw.spec.errors import ArchError, TrapError
from sordino_hw.spec.isa import NONZERO, REGISTERS, RUN_MAX, WINDOW_MAX, Flag, Mode, Opcode, Trap

ARCH = ArchConfig(lanes=16, ppu=4, imem_depth=64, tables=2)
VALID = {**dict.fromkeys(NONZERO, 1)}
UNUSED = len(REGISTERS)
"""A register index that no register has."""

words = st.integers(0, (1 << 32) - 1)
near_instructions = st.builds(
    lambda opcode, reg, imm: encode(opcode, reg, imm),
    st.sampled_from(Opcode),
    st.integers(0, 45),
    st.integers(0, 1 << 12) | st.integers(0, (1 << 22) - 1),
)
flag_sets = st.sets(st.sampled_from(list(Flag))).map(lambda flags: sum(flags, NO_FLAGS))


def in_range(name: str) -> st.SearchStrategy[int]:
    r = REGISTERS[name]
    return st.integers(-(1 << (r.bits - 1)), (1 << (r.bits - 1)) - 1) if r.signed else st.integers(0, (1 << r.bits) - 1)


settings = st.sampled_from(list(REGISTERS)).flatmap(lambda name: st.tuples(st.just(name), in_range(name)))


# -- words and text ------------------------------------------------------------------------------------------------


@given(st.lists(words | near_instructions, max_size=20))
def test_every_word_survives_its_text(stream):
    assert assemble("\n".join(disassemble(stream))).tolist() == stream


@given(st.sampled_from(Opcode), st.integers(0, 63), st.integers(0, (1 << 22) - 1))
def test_fields_round_trip(opcode, reg, imm):
    assert decode(encode(opcode, reg, imm)) == (opcode, reg, imm)


@given(settings)
def test_set_round_trips(setting):
    name, value = setting
    opcode, reg, imm = decode(encode_set(name, value))
    assert (opcode, reg) == (Opcode.SET, REGISTERS[name].index)
    assert register_value(REGISTERS[name], imm) == value
    assert disassemble([encode_set(name, value)]) == [f"SET  {name}, {value}"]


def test_text_is_readable():
    a = Assembler()
    a.set(OH=14, IY0=-1, A_BASE=-3)
    a.conv(Flag.RESIDUAL | Flag.SINK)
    a.conv()
    a.vec(Mode.MAX)
    a.vec(Mode.MAC2, Flag.DENSE | Flag.TABLE)
    a.wait()
    a.halt()
    assert disassemble(a.imem) == [
        "SET  OH, 14",
        "SET  IY0, -1",
        "SET  A_BASE, 4194301",
        "CONV SINK|RESIDUAL",
        "CONV",
        "VEC  MAX",
        "VEC  MAC2, DENSE|TABLE",
        "WAIT",
        "HALT",
    ]


def test_text_of_what_is_no_instruction():
    stream = [0, 0xFFFFFFFF, 1 << 28 | UNUSED << 22, 2 << 28 | 0x40, 3 << 28 | 0x300, 6 << 28 | 1, 1 << 28 | 0x1001]
    assert disassemble(stream) == [
        ".word 0x00000000",
        ".word 0xffffffff",
        f".word {stream[2]:#010x}  ; SET of register {UNUSED}, which does not exist",
        ".word 0x20000040  ; CONV with a mode or flag that is not defined",
        ".word 0x30000300  ; VEC with a mode or flag that is not defined",
        ".word 0x60000001  ; WAIT, with unused bits set",
        ".word 0x10001001  ; SET  OH, 1, with unused bits set",
    ]


def test_comments_and_blank_lines():
    assert assemble("; nothing\n\n  SET OH,3 ; three\nHALT").tolist() == [encode_set("OH", 3), encode(Opcode.HALT)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("JUMP 3", r"assembly line 'JUMP 3': unknown instruction 'JUMP'; the instructions are SET, CONV, VEC, WAIT, HALT"),
        ("SET OH", r"assembly line 'SET OH': SET takes a register and a decimal number"),
        ("SET OH, x", r"assembly line 'SET OH, x': SET takes a register and a decimal number"),
        ("SET Q, 1", r"SET Q: no such register; the registers are OH, OW, .*, RUN"),
        ("VEC SINK", r"assembly line 'VEC SINK': VEC takes a mode first: MAC, MAC2, MAX, PRODUCT"),
        (
            "CONV FAST",
            r"assembly line 'CONV FAST': unknown flag 'FAST'; the flags are DENSE, SOURCE, SINK, RESIDUAL, TABLE, WINDOW",
        ),
        ("CONV SINK, DENSE", r"assembly line 'CONV SINK, DENSE': too many operands"),
        ("WAIT 3", r"assembly line 'WAIT 3': WAIT takes no operand"),
        (".word 7", r"assembly line '\.word 7': \.word takes one hexadecimal number of at most 32 bits"),
        ("VEC MAX, RESIDUAL", r"VEC cannot take mode MAX with RESIDUAL"),
    ],
)
def test_errors_of_text(line, message):
    with pytest.raises(ArchError, match=f"^{message}$"):
        assemble(line)


@pytest.mark.parametrize(
    ("name", "value", "limits"),
    [
        ("OH", 4096, "0..4095"),
        ("OH", -1, "0..4095"),
        ("IY0", -4097, "-4096..4095"),
        ("IY0", 4096, "-4096..4095"),
        ("W_WORD", 256, "0..255"),
        ("A_BASE", 1 << 22, "-2097152..4194303"),
        ("A_BASE", -(1 << 21) - 1, "-2097152..4194303"),
        ("LO", 512, "-512..511"),
    ],
)
def test_errors_of_range_name_register_and_value(name, value, limits):
    with pytest.raises(ArchError) as caught:
        encode_set(name, value)
    doc = REGISTERS[name].doc
    assert str(caught.value) == f"register {name} ({doc}) cannot hold {value}: it takes {limits}. Use smaller layers or tiles."


def test_encode_refuses_fields_that_do_not_fit():
    for reg, imm in ((64, 0), (0, 1 << 22), (-1, 0), (0, -1)):
        with pytest.raises(ArchError, match=f"^SET: register index {reg} or immediate {imm} does not fit 6 and 22 bits$"):
            encode(Opcode.SET, reg, imm)


def test_conv_takes_no_mode():
    with pytest.raises(ArchError, match=r"^CONV cannot take mode MAX$"):
        encode_op(Opcode.CONV, mode=Mode.MAX)


# -- the assembler -------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.lists(settings, max_size=6), flag_sets), min_size=1, max_size=5))
def test_assembler_emits_only_what_changed(operations):
    """Decoding gives every operation the registers asked for, and no SET repeats the value that the register has."""
    a = Assembler()
    asked, expected = dict.fromkeys(REGISTERS, 0), []
    for changes, flags in operations:
        valid = {**VALID, **dict(changes), "DRAIN": 1, "TABLE": 1, "SPLIT": 1, "SLICES": 1, "RUN": 1}
        flags &= ~Flag.WINDOW
        valid |= {name: valid[name] or 1 for name in NONZERO}
        asked |= valid
        expected.append((dict(asked), flags))
        a.conv(flags, **valid)
    a.halt()
    arch = ARCH.replace(imem_depth=4096)
    steps = list(decode_segment(a.imem, arch))
    assert [(s.regs, s.flags) for s in steps[:-1]] == expected
    held = dict.fromkeys(REGISTERS, 0)
    for word in a.words:
        opcode, reg, imm = decode(word)
        if opcode is Opcode.SET:
            (name,) = (n for n, r in REGISTERS.items() if r.index == reg)
            value = register_value(REGISTERS[name], imm)
            assert held[name] != value, "a SET that changes nothing"
            held[name] = value


def test_a_refused_operation_leaves_no_trace():
    a = Assembler()
    for bad in (lambda: a.conv(OH=3, OW=5000), lambda: a.conv(OH=3, NAME=1), lambda: a.vec(Mode.MAX, Flag.RESIDUAL, OH=3)):
        with pytest.raises(ArchError):
            bad()
    assert a.words == []


def test_negative_addresses_are_modular():
    a = Assembler()
    a.set(A_BASE=-1)
    a.set(A_BASE=(1 << 22) - 1)
    assert len(a.words) == 1 and a.imem.dtype == np.uint32


# -- the sequencer's view ------------------------------------------------------------------------------------------


def operation(flags=NO_FLAGS, **regs) -> list[int]:
    a = Assembler()
    a.conv(flags, **{**VALID, **regs})
    return a.words


WINDOW = VALID | {"KH": WINDOW_MAX, "KX": WINDOW_MAX, "DX": 1, "RUN": RUN_MAX}


def window(**regs) -> list[int]:
    a = Assembler()
    a.vec(Mode.MAX, Flag.WINDOW, **{**WINDOW, **regs})
    return a.words


HALT, WAIT = encode(Opcode.HALT), encode(Opcode.WAIT)


@pytest.mark.parametrize(
    ("stream", "cause", "pc"),
    [
        ([], Trap.OPCODE, 0),
        ([0], Trap.OPCODE, 0),
        ([0xFFFFFFFF], Trap.OPCODE, 0),
        ([encode_set("OH", 1)], Trap.OPCODE, 1),
        ([encode_set("OH", 1)] * 64, Trap.END, 64),
        ([encode(Opcode.SET, UNUSED, 0), HALT], Trap.REGISTER, 0),
        ([encode(Opcode.SET, 63, 0), HALT], Trap.REGISTER, 0),
        ([encode(Opcode.CONV)], Trap.CONFIG, 0),
        ([WAIT, HALT], Trap.WAIT, 0),
        ([*operation(), WAIT, WAIT], Trap.WAIT, len(VALID) + 2),
        ([encode(Opcode.CONV, 0, 1 << 6)], Trap.OPCODE, 0),
        ([encode_op(Opcode.VEC, Flag.RESIDUAL, Mode.PRODUCT)], Trap.OPCODE, 0),
        ([encode(Opcode.CONV, 0, 1 << 8)], Trap.OPCODE, 0),
        ([encode(Opcode.VEC, 0, 3 << 8)], Trap.OPCODE, 0),
        ([encode(Opcode.VEC, 0, 1 << 10)], Trap.OPCODE, 0),
        ([encode(Opcode.VEC, 0, 2 << 8 | Flag.RESIDUAL)], Trap.OPCODE, 0),
        (operation(DRAIN=5), Trap.CONFIG, len(VALID)),
        (operation(Flag.TABLE, TABLE=2), Trap.CONFIG, len(VALID) + 1),
        (operation(SPLIT=2), Trap.CONFIG, len(VALID)),
        (operation(SLICES=2), Trap.CONFIG, len(VALID)),
        (operation(RUN=RUN_MAX + 1), Trap.CONFIG, len(VALID)),
        (operation(Flag.SINK, RUN=2), Trap.CONFIG, len(VALID)),
        (operation(Flag.WINDOW), Trap.CONFIG, len(VALID)),
        (window(KH=WINDOW_MAX + 1), Trap.CONFIG, len(WINDOW)),
        *((window(**{name: 2}), Trap.CONFIG, len(WINDOW)) for name in ("SPAN", "WORDS", "DX", "REPX")),
        *(([*operation()[:-1], encode_set(name, 0), encode(Opcode.CONV)], Trap.CONFIG, len(VALID) + 1) for name in NONZERO),
    ],
)
def test_traps(stream, cause, pc):
    with pytest.raises(TrapError) as caught:
        list(decode_segment(stream, ARCH))
    assert (caught.value.cause, caught.value.pc) == (cause, pc)
    assert str(caught.value).startswith(f"trap {cause.name} at instruction {pc}: ")


@pytest.mark.parametrize(
    "stream",
    [
        [HALT],
        [HALT | 5, 0],
        [*operation(DRAIN=4), HALT],
        [*operation(TABLE=2), HALT],
        [*window(), HALT],
        [*operation(Flag.TABLE, TABLE=1), HALT],
        [*operation(), WAIT, encode(Opcode.CONV, 7, 0), WAIT | 1, HALT],
        [encode_set("OH", 1)] * 63 + [HALT],
    ],
)
def test_streams_that_halt(stream):
    assert [s.opcode for s in decode_segment(stream, ARCH)][-1] is Opcode.HALT


def test_operations_before_a_trap_are_seen():
    steps = decode_segment([*operation(), 0], ARCH)
    assert next(steps).opcode is Opcode.CONV
    with pytest.raises(TrapError):
        next(steps)


def test_set_keeps_the_low_bits():
    """Bits above the register's width are ignored; signed registers sign-extend."""
    stream = [encode(Opcode.SET, REGISTERS["OH"].index, 0x1003), encode(Opcode.SET, REGISTERS["LO"].index, 0x200), HALT]
    (halt,) = decode_segment(stream, ARCH)
    assert halt.regs["OH"] == 3 and halt.regs["LO"] == -512


@given(st.lists(words | near_instructions, max_size=100))
def test_any_stream_ends(stream):
    """In HALT or in a trap with its cause, on every preset."""
    for arch in PRESETS.values():
        try:
            *_, last = decode_segment(stream, arch)
            assert last.opcode is Opcode.HALT
        except TrapError as error:
            assert isinstance(error.cause, Trap) and 0 <= error.pc <= len(stream)
