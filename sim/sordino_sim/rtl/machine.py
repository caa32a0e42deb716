"""A simulated accelerator: its memories and run control, through the AXI4-Lite port of a native simulation of the RTL."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self, get_args

import numpy as np

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import ArchError, ToolError
from sordino_hw.spec.isa import CSR, ID_VALUE, PERF_FIELDS, Region, Trap, region_bits, region_depth, row_pieces

from .build import Waves, library
from .images import addresses, decode, encode

__all__ = ["CutOffError", "Rtl", "Run"]

SLICE = 100_000
"""Cycles simulated between two reports of progress; keyboard interrupts are seen then, too."""


CUT, REFUSED = -2, 2
"""What the harness returns of an access that was cut off; and the port, of one that it refuses (AXI's SLVERR)."""


class CutOffError(Exception):
    """A method came to the cycle that `Rtl.cut_after` named."""


@dataclass(frozen=True)
class Run:
    """How a run ended."""

    trap: Trap
    """`Trap.NONE` after HALT."""
    pc: int
    """Index of the instruction that halted or trapped."""
    cycles: int
    """Cycles from start to halt."""
    ops: int
    """Operations started."""


class Rtl:
    """One simulated accelerator, after a reset. Instances are independent of each other.

    Use it as a context manager, or call `close`. Raises `ToolError` if the simulator cannot be built, if its port stops
    answering, and if a memory is asked for while the machine runs.

    Parameters
    ----------
    arch : ArchConfig
    waves : path, optional
        File for the waves of all signals, `.vcd` or `.fst`. The simulation is hundreds of times slower then.
    quiet : bool
        Build without a message.
    seed : int
        Of the random bits that all registers and memories start from, 1 to 2**31 - 1; 0: they start from zeros.
    """

    def __init__(self, arch: ArchConfig, waves: str | Path | None = None, quiet: bool = False, seed: int = 0):
        if not 0 <= seed < 1 << 31:
            raise ToolError(f"The seed of a simulated machine is from 0 to {(1 << 31) - 1}, not {seed!r}.")
        self.arch = arch
        self._handle: int | None = None
        self._lib = _load(library(arch, _waves_format(waves), quiet))
        if waves is not None:
            try:  # the simulator itself says nothing about a file that it cannot write
                Path(waves).touch()
            except OSError as error:
                raise ToolError(f"The file {waves} for waves cannot be written ({error.strerror}).") from None
            from .wave_layout import write_layout  # only who wants waves needs Amaranth

            write_layout(arch, waves)
        self._handle = self._lib.sordino_open(str(waves).encode() if waves is not None else None, seed)
        if self.csr("ID") != ID_VALUE or self.csr("HASH") != arch.hash:
            raise ToolError(
                f"The simulator of {arch.name} identifies itself as {self.csr('ID'):08x} {self.csr('HASH'):08x}, not as "
                f"{ID_VALUE:08x} {arch.hash:08x}. Remove the built simulators (SORDINO_CACHE) and try again."
            )

    # -- registers and memories ------------------------------------------------------------------------------------

    def csr(self, name: str) -> int:
        """Value of a control register (`isa.CSR`)."""
        return int(self._read(np.array([CSR[name]], np.uint32), 1)[0, 0])

    def write(self, region: Region, data: np.ndarray, rows: "int | np.ndarray" = 0, core: int = 0) -> None:
        """Writes rows in their natural form (`images.encode`), from row `rows` on, or to the rows that it lists.

        `core`: number of the core, for regions of which each core has its own memory.
        """
        data = np.asarray(data)
        if len(data):
            self._write(self._addresses(region, rows, len(data), core), encode(self.arch, region, data))

    def read(self, region: Region, rows: "int | np.ndarray", core: int = 0) -> np.ndarray:
        """Reads the listed rows, or the first `rows`, in their natural form (`images.decode`)."""
        index = np.arange(rows) if isinstance(rows, int) else np.asarray(rows)
        pieces = self._read(self._addresses(region, index, len(index), core), row_pieces(region_bits(self.arch, region)))
        return decode(self.arch, region, pieces)

    def records(self, count: int) -> np.ndarray:
        """The first performance records of the last run: int64 [count, cores, len(PERF_FIELDS)]."""
        fields = len(PERF_FIELDS)
        cores = [self.read(Region.PERF, count * fields, core).reshape(count, fields) for core in range(self.arch.cores)]
        return np.stack(cores, 1)

    def run(self, limit: int, progress: Callable[[int], None] | None = None) -> Run:
        """Runs from instruction 0 to HALT or a trap, at most `limit` cycles (below 2**32). `progress` gets the cycles so far.

        If it is interrupted, the machine is stopped and can be used further.
        """
        self._set_limit(limit)
        self._check(self._lib.sordino_start(self._open))
        first = self.ticks
        try:
            while (state := self._lib.sordino_run(self._open, SLICE)) == 1:
                if progress is not None:
                    progress(self.ticks - first)
                if self.ticks - first > limit + 10 * SLICE:
                    raise ToolError(
                        f"The simulated machine still runs {self.ticks - first} cycles after its start; its limit is {limit}."
                    )
        except BaseException:
            self.stop()
            raise
        self._check(state)
        status = self.csr("STATUS")
        if status & 3 != 2:
            raise ToolError(f"The simulated machine neither runs nor halted (status {status:#x}).")
        return Run(Trap(status >> 4 & 15), self.csr("PC"), self.csr("CYCLES"), self.csr("OPS"))

    def stop(self) -> None:
        """Stops a run with a limit of 0, which is heard whatever else the host does."""
        self._set_limit(0)
        self._check(self._lib.sordino_run(self._open, SLICE))

    def reset(self, cycles: int = 1) -> None:
        """Resets the machine: it stops, and its registers are as at first. Rows of memories that were being written are undefined."""
        if cycles < 1:
            raise ToolError(f"A reset takes at least a cycle, not {cycles!r}.")
        self._lib.sordino_reset(self._open, cycles)

    def cut_after(self, cycles: int) -> None:
        """Whatever method is at work so many cycles from now raises `CutOffError`, until a `reset`, which then hits its open access."""
        self._lib.sordino_cut(self._open, cycles)

    @property
    def ticks(self) -> int:
        """Clock cycles simulated, loading included."""
        return self._lib.sordino_ticks(self._open)

    # -- life ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Frees the simulation and finishes the waves."""
        if self._handle is not None:
            self._lib.sordino_close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.close()

    # -- the port --------------------------------------------------------------------------------------------------

    @property
    def _open(self) -> int:
        if self._handle is None:
            raise ToolError("This simulated machine was closed.")
        return self._handle

    def _addresses(self, region: Region, rows: "int | np.ndarray", count: int, core: int) -> np.ndarray:
        index = rows + np.arange(count) if isinstance(rows, int) else np.asarray(rows)
        depth = region_depth(self.arch, region)
        if len(index) != count or (count and not 0 <= index.min() <= index.max() < depth):
            raise ArchError(f"{count} rows of {region.name} beyond its {depth}, or not as many as given")
        if not 0 <= core < self.arch.cores:
            raise ArchError(f"core {core} is not one of the {self.arch.cores} of {self.arch.name}")
        return addresses(self.arch, region, index, core)

    def _set_limit(self, limit: int) -> None:
        self._write(np.array([CSR["LIMIT"]], np.uint32), np.array([[limit]], np.uint32))

    def _write(self, base: np.ndarray, pieces: np.ndarray) -> None:
        base, pieces = np.ascontiguousarray(base, np.uint32), np.ascontiguousarray(pieces, np.uint32)
        self._check(self._lib.sordino_write(self._open, base, len(base), pieces.shape[1], pieces))

    def _read(self, base: np.ndarray, count: int) -> np.ndarray:
        base = np.ascontiguousarray(base, np.uint32)
        pieces = np.empty((len(base), count), np.uint32)
        self._check(self._lib.sordino_read(self._open, base, len(base), count, pieces))
        return pieces

    def _check(self, code: int) -> None:
        if code == CUT:
            raise CutOffError
        if code == REFUSED and self.csr("STATUS") & 1:
            raise ToolError(
                "The simulated machine runs: nothing is written to its memories or read from them until it stops. Wait for the end of "
                "the run, or stop it with a limit of 0 (`stop`)."
            )
        if code:
            what = "stopped answering" if code < 0 else f"answered with error {code}"
            raise ToolError(f"The simulated host port {what}: a fault of this version of the gateware, please report it.")


def _waves_format(waves: str | Path | None) -> Waves:
    if waves is None:
        return ""
    suffix = Path(waves).suffix.removeprefix(".")
    for known in get_args(Waves):
        if known and suffix == known:
            return known
    raise ToolError(f"Waves are written as .vcd or .fst, not as {str(waves)!r}.")


@cache
def _load(path: Path) -> ctypes.CDLL:
    try:
        lib = ctypes.CDLL(str(path))
    except OSError as error:
        raise ToolError(f"The built simulator {path} cannot be loaded ({error}). Remove it and try again.") from None
    words = np.ctypeslib.ndpointer(np.uint32, flags="C_CONTIGUOUS")
    signatures: dict[str, tuple[type | None, list]] = {
        "sordino_open": (ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_uint32]),
        "sordino_close": (None, [ctypes.c_void_p]),
        "sordino_write": (ctypes.c_int, [ctypes.c_void_p, words, ctypes.c_uint64, ctypes.c_uint32, words]),
        "sordino_read": (ctypes.c_int, [ctypes.c_void_p, words, ctypes.c_uint64, ctypes.c_uint32, words]),
        "sordino_start": (ctypes.c_int, [ctypes.c_void_p]),
        "sordino_run": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_uint64]),
        "sordino_ticks": (ctypes.c_uint64, [ctypes.c_void_p]),
        "sordino_cut": (None, [ctypes.c_void_p, ctypes.c_uint64]),
        "sordino_reset": (None, [ctypes.c_void_p, ctypes.c_uint32]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib
