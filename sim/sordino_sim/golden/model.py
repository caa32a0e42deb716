"""The golden model: executes a `Program` on batches of images and gives values, no cycles."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sordino_hw.spec.asm import Step
from sordino_hw.spec.budget import require_budget
from sordino_hw.spec.program import Program
from sordino_hw.spec.verify import read_after

from ..backend import Progress, Result, check_inputs, check_keep
from .machine import Machine

__all__ = ["Golden", "ProgramObserver"]

ProgramObserver = Callable[[int, int, Step, Machine], None]
"""Called before every CONV and VEC with (program segment, operation within it, step, machine). The machine holds `machine.batch`
images, from image `machine.first` of the batch on; it must not be changed."""

MEMORY = 64 << 20
"""Bytes of activation and state memory that are held at a time: batches are split accordingly."""


class Golden:
    """Executes the binary, instruction by instruction, vectorised over the batch.

    Raises `BinaryError` for a program that does not pass `Program.check`, or that may take more than `limit` times the steps or
    the memory of `spec.budget`; `TrapError` (from `run`) where the machine would trap.
    """

    def __init__(self, program: Program, limit: float = 1):
        self.program = program
        program.check()
        require_budget(program, limit)
        self._to_read: dict[int, list[str]] = {}
        for name, operations in read_after(program).items():
            self._to_read.setdefault(operations, []).append(name)

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        keep: Sequence[str] = (),
        progress: Progress | None = None,
        observer: ProgramObserver | None = None,
    ) -> Result:
        """Runs a batch. `inputs`: integers [batch, c, h, w] by name, within `ArchConfig.act_range`.

        `keep` may name any tensor: one whose memory is reused later is read after its layer's last operation.
        `Result.records` is None. Raises `InputError` and `TrapError`.
        """
        program = self.program
        values = check_inputs(program, inputs)
        names = tuple(dict.fromkeys((*check_keep(program, keep), *program.outputs)))
        batch = len(next(iter(values.values())))
        tensors = {name: np.zeros((batch, *program.tensors[name].shape), np.int16) for name in names}
        events = np.zeros((batch, len(program.ops)), np.int64)
        macs = np.zeros_like(events)
        nonzero = {name: np.zeros(batch, np.int64) for name in program.tensors}
        step = self._images_at_a_time()
        for first in range(0, batch, step):
            part = slice(first, min(first + step, batch))
            images = _Images(
                {name: x[part] for name, x in values.items()},
                {name: t[part] for name, t in tensors.items()},
                {name: n[part] for name, n in nonzero.items()},
                events[part],
                macs[part],
            )
            self._run(images, first, observer)
            if progress is not None:
                progress(part.stop, batch)
        return Result(
            outputs={name: tensors[name] for name in program.outputs},
            tensors={name: tensors[name] for name in keep},
            records=None,
            events=events,
            nonzero_macs=macs,
            nonzero=nonzero,
        )

    def _images_at_a_time(self) -> int:
        a = self.program.arch
        return max(1, MEMORY // (a.act_depth * (2 * a.lanes + 1) + a.cores * a.state_depth * a.ppu * 4))

    def _run(self, images: "_Images", first: int, observer: ProgramObserver | None) -> None:
        """Runs some images of the batch, from image `first` on, and writes what they give."""
        program = self.program
        machine = Machine(program.arch, len(images.events), first)
        for name in program.inputs:
            machine.store(*program.pack(name, images.inputs[name]))
        self._read(machine, images, 0)
        done = 0
        for i, segment in enumerate(program.segments):
            base = done

            def observe(op: int, step: Step, machine: Machine, i=i, base=base) -> None:
                if op:
                    self._read(machine, images, op + base)
                if observer is not None:
                    observer(i, op, step, machine)

            counts = machine.run(segment, observe)
            done += len(segment.ops)
            per_event = np.array([np.broadcast_to(op.macs_per_event, program.arch.cores) for op in segment.ops], np.int64)
            images.events[:, base:done] = counts.events.sum(2)
            images.macs[:, base:done] = (counts.nonzero * per_event.reshape(counts.nonzero.shape[1:])).sum(2)
            if segment.ops:
                self._read(machine, images, done)

    def _read(self, machine: Machine, images: "_Images", operations: int) -> None:
        """Reads the tensors that are complete after so many operations of the program."""
        for name in self._to_read.get(operations, ()):
            values = self.program.unpack(name, machine.act)
            images.nonzero[name][:] = np.count_nonzero(values, axis=(1, 2, 3))
            if name in images.tensors:
                images.tensors[name][:] = values


@dataclass(frozen=True)
class _Images:
    """Some images of a batch: what goes in, and the parts of the arrays of `Result` that they fill."""

    inputs: dict[str, np.ndarray]
    tensors: dict[str, np.ndarray]
    nonzero: dict[str, np.ndarray]
    events: np.ndarray
    macs: np.ndarray
