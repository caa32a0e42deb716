"""Resets at random cycles of the whole machine under load, in the native simulation: afterwards a good program runs exactly."""

from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from good_programs import ARCH, GoodProgram, good_programs
from sordino_hw.spec.address_map import WRITABLE
from sordino_hw.spec.isa import PARAM_BITS, PER_CORE, Region, region_depth
from sordino_sim.rtl.machine import CutOffError, Rtl

__all__ = ["PHASES", "random_rows", "resets"]

PHASES = ("load", "run", "read", "garbage")
"""What the machine is at when the reset comes: a program is loaded, runs, or has its results read; or random rows are written."""

ROWS: dict[Region, tuple[type, tuple[int, ...]]] = {
    Region.IMEM: (np.uint32, ()),
    Region.WEIGHT: (np.int8, (ARCH.lanes,)),
    Region.MASK: (np.int8, (ARCH.lanes,)),
    Region.PARAM: (np.uint32, (ARCH.ppu * PARAM_BITS // 32,)),
    Region.ACT: (np.int16, (ARCH.lanes,)),
    Region.STATE: (np.int32, (ARCH.ppu,)),
    Region.TABLE: (np.int16, ()),
}


def random_rows(rng: np.random.Generator, rtl: Rtl, most: int) -> None:
    """Writes random bits to at most so many rows of each memory of each core."""
    for number in rng.permutation(len(WRITABLE)):
        region = WRITABLE[number]
        kind, shape = ROWS[region]
        count = min(region_depth(ARCH, region), most)
        for core in range(ARCH.cores if region in PER_CORE else 1):
            rows = rng.integers(0, 2 if region is Region.MASK else 1 << 32, (count, *shape)).astype(kind)
            rtl.write(region, rows, int(rng.integers(region_depth(ARCH, region) - count + 1)), core)


def resets(seed: int, count: int) -> Iterator[str]:
    """So many resets, each at a random cycle of a random phase; yields the phase when the good program after it has run.

    The machine starts from random registers and memories; then every row that the host can write is random. Raises `AssertionError` if
    the program after a reset differs from the models in a value, a counter or the cycles.
    """
    rng = np.random.default_rng([seed, 17])
    programs = good_programs(rng, 4)
    with Rtl(ARCH, quiet=True, seed=1 + seed) as rtl:
        random_rows(rng, rtl, max(region_depth(ARCH, region) for region in WRITABLE))
        lengths = [_lengths(rtl, program, rng) for program in programs]
        program, length = programs[-1], lengths[-1]
        for _ in range(count):
            phase = PHASES[rng.integers(len(PHASES))]
            after = int(rng.integers(length[phase]))
            rtl.cut_after(after)
            with suppress(CutOffError):  # or it ends by itself shortly before
                _work(phase, rtl, program, rng)
            rtl.reset(int(rng.integers(1, 4)))
            assert rtl.csr("STATUS") == rtl.csr("LIMIT") == 0
            number = int(rng.integers(len(programs)))
            program, length = programs[number], lengths[number]
            try:
                program.load(rtl)
                program.run_on(rtl)
            except AssertionError as error:
                raise AssertionError(f"after a reset {after} cycles into {phase!r}, seed {seed}") from error
            yield phase


def _lengths(rtl: Rtl, program: GoodProgram, rng: np.random.Generator) -> dict[str, int]:
    """Cycles of each phase."""
    program.load(rtl)
    program.run_on(rtl)
    lengths = {}
    for phase in ("read", "run", "load", "garbage"):
        start = rtl.ticks
        _work(phase, rtl, program, rng)
        lengths[phase] = rtl.ticks - start
    return lengths


def _work(phase: str, rtl: Rtl, program: GoodProgram, rng: np.random.Generator) -> None:
    if phase == "load":
        program.load(rtl)
    elif phase == "run":
        rtl.run(program.program.segments[0].cycle_limit)
    elif phase == "read":
        program.compare(rtl)
    else:
        random_rows(rng, rtl, 16)
