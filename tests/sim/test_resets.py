"""Resets of the whole machine, and what it starts from: neither matters to a good program."""

import numpy as np
import pytest

from good_programs import ARCH, good_programs
from resets import PHASES, random_rows, resets
from sordino_hw.spec.errors import ToolError
from sordino_hw.spec.isa import Region
from sordino_sim.rtl.machine import CutOffError, Rtl


def test_resets(seed):
    """Resets at random cycles of every phase; `benchmarks/resets.py` has more of them."""
    assert set(resets(int(np.random.default_rng(seed).integers(1 << 20)), 60)) == set(PHASES)


@pytest.mark.slow
def test_300_resets():
    assert sum(1 for _ in resets(100, 300)) == 300


@pytest.mark.parametrize("start", [1, 2, 3])
def test_initial_contents_do_not_matter(start, seed):
    """Registers and memories start from random bits; a program runs exactly after one cycle of reset, and what it leaves unwritten
    is as it was."""
    rng = np.random.default_rng(seed)
    program = good_programs(rng, 1)[0]
    used = np.unique(np.concatenate([np.ravel(program.program.addresses(name)) for name in program.program.tensors]))
    with Rtl(ARCH, quiet=True, seed=start) as rtl:
        assert rtl.csr("STATUS") == rtl.csr("LIMIT") == 0
        first = rtl.read(Region.ACT, ARCH.act_depth)
        assert first.any()
        program.load(rtl)
        program.run_on(rtl)
        rest = np.setdiff1d(np.arange(ARCH.act_depth), used)
        assert np.array_equal(rtl.read(Region.ACT, rest), first[rest])
        random_rows(rng, rtl, 1 << 20)
        program.load(rtl)
        program.run_on(rtl)


def test_seeds_differ():
    """A seed fixes the contents; without one they are zeros."""

    def contents(seed):
        with Rtl(ARCH, quiet=True, seed=seed) as rtl:
            return rtl.read(Region.STATE, 4).tolist()

    assert contents(5) == contents(5) != contents(6)
    assert not np.any(contents(0))
    with pytest.raises(ToolError, match=r"^The seed of a simulated machine is from 0 to 2147483647, not -1\.$"):
        Rtl(ARCH, quiet=True, seed=-1)


def test_a_reset_stops_a_run():
    """A machine that runs is stopped, its registers are as at first, and what the run does not write is as it was."""
    program = good_programs(np.random.default_rng(1), 1)[0]
    last = np.array([ARCH.state_depth - 1])
    with Rtl(ARCH, quiet=True) as rtl:
        program.load(rtl)
        rtl.write(Region.STATE, np.full((1, ARCH.ppu), 7), last)
        rtl.cut_after(200)
        with pytest.raises(CutOffError):
            rtl.run(1 << 20)
        rtl.reset()
        assert rtl.csr("STATUS") == rtl.csr("LIMIT") == rtl.csr("CYCLES") == rtl.csr("PC") == 0
        assert (rtl.read(Region.STATE, last) == 7).all()
        program.run_on(rtl)
        with pytest.raises(ToolError, match=r"^A reset takes at least a cycle, not 0\.$"):
            rtl.reset(0)
