"""`Accelerator`: one interface over every back end, floats in and floats out."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from sordino_hw.spec.arch import ArchConfig, preset
from sordino_hw.spec.errors import ArchError, InputError
from sordino_hw.spec.program import Program
from sordino_sim.backend import Backend, Progress, Result
from sordino_sim.golden.model import Golden
from sordino_sim.timing.model import Timing

from .stats import Stats

__all__ = ["BACKENDS", "Accelerator", "load"]

BACKENDS = ("golden", "timing", "verilator")
CHUNK = 64
"""Images that are run at a time, so that the tensors of a large batch need not be held all at once."""


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

    `acc(x)` takes float arrays of the model's shape (such as [batch, c, h, w]), NumPy or torch, and returns the same kind
    in the shape that the model returns. With several inputs, `acc(x1, x2)`; several outputs come as a tuple.
    `acc.integers(x)` does the same on integers. Both leave the figures of the call in `acc.stats`.

    Raises `ArchError` if `arch` is another than the program's, `BinaryError` for a damaged file, `InputError` for an
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
        self._golden = Golden(self.program)
        self._backend: Backend = self._golden
        if backend == "timing":
            self._backend = Timing(self.program)
        elif backend == "verilator":
            from sordino_sim.rtl.backend import Verilator

            self._backend = Verilator(self.program, waves=waves)

    def __call__(self, *inputs: Any) -> Any:
        values = {n: self.quantise(n, x) for n, x in self._named(inputs).items()}
        outputs = self._run(values)
        made = []
        for name in self.program.outputs:
            y = outputs[name].astype(np.float32) * np.float32(self.program.tensors[name].scale)
            y = y.reshape(len(y), *self._shape("output", name))
            made.append(torch.from_numpy(y) if torch.is_tensor(inputs[0]) else y)
        return made[0] if len(made) == 1 else tuple(made)

    def integers(self, *inputs: Any) -> Any:
        """The network on integers: arrays [batch, c, h, w] in, int16 [batch, c, h, w] out, NumPy or torch as given.

        Raises `InputError` for a wrong number of inputs, shape, dtype or range.
        """
        values = {n: _array(n, x) for n, x in self._named(inputs).items()}
        outputs = self._run(values)
        made = [torch.from_numpy(outputs[n]) if torch.is_tensor(inputs[0]) else outputs[n] for n in self.program.outputs]
        return made[0] if len(made) == 1 else tuple(made)

    def quantise(self, name: str, x: Any) -> np.ndarray:
        """Floats [batch, c, h, w] to the integers of the input `name`: int16, rounded half to even and clipped.

        Raises `InputError` for a wrong shape or dtype, and for NaNs and infinities.
        """
        t = self.program.tensors[name]
        x = _array(name, x)
        if x.dtype.kind != "f":
            raise InputError(f"input {name!r} has dtype {x.dtype}; give floats, or integers to Accelerator.integers")
        shape = self._shape("input", name)
        if x.ndim == 0 or x.shape[1:] not in (shape, t.shape) or not len(x):
            wanted = ", ".join(map(str, shape))
            raise InputError(f"input {name!r} has shape {x.shape}; it must be [batch, {wanted}] with at least one image")
        bad = ~np.isfinite(x)
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            raise InputError(
                f"input {name!r} has {int(bad.sum())} values that are NaN or infinite, the first at {where}. Clean the data."
            )
        q = np.rint(x.reshape(-1, *t.shape).astype(np.float32) * np.float32(1 / t.scale))
        return q.clip(*self.program.arch.act_range(t.signed)).astype(np.int16)

    def run(self, values: Mapping[str, np.ndarray], keep: Sequence[str] = ()) -> Result:
        """The back end's own `Result` for integers by input name: outputs, tensors named in `keep`, records, counts."""
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
        """The progress of a chunk as progress of the whole batch."""
        show = self.progress
        return None if show is None else lambda done, _: show(first + done, batch)

    def _shape(self, side: str, name: str) -> tuple[int, ...]:
        """The shape, without the batch, of an input or output as the model has it."""
        names = self.program.inputs if side == "input" else self.program.outputs
        shapes = self.program.meta.get(f"{side}_shapes")
        return tuple(shapes[names.index(name)]) if shapes else self.program.tensors[name].shape

    def _run(self, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs a batch in chunks and keeps its figures."""
        names = list(self.program.tensors)
        nonzero = dict.fromkeys(names, 0)
        batch = len(next(iter(values.values())))
        parts: list[Result] = []
        for first in range(0, max(batch, 1), CHUNK):
            chunk = {n: v[first : first + CHUNK] for n, v in values.items()}
            report = self._progress(first, batch)
            # Reading a reused tensor back from the RTL means running again, so its zeros are counted on the golden model.
            if self.backend == "verilator":
                result = self._backend.run(chunk, (), report)
                tensors = self._golden.run(chunk, names).tensors
            else:
                result = self._backend.run(chunk, names, report)
                tensors = result.tensors
            for n in names:
                nonzero[n] += int(np.count_nonzero(tensors[n]))
            result.tensors = {}
            parts.append(result)
        outputs = {n: np.concatenate([p.outputs[n] for p in parts]) for n in self.program.outputs}
        records = [p.records for p in parts if p.records is not None]
        whole = Result(
            outputs,
            {},
            np.concatenate(records) if records else None,
            np.concatenate([p.events for p in parts]),
            np.concatenate([p.nonzero_macs for p in parts]),
        )
        self._stats = Stats.of(self.program, self.backend, whole, nonzero)
        return outputs


def _array(name: str, x: Any) -> np.ndarray:
    if torch.is_tensor(x):
        return x.detach().cpu().numpy()
    if isinstance(x, np.ndarray):
        return x
    raise InputError(f"input {name!r} is a {type(x).__name__}; give a NumPy array or a torch tensor [batch, c, h, w]")
