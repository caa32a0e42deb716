"""Memories read back from the simulated machine: through the window, and by a program where no window shows them."""

import re

import numpy as np
import pytest

from good_programs import ARCH, good_programs
from resets import random_rows
from sordino_hw.spec.address_map import READABLE, WRITABLE
from sordino_hw.spec.asm import Assembler
from sordino_hw.spec.errors import InputError, ToolError
from sordino_hw.spec.isa import PER_CORE, Region, region_depth
from sordino_sim.readback import check_images, read_back
from sordino_sim.rtl.images import segment_images
from sordino_sim.rtl.machine import Rtl


@pytest.fixture(scope="module")
def rtl():
    with Rtl(ARCH, quiet=True, seed=3) as machine:
        yield machine


def test_every_row(rtl, rng):
    """Whole memories of random rows: what was written comes back, and reading changes none of them."""
    low, high = ARCH.act_range(True)
    written = {
        Region.IMEM: rng.integers(0, 1 << 32, (1, ARCH.imem_depth), np.uint32),
        Region.WEIGHT: rng.integers(-128, 128, (ARCH.cores, ARCH.weight_depth, ARCH.lanes), np.int8),
        Region.MASK: rng.integers(0, 2, (ARCH.cores, ARCH.mask_depth, ARCH.lanes)).astype(bool),
        Region.ACT: rng.integers(low, high + 1, (1, ARCH.act_depth, ARCH.lanes), np.int16),
        Region.STATE: rng.integers(-(1 << 31), 1 << 31, (ARCH.cores, ARCH.state_depth, ARCH.ppu)).astype(np.int32),
        Region.TABLE: rng.integers(low, high + 1, (1, 256 * ARCH.tables), np.int16),
    }
    for region, rows in written.items():
        for core, memory in enumerate(rows):
            rtl.write(region, memory, core=core)
    for _ in range(2):
        for region, rows in written.items():
            back = read_back(rtl, region, rows.shape[1])
            assert back.dtype == rows.dtype and np.array_equal(back, rows), region
    assert np.array_equal(read_back(rtl, Region.WEIGHT, 5), written[Region.WEIGHT][:, :5])
    assert read_back(rtl, Region.MASK, 0).shape == (ARCH.cores, 0, ARCH.lanes)


def test_images_are_compared(rtl, rng):
    """One wrong bit of any image but the parameters is found, and named."""
    random_rows(rng, rtl, 1 << 20)
    good = good_programs(rng, 1)[0]
    (segment,) = good.program.segments
    good.load(rtl)
    check_images(rtl, segment)
    good.run_on(rtl)
    check_images(rtl, segment)
    for (region, core), image in segment_images(segment).items():
        if region is Region.PARAM or not image.size:
            continue
        row = int(rng.integers(len(image)))
        wrong = image[row : row + 1].copy()
        wrong.flat[rng.integers(wrong.size)] ^= 1
        rtl.write(region, wrong, row, core)
        where = f"{region.name} of core {core}" if region in PER_CORE else region.name
        with pytest.raises(
            ToolError, match=rf"^Row {row} of {where} is not what was written; 1 of {len(image)} rows differ\. Load"
        ):
            check_images(rtl, segment)
        good.load(rtl)
    check_images(rtl, segment)
    good.run_on(rtl)


@pytest.mark.parametrize("region", [r for r in WRITABLE if r is not Region.PARAM])
def test_more_rows_than_there_are(rtl, region):
    depth = region_depth(ARCH, region)
    message = f"{region.name} of {ARCH.name} has {depth} rows: {depth + 1} of them cannot be read back."
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        read_back(rtl, region, depth + 1)


def test_parameters_cannot_be_read_back(rtl):
    assert Region.PARAM not in READABLE
    with pytest.raises(
        InputError, match=r"^PARAM cannot be read back\. What can be is WEIGHT, MASK, IMEM, ACT, STATE, TABLE, PERF\.$"
    ):
        read_back(rtl, Region.PARAM, 1)


def endless() -> np.ndarray:
    """A program of millions of cycles."""
    a = Assembler()
    ones = dict.fromkeys(("KH", "KX", "SPAN", "WORDS", "H", "W", "REPY", "REPX", "DRAIN", "SPLIT", "SLICES", "RUN"), 1)
    a.conv(OH=4095, OW=4095, **ones)
    a.halt()
    return a.imem


@pytest.mark.parametrize("region", WRITABLE)
def test_a_memory_is_refused_while_the_machine_runs(rtl, rng, region):
    """The refused access is said in words, the machine is stopped, and nothing was written."""
    rtl.write(Region.IMEM, endless())
    rows = {
        Region.WEIGHT: ARCH.lanes,
        Region.MASK: ARCH.lanes,
        Region.ACT: ARCH.lanes,
        Region.PARAM: ARCH.ppu * 2,
        Region.STATE: ARCH.ppu,
    }
    row = np.ones((1, rows[region]) if region in rows else 1, np.int32)
    before = None if region is Region.PARAM else read_back(rtl, region, 3)

    def write(cycles):
        rtl.write(region, row, 1)

    with pytest.raises(ToolError, match=r"^The simulated machine runs: nothing is written to its memories or read from them until"):
        rtl.run((1 << 32) - 1, write)
    assert rtl.csr("STATUS") & 1 == 0
    if before is not None:
        assert np.array_equal(read_back(rtl, region, 3), before)
    if region in READABLE:
        with pytest.raises(ToolError, match=r"^The simulated machine runs: "):
            rtl.run((1 << 32) - 1, lambda cycles: rtl.read(region, 1))
