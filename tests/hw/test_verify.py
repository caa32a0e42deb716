"""The verifier: a program uses what it brings along, what it stored before and its inputs, and nothing else."""

import re
import time

import numpy as np
import pytest

from sordino_hw.spec import verify as verify_module
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.asm import NO_FLAGS, Assembler
from sordino_hw.spec.errors import BinaryError
from sordino_hw.spec.geometry import geometry, output_addresses, residual_addresses
from sordino_hw.spec.isa import Flag, Mode, Region, address_bits
from sordino_hw.spec.program import Layer, Op, Program, Segment, Tensor
from sordino_hw.spec.verify import _column_runs, _Memory, _row_offsets, _Runs, _words

ARCH = ArchConfig(
    name="verified", cores=2, lanes=8, ppu=4, act_depth=64, weight_depth=64, mask_depth=16, param_depth=8, state_depth=32, tables=2
)
COPY = {
    **dict(OH=2, OW=2, KH=1, KX=1, SPAN=1, WORDS=1, H=2, W=2, SY=1, SX=1, DY=1, DX=1, REPY=1, REPX=1),
    **dict(A_BASE=0, A_OY=2, A_OX=1, O_BASE=4, O_OY=2, O_OX=1, DRAIN=2, LO=-128, HI=127, SPLIT=1, SLICES=1, RUN=1),
}
"""Each output from one word: words 0..3 to words 4..7."""
CONV = COPY | dict(W_BASE=0, W_WORD=8, M_BASE=0)


def segment(a: Assembler, ops: int, *, weight=8, mask=1, params=2, tables=1) -> Segment:
    """A segment with images of so many rows."""
    a.halt()
    zeros = {name: np.zeros((2, params, 4), np.int32) for name in ("bias", "mantissa", "shift", "threshold")}
    return Segment(
        imem=a.imem,
        weight=np.ones((2, weight, 8), np.int8),
        mask=np.ones((2, mask, 8), bool),
        table=np.zeros(256 * tables, np.int16),
        ops=[Op(0, (8,))] * ops,
        cycle_limit=10_000,
        **zeros,
    )


def program(*segments: Segment, arch: ArchConfig = ARCH) -> Program:
    """Input x in words 0..3, output y in words 4..7."""
    lanes = tuple(range(8))
    tensors = {n: Tensor(n, (8, 2, 2), 1.0, True, base, 2, 1, lanes, layer) for n, base, layer in (("x", 0, -1), ("y", 4, 0))}
    return Program(arch, list(segments), tensors, [Layer("copy", "conv", "", ("x",), "y", 0)], ["x"], ["y"])


def one(opcode: str, flags: Flag = NO_FLAGS, mode: Mode = Mode.MAC, **changes) -> Assembler:
    a = Assembler()
    if opcode == "conv":
        a.conv(flags, **CONV | changes)
    else:
        a.vec(mode, flags, **CONV | changes)
    return a


def two(first: dict, second: dict, *, wait: bool) -> Program:
    """Two CONVs in one segment."""
    a = Assembler()
    a.conv(first.pop("flags", NO_FLAGS), **CONV | first)
    if wait:
        a.wait()
    a.conv(second.pop("flags", NO_FLAGS), **CONV | second)
    return program(segment(a, 2))


def refusal(p: Program) -> str:
    with pytest.raises(BinaryError) as caught:
        p.check()
    message = str(caught.value)
    assert message.startswith("program: segment ") and message.endswith(". Compile the model again.")
    return re.sub(
        r"^program: segment \d+, operation \d+, instruction \d+: ", "", message.removesuffix(". Compile the model again.")
    )


def test_sound_programs():
    program(segment(one("conv"), 1)).check()
    program(segment(one("vec", Flag.RESIDUAL | Flag.TABLE, Mode.MAC2, W_WORD=2, R_W=6, R_OY=2, R_OX=1), 1)).check()
    program(segment(one("conv", Flag.SINK), 1), segment(one("conv", Flag.SOURCE), 1)).check()
    two({}, {"A_BASE": 4, "O_BASE": 8}, wait=True).check()


@pytest.mark.parametrize(
    ("assembler", "images", "message"),
    [
        (one("conv", W_BASE=1), {}, "it uses weight row 8; the segment's image has 8, and rows beyond it hold what ran before"),
        (one("conv"), {"weight": 0}, "it uses weight row 0; the segment's image has 0, and .*"),
        (one("conv", W_BASE=-1), {}, r"it uses weight row 127; .*"),
        (one("conv", SLICES=2, O_OX=2, O_OY=4, M_BASE=1), {}, "it uses mask row 1; the segment's image has 1, .*"),
        (one("vec", mode=Mode.MAC, W_BASE=8), {}, "it uses weight row 8; .*"),
        (one("vec", mode=Mode.MAC2, W_BASE=7), {}, "it uses weight row 8; .*"),
        (one("vec", Flag.RESIDUAL, R_W=7), {}, "it uses weight row 8; .*"),
        (one("conv", P_BASE=1), {}, "it uses parameter row 2; the segment's image has 2, .*"),
        (one("conv", Flag.TABLE, TABLE=1), {}, "it uses table 1; the segment has 1"),
        (one("conv", A_BASE=1), {}, "it reads activation word 4, which no input and no operation has stored"),
        (one("conv", A_BASE=-1), {}, "it touches row 127 of the ACT memory, which has 64"),
        (one("conv", A_OY=60), {}, "it reads activation word 60, which no .*"),
        (one("conv", Flag.RESIDUAL, R_BASE=4), {}, "it reads activation word 4, which no .*"),
        (one("conv", O_BASE=61), {}, "it touches row 64 of the ACT memory, which has 64"),
        (one("conv", O_BASE=3), {}, "it stores activation word 3, which it or an operation before it may still read .*"),
        (one("conv", O_OY=1), {}, "two of its outputs are stored to one word, and which one stays is not known"),
        (one("conv", Flag.SOURCE), {}, "it starts from state row 0 of core 0, which no operation has stored"),
        (one("conv", Flag.SINK, S_BASE=30), {}, "it touches row 32 of the STATE memory, which has 32"),
        (one("conv", O_BASE=8), {}, "tensor 'y' is read from activation words, such as 4, that nothing has stored"),
    ],
)
def test_what_an_operation_lacks(assembler, images, message):
    assert re.fullmatch(message, refusal(program(segment(assembler, 1, **images))))


def test_a_masked_lane_needs_no_weight_row():
    """Only rows of lanes whose mask bit is set are used, on the cores that the operation has."""
    s = segment(one("conv", W_BASE=-2), 1, weight=4)
    s.mask[:] = False
    s.mask[0, 0, 2:6] = s.mask[1] = True
    program(s).check()
    s.mask[0, 0, 6] = True
    assert refusal(program(s)).startswith("it uses weight row 4;")


def test_images_of_an_earlier_segment_do_not_count():
    """Its activations and state do."""
    first, second = segment(one("conv", O_BASE=8), 1), segment(one("conv", A_BASE=8), 1, weight=7)
    assert refusal(program(first, second)).startswith("it uses weight row 7; the segment's image has 7")
    program(first, segment(one("conv", A_BASE=8), 1)).check()


def test_state_belongs_to_a_core():
    """With SPLIT 2 the outputs are dealt to cores 0 and 1; with SPLIT 1 core 0 alone starts from four outputs' rows."""
    assert refusal(program(segment(one("conv", Flag.SINK, SPLIT=2), 1), segment(one("conv", Flag.SOURCE), 1))) == (
        "it starts from state row 4 of core 0, which no operation has stored"
    )


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            {},
            {"A_BASE": 4, "O_BASE": 8},
            "it reads activation word 4, which an operation before it may still store to; a WAIT is missing",
        ),
        ({"O_BASE": 8}, {}, None),
        ({}, {}, "it stores activation word 4, which it or an operation before it may still read or store to; a WAIT is missing"),
        (
            {"flags": Flag.SINK},
            {"flags": Flag.SOURCE},
            "it starts from state row 0 of core 0, which .* still store; a WAIT is missing",
        ),
    ],
)
def test_operations_in_flight(first, second, message):
    p = two(dict(first), dict(second), wait=False)
    if message is None:
        p.check()
    else:
        assert re.fullmatch(message, refusal(p))
        two(dict(first), dict(second), wait=True).check()


def test_an_output_is_added_to_its_own_word():
    """Its residual may be the word that it is stored to, since nothing else reads that; another output's may not."""
    a = one("conv")
    a.wait()
    a.conv(Flag.RESIDUAL, R_BASE=4, R_OY=2, R_OX=1)
    program(segment(a, 2)).check()
    for changes in ({"R_OX": 0}, {"R_BASE": 5, "R_OX": 0, "R_OY": 0}):
        a = one("conv")
        a.wait()
        a.conv(Flag.RESIDUAL, **{"R_BASE": 4, "R_OY": 2, "R_OX": 1} | changes)
        assert "which it or an operation before it may still read" in refusal(program(segment(a, 2)))


@pytest.mark.parametrize(
    ("words", "message"),
    [([0], r"trap OPCODE at instruction 0: .*"), ([], r"trap OPCODE at instruction 0: .*"), ([0x60000000], "trap WAIT at .*")],
)
def test_streams_that_trap(words, message):
    s = segment(Assembler(), 0)
    s.imem = np.array(words, np.uint32)
    assert re.fullmatch(f"program: segment 0: {message}", refusal(program(s)))


def test_table_of_operations():
    assert refusal(program(segment(one("conv"), 2))) == "program: segment 0: 1 operations, but 2 in its table"
    assert refusal(program(segment(one("conv"), 0))) == "the table of operations has 0 only"


def test_work_is_bounded():
    """Registers that claim 10**12 words are refused in well under a second, before anything of that size is made."""
    huge = dict(OH=4095, OW=4095, KH=255, KX=255, SPAN=255, WORDS=255, H=4095, W=4095, SX=0, SY=0, DX=0, DY=0)
    start = time.process_time()
    assert refusal(program(segment(one("conv", **huge), 1))) == ("it touches more rows than can be verified, which no memory has")
    assert time.process_time() - start < 2
    many = Assembler()
    for _ in range(200):
        many.conv(**CONV | dict(OH=4095, OW=4095, O_OY=0, O_OX=0, KH=200, KX=200, H=1, W=1))
    start = time.process_time()
    refusal(program(segment(many, 200), arch=ARCH.replace(perf_depth=512)))
    assert time.process_time() - start < 2


def test_runs_are_the_words_of_the_geometry(rng):
    """The runs that the verifier looks at cover the words of `geometry`, which every model uses, and no other."""
    bits = address_bits(ARCH, Region.ACT)

    def rows(runs: _Runs) -> set[int]:
        part, some = _Memory(128).rows(*runs.placed(bits))
        return set((part.start + np.flatnonzero(some)).tolist())

    def pick(low, high):
        return int(rng.integers(low, high + 1))

    seen = 0
    for _ in range(400):
        r = {name: pick(1, 3) for name in ("KH", "KX", "SPAN", "WORDS", "DY", "DX", "REPY", "REPX", "SLICES")}
        r |= {name: pick(0, 3) for name in ("SY", "SX", "A_OY", "A_OX", "A_KY", "A_KX", "R_OY", "R_OX", "O_OY", "O_OX")}
        r |= {"OH": pick(1, 5), "OW": pick(1, 5), "H": pick(0, 6), "W": pick(0, 6), "IY0": pick(-3, 3), "IX0": pick(-3, 3)}
        r |= {"A_BASE": pick(0, 40) - 8 & (1 << 22) - 1, "R_BASE": pick(0, 20), "O_BASE": pick(0, 20)}
        if rng.random() < 0.2:
            r["A_OX"] = -r["A_OX"] & (1 << 22) - 1
        offsets, kernel_rows = _row_offsets(tuple(r[n] for n in verify_module._ROWS), bits)
        starts, stops, pixels = _column_runs(tuple(r[n] for n in verify_module._INPUT), bits)
        words = geometry(r, ARCH).addresses()
        inside = words[words >= 0]
        found = rows(_Runs(offsets, starts, stops)) if len(offsets) else set()
        wrapped = {w & (1 << bits) - 1 for w in found}
        assert wrapped == set(inside.tolist())
        if len(inside):
            assert len(kernel_rows) * int(pixels.sum()) * r["WORDS"] == geometry(r, ARCH).taps
        assert rows(_words(r, "O_BASE", "O_OY", "O_OX", bits)) == set(output_addresses(r, ARCH).ravel().tolist())
        assert rows(_words(r, "R_BASE", "R_OY", "R_OX", bits)) == set(residual_addresses(r, ARCH).ravel().tolist())
        seen += len(inside) > 0
    assert seen > 100
