"""The host's address space: which regions it can write and read, and whether the memories fit into them."""

from .arch import ArchConfig
from .errors import ArchError
from .isa import PER_CORE, PERF_FIELDS, REGION_SHIFT, Region, region_bits, region_depth, region_stride, row_bytes

__all__ = ["READABLE", "WRITABLE", "check_address_space"]

WRITABLE = (Region.IMEM, Region.WEIGHT, Region.MASK, Region.PARAM, Region.ACT, Region.STATE, Region.TABLE)
READABLE = (Region.IMEM, Region.ACT, Region.STATE, Region.TABLE, Region.PERF)
"""What the host reads directly. Weights and masks are read by a program (`sordino_sim.readback`)."""


def check_address_space(arch: ArchConfig) -> None:
    """Raises `ArchError` if a memory, or those of all cores together, is larger than its region of the host's address space."""
    limit = 1 << REGION_SHIFT
    for region in (*WRITABLE, Region.PERF):
        cores = arch.cores if region in PER_CORE else 1
        rows = region_stride(arch, region) if region in PER_CORE else region_depth(arch, region)
        size = cores * rows * row_bytes(region_bits(arch, region))
        if size > limit:
            most = rows * limit // size // (len(PERF_FIELDS) if region is Region.PERF else 1)
            who = f"{region.name} memories of {cores} cores take" if cores > 1 else f"{region.name} memory takes"
            raise ArchError(
                f"architecture {arch.name!r}: the {who} {size} bytes of the host's address space, "
                f"and a region has {limit}: make {region.name.lower()}_depth at most {most}"
            )
