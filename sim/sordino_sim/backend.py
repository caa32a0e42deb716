"""What every back end takes and returns: input checks, `Result` and the `Backend` protocol."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sordino_hw.spec.errors import InputError
from sordino_hw.spec.program import Program

__all__ = ["Backend", "Progress", "Result", "check_inputs", "check_keep"]

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


@dataclass
class Result:
    """One run of a batch. Integers; real value = integer x the tensor's `scale`."""

    outputs: dict[str, np.ndarray]
    """Network outputs by name: int16 [batch, c, h, w]."""
    tensors: dict[str, np.ndarray]
    """The tensors named in `keep`: int16 [batch, c, h, w]."""
    records: np.ndarray | None
    """Performance records, int64 [batch, records, cores, len(isa.PERF_FIELDS)]: for each program segment in order, one record per
    operation and one for the tail. The causes of a record add up to its cycles, which are the same for every core. None from a
    back end that does not count cycles."""
    events: np.ndarray
    """int64 [batch, operations]: events of a CONV (weight rows issued, without residuals); of a VEC, the non-zero lanes of the
    words that it reads. In dense mode zeros in bounds count too."""
    nonzero_macs: np.ndarray
    """int64 [batch, operations]: multiply-accumulates of the original layer whose activation is in bounds and not zero and
    whose weight row is not zero."""
    nonzero: dict[str, np.ndarray]
    """int64 [batch] for every tensor of the program: how many of its values are not zero."""


class Backend(Protocol):
    """What the golden model, the timing model and the RTL have in common."""

    def run(self, inputs: Mapping[str, np.ndarray], keep: Sequence[str] = (), progress: Progress | None = None) -> Result:
        """Runs a batch. `inputs`: integers [batch, c, h, w] by name. Raises `InputError` and `TrapError`."""
        ...


def check_inputs(program: Program, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs as int16 [batch, c, h, w]. Raises `InputError` for a wrong name, shape, dtype or value."""
    missing = [name for name in program.inputs if name not in inputs]
    unknown = [name for name in inputs if name not in program.inputs]
    if missing or unknown:
        raise InputError(
            f"input {(missing + unknown)[0]!r} is {'missing' if missing else 'not known'}; the inputs are {program.inputs}."
        )
    checked: dict[str, np.ndarray] = {}
    batch = None
    for name in program.inputs:
        t, x = program.tensors[name], inputs[name]
        if not isinstance(x, np.ndarray) or x.dtype.kind not in "iu":
            kind = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
            raise InputError(
                f"input {name!r} must be an array of integers, not {kind}. Quantise it: integer = round(value / {t.scale:g})."
            )
        if x.ndim != 4 or x.shape[1:] != t.shape or not len(x):
            raise InputError(f"input {name!r} has shape {x.shape}; it must be (batch >= 1, {', '.join(map(str, t.shape))}).")
        if batch is not None and len(x) != batch:
            raise InputError(f"input {name!r} has {len(x)} images, {program.inputs[0]!r} has {batch}; the batches must be equal.")
        low, high = program.arch.act_range(t.signed)
        if x.min() < low or x.max() > high:
            raise InputError(
                f"input {name!r} holds values from {x.min()} to {x.max()}; this architecture takes {low}..{high}. Clamp it."
            )
        checked[name], batch = x.astype(np.int16), len(x)
    return checked


def check_keep(program: Program, keep: Sequence[str]) -> tuple[str, ...]:
    """The names of tensors to return. Raises `InputError` for one that the program lacks."""
    for name in keep:
        if name not in program.tensors:
            raise InputError(f"keep: the program has no tensor {name!r}; it has {', '.join(program.tensors)}.")
    return tuple(keep)
