"""`Accelerator`: one interface over every back end, floats in and floats out."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from sordino_hw.spec.arch import ArchConfig, preset
from sordino_hw.spec.errors import ArchError, InputError
from sordino_hw.spec.program import Program
from sordino_sim.backend import Backend, Progress, Result
from sordino_sim.golden.model import Golden
from sordino_sim.timing.model import Timing

from .arrays import like, quantised_input, to_numpy
from .edges import Edges, restored
from .stats import Stats

__all__ = ["BACKENDS", "Accelerator", "load"]

BACKENDS = ("golden", "timing", "verilator")
CHUNK = 64
"""Images that are run at a time, so that memory does not grow with the batch."""

_Arrays = Mapping[str, np.ndarray]
_Enter = Callable[[_Arrays], tuple[_Arrays, _Arrays]]
_Leave = Callable[[_Arrays, _Arrays], dict[str, np.ndarray]]


def load(path: str | os.PathLike) -> Program:
    """Reads a `.sdn` file. Raises `BinaryError` for one that is damaged."""
    return Program.load(path)


class Accelerator:
    """Runs a compiled network on a back end.

    Parameters
    ----------
    program : a `Program`, or the path of a `.sdn` file
    backend : "golden" (values; no cycles), "timing" (values and the cycles that the gateware would count) or
        "verilator" (the gateware itself, simulated)
    arch : if given, the architecture that the program must be compiled for
    waves : file for waves, `.fst` or `.vcd` (verilator only)
    limit : refuse a program that may take more than so many times the ordinary steps or memory (`sordino_hw.spec.budget`)

    `acc(x)` takes float arrays of the model's shape (such as [batch, c, h, w]), NumPy or torch, and returns the same kind
    in the structure that the model returns. With several inputs, `acc(x1, x2)`. Steps before and after the array run on the host.
    `acc.integers(x)` does the same on integers. Both leave the figures of the call in `acc.stats`.

    Raises `ArchError` if `arch` is another than the program's, `BinaryError` for a damaged file or one
    beyond the limit, `InputError` for an
    unknown back end, and `ToolError` where the simulator cannot be built.
    """

    def __init__(
        self,
        program: Program | str | os.PathLike,
        backend: str = "golden",
        *,
        arch: str | ArchConfig | None = None,
        waves: str | Path | None = None,
        progress: Progress | None = None,
        limit: float = 1,
    ):
        self.program = program if isinstance(program, Program) else Program.load(program)
        if arch is not None and (wanted := preset(arch)).hash != self.program.arch.hash:
            raise ArchError(
                f"the program is compiled for another architecture: {self.program.arch.difference(wanted)}. Compile it for {wanted.name}."
            )
        if backend not in BACKENDS:
            raise InputError(f"unknown back end {backend!r}: there are {', '.join(BACKENDS)}")
        if waves is not None and backend != "verilator":
            raise InputError(f"waves come from the back end 'verilator', not {backend!r}")
        self.backend = backend
        self.progress = progress
        self._stats: Stats | None = None
        self._backend: Backend
        if backend == "golden":
            self._backend = Golden(self.program, limit)
        elif backend == "timing":
            self._backend = Timing(self.program, limit)
        else:
            from sordino_sim.rtl.backend import Verilator

            self._backend = Verilator(self.program, waves=waves, limit=limit)

    def __call__(self, *inputs: Any) -> Any:
        return restored(self.program.edges, self.returned(*inputs), inputs[0])

    def returned(self, *inputs: Any) -> dict[str, np.ndarray]:
        """Every value that a call returns, by name. Raises `InputError` for inputs that do not fit."""
        edges = Edges(self.program)
        return self._run(edges.check(inputs), edges.chunk, edges.enter, edges.leave)

    def quantised(self, *inputs: Any) -> dict[str, np.ndarray]:
        """The array's inputs, int16 [batch, c, h, w] by name, as the host makes them of the network's. Raises `InputError`."""
        edges = Edges(self.program)
        return edges.enter(edges.check(inputs))[1]

    def integers(self, *inputs: Any) -> Any:
        """The network on integers: arrays [batch, c, h, w] in, int16 [batch, c, h, w] out, NumPy or torch as given.

        Raises `InputError` for a wrong number of inputs, shape, dtype or range.
        """
        values = {n: to_numpy(n, x) for n, x in self._named(inputs).items()}
        outputs = self._run(values, CHUNK, lambda part: (part, part), lambda _, made: dict(made))
        made = [like(inputs[0], outputs[n]) for n in self.program.outputs]
        return made[0] if len(made) == 1 else tuple(made)

    def quantise(self, name: str, x: Any) -> np.ndarray:
        """Floats [batch, c, h, w] to the integers of the input `name`: int16, rounded half to even and clipped.

        Raises `InputError` for a wrong shape or dtype, and for NaNs and infinities.
        """
        p = self.program
        t, shape = p.tensors[name], dict(zip(p.inputs, p.input_shapes, strict=True))[name]
        return quantised_input(name, x, shape, t.shape, t.scale, p.arch.act_range(t.signed))

    def run(self, values: Mapping[str, np.ndarray], keep: Sequence[str] = ()) -> Result:
        """Runs the back end on integers int16 [batch, c, h, w] by input name.

        The `Result` has the outputs, the tensors named in `keep`, performance records and counts. `stats` does not change. Raises
        `InputError` and `TrapError`.
        """
        return self._backend.run(values, keep, self.progress)

    @property
    def stats(self) -> Stats:
        """The figures of the last call. Raises `InputError` before the first."""
        if self._stats is None:
            raise InputError("Accelerator.stats: nothing was run yet; call the accelerator on an input first")
        return self._stats

    def close(self) -> None:
        """Frees the simulator, where there is one."""
        close = getattr(self._backend, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Accelerator({self.program.meta.get('name') or 'program'!r}, backend={self.backend!r}, arch={self.program.arch.name!r})"

    # -- inside ----------------------------------------------------------------------------------------------------

    def _named(self, inputs: Sequence[Any]) -> dict[str, Any]:
        names = self.program.inputs
        if len(inputs) != len(names):
            raise InputError(f"{len(inputs)} inputs given; the network has {len(names)}: {', '.join(names)}")
        return dict(zip(names, inputs, strict=True))

    def _progress(self, first: int, batch: int) -> Progress | None:
        """Reports the progress of a chunk, whose first image is `first`, as progress of the whole batch."""
        show = self.progress
        return None if show is None else lambda done, _: show(first + done, batch)

    def _run(self, given: dict[str, np.ndarray], size: int, enter: _Enter, leave: _Leave) -> dict[str, np.ndarray]:
        """Runs a batch in chunks of `size` images and sets `stats`. Returns what `leave` makes of the outputs, by name.

        `enter`: from a chunk to what `leave` is given, and the array's inputs; `leave`: from that and the array's outputs to results.
        """
        batch = len(next(iter(given.values())))
        parts: list[Result] = []
        made: list[dict[str, np.ndarray]] = []
        for first in range(0, max(batch, 1), size):
            kept, integers = enter({n: v[first : first + size] for n, v in given.items()})
            parts.append(self._backend.run(integers, (), self._progress(first, batch)))
            made.append(leave(kept, parts[-1].outputs))
        records = [p.records for p in parts if p.records is not None]
        whole = Result(
            outputs={n: np.concatenate([p.outputs[n] for p in parts]) for n in self.program.outputs},
            tensors={},
            records=np.concatenate(records) if records else None,
            events=np.concatenate([p.events for p in parts]),
            nonzero_macs=np.concatenate([p.nonzero_macs for p in parts]),
            nonzero={n: np.concatenate([p.nonzero[n] for p in parts]) for n in self.program.tensors},
        )
        self._stats = Stats.of(self.program, self.backend, whole)
        return {n: np.concatenate([m[n] for m in made]) for n in made[0]}
