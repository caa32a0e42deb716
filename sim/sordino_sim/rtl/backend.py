"""The RTL back end: runs a `Program` on the simulated gateware, through its AXI4-Lite port."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock
from types import TracebackType
from typing import Self

import numpy as np

from sordino_hw.spec.asm import decode_segment, disassemble, encode
from sordino_hw.spec.errors import BinaryError, InputError, TrapError
from sordino_hw.spec.isa import PERF_FIELDS, TRAP_DOC, Opcode, Region, Trap
from sordino_hw.spec.program import Program, Segment
from sordino_hw.spec.verify import read_after

from ..backend import Progress, Result, check_inputs, check_keep
from ..golden.model import Golden
from .build import processors
from .images import segment_images
from .machine import Rtl

__all__ = ["Verilator"]


class Verilator:
    """Runs programs on the RTL, several images side by side. Use it as a context manager, or call `close`.

    Several threads may call `run`: their batches run one after the other.

    Outputs, kept tensors and performance records are read from the machine. What the machine does not count (the events,
    non-zero multiply-accumulates and non-zero values of `Result`) is counted by the golden model on the same inputs.

    Parameters
    ----------
    program : Program
        Raises `BinaryError` if a program segment has more operations than the performance log has records.
    waves : path, optional
        File for the waves, `.vcd` or `.fst`. The simulation is hundreds of times slower then, and one image runs at a time.
    quiet : bool
        Build the simulator without a message.
    jobs : int, optional
        Simulators that run side by side; as many as there are processors by default.
    limit : float
        As of `Golden`.
    """

    def __init__(
        self, program: Program, waves: str | Path | None = None, quiet: bool = False, jobs: int | None = None, limit: float = 1
    ):
        self.program = program
        for i, segment in enumerate(program.segments):
            if len(segment.ops) + 1 > program.arch.perf_depth:
                raise BinaryError(
                    f"segment {i} has {len(segment.ops)} operations; the performance log of {program.arch.name} holds "
                    f"{program.arch.perf_depth} records, one of them for the tail. Compile the model again, for an architecture "
                    "with a larger perf_depth."
                )
        self.jobs = 1 if waves is not None else jobs or processors()
        self._golden = Golden(program, limit)
        self._read_after = read_after(program)
        self._machines = [_Machine(program, Rtl(program.arch, waves, quiet))]
        self._lock = Lock()

    def run(self, inputs: Mapping[str, np.ndarray], keep: Sequence[str] = (), progress: Progress | None = None) -> Result:
        """Runs a batch. `inputs`: integers [batch, c, h, w] by name, within `ArchConfig.act_range`.

        `keep` may name any tensor: for one whose memory is reused later, the program is run again up to the last
        operation of its layer. Raises `InputError` and `TrapError`.
        """
        program = self.program
        values = check_inputs(program, inputs)
        names = tuple(dict.fromkeys((*check_keep(program, keep), *program.outputs)))
        stops: dict[int, list[str]] = {}
        for name in names:
            operations = self._read_after[name]
            if operations == 0 and not program.tensors[name].kept:
                raise InputError(f"keep: the memory of {name!r}, an input, is reused by the program; it cannot be read back.")
            stops.setdefault(operations, []).append(name)
        last = stops.pop(len(program.ops), [])
        batch = len(next(iter(values.values())))
        tensors = {name: np.empty((batch, *program.tensors[name].shape), np.int16) for name in names}
        records = np.empty((batch, len(program.ops) + len(program.segments), program.arch.cores, len(PERF_FIELDS)), np.int64)

        def image(b: int, machine: _Machine, check: Callable[[int], None]) -> None:
            packed = {name: program.pack(name, values[name][b]) for name in program.inputs}
            for operations, some in stops.items():
                machine.execute(packed, check, operations)
                for name in some:
                    tensors[name][b] = machine.tensor(name)
            records[b] = machine.execute(packed, check)
            for name in last:
                tensors[name][b] = machine.tensor(name)

        with self._lock:
            self._side_by_side(batch, image, progress)
        counts = self._golden.run(values)
        return Result(
            outputs={name: tensors[name] for name in program.outputs},
            tensors={name: tensors[name] for name in keep},
            records=records,
            events=counts.events,
            nonzero_macs=counts.nonzero_macs,
            nonzero=counts.nonzero,
        )

    def close(self) -> None:
        """Frees the simulations, once no run uses them, and finishes the waves."""
        with self._lock:
            for machine in self._machines:
                machine.rtl.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _side_by_side(self, batch: int, image: "Callable[[int, _Machine, Callable], None]", progress: Progress | None) -> None:
        """Calls `image` for every index of the batch, each with a machine of its own while it runs."""
        while len(self._machines) < min(self.jobs, batch):
            self._machines.append(_Machine(self.program, Rtl(self.program.arch, quiet=True)))
        idle: SimpleQueue[_Machine] = SimpleQueue()
        for machine in self._machines:
            idle.put(machine)
        stop = Event()

        def check(cycles: int) -> None:
            if stop.is_set():
                raise _StoppedError

        def job(b: int) -> None:
            machine = idle.get()
            try:
                image(b, machine, check)
            finally:
                idle.put(machine)

        with ThreadPoolExecutor(len(self._machines)) as pool:
            futures = [pool.submit(job, b) for b in range(batch)]
            try:
                for done, future in enumerate(as_completed(futures)):
                    future.result()
                    if progress is not None:
                        progress(done + 1, batch)
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise


class _StoppedError(Exception):
    """Another image of the batch failed, or the user interrupted it."""


class _Machine:
    """One simulated accelerator, and the memory images that it holds."""

    def __init__(self, program: Program, rtl: Rtl):
        self.program, self.rtl = program, rtl
        self.loaded: dict[tuple[Region, int], np.ndarray] = {}

    def execute(
        self,
        packed: Mapping[str, tuple[np.ndarray, np.ndarray]],
        check: Callable[[int], None],
        operations: int | None = None,
    ) -> np.ndarray:
        """Runs the program, or its first `operations`, on one image; returns the records of the program segments that ran.

        `packed`: addresses and words of each input. `check` is called with the cycles so far, several times a second, and may raise.
        """
        rtl = self.rtl
        for addresses, words in packed.values():
            rtl.write(Region.ACT, words, addresses)
        records = []
        for i, segment in enumerate(self.program.segments):
            count = len(segment.ops) if operations is None else min(operations, len(segment.ops))
            self._load(segment, count)
            run = rtl.run(segment.cycle_limit, check)
            if run.trap is not Trap.NONE:
                raise _trap(i, segment, run.trap, run.pc)
            records.append(rtl.records(count + 1))
            if operations is not None:
                operations -= count
                if operations == 0:
                    break
        return np.concatenate(records)

    def tensor(self, name: str) -> np.ndarray:
        """Reads a tensor out of activation memory: int16 [c, h, w]."""
        arch = self.program.arch
        rows = np.unique(self.program.addresses(name))
        memory = np.zeros((arch.act_depth, arch.lanes), np.int16)
        memory[rows] = self.rtl.read(Region.ACT, rows)
        return self.program.unpack(name, memory)

    def _load(self, segment: Segment, operations: int) -> None:
        """Writes the memory images that are not in memory yet, with a HALT after the first `operations`."""
        images = segment_images(segment)
        if operations < len(segment.ops):
            steps = [s for s in decode_segment(segment.imem, self.program.arch) if s.opcode in (Opcode.CONV, Opcode.VEC)]
            images[Region.IMEM, 0] = np.append(segment.imem[: steps[operations - 1].pc + 1], np.uint32(encode(Opcode.HALT)))
        for place, image in images.items():
            held = self.loaded.get(place)
            if held is None or not np.array_equal(held[: len(image)], image):
                self.loaded.pop(place, None)  # half-written if this is interrupted
                region, core = place
                self.rtl.write(region, image, core=core)
                self.loaded[place] = image


def _trap(index: int, segment: Segment, trap: Trap, pc: int) -> TrapError:
    where = f"segment {index}, instruction {pc}"
    if pc < len(segment.imem):
        where += f" ({disassemble([int(segment.imem[pc])])[0]})"
    return TrapError(
        f"The machine stopped with trap {trap.name} at {where}: {TRAP_DOC[trap]}. Compile the model again; if it traps "
        "again, report it.",
        trap,
        pc,
    )
