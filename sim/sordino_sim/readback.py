"""Reads the memories of a stopped machine back, also those that the host's window does not show.

A window onto weights and masks would cost more gates than the ECP5-85F has left (decision 0025). But the lanes read these memories, and
their sums come out: a program of one operation multiplies weights by ones, or ones by the identity matrix where the mask allows it,
and keeps the sums in state memory, which the host reads.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from sordino_hw.spec.address_map import READABLE
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.asm import Assembler
from sordino_hw.spec.errors import InputError, ToolError
from sordino_hw.spec.isa import PER_CORE, REGISTERS, Flag, Mode, Region, Trap, region_depth
from sordino_hw.spec.program import Segment

from .rtl.images import segment_images
from .rtl.machine import Run

__all__ = ["Machine", "check_images", "read_back"]

MOST = 255
"""Rows that one operation reads at most: one for each of its kernel rows."""
LIMIT = 1 << 20
"""Cycles; the operation of 255 kernel rows takes a tenth."""


class Machine(Protocol):
    """What `rtl.machine.Rtl` and `board.SerialLink` have in common."""

    arch: ArchConfig

    def write(self, region: Region, data: np.ndarray, rows: "int | np.ndarray" = 0, core: int = 0) -> None: ...

    def read(self, region: Region, rows: "int | np.ndarray", core: int = 0) -> np.ndarray: ...

    def run(self, limit: int) -> Run: ...


def read_back(machine: Machine, region: Region, count: int) -> np.ndarray:
    """The first `count` rows of every core's memory, in their natural form (`images.encode`): [cores, count, ...].

    [1, count, ...] of a memory that all cores share. To read WEIGHT and MASK the machine runs: the performance records and the
    registers of the run before are lost; all memories are as before. Raises `InputError` for PARAM and for more rows than there are.
    """
    arch = machine.arch
    if region is Region.PARAM or region is Region.CSR:
        raise InputError(f"{region.name} cannot be read back. What can be is WEIGHT, MASK, {', '.join(r.name for r in READABLE)}.")
    if not 0 <= count <= region_depth(arch, region):
        raise InputError(
            f"{region.name} of {arch.name} has {region_depth(arch, region)} rows: {count} of them cannot be read back."
        )
    if region in READABLE:
        return np.stack([machine.read(region, count, core) for core in range(arch.cores if region in PER_CORE else 1)])
    if region is Region.WEIGHT:
        return _weights(machine, 0, count)
    with _kept(machine, lambda: _weights(machine, 0, arch.lanes), Region.WEIGHT):
        for core in range(arch.cores):
            machine.write(Region.WEIGHT, np.eye(arch.lanes, dtype=np.int8), core=core)
        return _by_program(machine, 0, count, _mask_program) != 0


def check_images(machine: Machine, segment: Segment) -> None:
    """Compares the images of a program segment with what the machine's memories hold, except for parameters.

    Raises `ToolError` naming the first row that differs.
    """
    read: dict[tuple[Region, int], np.ndarray] = {}
    for (region, core), image in segment_images(segment).items():
        if region is Region.PARAM or not len(image):
            continue
        if (region, len(image)) not in read:
            read[region, len(image)] = read_back(machine, region, len(image))
        differs = (read[region, len(image)][core] != image).reshape(len(image), -1).any(1)
        if differs.any():
            where = f"{region.name} of core {core}" if region in PER_CORE else region.name
            raise ToolError(
                f"Row {int(differs.argmax())} of {where} is not what was written; {int(differs.sum())} of {len(image)} rows differ. "
                "Load the program again."
            )


def _weights(machine: Machine, first: int, count: int) -> np.ndarray:
    """Rows of weights of every core: int8 [cores, count, lanes]."""
    return _by_program(machine, first, count, _weight_program).astype(np.int8)


def _weight_program(a: Assembler, registers: dict[str, int], first: int) -> None:
    a.vec(Mode.MAC, Flag.SINK, **registers, W_BASE=first, W_SPAN=1)


def _mask_program(a: Assembler, registers: dict[str, int], first: int) -> None:
    a.conv(Flag.SINK, **registers, M_BASE=first, M_SPAN=1)


def _by_program(machine: Machine, first: int, count: int, program: Callable[[Assembler, dict[str, int], int], None]) -> np.ndarray:
    """Sums of an operation that adds up one row for each output: int32 [cores, count, lanes]."""
    arch = machine.arch
    most = min(MOST, arch.state_depth // arch.chunks)
    parts = [np.empty((arch.cores, 0, arch.lanes), np.int32)]
    with (
        _kept(machine, lambda: machine.read(Region.IMEM, min(arch.imem_depth, len(REGISTERS) + 2))[None], Region.IMEM),
        _kept(machine, lambda: machine.read(Region.ACT, 1)[None], Region.ACT),
        _kept(machine, lambda: read_back(machine, Region.STATE, min(most, count) * arch.chunks), Region.STATE),
    ):
        machine.write(Region.ACT, np.ones((1, arch.lanes), np.int16))
        for row in range(first, first + count, most):
            rows = min(most, first + count - row)
            a = Assembler()
            program(a, _one_row_an_output(arch, rows), row)
            a.halt()
            machine.write(Region.IMEM, a.imem)
            run = machine.run(LIMIT)
            if run.trap is not Trap.NONE:
                raise ToolError(f"The program that reads memories back stopped with trap {run.trap.name}: report it.")
            sums = read_back(machine, Region.STATE, rows * arch.chunks)
            parts.append(sums.reshape(arch.cores, rows, arch.lanes)[:, ::-1])
    return np.concatenate(parts, 1)


def _one_row_an_output(arch: ArchConfig, rows: int) -> dict[str, int]:
    """Registers of an operation with as many outputs as kernel rows, on an input of one pixel: padding leaves output n only the
    kernel row `rows` - 1 - n."""
    ones = dict.fromkeys(("OW", "KX", "SPAN", "WORDS", "H", "W", "SY", "SX", "DY", "DX", "REPY", "REPX", "SPLIT", "RUN"), 1)
    return ones | {"OH": rows, "KH": rows, "IY0": 1 - rows, "DRAIN": arch.chunks, "SLICES": arch.cores}


@contextmanager
def _kept(machine: Machine, read: Callable[[], np.ndarray], region: Region) -> Iterator[None]:
    """Writes back what `read` reads: the first rows of a region, of every core that has some."""
    before = read()
    try:
        yield
    finally:
        for core, rows in enumerate(before):
            machine.write(region, rows, core=core)
