"""Corrupted instruction streams on the RTL: each ends, halted, in HALT or a trap with its cause, and leaves no trace.

After every stream a good program runs on the same machine, cycle for cycle and value for value as on a fresh one.
"""

from collections import Counter

import numpy as np
import pytest

from good_programs import ARCH, good_programs
from sordino_hw.spec.asm import decode_segment, encode
from sordino_hw.spec.errors import TrapError
from sordino_hw.spec.isa import IMM_BITS, NONZERO, REG_BITS, REGISTERS, Opcode, Region, Trap
from sordino_sim.rtl.machine import Rtl, Run

LIMIT = 2000
SEQUENCER = {Trap.OPCODE, Trap.REGISTER, Trap.CONFIG, Trap.WAIT, Trap.END}


def random_words(rng, donors):
    """Words of random bits."""
    return rng.integers(0, 1 << 32, rng.integers(1, ARCH.imem_depth + 1), dtype=np.uint32)


def random_instructions(rng, donors):
    """Defined instructions with random fields, many of them small, so that operations start and some go on for long."""
    words = []
    top = rng.choice([2, 4, 60])
    for name, r in REGISTERS.items():
        if name in NONZERO or rng.random() < 0.7:
            size = top if name in ("OH", "OW", "H", "W") else 1 if name == "TABLE" else 4
            small = name in NONZERO or rng.random() < 0.95
            value = int(rng.integers(name in NONZERO, size)) if small else int(rng.integers(0, 1 << rng.integers(1, IMM_BITS + 1)))
            if name in ("SPLIT", "SLICES") and rng.random() < 0.9:
                value = int(rng.choice([1, 2, ARCH.cores] if name == "SPLIT" else [1, 1, 2]))
            words.append(encode(Opcode.SET, r.index, value & (1 << r.bits) - 1))
    if rng.random() < 0.05:  # no operation and no HALT up to the memory's end
        return np.array((words * ARCH.imem_depth)[: ARCH.imem_depth], np.uint32)
    for _ in range(rng.integers(1, 8)):
        kind = Opcode(
            int(rng.choice([Opcode.CONV, Opcode.VEC, Opcode.WAIT, Opcode.SET, Opcode.HALT], p=[0.35, 0.35, 0.15, 0.1, 0.05]))
        )
        reg, imm = int(rng.integers(0, 1 << REG_BITS)), int(rng.integers(0, 1 << IMM_BITS))
        if rng.random() < 0.9:
            imm &= {Opcode.CONV: 0x1F, Opcode.VEC: 0x137}.get(kind, imm)
        words.append(encode(kind, reg, imm))
    return np.array(words, np.uint32)


def flipped(rng, donors):
    """A good program with up to 8 bits flipped."""
    words = donor(rng, donors)
    for _ in range(rng.integers(1, 9)):
        words[rng.integers(len(words))] ^= np.uint32(1 << int(rng.integers(32)))
    return words


def truncated(rng, donors):
    """The beginning of a good program; zeros follow, or random bits."""
    words = donor(rng, donors)[: rng.integers(1, 200)]
    tail = rng.integers(0, 1 << 32, rng.integers(0, 4), dtype=np.uint32)
    return np.concatenate([words[: max(1, len(words) - 1)], tail])


def shuffled(rng, donors):
    """A good program with some instructions swapped, repeated or left out."""
    words = donor(rng, donors)
    index = np.arange(len(words))
    some = rng.random(len(words)) < rng.choice([0.1, 0.5, 1.0])
    index[some] = rng.permutation(index[some]) if rng.random() < 0.5 else rng.choice(index, some.sum())
    return words[index]


def donor(rng, donors):
    return donors[rng.integers(len(donors))].program.segments[0].imem.copy()


MUTATIONS = (random_words, random_instructions, flipped, truncated, shuffled)


def check_stream(rtl: Rtl, words: np.ndarray) -> Run:
    """Runs a stream; the machine must stop by itself, for a reason that the stream's decoding confirms."""
    words = np.append(words, np.uint32(0))[: ARCH.imem_depth]  # the 0 traps before the last stream's remains
    rtl.write(Region.IMEM, words)
    run = rtl.run(LIMIT)  # raises ToolError if the machine does not stop
    assert run.cycles <= LIMIT + 1  # the trap takes a cycle
    try:
        end = list(decode_segment(words, ARCH))[-1]
        expected = (Trap.NONE, end.pc)
    except TrapError as trap:
        expected = (trap.cause, trap.pc)
    if run.trap in SEQUENCER or run.trap is Trap.NONE:
        assert (run.trap, run.pc) == expected
    else:
        assert run.pc <= expected[1]
    return run


def fuzz(seed, count: int) -> dict[Trap, int]:
    """`count` streams, each followed by the good program; returns how often each end was seen."""
    rng = np.random.default_rng(seed)
    donors = good_programs(rng, 6)
    good = donors[0]
    ends = dict.fromkeys(Trap, 0)
    with Rtl(ARCH) as rtl:
        good.load(rtl)
        good.run_on(rtl)
        low, high = ARCH.act_range(True)
        for i in range(count):
            if i % 100 == 0:
                rtl.write(Region.ACT, rng.integers(low, high + 1, (256, ARCH.lanes)).astype(np.int16))
            words = MUTATIONS[i % len(MUTATIONS)](rng, donors)
            try:
                ends[check_stream(rtl, words).trap] += 1
                good.run_on(rtl)
            except BaseException:
                print(f"stream {i} of seed {seed}: {words.tolist()}")
                raise
    return ends


def test_streams(seed):
    """Which ends 500 streams meet is chance: more of them until eight kinds were seen."""
    ends: Counter[Trap] = Counter()
    for block in range(4):
        ends.update({end: n for end, n in fuzz([*seed, block], 500).items() if n})
        if len(ends) >= 8:
            break
    assert len(ends) >= 8, ends


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(10))
def test_10000_streams(chunk):
    ends = fuzz(chunk, 1000)
    assert sum(ends.values()) == 1000
