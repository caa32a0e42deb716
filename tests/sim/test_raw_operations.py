"""Random raw operations on the RTL: every memory as the golden machine leaves it, every record as the timing model says."""

import numpy as np
import pytest

from raw_ops import ARCHS, random_images, random_machine, random_op
from sordino_hw.gateware.prefetch import PREFETCH
from sordino_hw.spec.asm import Assembler
from sordino_hw.spec.isa import Cause, Flag, Mode, Region, Trap
from sordino_sim.rtl.images import segment_images
from sordino_sim.rtl.machine import Rtl, Run
from sordino_sim.timing.model import SegmentTiming

ARCH = max(ARCHS, key=lambda arch: arch.cores)
ALONE = next(arch for arch in ARCHS if arch.in_flight == 1)
SMALL = next(arch for arch in ARCHS if arch.profile == "small")


def check_case(rtl: Rtl, seed: list[int]) -> None:
    rng = np.random.default_rng(seed)
    arch = rtl.arch
    ops = [random_op(rng, arch) for _ in range(rng.integers(1, 9))]
    segment = random_images(rng, arch, ops)
    machine = random_machine(rng, arch)
    for (region, core), image in segment_images(segment).items():
        rtl.write(region, image, 0, core)
    rtl.write(Region.ACT, machine.act[0])
    for core, state in enumerate(machine.state[0]):
        rtl.write(Region.STATE, state, 0, core)

    timing = SegmentTiming(arch, segment, 1)
    machine.run(segment, timing.observe)
    records = timing.records()[0]
    cycles = int(records[:, 0, : len(Cause)].sum())
    assert rtl.run(segment.cycle_limit) == Run(Trap.NONE, len(segment.imem) - 1, cycles, len(ops)), f"seed {seed}"
    np.testing.assert_array_equal(rtl.records(len(records)), records, f"records, seed {seed}")
    np.testing.assert_array_equal(rtl.read(Region.ACT, arch.act_depth), machine.act[0], f"activations, seed {seed}")
    for core, state in enumerate(machine.state[0]):
        np.testing.assert_array_equal(rtl.read(Region.STATE, arch.state_depth, core), state, f"state of core {core}, seed {seed}")


@pytest.mark.parametrize("arch", (ARCH, ALONE, SMALL), ids=lambda arch: arch.name)
def test_against_the_models(seed, arch):
    with Rtl(arch) as rtl:
        for case in range(60):
            check_case(rtl, [*seed, case])


def test_the_hosts_state_does_not_pass_a_source(rng):
    """With one operation in flight, the flags are the queue's head, which may show any instruction while the machine stands still."""
    size = {"OH": 1, "OW": 1, "KH": 1, "KX": 1, "SPAN": 1, "WORDS": 1, "H": 1, "W": 1}
    ones = dict.fromkeys(("SY", "SX", "DY", "DX", "REPY", "REPX", "DRAIN", "SPLIT", "SLICES", "RUN"), 1)
    program = Assembler()
    program.vec(Mode.MAC, Flag.SOURCE, **size, **ones)
    program.halt()
    imem = np.asarray(program.imem)
    with Rtl(ALONE) as rtl:
        for pad in range(PREFETCH):
            rtl.write(Region.IMEM, np.concatenate([np.repeat(imem[:1], pad), imem]))
            assert rtl.run(10_000).trap is Trap.NONE
            state = rng.integers(-(1 << 31), 1 << 31, rtl.read(Region.STATE, ALONE.state_depth).shape)
            rtl.write(Region.STATE, state)
            np.testing.assert_array_equal(rtl.read(Region.STATE, ALONE.state_depth), state)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_against_the_models_at_length(seed, block):
    with Rtl(ARCH) as rtl:
        for case in range(200):
            check_case(rtl, [*seed, case])
