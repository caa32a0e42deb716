"""An accelerator on a board, reached over its serial port (frames: `spec.serial_frame`), with the interface of a simulated one
(`rtl.machine.Rtl`)."""

import contextlib
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import ArchError, ToolError
from sordino_hw.spec.isa import CSR, ID_VALUE, PERF_FIELDS, Region, Trap, region_bits, region_depth, row_pieces
from sordino_hw.spec.serial_frame import ANSWER, FRAME, LOST, frame

from .rtl.images import decode, encode
from .rtl.machine import Run

__all__ = ["Line", "SerialLink"]

BREAK = 0.001
"""Seconds of a break condition: longer than a byte at 10 kbit/s."""
ATTEMPTS = 3
"""Times that a stop is sent, before the machine is said not to hear it."""


class Line(Protocol):
    """The host's end of the serial line, with the methods of pyserial's `Serial`. `read` returns fewer bytes after a timeout."""

    def write(self, data: bytes, /) -> object: ...

    def read(self, size: int, /) -> bytes: ...

    def send_break(self, duration: float, /) -> object: ...

    def reset_input_buffer(self) -> object: ...


class SerialLink:
    """An accelerator at the other end of a serial line.

    Parameters
    ----------
    arch : ArchConfig
        The architecture that the board must have.
    line : Line

    Raises `ArchError` if the board has another architecture, and `ToolError` if it does not answer, reports that it lost a frame, or
    runs when a memory is asked for. After a byte that was lost, the line is brought into step again.
    """

    def __init__(self, arch: ArchConfig, line: Line):
        self.arch, self._line = arch, line
        self.synchronise()
        if self.csr("ID") != ID_VALUE or self.csr("HASH") != arch.hash:
            raise ArchError(
                f"The machine on the line identifies itself as {self.csr('ID'):08x} {self.csr('HASH'):08x}, not as "
                f"{ID_VALUE:08x} {arch.hash:08x} ({arch.name}). Load its bitstream, or compile for what it is."
            )

    def synchronise(self) -> None:
        """Brings the port into the state in which it waits for the first byte of a frame, whatever was lost, and clears its flag for
        lost frames."""
        self._line.send_break(BREAK)
        # The port may still be sending an answer, and does not receive meanwhile: wait for that many bytes, then break again.
        self._line.read(ANSWER)
        self._line.send_break(BREAK)
        self._line.reset_input_buffer()
        self._line.write(frame(Region.CSR, CSR["STATUS"] >> 3))  # clears the flag, which a break sets
        self._line.read(ANSWER)

    def csr(self, name: str) -> int:
        """Value of a control register (`isa.CSR`)."""
        return self._ask(Region.CSR, CSR[name] >> 3) >> (CSR[name] >> 2 & 1) * 32 & 0xFFFF_FFFF

    def write(self, region: Region, data: np.ndarray, rows: "int | np.ndarray" = 0, core: int = 0) -> None:
        """Writes rows in their natural form (`images.encode`), from row `rows` on, or to the rows that it lists."""
        pieces = encode(self.arch, region, np.asarray(data))
        index = self._rows(region, rows + np.arange(len(pieces)) if isinstance(rows, int) else np.asarray(rows), core)
        frames = (frame(region, row, _joined(values)) for row, values in zip(index, pieces.tolist(), strict=True))
        self._line.write(b"".join(frames))
        self._heard(f"rows of {region.name}")

    def read(self, region: Region, rows: "int | np.ndarray", core: int = 0) -> np.ndarray:
        """Reads the listed rows, or the first `rows`, in their natural form (`images.decode`)."""
        index = self._rows(region, np.arange(rows) if isinstance(rows, int) else np.asarray(rows), core)
        values = [self._ask(region, row) for row in index]
        count = row_pieces(region_bits(self.arch, region))
        pieces = np.array([[v >> 32 * k & 0xFFFF_FFFF for k in range(count)] for v in values], np.uint32).reshape(-1, count)
        self._heard(f"requests for rows of {region.name}")
        return decode(self.arch, region, pieces)

    def records(self, count: int) -> np.ndarray:
        """The first performance records of the last run: int64 [count, 1, len(PERF_FIELDS)]."""
        return self.read(Region.PERF, count * len(PERF_FIELDS)).reshape(count, 1, len(PERF_FIELDS))

    def run(self, limit: int, progress: Callable[[int], None] | None = None, patience: float = 60.0) -> Run:
        """Runs from instruction 0 to HALT or a trap, at most `limit` cycles (below 2**32). `progress` gets the cycles so far.

        If it is interrupted, or takes longer than `patience` seconds, the machine is stopped and can be used further.
        """
        self._line.write(frame(Region.CSR, CSR["LIMIT"] >> 3, limit))
        self._heard("limit of the run")
        begin = time.monotonic()
        try:
            self._line.write(frame(Region.CSR, CSR["CTRL"] >> 3, 1))
            while (status := self.csr("STATUS")) & 1:
                if progress is not None:
                    progress(self.csr("CYCLES"))
                if time.monotonic() - begin > patience:
                    raise ToolError(f"The machine on the line still runs after {patience:g} seconds; its limit is {limit} cycles.")
        except BaseException as error:
            try:
                self.stop()
            except ToolError as unheard:
                error.add_note(str(unheard))
            raise
        if status & 3 != 2 or status >> LOST & 1:
            raise ToolError(f"The machine on the line did not run (status {status:#x}).")
        run = Run(Trap(status >> 4 & 15), self.csr("PC"), self.csr("CYCLES"), self.csr("OPS"))
        self._heard("requests for the end of the run")
        return run

    def stop(self) -> None:
        """Stops a run with a limit of 0, in whatever frame the port takes itself to be. Raises `ToolError` if the machine still runs."""
        for _ in range(ATTEMPTS):
            self.synchronise()
            self._line.write(frame(Region.CSR, CSR["LIMIT"] >> 3, 0))
            with contextlib.suppress(ToolError):
                if self._status() & 1 == 0:
                    return
        raise ToolError(
            f"The machine on the line does not confirm that it stopped, after {ATTEMPTS} attempts. Reset it, or switch it off."
        )

    def _rows(self, region: Region, index: np.ndarray, core: int) -> list[int]:
        depth = region_depth(self.arch, region)
        if core or (len(index) and not 0 <= index.min() <= index.max() < depth):
            raise ArchError(f"rows of {region.name} beyond its {depth}, or of core {core}, which {self.arch.name} does not have")
        return index.tolist()

    def _ask(self, region: Region, row: int) -> int:
        self._line.write(frame(region, row))
        answer = self._line.read(ANSWER)
        if len(answer) != ANSWER:
            self.synchronise()
            raise ToolError(
                f"The machine on the line answered with {len(answer)} of {ANSWER} bytes. Is its bitstream loaded, and the speed right? If "
                "so, a byte was lost, and what was written may have gone elsewhere: load the program again."
            )
        return int.from_bytes(answer, "little")

    def _status(self) -> int:
        """STATUS of a port that takes frames to begin where they do; raises `ToolError` if it does not.

        It answers with its identity then, before STATUS and after it: an answer to what it took for a request would shift them.
        """
        self._line.reset_input_buffer()
        identity, status, again = (self._ask(Region.CSR, CSR[name] >> 3) for name in ("ID", "STATUS", "ID"))
        if not identity == again == ID_VALUE | self.arch.hash << 32:
            self.synchronise()
            raise ToolError(
                "The machine on the line does not answer what it was asked: a byte was lost, and what was written may have gone "
                "elsewhere. Load the program again."
            )
        return status >> 32

    def _heard(self, what: str) -> None:
        """Raises `ToolError` if the port lost a frame since the last call, or refused it."""
        status = self._status()
        if status & 1:
            raise ToolError(
                f"The machine on the line runs, and refused the {what}. Wait for the end of the run, or stop it with a limit of 0 (`stop`)."
            )
        if status >> LOST & 1:
            raise ToolError(f"The machine on the line missed some of the {what}. Send them again, more slowly.")


def _joined(pieces: list[int]) -> int:
    return sum(piece << 32 * k for k, piece in enumerate(pieces))


assert len(frame(Region.CSR, 0)) == FRAME
