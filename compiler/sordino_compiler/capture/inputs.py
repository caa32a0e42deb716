"""How a model is called: from what users give as an example or a batch to one tensor for each input, and back.

A batch may be a tensor or array, a tuple or list of them (labels behind the inputs), a mapping by argument name or of what forward
reads, a list that forward takes whole, or an image without the batch dimension. Which of these holds is found by calling the
model; the same answer then serves every later batch, and `check`, `quantize` and `compare` alike.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sordino_hw.spec.errors import InputError

from .evaluation import evaluation
from .models import FunctionModel
from .trial import Failure, attempt

__all__ = ["Call", "call_of", "required", "shapes_as_zeros"]


@dataclass(frozen=True)
class Call:
    """How the values of a batch become arguments of forward."""

    arrangement: str
    """One of `_ARRANGEMENTS`."""
    count: int
    """Of a tuple, the items that are inputs."""
    key: Any
    """Of a mapping, the entry that is the input; of keyword arguments, their names."""
    unbatched: bool
    """Whether users give one image, without the batch dimension."""
    spec: pytree.TreeSpec
    constants: tuple[Any, ...]
    """Leaves of the arguments that are no tensors (None, numbers); None in the place of a tensor."""
    tensors: tuple[int, ...]
    """Positions of the tensors among the leaves."""

    def inputs(self, batch: Any, what: str) -> tuple[Tensor, ...]:
        """One float32 tensor for each input, batch first. Raises `InputError` for a batch of another form than the first."""
        arguments = _ARRANGEMENTS[self.arrangement](batch, self.count, self.key)
        leaves, spec = pytree.tree_flatten(arguments) if arguments is not None else ([], None)
        found = [leaves[i] for i in self.tensors] if spec == self.spec else []
        if not found or not all(isinstance(t, Tensor | np.ndarray) for t in found):
            raise InputError(
                f"{what} has another form than what came before it: {_described(batch)}. Give all batches in one form."
            )
        return tuple(_float(t, what)[None] if self.unbatched else _float(t, what) for t in found)

    def arguments(self, inputs: Sequence[Tensor]) -> tuple[tuple, dict[str, Any]]:
        """Positional and keyword arguments of forward."""
        leaves = list(self.constants)
        for i, t in zip(self.tensors, inputs, strict=True):
            leaves[i] = t
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return tuple(args), dict(kwargs)


def call_of(model: nn.Module, batch: Any, what: str = "the example", labels: bool = False) -> tuple[Call, tuple[Tensor, ...]]:
    """How `model` is called with batches such as this one, and the inputs of this one: float32, batch first.

    `labels`: behind the inputs that forward requires, a tuple holds something else. Raises `InputError` for what holds no inputs, and where
    the model takes it in no form, naming the layer that failed and the shape that it was given.
    """
    batch = shapes_as_zeros(batch)
    failures: list[Failure] = []
    with evaluation(model):
        for call in _candidates(model, batch, labels):
            inputs = call.inputs(batch, what)
            if call.unbatched and max(t.dim() for t in inputs) > 4:
                continue
            empty = any(t.dim() == 0 or len(t) == 0 for t in inputs)
            failed = Failure("", "", "the first dimension is the batch, of at least 1") if empty else _tried(model, call, inputs)
            if failed is None:
                return call, inputs
            failures.append(failed)
        if failures:
            raise _refusal(model, failures[0], what, batch)
    raise InputError(
        f"{what} must be a tensor (N, C, H, W), or a tuple with one tensor for each argument of forward; "
        f"found {_described(batch)}. Pass for instance torch.zeros(1, 3, 32, 32)."
    )


def _tried(model: nn.Module, call: Call, inputs: tuple[Tensor, ...]) -> Failure | None:
    """None where the model takes two images, or one; else why not. Two first: one image may look like several without a batch."""
    first = None
    for count in (2, 1):
        some = tuple(torch.cat([t[:1]] * count) for t in inputs)
        failed = attempt(model, *call.arguments(some))
        if failed is None:
            return None
        if failed.unbatched:
            return failed
        first = failed
    return first


def _refusal(model: nn.Module, failed: Failure, what: str, batch: Any) -> InputError:
    size = next((len(t) for t in pytree.tree_leaves(batch) if isinstance(t, Tensor | np.ndarray) and np.ndim(t)), 1)
    if size > 2 and isinstance(batch, Tensor) and attempt(model, (_float(batch, what),), {}) is None:
        return InputError(
            f"{type(model).__name__} takes batches of {size} images only, neither one nor two: forward, or the program that was exported, "
            f"fixes the batch. Keep it free, for instance x.flatten(1) in place of x.view({size}, -1); export a program with a batch of 1, "
            "or with dynamic_shapes=({0: torch.export.Dim.AUTO},)."
        )
    return InputError(
        f"{type(model).__name__} does not take {what} ({_described(batch)}): {failed}. Give inputs of the shape that it was trained on, batch first, "
        "in the form that forward takes: one tensor for each argument, a dict of tensors, or a list."
    )


def required(model: nn.Module) -> int:
    """Arguments that forward must be given, at least 1."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return max(1, sum(p.default is p.empty and p.kind in positional for p in _parameters(model).values()))


def _parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    function = model.function if isinstance(model, FunctionModel) else model.forward
    try:
        return inspect.signature(function).parameters
    except ValueError:  # a function of C
        return {}


def shapes_as_zeros(example: Any) -> Any:
    """A shape, or a list of shapes, as zeros; anything else as it is."""

    def is_shape(x: Any) -> bool:
        return isinstance(x, list | tuple) and bool(x) and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in x)

    if is_shape(example):
        return torch.zeros(tuple(example))
    if isinstance(example, list | tuple) and example and all(map(is_shape, example)):
        return tuple(torch.zeros(tuple(s)) for s in example)
    return example


# -- forms of a batch --------------------------------------------------------------------------------------------------


def _as_items(batch: Any, count: int, key: Any) -> Any:
    """The first items of a tuple, one for each argument."""
    return (tuple(batch[:count]), {}) if isinstance(batch, list | tuple) and len(batch) >= count else None


def _as_whole(batch: Any, count: int, key: Any) -> Any:
    """All of it is the one argument; of a mapping the entries that forward reads."""
    if isinstance(batch, Mapping):
        return (({k: batch[k] for k in key},), {}) if all(k in batch for k in key) else None
    return (batch,), {}


def _as_keyword(batch: Any, count: int, key: Any) -> Any:
    """All of it is the one keyword argument `key`."""
    return (), {key: batch}


def _as_keywords(batch: Any, count: int, key: Any) -> Any:
    """The entries of a mapping are keyword arguments."""
    return ((), {k: batch[k] for k in key}) if isinstance(batch, Mapping) and all(k in batch for k in key) else None


def _as_entry(batch: Any, count: int, key: Any) -> Any:
    """One entry of a mapping is the argument; the others are labels."""
    return ((batch[key],), {}) if isinstance(batch, Mapping) and key in batch else None


_ARRANGEMENTS = {"items": _as_items, "whole": _as_whole, "keyword": _as_keyword, "keywords": _as_keywords, "entry": _as_entry}


def _candidates(model: nn.Module, batch: Any, labels: bool) -> Iterator[Call]:
    """Forms in which forward may take the batch, the likely one first."""
    for unbatched in (False, True):
        for arrangement, count, key in _forms(model, batch, labels):
            arguments = _ARRANGEMENTS[arrangement](batch, count, key)
            if arguments is None:
                continue
            leaves, spec = pytree.tree_flatten(arguments)
            tensors = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor | np.ndarray))
            plain = all(isinstance(x, Tensor | np.ndarray | bool | int | float | str | None) for x in leaves)
            if tensors and plain:
                constants = tuple(None if i in tensors else leaf for i, leaf in enumerate(leaves))
                yield Call(arrangement, count, key, unbatched, spec, constants, tensors)


def _forms(model: nn.Module, batch: Any, labels: bool) -> Iterator[tuple[str, int, Any]]:
    """(arrangement, count, key) for `Call`."""
    parameters = _parameters(model)
    keyword_only = [n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if isinstance(batch, Mapping):
        names = tuple(k for k in batch if k in parameters)
        if names:
            yield "keywords", 0, names
        yield "whole", 1, _entries_read(model, batch)
        arrays = [k for k, v in batch.items() if isinstance(v, Tensor | np.ndarray) and np.ndim(v) > 1]
        if len(arrays) == 1:
            yield "entry", 1, arrays[0]
    elif isinstance(batch, list | tuple):
        count = required(model)
        if not labels:
            yield "items", len(batch), None
        yield "items", count, None
        if count == 1:
            yield "whole", 1, None
    elif len(keyword_only) == 1:
        yield "keyword", 1, keyword_only[0]
    else:
        yield "whole", 1, None


def _entries_read(model: nn.Module, batch: Mapping) -> tuple:
    """The keys of a mapping that forward reads, labels for instance are left out; all of them where it fails."""
    read = set()

    class Recording(dict):
        def __getitem__(self, key: Any) -> Any:
            read.add(key)
            return super().__getitem__(key)

        def get(self, key: Any, default: Any = None) -> Any:
            return self[key] if key in self else default  # noqa: SIM401 (this get is what records)

    values = {k: _float(v, "the batch") if isinstance(v, Tensor | np.ndarray) else v for k, v in batch.items()}
    failed = attempt(model, (Recording(values),), {})
    return tuple(k for k in batch if k in read) if read and failed is None else tuple(batch)


# -- values ------------------------------------------------------------------------------------------------------------


def _float(value: Tensor | np.ndarray, what: str) -> Tensor:
    """A tensor in float32 on the CPU. Raises `InputError` for what does not hold real numbers."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiub":
            raise InputError(f"{what}: dtype {value.dtype} does not hold real numbers. Convert with .astype(numpy.float32).")
        value = torch.as_tensor(np.ascontiguousarray(value, np.float32))
    if value.is_meta or value.is_complex() or value.is_quantized or value.layout is not torch.strided:
        raise InputError(
            f"{what}: a tensor ({value.dtype}, {value.layout}, device {value.device}) without plain real values. "
            "Give a dense tensor of real numbers, such as torch.zeros(1, 3, 32, 32)."
        )
    return value.detach().cpu().float()


def _described(batch: Any) -> str:
    """`shape (1, 3, 32, 32)`, `dict with image of shape (1, 3)`: of anything that a user may give."""
    if isinstance(batch, Tensor | np.ndarray):
        return f"shape {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return f"{type(batch).__name__} with " + (
            ", ".join(f"{k} of {_described(v)}" for k, v in list(batch.items())[:4]) or "nothing"
        )
    if isinstance(batch, list | tuple):
        return f"{type(batch).__name__} of " + (", ".join(_described(v) for v in batch[:4]) or "nothing")
    return type(batch).__name__
