"""The timing model: the golden model's values, and exactly the performance records that the gateware counts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sordino_hw.spec.arch import MOST_IN_FLIGHT, ArchConfig
from sordino_hw.spec.asm import Step, decode_segment
from sordino_hw.spec.errors import TrapError
from sordino_hw.spec.geometry import geometry, residual_addresses
from sordino_hw.spec.isa import RECORD_CYCLES, TRAP_DOC, Cause, Flag, Mode, Opcode, Trap
from sordino_hw.spec.latencies import CLOSE_LATENCY, DONE_LATENCY, START_LATENCY, Latencies
from sordino_hw.spec.program import Program, Segment

from ..backend import Progress, Result
from ..golden.machine import Machine
from ..golden.model import Golden, ProgramObserver
from . import pipeline
from .clock import Clock

__all__ = ["SegmentTiming", "Timing"]

_KINDS = {Mode.MAC: pipeline.MAC, Mode.MAC2: pipeline.MAC2, Mode.MAX: pipeline.MAX, Mode.PRODUCT: pipeline.MAC}


@dataclass
class _Sequencer:
    """When the sequencer executes each instruction, for one image."""

    clock: Clock
    limit: int
    """The cycle limit."""
    in_flight: int
    first: int
    """Cycle in which the first instruction can execute."""
    now: int = -1
    """Cycle in which the last instruction that was not a SET left the sequencer."""
    pc: int = -1
    started: list[int] = field(default_factory=list)
    """Cycle in which each operation was started."""
    stored: list[int] = field(default_factory=list)
    """Cycle of the last store of each operation."""
    ends: list[int] = field(default_factory=list)
    """Last cycle of each operation's record."""
    done: list[np.ndarray] = field(default_factory=list)
    """Counts of the operations that the clock no longer holds: int64 [cores, fields] each."""

    def reach(self, pc: int) -> int:
        """The first cycle in which the instruction at `pc` can execute: each SET in between takes one."""
        if self.pc < 0:
            return self.first + pc
        return self.now + pc - self.pc

    @property
    def recorded(self) -> int:
        """The last cycle of the newest record, -1 before the first."""
        return self.ends[-1] if self.ends else -1

    def run(self, step: Step, **operation: Any) -> None:
        """Starts the operation `step` and runs the clock to its end; `operation` as in `Clock.run`."""
        k = len(self.started)
        self.now, self.pc = self.reach(step.pc) + START_LATENCY, step.pc
        if k:
            self.now = max(self.now, self.clock.dispatched)
        if k >= self.in_flight:
            self.now = max(self.now, self._free())
        if k >= MOST_IN_FLIGHT:
            self.done.append(self.clock.record(k - MOST_IN_FLIGHT).copy())
        if not self.clock.run(k, started=self.now, limit=self.limit, **operation):
            raise _beyond(self.limit)
        end = self.clock.closed + CLOSE_LATENCY
        end = max(end, self.recorded + RECORD_CYCLES) if k else end
        self.clock.finish(k, end)
        self.started.append(self.now)
        self.stored.append(self.clock.stored)
        self.ends.append(end)
        if self.in_flight == 1:
            self.now = self._free()

    def _free(self) -> int:
        """The first cycle in which the tag of the next operation is free: its last owner is stored and its record is written."""
        return max(self.stored[-self.in_flight] + DONE_LATENCY, self.ends[-self.in_flight] + 1)

    def wait(self, step: Step) -> None:
        """Executes a WAIT or a HALT."""
        self.now, self.pc = max(self.reach(step.pc), max(self.stored, default=-1) + DONE_LATENCY), step.pc
        if step.opcode is Opcode.HALT and self.started:
            self.now = max(self.now, self.recorded + RECORD_CYCLES)

    def records(self) -> np.ndarray:
        """int64 [operations + 1, cores, fields], after HALT in cycle `now`."""
        count = len(self.started)
        newest = [self.clock.record(k) for k in range(len(self.done), count)]
        records = np.stack([*self.done, *newest, np.zeros_like(self.clock.record(0))])
        ends = np.append(self.ends, self.now).astype(np.int64)
        begins = np.insert(ends[:-1] + 1, 0, 0)
        # All earlier operations have their records by then, so in a record's cycles only those before its own start are idle.
        idle = np.maximum(0, np.append(self.started, self.now) + 1 - begins)
        spent = records[:, :, : len(Cause)].sum(2)
        records[:, :, Cause.IDLE.value] = idle[:, None]
        records[:, :, Cause.FETCH.value] = (ends + 1 - begins - idle)[:, None] - spent
        return records


def _beyond(limit: int, cycles: int | None = None) -> TrapError:
    """The trap of a run that takes `cycles`, if they are known, or more than `limit`."""
    takes = f"more than {limit} cycles" if cycles is None else f"{cycles} cycles, its limit is {limit}"
    return TrapError(f"trap CYCLES: {TRAP_DOC[Trap.CYCLES]}: the run takes {takes}", Trap.CYCLES)


class SegmentTiming:
    """Times one run of a program segment on a batch of machines: an observer of `Machine.run`.

    Parameters
    ----------
    arch : ArchConfig
    segment : Segment
    batch : int

    After the run, `records()` gives int64 [batch, operations + 1, cores, len(PERF_FIELDS)].
    """

    def __init__(self, arch: ArchConfig, segment: Segment, batch: int):
        self.arch = arch
        self._limit = segment.cycle_limit
        self._steps: Iterator[Step] = decode_segment(segment.imem, arch)
        self._images = [_Sequencer(Clock(arch), self._limit, arch.in_flight, Latencies(arch).start) for _ in range(batch)]
        self._nonzero = np.zeros((batch, arch.act_depth, arch.lanes // 8), np.uint8)
        self._masks: np.ndarray | None = None

    def observe(self, op: int, step: Step, machine: Machine) -> None:
        """Times the operation `step`, which `machine` is about to run."""
        if self._masks is None:  # of the program segment; no operation changes them
            self._masks = np.packbits(machine.mask, axis=2, bitorder="little")
        g = geometry(step.regs, self.arch)
        reads = [slice(g.first_address, g.last_address + 1)]
        if step.has(Flag.RESIDUAL):
            residual = residual_addresses(step.regs, self.arch)
            reads.append(slice(residual.min(), residual.max() + 1))
        for read in reads:
            self._nonzero[:, read] = np.packbits(machine.act[:, read] != 0, axis=2, bitorder="little")
        self.advance(step, self._nonzero, machine.occupancy, self._masks)

    def advance(self, step: Step, nonzero: Sequence[np.ndarray] | np.ndarray, occupied: np.ndarray, masks: np.ndarray) -> None:
        """Times the operation `step`.

        `nonzero`: for each image, uint8 [words, lanes / 8], a bit per activation that is not zero; `occupied`: bool [images,
        words]. Both must be right for the words that the operation reads. `masks`: uint8 [cores, rows, lanes / 8].

        Raises `TrapError` if the operation goes on beyond the cycle limit.
        """
        self._wait_until(step)
        kind = pipeline.EVENT if step.opcode is Opcode.CONV else _KINDS[step.mode]
        for b, s in enumerate(self._images):
            s.run(
                step,
                registers=step.regs,
                kind=kind,
                dense=step.has(Flag.DENSE),
                residual=step.has(Flag.RESIDUAL),
                product=step.mode is Mode.PRODUCT,
                window=step.has(Flag.WINDOW),
                stateful=step.has(Flag.SOURCE) or step.has(Flag.SINK),
                nonzero=nonzero[b],
                occupied=occupied[b],
                masks=masks,
            )

    def records(self) -> np.ndarray:
        """The records of the run, the tail's last. Raises `TrapError` if a machine would reach the cycle limit."""
        self._wait_until(None)
        cycles = max(s.now + 1 for s in self._images)
        if cycles > self._limit:
            raise _beyond(self._limit, cycles)
        return np.stack([s.records() for s in self._images])

    def _wait_until(self, step: Step | None) -> None:
        """Executes the WAITs (and HALT, for None) up to `step`, a CONV or VEC."""
        for s in self._steps:
            if s.opcode in (Opcode.CONV, Opcode.VEC):
                assert step is not None and s.pc == step.pc
                return
            for image in self._images:
                image.wait(s)


class Timing:
    """A back end with the golden model's values and exact cycles, without RTL simulation.

    `Result.records` equals the gateware's performance log after the same run.
    """

    def __init__(self, program: Program, limit: float = 1):
        self.program = program
        self._golden = Golden(program, limit)

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
            # No observer is called in a program segment without operations.
            runs = [parts[first] for first in sorted(parts)] or [SegmentTiming(arch, segment, len(result.events))]
            records.append(np.concatenate([run.records() for run in runs]))
        result.records = np.concatenate(records, 1)
        return result
