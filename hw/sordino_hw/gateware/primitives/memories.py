"""Memories of one, two or more ports, in block RAM, in large single-port RAM, or in distributed RAM: an access a cycle and port."""

from amaranth.hdl import unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ...spec.latencies import LATENCY
from .family import family_of

__all__ = ["BitMemory", "BlockMemory", "DualReadMemory", "SinglePortMemory", "SmallMemory"]


class BlockMemory(wiring.Component):
    """Memory with one write and one read port in the same clock domain, in block RAM.

    `r_data` shows the row at `r_addr` exactly `latency` cycles later. Addresses beyond the depth must not be used:
    callers check and trap. If a row is written in the cycle in which it is read, or in the next, `r_data` is undefined
    (the generic form shows the old row). Rows start at zero; `r_data` is not reset, and is undefined in the first `latency` cycles.

    Parameters
    ----------
    depth, width : int
        Rows, and bits of a row.
    latency : int
        `LATENCY`, with a register behind the memory, or 1.
    granularity : int, optional
        Bits of a row that are written together (default: all), of which each group has a bit of `w_en`.

    On the ECP5, memories of up to 64 rows are built of distributed RAM.

    Members
    -------
    w_en : In(width / granularity), w_addr, w_data
    r_addr, r_data
    """

    def __init__(self, depth: int, width: int, latency: int = LATENCY, granularity: int | None = None):
        super().__init__(_memory_members(depth, width, latency, granularity))
        self.depth, self.width, self.latency, self.granularity = depth, width, latency, granularity or width

    def elaborate(self, platform):
        return family_of(platform).block_memory(self)


class BitMemory(wiring.Component):
    """Memory with one write port of one bit and several read ports of a row.

    `r_data[i]` shows the row at `r_addr[i]` exactly `latency` cycles later. A bit that is written in that cycle or in
    the one before is undefined; the row's other bits are not. Rows start at zero; `r_data` is not reset.

    Parameters
    ----------
    depth, width : int
        Rows, and bits of a row: a power of two, at least 8.
    readers : int
    latency : int
        As of `BlockMemory`.

    Members
    -------
    w_en : In(1), w_addr, w_data : In(1)
        `w_addr` is the bit's row times `width` plus its place in it.
    r_addr : In(array of readers), r_data : Out(array of readers)
    """

    def __init__(self, depth: int, width: int, readers: int, latency: int = LATENCY):
        _check_memory(depth, width)
        _check_latency(latency, (1, LATENCY))
        if width < 8 or width & (width - 1) or readers < 1:
            raise ValueError(f"a memory of bits needs a width of 8, 16, 32, ... and a reader, not {width=!r}, {readers=!r}")
        self.depth, self.width, self.readers, self.latency = depth, width, readers, latency
        super().__init__(
            {
                "w_en": In(1),
                "w_addr": In(_address_bits(depth * width)),
                "w_data": In(1),
                "r_addr": In(data.ArrayLayout(unsigned(_address_bits(depth)), readers)),
                "r_data": Out(data.ArrayLayout(unsigned(width), readers)),
            }
        )

    def elaborate(self, platform):
        return family_of(platform).bit_memory(self)


class SinglePortMemory(wiring.Component):
    """Memory that reads or writes one row a cycle: on the iCE40 its large single-port RAM, elsewhere block RAM.

    `r_data` shows the row at `r_addr` exactly `latency` cycles later, if that cycle did not write; it is undefined for a
    cycle that wrote. On the iCE40 the rows start undefined, elsewhere at zero.

    Parameters
    ----------
    depth, width : int
    granularity : int, optional
        As of `BlockMemory`.

    Members
    -------
    w_en : In(width / granularity), w_addr, w_data
    r_addr, r_data
    """

    def __init__(self, depth: int, width: int, latency: int = LATENCY, granularity: int | None = None):
        super().__init__(_memory_members(depth, width, latency, granularity))
        self.depth, self.width, self.latency, self.granularity = depth, width, latency, granularity or width

    def elaborate(self, platform):
        return family_of(platform).single_port_memory(self)


class DualReadMemory(wiring.Component):
    """Memory with two read ports, of which the first one also writes.

    `r_data[i]` shows the row at `addr[i]` exactly `latency` cycles later. `r_data[0]` is undefined for a cycle that wrote, and
    `r_data[1]` for a cycle in which its row was written. Rows start at zero.

    Parameters
    ----------
    depth, width : int

    Members
    -------
    addr : In(array of 2), w_en : In(1), w_data
        The row `addr[0]` is written.
    r_data : Out(array of 2)
    """

    def __init__(self, depth: int, width: int, latency: int = LATENCY):
        _check_memory(depth, width)
        _check_latency(latency, (1, LATENCY))
        self.depth, self.width, self.latency = depth, width, latency
        super().__init__(
            {
                "addr": In(data.ArrayLayout(unsigned(_address_bits(depth)), 2)),
                "w_en": In(1),
                "w_data": In(width),
                "r_data": Out(data.ArrayLayout(unsigned(width), 2)),
            }
        )

    def elaborate(self, platform):
        return family_of(platform).dual_read_memory(self)


class SmallMemory(wiring.Component):
    """Memory of a few rows, read in the same cycle: distributed RAM on the ECP5, registers on the iCE40.

    `r_data` shows the row at `r_addr` in the same cycle (`latency` 0) or, registered, in the next (`latency` 1). A row
    that is written shows its new content from the next cycle on. Rows start at zero.

    Parameters
    ----------
    depth, width : int
    latency : int
        0 or 1.

    Members
    -------
    w_en : In(1), w_addr, w_data
    r_addr, r_data
    """

    def __init__(self, depth: int, width: int, latency: int = 0):
        _check_memory(depth, width)
        _check_latency(latency, (0, 1))
        self.depth, self.width, self.latency = depth, width, latency
        address = _address_bits(depth)
        super().__init__({"w_en": In(1), "w_addr": In(address), "w_data": In(width), "r_addr": In(address), "r_data": Out(width)})

    def elaborate(self, platform):
        return family_of(platform).small_memory(self)


def _address_bits(depth: int) -> int:
    return max(1, (depth - 1).bit_length())


def _check_memory(depth: int, width: int) -> None:
    if depth < 1 or width < 1:
        raise ValueError(f"a memory needs at least one row of one bit, not depth={depth!r}, width={width!r}")


def _check_latency(latency: int, known: tuple[int, ...]) -> None:
    if latency not in known:
        raise ValueError(f"latency must be {' or '.join(map(str, known))}, not {latency!r}")


def _memory_members(depth: int, width: int, latency: int, granularity: int | None) -> dict:
    """Members of a memory with a write and a read port: `granularity` bits for each bit of `w_en`, by default all. Raises
    `ValueError`.
    """
    _check_memory(depth, width)
    _check_latency(latency, (1, LATENCY))
    if granularity is not None and (granularity < 1 or width % granularity):
        raise ValueError(f"a granularity divides the width, but {granularity!r} does not divide {width!r}")
    address, enables = _address_bits(depth), width // (granularity or width)
    return {"w_en": In(enables), "w_addr": In(address), "w_data": In(width), "r_addr": In(address), "r_data": Out(width)}
