"""The timing model: golden values, and the performance records that the gateware would count, exactly."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sordino_hw.arch import ArchConfig
from sordino_hw.asm import Step, decode_segment
from sordino_hw.errors import TrapError
from sordino_hw.isa import PERF_FIELDS, REGISTERS, TRAP_DOC, Flag, Mode, Opcode, Trap
from sordino_hw.program import Program, Segment

from . import pipeline
from .golden import Golden, ProgramObserver
from .machine import Machine
from .results import Progress, Result

__all__ = ["SegmentTiming", "Timing"]

_KINDS = {Mode.MAC: pipeline.MAC, Mode.MAC2: pipeline.MAC2, Mode.MAX: pipeline.MAX}


@dataclass
class _Sequencer:
    """When the sequencer gets to things, for one image."""

    clock: pipeline.Clock
    now: int = -1
    """Cycle of the last instruction that was not a SET."""
    pc: int = -1
    finished: int = -1
    """Cycle of the last operation's last issue."""
    stored: int = -1
    """Cycle of its last store."""
    drains: list[int] = field(default_factory=list)
    """Per operation, the cycle in which it left the PPU's queue."""

    def reach(self, pc: int) -> int:
        """The first cycle in which the instruction at `pc` can execute: one per SET in between."""
        if self.pc < 0:
            return pipeline.FIRST_INSTRUCTION + pc
        return self.now + pc - self.pc


class SegmentTiming:
    """Times one run of a segment on a batch of machines: an observer of `Machine.run`.

    Parameters
    ----------
    arch : ArchConfig
    segment : Segment
    batch : int

    After the run, `records()` gives int64 [batch, operations + 1, len(PERF_FIELDS)].
    """

    def __init__(self, arch: ArchConfig, segment: Segment, batch: int):
        self.arch = arch
        self._limit = segment.cycle_limit
        self._steps: Iterator[Step] = decode_segment(segment.imem, arch)
        self._images = [_Sequencer(pipeline.Clock(arch.row_fifo, arch.word_fifo, arch.segment_fifo)) for _ in range(batch)]
        self._records: list[np.ndarray] = []

    def observe(self, op: int, step: Step, machine: Machine) -> None:
        """Times the operation `step`, which `machine` is about to run."""
        nonzero = [np.packbits(image != 0, axis=1, bitorder="little") for image in machine.act]
        self.advance(step, nonzero, machine.occupancy, np.packbits(machine.mask, axis=1, bitorder="little"))

    def advance(self, step: Step, nonzero: Sequence[np.ndarray], occupied: np.ndarray, masks: np.ndarray) -> None:
        """Times the operation `step`.

        `nonzero`: for each image, uint8 [words, lanes / 8], a bit per activation that is not zero; `occupied`: bool [images,
        words]; both as far as the operation reads them. `masks`: uint8 [rows, lanes / 8].
        """
        self._wait_until(step)
        registers = np.array([step.regs[name] for name in REGISTERS], np.int64)
        kind = pipeline.EVENT if step.opcode is Opcode.CONV else _KINDS[step.mode]
        record = np.zeros((len(self._images), len(PERF_FIELDS)), np.int64)
        for b, s in enumerate(self._images):
            t = s.clock.t
            queue = s.drains[-pipeline.IN_FLIGHT] + 1 if len(s.drains) >= pipeline.IN_FLIGHT else 0
            started = max(s.reach(step.pc), int(t[pipeline.WALKED]), queue)
            counters = [pipeline.BUSY, pipeline.PPU, pipeline.MARKER, pipeline.READ, pipeline.SKIPPED]
            t[counters] = 0
            pipeline.run_operation(
                t,
                s.clock.row_pops,
                s.clock.word_pops,
                s.clock.segment_pops,
                pipeline.POPCOUNT,
                registers,
                kind,
                step.has(Flag.DENSE),
                step.has(Flag.RESIDUAL),
                started,
                nonzero[b],
                occupied[b],
                masks,
            )
            busy, ppu, marker, read, skipped = (int(x) for x in t[counters])
            issued = int(t[pipeline.ISSUED])
            idle = max(0, started - s.finished)
            fetch = issued - s.finished - busy - ppu - marker - idle
            record[b] = busy, fetch, ppu, marker, 0, idle, read, skipped
            shadow = issued + pipeline.SHADOW_LATENCY + step.regs["DRAIN"] - 1
            s.now, s.pc, s.finished, s.stored = started, step.pc, issued, shadow + pipeline.STORE_LATENCY
            s.drains.append(shadow)
        self._records.append(record)

    def records(self) -> np.ndarray:
        """The records of the run, the tail's last. Raises `TrapError` if a machine would reach the cycle limit."""
        self._wait_until(None)
        tail = np.zeros((len(self._images), len(PERF_FIELDS)), np.int64)
        tail[:, PERF_FIELDS.index("idle")] = [s.now - s.finished for s in self._images]
        cycles = max(s.now + 1 for s in self._images)
        if cycles > self._limit:
            raise TrapError(
                f"trap CYCLES: {TRAP_DOC[Trap.CYCLES]}: the run takes {cycles} cycles, its limit is {self._limit}", Trap.CYCLES
            )
        return np.stack([*self._records, tail], 1)

    def _wait_until(self, step: Step | None) -> None:
        """Executes the WAITs (and HALT, for None) up to `step`, a CONV or VEC."""
        for s in self._steps:
            if s.opcode in (Opcode.CONV, Opcode.VEC):
                assert step is not None and s.pc == step.pc
                return
            for image in self._images:
                image.now, image.pc = max(image.reach(s.pc), image.stored + 1), s.pc


class Timing:
    """A back end: golden values with exact cycle records, and no RTL simulation.

    `Result.records` equals what the gateware's performance log holds after the same run.
    """

    def __init__(self, program: Program):
        self.program = program
        self._golden = Golden(program)

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        keep: Sequence[str] = (),
        progress: Progress | None = None,
        before: ProgramObserver | None = None,
    ) -> Result:
        """As `Golden.run`, with `records`.

        `before` is called ahead of every CONV and VEC, as an observer of `Golden` is, and may change the machine's
        activations with `Machine.store`: experiments on what an activation costs do.
        """
        arch, segments = self.program.arch, self.program.segments
        timings: list[dict[int, SegmentTiming]] = [{} for _ in segments]

        def observe(segment: int, op: int, step: Step, machine: Machine) -> None:
            if before is not None:
                before(segment, op, step, machine)
            parts = timings[segment]
            if machine.first not in parts:
                parts[machine.first] = SegmentTiming(arch, segments[segment], machine.batch)
            parts[machine.first].observe(op, step, machine)

        result = self._golden.run(inputs, keep, progress, observe)
        records = []
        for segment, parts in zip(segments, timings, strict=True):
            # A segment without operations shows itself to no observer.
            runs = [parts[first] for first in sorted(parts)] or [SegmentTiming(arch, segment, len(result.events))]
            records.append(np.concatenate([run.records() for run in runs]))
        result.records = np.concatenate(records, 1)
        return result
