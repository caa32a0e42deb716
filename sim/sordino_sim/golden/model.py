"""The golden model of whole programs: executes a `Program` on batches of images."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sordino_hw.spec.asm import Step, decode_segment
from sordino_hw.spec.errors import BinaryError
from sordino_hw.spec.isa import Opcode
from sordino_hw.spec.program import Program

from ..backend import Progress, Result, check_inputs, check_keep
from .machine import Machine

__all__ = ["Golden", "ProgramObserver"]

ProgramObserver = Callable[[int, int, Step, Machine], None]
"""Called before every CONV and VEC with (segment, operation in its segment, step, machine). The machine holds the images
from `machine.first` on, `machine.batch` of them; it must not be changed."""

MEMORY = 64 << 20
"""Bytes of memory images held at a time: batches are split accordingly."""


class Golden:
    """Executes the binary, instruction by instruction, vectorised over the batch; no cycles.

    Raises `BinaryError` if a segment's operation table does not match its instructions, `TrapError` (from `run`) where
    the machine would trap.
    """

    def __init__(self, program: Program):
        self.program = program
        for i, segment in enumerate(program.segments):
            steps = decode_segment(segment.imem, program.arch)
            operations = sum(step.opcode in (Opcode.CONV, Opcode.VEC) for step in steps)
            if operations != len(segment.ops):
                raise BinaryError(
                    f"segment {i}: {operations} operations, but {len(segment.ops)} in its table. Compile the model again."
                )
        self._last = _last_operations(program)

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        keep: Sequence[str] = (),
        progress: Progress | None = None,
        observer: ProgramObserver | None = None,
    ) -> Result:
        """Runs a batch. `inputs`: integers [batch, c, h, w] by name, within `ArchConfig.act_range`.

        `keep` may name any tensor: one whose memory is reused later is read when its layer's last operation has run.
        `Result.records` is None. Raises `InputError` and `TrapError`.
        """
        program = self.program
        values = check_inputs(program, inputs)
        names = tuple(dict.fromkeys((*check_keep(program, keep), *program.outputs)))
        batch = len(next(iter(values.values())))
        tensors = {name: np.zeros((batch, *program.tensors[name].shape), np.int16) for name in names}
        events = np.zeros((batch, len(program.ops)), np.int64)
        macs = np.zeros_like(events)
        step = self._images_at_a_time()
        for first in range(0, batch, step):
            part = slice(first, min(first + step, batch))
            self._run(part, values, {name: t[part] for name, t in tensors.items()}, events[part], macs[part], observer)
            if progress is not None:
                progress(part.stop, batch)
        return Result(
            outputs={name: tensors[name] for name in program.outputs},
            tensors={name: tensors[name] for name in keep},
            records=None,
            events=events,
            nonzero_macs=macs,
        )

    def _images_at_a_time(self) -> int:
        a = self.program.arch
        return max(1, MEMORY // (a.act_depth * (2 * a.lanes + 1) + a.cores * a.state_depth * a.ppu * 4))

    def _run(self, part, values, tensors, events, macs, observer) -> None:
        """Runs the images `part` of the batch; writes the arrays `tensors`, `events` and `macs`."""
        program = self.program
        machine = Machine(program.arch, part.stop - part.start, part.start)
        for name in program.inputs:
            machine.store(*program.pack(name, values[name][part]))
        self._snapshot(machine, tensors, -1)
        done = 0
        for i, segment in enumerate(program.segments):
            base = done

            def observe(op: int, step: Step, machine: Machine, i=i, base=base) -> None:
                if op:
                    self._snapshot(machine, tensors, op + base - 1)
                if observer is not None:
                    observer(i, op, step, machine)

            counts = machine.run(segment, observe)
            done += len(segment.ops)
            per_event = np.array([np.broadcast_to(op.macs_per_event, program.arch.cores) for op in segment.ops], np.int64)
            events[:, base:done] = counts.events.sum(2)
            macs[:, base:done] = (counts.nonzero * per_event.reshape(counts.nonzero.shape[1:])).sum(2)
            if segment.ops:
                self._snapshot(machine, tensors, done - 1)

    def _snapshot(self, machine: Machine, tensors: dict[str, np.ndarray], op: int) -> None:
        for name, array in tensors.items():
            if self._last[name] == op:
                array[:] = self.program.unpack(name, machine.act)


def _last_operations(program: Program) -> dict[str, int]:
    """The operation of the whole program after which each tensor is read: the last of the program where its memory is
    kept, else the last of its layer; -1 for one that is there before the first."""
    ops = program.ops
    last = {}
    for name, t in program.tensors.items():
        written = [i for i, op in enumerate(ops) if op.layer == t.layer]
        last[name] = len(ops) - 1 if t.kept else max(written, default=-1)
    return last
